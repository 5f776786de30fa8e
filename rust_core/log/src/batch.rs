//! What waits to be written: runs of finished record bytes, one run per segment, and the tokens to call back.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::format::{Identity, KIND_MARK, RECORD_HEADER, RecordHeader, align, record_size};
use crate::storage::StorageFile;
use crate::{Loc, LostRecord};

/// Buffers up to this size are kept for the next batch, up to the second one as long as batches make use of them: fresh memory costs more than
/// what is copied into it.
const KEEP_CAPACITY: usize = 1 << 20;
const KEEP_USED: usize = 8 << 20;

/// A record of so many octets is a long one.
const LONG_RECORD: u32 = 8 << 10;

/// A preallocated file that has no segment number yet.
pub(crate) struct SpareFile {
    pub path: PathBuf,
    pub file: Arc<dyn StorageFile>,
    /// Salt of the segment the file was before.
    pub former: Option<u32>,
    /// Octets preallocated: a whole segment, or less when the disk has no more.
    pub size: u32,
    pub made: Instant,
}

/// Consecutive records of one segment.
pub(crate) struct Run {
    pub segment: u32,
    pub identity: Identity,
    pub start: u32,
    pub bytes: Vec<u8>,
    /// Octets of them in long records.
    pub long: usize,
    /// Tokens of records that end in this run.
    pub tokens: Vec<u64>,
    /// The file to turn into this segment first; None when it is open already.
    pub opens: Option<SpareFile>,
}

impl Run {
    /// Begins with a batch mark.
    pub fn new(segment: u32, identity: Identity, start: u32, mut bytes: Vec<u8>, opens: Option<SpareFile>) -> Self {
        bytes.clear();
        let mut run = Self { segment, identity, start, bytes, long: 0, tokens: Vec::new(), opens };
        run.push(KIND_MARK, 8, &[&identity.nonce.to_le_bytes()]);
        run
    }

    /// Offset behind the last record.
    pub fn end(&self) -> u32 {
        self.start + self.bytes.len() as u32
    }

    /// Every record but the marks.
    pub fn records(&self) -> impl Iterator<Item = LostRecord<'_>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            loop {
                let offset = self.start + at as u32;
                let header = RecordHeader::decode(self.bytes.get(at..)?, self.identity.salt, offset)?;
                let start = at + RECORD_HEADER as usize;
                let payload = self.bytes.get(start..start + header.length as usize)?;
                at += record_size(header.length) as usize;
                if header.kind != KIND_MARK {
                    return Some((Loc { segment: self.segment, offset }, header.kind, payload));
                }
            }
        })
    }

    /// Adds a record and returns its offset. The caller has checked that it fits.
    pub fn push(&mut self, kind: u8, length: u32, parts: &[&[u8]]) -> u32 {
        let offset = self.end();
        self.bytes.reserve(record_size(length) as usize);
        self.bytes.extend_from_slice(&RecordHeader::encode(self.identity.salt, offset, kind, length, parts));
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        let padded = align(self.end()) - self.start;
        self.bytes.resize(padded as usize, 0);
        if length >= LONG_RECORD {
            self.long += length as usize;
        }
        offset
    }
}

/// Everything one sync makes durable.
#[derive(Default)]
pub(crate) struct Batch {
    pub runs: Vec<Run>,
    /// Tokens that wait for everything before them, without a record of their own.
    pub tokens: Vec<u64>,
    /// Count of appends up to and including this batch.
    pub sequence: u64,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.tokens.is_empty()
    }

    /// True when somebody waits for this batch.
    pub fn wanted(&self) -> bool {
        !self.tokens.is_empty() || self.runs.iter().any(|r| !r.tokens.is_empty())
    }

    pub fn octets(&self) -> usize {
        self.runs.iter().map(|r| r.bytes.len()).sum()
    }

    /// The record bytes (from the header on, with what follows) at a place, if they are in this batch.
    pub fn find(&self, segment: u32, offset: u32) -> Option<(&[u8], u32)> {
        let run = self.runs.iter().find(|r| r.segment == segment && r.start <= offset && offset < r.end())?;
        Some((&run.bytes[(offset - run.start) as usize..], run.identity.salt))
    }

    /// A buffer worth keeping.
    pub fn into_buffer(self) -> Vec<u8> {
        let limit = |buffer: &Vec<u8>| if buffer.len() > KEEP_CAPACITY / 4 { KEEP_USED } else { KEEP_CAPACITY };
        self.runs.into_iter().map(|run| run.bytes).find(|buffer| buffer.capacity() <= limit(buffer)).unwrap_or_default()
    }
}
