//! Open segment files and how records are read out of them. Used by the log itself, by recovery and by [`crate::LogReader`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::Loc;
use crate::error::LogError;
use crate::format::{
    FORMAT_VERSION, HeaderFault, Identity, KIND_MARK, RECORD_HEADER, RecordHeader, SEGMENT_HEADER, SegmentHeader, segment_name,
};
use crate::pages::{PAGE, UNREADABLE, head_is_lost, of_place};
use crate::storage::{Storage, StorageFile};

/// Segment files kept open at a time; a reader that holds one keeps it open beyond that.
const OPEN_FILES: usize = 64;
/// Octets read ahead with a record header, which is the whole of most records.
const READ_AHEAD: usize = 16 * 1024;

/// One open segment. Stays readable after the segment was freed.
pub struct Segment {
    number: u32,
    identity: Identity,
    file: Arc<dyn StorageFile>,
}

impl Segment {
    pub(crate) fn new(number: u32, identity: Identity, file: Arc<dyn StorageFile>) -> Self {
        Self { number, identity, file }
    }

    /// Opens a segment and reads its header.
    pub(crate) fn open(storage: &dyn Storage, dir: &Path, number: u32, write: bool) -> Result<(Self, SegmentHeader), LogError> {
        let path = dir.join(segment_name(number));
        let file = storage.open(&path, write).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => LogError::NotFound(Loc { segment: number, offset: 0 }),
            _ => LogError::io("open", &path, &e),
        })?;
        let mut bytes = [0u8; SEGMENT_HEADER as usize];
        let n = file.read_at(&mut bytes, 0).map_err(|e| {
            if of_place(&e) && head_is_lost(&*file) {
                return LogError::Damaged { file: segment_name(number), offset: 0, reason: format!("header {UNREADABLE}") };
            }
            LogError::io("read", &path, &e)
        })?;
        let header = SegmentHeader::decode(&bytes[..n], number).map_err(|fault| match fault {
            HeaderFault::Version(found) => LogError::Version { file: path.display().to_string(), found, known: FORMAT_VERSION },
            HeaderFault::Damaged(reason) => LogError::Damaged { file: segment_name(number), offset: 0, reason: reason.to_owned() },
        })?;
        Ok((Self::new(number, header.identity, file.into()), header))
    }

    /// Number of this segment.
    pub fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn salt(&self) -> u32 {
        self.identity.salt
    }

    /// Is this the payload of one of its batch marks?
    pub(crate) fn is_mark(&self, payload: &[u8]) -> bool {
        self.identity.is_mark(payload)
    }

    pub(crate) fn file(&self) -> &dyn StorageFile {
        &*self.file
    }

    fn damaged(&self, offset: u32, reason: &str) -> LogError {
        LogError::Damaged { file: segment_name(self.number), offset: u64::from(offset), reason: reason.to_owned() }
    }

    fn read_some(&self, buf: &mut [u8], offset: u64) -> Result<usize, LogError> {
        self.file.read_at(buf, offset).map_err(|e| LogError::io("read", Path::new(&segment_name(self.number)), &e))
    }

    /// The same for a read that goes beyond what is wanted: up to the first page that the disk cannot read.
    fn read_on(&self, buf: &mut [u8], offset: u64) -> Result<usize, LogError> {
        match self.file.read_at(buf, offset) {
            Err(error) if of_place(&error) => {
                let mut done = 0;
                while done < buf.len() {
                    let at = offset + done as u64;
                    let end = buf.len().min(done + usize::try_from(PAGE - at % PAGE).unwrap_or(1));
                    match self.file.read_at(&mut buf[done..end], at) {
                        Ok(n) if n > 0 => done += n,
                        Err(_) if done == 0 => break,
                        _ => return Ok(done),
                    }
                }
                self.read_some(&mut buf[done..], offset + done as u64).map(|n| done + n)
            }
            other => other.map_err(|e| LogError::io("read", Path::new(&segment_name(self.number)), &e)),
        }
    }

    /// Reads and verifies the whole record at `offset` into `out` (replaced). Returns its kind.
    pub fn read(&self, offset: u32, out: &mut Vec<u8>) -> Result<u8, LogError> {
        self.read_ahead(offset, READ_AHEAD, out)
    }

    /// Like [`Segment::read`], for a record that is probably no longer than `ahead` octets: then one system call does.
    pub fn read_ahead(&self, offset: u32, ahead: usize, out: &mut Vec<u8>) -> Result<u8, LogError> {
        out.resize(ahead.max(RECORD_HEADER as usize), 0);
        let n = self.read_on(out, u64::from(offset))?;
        let header = RecordHeader::decode(&out[..n], self.identity.salt, offset).ok_or_else(|| self.damaged(offset, "no record here"))?;
        let total = RECORD_HEADER as usize + header.length as usize;
        if total > n {
            if u64::from(offset) + total as u64 > self.file.len().map_err(|e| LogError::io("stat", Path::new("segment"), &e))? {
                return Err(self.damaged(offset, "record is longer than its segment"));
            }
            out.resize(total, 0);
            if self.read_some(&mut out[n..], u64::from(offset) + n as u64)? < total - n {
                return Err(self.damaged(offset, "record is longer than its segment"));
            }
        }
        out.truncate(total);
        out.drain(..RECORD_HEADER as usize);
        if !header.verify(out) {
            return Err(self.damaged(offset, "checksum does not match"));
        }
        Ok(header.kind)
    }

    /// Reads up to `limit` first octets of the payload at `offset` into `out` (replaced): (kind, full payload length).
    /// Only the record's header is verified.
    pub fn read_prefix(&self, offset: u32, limit: usize, out: &mut Vec<u8>) -> Result<(u8, u32), LogError> {
        out.resize(RECORD_HEADER as usize + limit, 0);
        let n = self.read_on(out, u64::from(offset))?;
        let header = RecordHeader::decode(&out[..n], self.identity.salt, offset).ok_or_else(|| self.damaged(offset, "no record here"))?;
        out.truncate(n.min(RECORD_HEADER as usize + header.length as usize));
        out.drain(..RECORD_HEADER as usize);
        Ok((header.kind, header.length))
    }

    /// Like [`Segment::read_prefix`], for records asked for in the order of the log: what lies behind one is read with it when they come close together.
    pub fn read_within<'w>(&self, offset: u32, limit: usize, window: &'w mut Window) -> Result<(u8, u32, &'w [u8]), LogError> {
        let (header, payload) = self.within(offset, limit, window)?;
        Ok((header.kind, header.length, payload))
    }

    /// The whole and verified record at `offset` as in `read_within`: (kind, payload). `guess` is how long payloads mostly are at most.
    pub fn read_whole_within<'w>(&self, offset: u32, guess: usize, window: &'w mut Window) -> Result<(u8, &'w [u8]), LogError> {
        let length = self.within(offset, guess, window)?.0.length as usize;
        let (header, payload) = self.within(offset, length, window)?;
        if payload.len() < length || !header.verify(payload) {
            return Err(self.damaged(offset, "checksum does not match"));
        }
        Ok((header.kind, payload))
    }

    fn within<'w>(&self, offset: u32, limit: usize, window: &'w mut Window) -> Result<(RecordHeader, &'w [u8]), LogError> {
        let (at, want) = (u64::from(offset), RECORD_HEADER as usize + limit);
        if !window.holds(self.number, at, want) {
            let near = window.segment == self.number && at.checked_sub(window.last).is_some_and(|gap| gap < NEAR);
            window.octets.resize(if near { want.max(AHEAD) } else { want }, 0);
            (window.segment, window.base) = (0, at);
            let n = self.read_on(&mut window.octets, at)?;
            window.octets.truncate(n);
            window.segment = self.number;
        }
        window.last = at;
        let start = usize::try_from(at - window.base).unwrap_or(usize::MAX);
        let octets = window.octets.get(start..).unwrap_or(&[]);
        let header = RecordHeader::decode(octets, self.identity.salt, offset).ok_or_else(|| self.damaged(offset, "no record here"))?;
        let end = octets.len().min(RECORD_HEADER as usize + limit.min(header.length as usize));
        let payload = octets.get(RECORD_HEADER as usize..end).unwrap_or(&[]);
        Ok((header, payload))
    }

    /// Reads octets `from..from + buf.len()` of the payload at `offset`, fewer at its end. Not verified beyond the header.
    pub fn read_range(&self, offset: u32, from: u32, buf: &mut [u8]) -> Result<usize, LogError> {
        let mut head = [0u8; RECORD_HEADER as usize];
        let n = self.read_some(&mut head, u64::from(offset))?;
        let header = RecordHeader::decode(&head[..n], self.identity.salt, offset).ok_or_else(|| self.damaged(offset, "no record here"))?;
        let want = (header.length.saturating_sub(from) as usize).min(buf.len());
        let at = u64::from(offset) + u64::from(RECORD_HEADER) + u64::from(from);
        if self.read_some(&mut buf[..want], at)? < want {
            return Err(self.damaged(offset, "record is longer than its segment"));
        }
        Ok(want)
    }
}

