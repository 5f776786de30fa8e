//! The partition's records as a stream, for what is derived from them in the background (the history of finished mail).
//!
//! A [`Tail`] reads durable records of kinds accepted, journal and moved from a place on; "moved" records repeat what was read before, unless that
//! was lost. It also tells the keeper up to where it has read: segments from there on stay, unless they have become more
//! than the disk can spare ([`LAG`], [`SPARED`]), because a derived thing must never fill the disk that mail needs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use gatepost_log::{Loc, ScanLimits};

use crate::codec::{
    ALL, CHUNK_HEAD, Envelope, Journal, KIND_ACCEPTED, KIND_CHUNK, KIND_JOURNAL, KIND_MOVED, Layout, accepted_length, decode_accepted,
    decode_journal,
};
use crate::error::QueueError;
use crate::id::MessageId;
use crate::spool::{Core, Spool};

/// Octets of sealed segments that are kept for a reader that lags, however full the disk is.
pub const LAG: u64 = 256 << 20;
/// More are kept as long as they are no more than this part of what is free: a few commands over a million messages write more than [`LAG`] before
/// they are read.
pub const SPARED: u64 = 4;
/// But never more than this.
pub const LAG_MOST: u64 = 4 << 30;
/// Octets of a message's header section that are handed over.
const HEADER: usize = 16 << 10;
/// Octets of a record read at first: envelope and header of most messages.
const PREFIX: usize = 8 << 10;

/// One record.
#[derive(Debug, Clone)]
pub enum Entry<'a> {
    /// A message was accepted.
    Accepted {
        /// Its envelope.
        envelope: Envelope,
        /// The beginning of its octets: at least the header section, if that is no longer than 16 KiB.
        head: &'a [u8],
    },
    /// A message was moved: all that stood in older records of it is here, its journal by [`Tail::carried`].
    Moved {
        /// Of the record.
        place: Loc,
        /// As accepted.
        envelope: Envelope,
        /// As for an accepted one.
        head: &'a [u8],
    },
    /// A transition.
    Journal {
        /// Which message.
        id: MessageId,
        /// Unix microseconds.
        time_us: u64,
        /// Due time, or end of the grace of a removal.
        next_us: u64,
        /// None for every recipient it applies to.
        recipient: Option<u16>,
        /// One of [`crate::kind`].
        kind: u8,
        /// It finished the message.
        finished: bool,
        /// As journaled; for a reroute address, destination and route.
        detail: &'a [u8],
    },
}

/// Takes an entry; returns whether to go on.
pub type Each<'a> = dyn FnMut(Entry<'_>) -> bool + 'a;

/// How far a read came.
#[derive(Debug, Clone, Copy)]
pub struct Read {
    /// Where to go on.
    pub next: Loc,
    /// Records before `next` were not there to be read.
    pub skipped: bool,
    /// They came before all that was handed over.
    pub jumped: bool,
}

/// Reads a partition's log behind its writers.
pub struct Tail {
    core: Arc<Core>,
}

/// Segments below this number have been read by the one tail there is; [`Floor::NONE`] when nobody reads.
#[derive(Debug)]
pub(crate) struct Floor(AtomicU32);

impl Floor {
    const NONE: u32 = u32::MAX;

    pub fn new(tailed: bool) -> Self {
        Self(AtomicU32::new(if tailed { 0 } else { Self::NONE }))
    }

    /// The first segment that may not be freed for the reader's sake. `segments` are all, the last is active; `free` octets are left on the disk.
    pub fn first_kept(&self, segments: &[(u32, u64)], free: u64) -> u32 {
        let floor = self.0.load(Ordering::Acquire);
        let sealed = &segments[..segments.len().saturating_sub(1)];
        let lag: u64 = sealed.iter().filter(|(n, _)| *n >= floor).map(|(_, octets)| octets).sum();
        if lag > LAG.max((free / SPARED).min(LAG_MOST)) { Self::NONE } else { floor }
    }
}

impl Spool {
    /// A reader of this partition's records. One at a time.
    pub fn tail(&self) -> Tail {
        Tail { core: Arc::clone(&self.core) }
    }
}

impl Tail {
    /// End of what is durable.
    pub fn durable(&self) -> Loc {
        self.core.log.durable()
    }

    /// Where the next record will go: once that is durable, everything that had happened is.
    pub fn end(&self) -> Loc {
        self.core.log.tail()
    }

    /// New mail is refused for want of space.
    pub fn low_space(&self) -> bool {
        self.core.log.low_space()
    }

    /// Tells a segment from another that had the same number; None when there is none.
    pub fn salt(&self, segment: u32) -> Option<u32> {
        self.core.log.salt(segment)
    }

