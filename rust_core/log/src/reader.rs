//! Reading a log that another process writes: records by their places, without a lock. Used by `gatepost-store` for the other processes' streams.

use std::path::Path;
use std::sync::Arc;

use crate::error::LogError;
use crate::format::Loc;
use crate::segment::{Segment, SegmentTable};
use crate::storage::Storage;

/// Reads records of a log that another process may be appending to. Takes no lock and changes nothing.
pub struct LogReader {
    table: SegmentTable,
}

impl LogReader {
    /// For the log in `dir`; nothing is opened yet.
    pub fn new(dir: &Path, storage: Arc<dyn Storage>) -> Self {
        Self { table: SegmentTable::new(dir, storage) }
    }

    /// The open segment, through which records are read. Closed behind the scenes when many others were opened since.
    pub fn segment(&self, number: u32) -> Result<Arc<Segment>, LogError> {
        self.table.get(number)
    }

    /// Closes segments that the log's owner has removed: an open file keeps its space. Call it now and then.
    pub fn forget_removed(&self) {
        self.table.forget_removed();
    }

    /// Reads and verifies the record at `loc` into `out` (replaced). Returns its kind.
    pub fn read(&self, loc: Loc, out: &mut Vec<u8>) -> Result<u8, LogError> {
        self.segment(loc.segment)?.read(loc.offset, out)
    }

    /// Octets `from..` of the payload at `loc` into `buf`; fewer only at its end. Not verified.
    pub fn read_range(&self, loc: Loc, from: u32, buf: &mut [u8]) -> Result<usize, LogError> {
        self.segment(loc.segment)?.read_range(loc.offset, from, buf)
    }
}