/// Records that begin so close to each other are read together.
const NEAR: u64 = 8 << 10;
/// Octets read at once then.
const AHEAD: usize = 64 << 10;

/// A stretch of a segment in memory, see [`Segment::read_within`]. What was appended since it was read is not in it.
#[derive(Debug, Default)]
pub struct Window {
    /// 0: none.
    segment: u32,
    base: u64,
    octets: Vec<u8>,
    /// The record that was read last.
    last: u64,
}

impl Window {
    fn holds(&self, segment: u32, at: u64, want: usize) -> bool {
        self.segment == segment && self.base <= at && at + want as u64 <= self.base + self.octets.len() as u64
    }
}

/// True for kinds the log keeps to itself.
pub(crate) fn is_internal(kind: u8) -> bool {
    kind == KIND_MARK
}

/// The open segments of one directory, the least recently opened dropped first.
pub(crate) struct SegmentTable {
    dir: PathBuf,
    storage: Arc<dyn Storage>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    segments: Vec<Arc<Segment>>,
    /// Dropped from the table while somebody was reading them.
    dropped: Vec<Weak<Segment>>,
    /// Gone for good. Whoever opened one's file just before must not get it.
    retired: BTreeSet<u32>,
}

impl SegmentTable {
    pub fn new(dir: &Path, storage: Arc<dyn Storage>) -> Self {
        Self { dir: dir.to_owned(), storage, open: Mutex::default() }
    }