    /// Segments below this one may be freed from now on; None: all may.
    pub fn release(&self, below: Option<u32>) {
        let floor = below.unwrap_or(Floor::NONE);
        if self.core.floor.0.swap(floor, Ordering::AcqRel) != floor {
            self.core.want_sweep();
        }
    }

    /// Hands over up to `records` durable records from `from` on, as long as `each` says to go on. Damaged ones are passed over.
    pub fn read(&self, from: Loc, records: usize, each: &mut Each<'_>) -> Result<Read, QueueError> {
        let limits = ScanLimits { records, prefix: PREFIX, without: KIND_CHUNK };
        let mut long = Vec::new();
        let scanned = self.core.log.scan_durable(from, limits, &mut |loc, kind, payload, length| {
            let entry = match kind {
                KIND_ACCEPTED | KIND_MOVED => self.accepted(loc, kind, payload, length, &mut long, each),
                KIND_JOURNAL => self.journal(loc, payload, length, &mut long, each),
                _ => None,
            };
            entry.unwrap_or(true)
        })?;
        Ok(Read { next: scanned.next, skipped: scanned.skipped, jumped: scanned.jumped })
    }

    /// Hands over the journal that a moved record brought with it, oldest first.
    pub fn carried(&self, place: Loc, each: &mut Each<'_>) -> Result<(), QueueError> {
        let _ = self.core.carried(place)?.iter().all(|journal| each(Entry::of(journal)));
        Ok(())
    }

    fn accepted(&self, loc: Loc, kind: u8, payload: &[u8], length: u32, long: &mut Vec<u8>, each: &mut Each<'_>) -> Option<bool> {
        let needed = accepted_length(payload)?;
        let mut data = payload;
        // Long envelopes and long headers are read again, whole.
        if (data.len() < needed || no_header_end(&data[needed..])) && data.len() < length as usize {
            self.core.log.read_prefix(loc, needed.saturating_add(HEADER).min(length as usize), long).ok()?;
            data = long;
        }
        let (envelope, layout) = decode_accepted(data)?;
        let mut first = Vec::new();
        let head = if layout.chunks.is_empty() { &data[needed.min(data.len())..] } else { self.first_chunk(&layout, &mut first) };
        Some(each(if kind == KIND_MOVED { Entry::Moved { place: loc, envelope, head } } else { Entry::Accepted { envelope, head } }))
    }

    /// The beginning of a message in chunks; empty when it is gone already.
    fn first_chunk<'a>(&self, layout: &Layout, out: &'a mut Vec<u8>) -> &'a [u8] {
        let Some((loc, _)) = layout.chunks.first() else { return &[] };
        match self.core.log.read_prefix(*loc, CHUNK_HEAD + HEADER, out) {
            Ok(_) => out.get(CHUNK_HEAD..).unwrap_or(&[]),
            Err(_) => &[],
        }
    }

    fn journal(&self, loc: Loc, payload: &[u8], length: u32, long: &mut Vec<u8>, each: &mut Each<'_>) -> Option<bool> {
        let mut data = payload;
        if data.len() < length as usize {
            self.core.log.read(loc, long).ok()?;
            data = long;
        }
        Some(each(Entry::of(&decode_journal(data)?)))
    }
}

impl<'a> Entry<'a> {
    fn of(journal: &'a Journal) -> Self {
        Self::Journal {
            id: journal.id,
            time_us: journal.time_us,
            next_us: journal.next_us,
            recipient: (journal.recipient != ALL).then_some(journal.recipient),
            kind: journal.kind,
            finished: journal.finished,
            detail: &journal.detail,
        }
    }
}

fn no_header_end(head: &[u8]) -> bool {
    memchr::memmem::find(head, b"\r\n\r\n").is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 64 << 20;

    /// First kept of so many segments, when those from the second on are unread.
    fn kept(segments: u32, free: u64) -> u32 {
        let floor = Floor::new(true);
        floor.0.store(2, Ordering::Release);
        let segments: Vec<_> = (1..=segments).map(|number| (number, SEGMENT)).collect();
        floor.first_kept(&segments, free)
    }

    #[test]
    fn unread_segments_are_kept_within_what_the_disk_can_spare() {
        // The last one is active, the first is read: so many less two lag.
        assert_eq!(kept(6, 0), 2);
        assert_eq!(kept(7, 0), Floor::NONE);
        assert_eq!(kept(7, LAG * SPARED), Floor::NONE);
        assert_eq!(kept(7, LAG * SPARED + SEGMENT * SPARED), 2);
        assert_eq!(kept(66, u64::MAX), 2);
        assert_eq!(kept(67, u64::MAX), Floor::NONE, "more than LAG_MOST");
    }

    #[test]
    fn nothing_is_kept_for_a_reader_that_is_not_there() {
        assert_eq!(Floor::new(false).first_kept(&[(1, SEGMENT), (2, SEGMENT)], u64::MAX), Floor::NONE);
    }
}
