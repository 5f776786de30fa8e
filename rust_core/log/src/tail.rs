//! Reading a running log behind its writer: every durable record from a place on, in order. Used by whoever derives something
//! from the log in the background (the spool's history).
//!
//! Only records whose sync returned are handed over, so nothing read here can be taken back. A segment that was freed is
//! passed over and reported as skipped, as is a damaged place; the reader never waits and never stops the writer.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::LogError;
use crate::format::{KIND_MARK, Loc, RECORD_HEADER, RecordHeader, SEGMENT_HEADER, align, record_size};
use crate::log::Log;
use crate::pages::Lost;
use crate::segment::Segment;

/// Octets read at a time: so many where one record follows the other, so few behind a long one that was passed over.
const WINDOW: usize = 64 << 10;
const WINDOW_MIN: usize = 4 << 10;

/// Takes a record: its place, kind, the first octets of its payload and the payload's length. Returns whether to go on.
pub type Each<'a> = dyn FnMut(Loc, u8, &[u8], u32) -> bool + 'a;

/// How a scan is bounded.
#[derive(Debug, Clone, Copy)]
pub struct ScanLimits {
    /// Records handed over at most.
    pub records: usize,
    /// Octets of a payload handed over; a payload that is longer is cut and its checksum not looked at.
    pub prefix: usize,
    /// Records of this kind are not handed over, and nothing but their headers is read; 0 for none.
    pub without: u8,
}

/// How far a scan came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scanned {
    /// Where the next one goes on.
    pub next: Loc,
    /// Something before `next` was not there to be read: a freed segment or a damaged place.
    pub skipped: bool,
    /// It was freed segments, and they came before all that was handed over.
    pub jumped: bool,
}

impl Log {
    /// End of what is durable: every record before it is, none behind it is yet.
    pub fn durable(&self) -> Loc {
        Loc::unpack(self.shared.durable.load(Ordering::Acquire))
    }

    /// Random value in the header of a segment: tells it from another that had the same number. None when there is no such segment.
    pub fn salt(&self, number: u32) -> Option<u32> {
        self.shared.table.get(number).ok().map(|segment| segment.salt())
    }

    /// Hands over durable records at and after `from` in log order.
    pub fn scan_durable(&self, from: Loc, limits: ScanLimits, each: &mut Each<'_>) -> Result<Scanned, LogError> {
        let end = self.durable();
        let mut scan = Scan { limits, left: limits.records, skipped: false, window: Vec::new(), base: 0, ahead: WINDOW };
        let (mut at, mut jumped) = (from, false);
        let empty = self.shared.empty.load(Ordering::Relaxed);
        for (number, length) in self.segments() {
            if number < at.segment || number > end.segment || scan.left == 0 {
                continue;
            }
            if number > at.segment {
                // Numbers have no holes but those of segments that were freed before they were read, and of one that nothing was written to.
                let holes = number - at.segment - 1 - u32::from((at.segment + 1..number).contains(&empty));
                let gone = at.segment != empty && self.shared.table.get(at.segment).is_err();
                let jump = !at.is_none() && (holes > 0 || gone);
                if jump && scan.left < limits.records {
                    break;
                }
                jumped |= jump;
                at = Loc { segment: number, offset: SEGMENT_HEADER };
            }
            let stop = if number == end.segment { u64::from(end.offset) } else { length };
            let Ok(segment) = self.shared.table.get(number) else {
                scan.skipped = true;
                continue;
            };
            at.offset = scan.segment(&segment, at.offset.max(SEGMENT_HEADER), stop, each)?;
        }
        Ok(Scanned { next: at, skipped: scan.skipped || jumped, jumped })
    }

