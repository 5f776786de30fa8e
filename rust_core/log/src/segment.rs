//! Open segment files and how records are read out of them. Used by the log itself, by recovery and by [`crate::LogReader`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::Loc;
use crate::error::LogError;
use crate::format::{FORMAT_VERSION, HeaderFault, KIND_MARK, RECORD_HEADER, RecordHeader, SEGMENT_HEADER, SegmentHeader, segment_name};
use crate::storage::{Storage, StorageFile};

/// Segment files kept open at a time; a reader that holds one keeps it open beyond that.
const OPEN_FILES: usize = 64;
/// Octets read ahead with a record header, which is the whole of most records.
const READ_AHEAD: usize = 16 * 1024;

/// One open segment. Stays readable after the segment was freed.
pub struct Segment {
    number: u32,
    salt: u32,
    file: Box<dyn StorageFile>,
}

impl Segment {
    pub(crate) fn new(number: u32, salt: u32, file: Box<dyn StorageFile>) -> Self {
        Self { number, salt, file }
    }

    /// Opens a segment and reads its header.
    pub(crate) fn open(storage: &dyn Storage, dir: &Path, number: u32, write: bool) -> Result<(Self, SegmentHeader), LogError> {
        let path = dir.join(segment_name(number));
        let file = storage.open(&path, write).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => LogError::NotFound(Loc { segment: number, offset: 0 }),
            _ => LogError::io("open", &path, &e),
        })?;
        let mut bytes = [0u8; SEGMENT_HEADER as usize];
        let n = file.read_at(&mut bytes, 0).map_err(|e| LogError::io("read", &path, &e))?;
        let header = SegmentHeader::decode(&bytes[..n], number).map_err(|fault| match fault {
            HeaderFault::Version(found) => LogError::Version { file: segment_name(number), found, known: FORMAT_VERSION },
            HeaderFault::Damaged(reason) => LogError::Damaged { file: segment_name(number), offset: 0, reason: reason.to_owned() },
        })?;
        Ok((Self::new(number, header.salt, file), header))
    }

    /// Number of this segment.
    pub fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn salt(&self) -> u32 {
        self.salt
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

    /// Reads and verifies the whole record at `offset` into `out` (replaced). Returns its kind.
    pub fn read(&self, offset: u32, out: &mut Vec<u8>) -> Result<u8, LogError> {
        self.read_ahead(offset, READ_AHEAD, out)
    }

    /// Like [`Segment::read`], for a record that is probably no longer than `ahead` octets: then one system call does.
    pub fn read_ahead(&self, offset: u32, ahead: usize, out: &mut Vec<u8>) -> Result<u8, LogError> {
        out.resize(ahead.max(RECORD_HEADER as usize), 0);
        let n = self.read_some(out, u64::from(offset))?;
        let header = RecordHeader::decode(&out[..n], self.salt, offset).ok_or_else(|| self.damaged(offset, "no record here"))?;
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
        let n = self.read_some(out, u64::from(offset))?;
        let header = RecordHeader::decode(&out[..n], self.salt, offset).ok_or_else(|| self.damaged(offset, "no record here"))?;
        out.truncate(n.min(RECORD_HEADER as usize + header.length as usize));
        out.drain(..RECORD_HEADER as usize);
        Ok((header.kind, header.length))
    }

    /// Reads octets `from..from + buf.len()` of the payload at `offset`, fewer at its end. Not verified beyond the header.
    pub fn read_range(&self, offset: u32, from: u32, buf: &mut [u8]) -> Result<usize, LogError> {
        let mut head = [0u8; RECORD_HEADER as usize];
        let n = self.read_some(&mut head, u64::from(offset))?;
        let header = RecordHeader::decode(&head[..n], self.salt, offset).ok_or_else(|| self.damaged(offset, "no record here"))?;
        let want = (header.length.saturating_sub(from) as usize).min(buf.len());
        let at = u64::from(offset) + u64::from(RECORD_HEADER) + u64::from(from);
        if self.read_some(&mut buf[..want], at)? < want {
            return Err(self.damaged(offset, "record is longer than its segment"));
        }
        Ok(want)
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
    open: Mutex<Vec<Arc<Segment>>>,
}

impl SegmentTable {
    pub fn new(dir: &Path, storage: Arc<dyn Storage>) -> Self {
        Self { dir: dir.to_owned(), storage, open: Mutex::new(Vec::new()) }
    }

    /// The segment, opened if it is not.
    pub fn get(&self, number: u32) -> Result<Arc<Segment>, LogError> {
        if let Some(found) = self.open.lock().iter().rev().find(|s| s.number == number) {
            return Ok(Arc::clone(found));
        }
        let (segment, _) = Segment::open(&*self.storage, &self.dir, number, false)?;
        let segment = Arc::new(segment);
        self.insert(Arc::clone(&segment));
        Ok(segment)
    }

    pub fn insert(&self, segment: Arc<Segment>) {
        let mut open = self.open.lock();
        if open.iter().any(|s| s.number == segment.number) {
            return;
        }
        if open.len() >= OPEN_FILES {
            open.remove(0);
        }
        open.push(segment);
    }

    /// Forgets a segment; those who hold it can go on reading.
    pub fn forget(&self, number: u32) {
        self.open.lock().retain(|s| s.number != number);
    }

    /// Forgets segments whose file is gone, which would keep its space. A directory that cannot be listed forgets none.
    pub fn forget_removed(&self) {
        if let Ok(names) = self.storage.list(&self.dir) {
            self.open.lock().retain(|s| names.contains(&segment_name(s.number)));
        }
    }
}