    /// The segment, opened if it is not.
    pub fn get(&self, number: u32) -> Result<Arc<Segment>, LogError> {
        if let Some(found) = self.open.lock().find(number) {
            return Ok(found);
        }
        let (segment, _) = Segment::open(&*self.storage, &self.dir, number, false)?;
        let mut open = self.open.lock();
        if open.retired.contains(&number) {
            return Err(LogError::NotFound(Loc { segment: number, offset: 0 }));
        }
        // Another may have opened it meanwhile: one handle each, so that it is known who reads.
        let segment = open.find(number).unwrap_or_else(|| Arc::new(segment));
        open.insert(Arc::clone(&segment));
        Ok(segment)
    }

    pub fn insert(&self, segment: Arc<Segment>) {
        self.open.lock().insert(segment);
    }

    /// Closes a segment for good: it cannot be had any more, those who hold it can go on reading. True when nobody does.
    pub fn retire(&self, number: u32) -> bool {
        let mut open = self.open.lock();
        open.retired.insert(number);
        open.segments.retain(|s| s.number != number || Arc::strong_count(s) > 1);
        let held = open.find(number).is_some();
        open.segments.retain(|s| s.number != number);
        !held
    }

    /// Forgets segments whose file is gone, which would keep its space. A directory that cannot be listed forgets none.
    pub fn forget_removed(&self) {
        if let Ok(names) = self.storage.list(&self.dir) {
            self.open.lock().segments.retain(|s| names.contains(&segment_name(s.number)));
        }
    }
}

impl Open {
    fn find(&self, number: u32) -> Option<Arc<Segment>> {
        let dropped = || self.dropped.iter().filter_map(Weak::upgrade).find(|s| s.number == number);
        self.segments.iter().rev().find(|s| s.number == number).cloned().or_else(dropped)
    }

    fn insert(&mut self, segment: Arc<Segment>) {
        if self.segments.iter().any(|s| s.number == segment.number) {
            return;
        }
        if self.segments.len() >= OPEN_FILES {
            let oldest = self.segments.remove(0);
            self.dropped.retain(|s| s.strong_count() > 0);
            if Arc::strong_count(&oldest) > 1 {
                self.dropped.push(Arc::downgrade(&oldest));
            }
        }
        self.segments.push(segment);
    }
}