    /// Hands over the records of one sealed segment. Damaged places are passed over.
    pub fn scan_sealed(&self, number: u32, limits: ScanLimits, each: &mut Each<'_>) -> Result<(), LogError> {
        let segment = self.shared.table.get(number)?;
        let path = crate::segment_name(number);
        let stop = segment.file().len().map_err(|e| LogError::io("stat", std::path::Path::new(&path), &e))?;
        let mut scan = Scan { limits, left: limits.records, skipped: false, window: Vec::new(), base: 0, ahead: WINDOW };
        scan.segment(&segment, SEGMENT_HEADER, stop, each).map(drop)
    }
}

/// One scan over one or more segments.
struct Scan {
    limits: ScanLimits,
    left: usize,
    skipped: bool,
    /// Octets of the segment from `base` on.
    window: Vec<u8>,
    base: u64,
    /// Octets to be read next.
    ahead: usize,
}

impl Scan {
    /// Hands over the records in `from..stop` of a segment. Returns where the next one begins.
    fn segment(&mut self, segment: &Arc<Segment>, from: u32, stop: u64, each: &mut Each<'_>) -> Result<u32, LogError> {
        self.window.clear();
        let mut at = from;
        while u64::from(at) < stop && self.left > 0 {
            let Some(header) = self.header(segment, at, stop)? else {
                match self.resync(segment, at, stop)? {
                    Some(next) => at = next,
                    None => return Ok(u32::try_from(stop).unwrap_or(u32::MAX)),
                }
                continue;
            };
            if header.kind != KIND_MARK && header.kind != self.limits.without {
                let want = self.limits.prefix.min(header.length as usize);
                let payload = self.octets(segment, u64::from(at + RECORD_HEADER), want, stop)?;
                let whole = want == header.length as usize;
                if payload.len() == want && (!whole || header.verify(payload)) {
                    let more = each(Loc { segment: segment.number(), offset: at }, header.kind, payload, header.length);
                    self.left = if more { self.left - 1 } else { 0 };
                } else {
                    self.skipped = true;
                }
            }
            at = at.saturating_add(record_size(header.length));
        }
        Ok(at)
    }

    fn header(&mut self, segment: &Segment, at: u32, stop: u64) -> Result<Option<RecordHeader>, LogError> {
        let salt = segment.salt();
        let head = self.octets(segment, u64::from(at), RECORD_HEADER as usize, stop)?;
        let fits = |h: &RecordHeader| u64::from(at) + u64::from(RECORD_HEADER) + u64::from(h.length) <= stop;
        Ok(RecordHeader::decode(head, salt, at).filter(fits))
    }

    /// The next place that looks like a record. Behind the last record of a segment there is nothing but zeroes, which is no damage.
    fn resync(&mut self, segment: &Segment, at: u32, stop: u64) -> Result<Option<u32>, LogError> {
        let mut next = at + align(1);
        while u64::from(next) + u64::from(RECORD_HEADER) <= stop {
            if self.header(segment, next, stop)?.is_some() {
                self.skipped = true;
                return Ok(Some(next));
            }
            next += align(1);
        }
        Ok(None)
    }

    /// `want` octets at `offset`, fewer at `stop`.
    fn octets(&mut self, segment: &Segment, offset: u64, want: usize, stop: u64) -> Result<&[u8], LogError> {
        let want = want.min(usize::try_from(stop.saturating_sub(offset)).unwrap_or(usize::MAX));
        if self.window.is_empty() || offset < self.base || offset + want as u64 > self.base + self.window.len() as u64 {
            let passed_over = !self.window.is_empty() && offset > self.base + self.window.len() as u64;
            self.ahead = if passed_over { WINDOW_MIN } else { WINDOW.min(4 * self.ahead) };
            let ahead = want.max(self.ahead).min(usize::try_from(stop.saturating_sub(offset)).unwrap_or(usize::MAX));
            self.window.resize(ahead, 0);
            let got = Lost::default().read(segment, &mut self.window, offset)?;
            self.window.truncate(got);
            self.base = offset;
        }
        let start = usize::try_from(offset - self.base).unwrap_or(usize::MAX).min(self.window.len());
        Ok(&self.window[start..(start + want).min(self.window.len())])
    }
}
