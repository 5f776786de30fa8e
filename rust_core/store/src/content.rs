//! Reading the octets of a stored message, at any position, from whichever stream holds them. At most one record (256 KiB) is in memory.

use std::sync::Arc;

use gatepost_log::{Loc, Segment};
use gatepost_mime::{Index, Indexer, Limits};

use crate::error::{Result, StoreError};
use crate::info::MessageInfo;
use crate::records::{KIND_CHUNK, KIND_CONTENT, KIND_MESSAGE, MessageHead};
use crate::volume::Volume;

/// Where a message is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// Stream by name.
    pub stream: String,
    /// Its message record.
    pub at: Loc,
    /// Octets of the message.
    pub octets: u64,
}

/// A message as octets.
pub struct Content {
    /// Its segments, held open: it can be read to its end even if it is expunged or moved meanwhile.
    segments: Vec<Arc<Segment>>,
    octets: u64,
    /// First octet of each chunk, its place and length; empty for a message kept in its record.
    chunks: Vec<(u64, Loc, u32)>,
    /// The record in memory: first octet of the message in it, and where in `buffer` that is.
    start: u64,
    skip: usize,
    buffer: Vec<u8>,
}

impl Content {
    /// Open a message. Verifies its record, and so all of a small message.
    pub fn open(volume: &Volume, place: &Place) -> Result<Self> {
        let reader = volume.reader(&place.stream);
        let mut buffer = Vec::new();
        let own = reader.segment(place.at.segment)?;
        let kind = own.read(place.at.offset, &mut buffer)?;
        let mut segments = vec![own];
        let broken = |why: &str| StoreError::Damaged(format!("{}/{}: {why}", place.stream, place.at));
        if !matches!(kind, KIND_MESSAGE | KIND_CONTENT) {
            return Err(broken("not a message record"));
        }
        let (head, skip) = MessageHead::decode(&buffer).ok_or_else(|| broken("message head damaged"))?;
        let mut chunks = Vec::with_capacity(head.chunks.len());
        let mut at = 0u64;
        for (loc, len) in head.chunks {
            chunks.push((at, loc, len));
            if segments.iter().all(|s| s.number() != loc.segment) {
                segments.push(reader.segment(loc.segment)?);
            }
            at += u64::from(len);
        }
        let total = if chunks.is_empty() { (buffer.len() - skip) as u64 } else { at };
        if total != head.octets {
            return Err(broken("length differs from the record's"));
        }
        if !chunks.is_empty() {
            buffer.clear();
        }
        Ok(Self { segments, octets: head.octets, chunks, start: 0, skip, buffer })
    }

    /// Open a listed message; when its place is not what it was, where it is now.
    pub fn open_listed(volume: &Volume, message: &MessageInfo, place: &Place) -> Result<Self> {
        Self::open(volume, place).or_else(|error| {
            let now = volume.read(|db| crate::info::place_of(volume, db, &message.msg))?;
            match now.filter(|now| now != place) {
                Some(now) => Self::open(volume, &now),
                None => Err(error),
            }
        })
    }

    /// Octets of the message.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.octets
    }

    /// A stretch of octets at `from`, as long as is in memory, `limit` at most; empty at the end.
    pub fn at(&mut self, from: u64, limit: usize) -> Result<&[u8]> {
        if from >= self.octets {
            return Ok(&[]);
        }
        if !self.chunks.is_empty() && !(self.start..self.start + self.buffer.len() as u64).contains(&from) {
            self.load(from)?;
        }
        let begin = self.skip + (from - self.start) as usize;
        let end = self.buffer.len().min(begin.saturating_add(limit));
        Ok(&self.buffer[begin..end])
    }

    fn load(&mut self, from: u64) -> Result<()> {
        let number = self.chunks.partition_point(|(first, ..)| *first <= from) - 1;
        let (first, at, len) = self.chunks[number];
        self.buffer.clear();
        let segment = self.segments.iter().find(|s| s.number() == at.segment).ok_or(StoreError::Closed)?;
        let kind = segment.read(at.offset, &mut self.buffer)?;
        if kind != KIND_CHUNK || self.buffer.len() != len as usize {
            self.buffer.clear();
            return Err(StoreError::Damaged(format!("{at}: not the chunk that was written there")));
        }
        (self.start, self.skip) = (first, 0);
        Ok(())
    }

    /// Call `each` with all octets of `range` in order, until it returns false.
    pub fn walk(&mut self, range: std::ops::Range<u64>, mut each: impl FnMut(&[u8]) -> bool) -> Result<()> {
        let mut from = range.start;
        while from < range.end.min(self.octets) {
            let limit = usize::try_from(range.end - from).unwrap_or(usize::MAX);
            let piece = self.at(from, limit)?;
            let len = piece.len() as u64;
            if !each(piece) {
                break;
            }
            from += len;
        }
        Ok(())
    }

    /// The MIME structure; only that of the message's own header block when `header_only`.
    pub fn index(&mut self, header_only: bool) -> Result<Index> {
        let mut indexer = Indexer::new(Limits::default());
        self.walk(0..self.octets, |piece| {
            // A header is in the first octets: do not run through 256 KiB for it.
            for part in piece.chunks(if header_only { 4_096 } else { piece.len() }) {
                indexer.feed(part);
                if header_only && indexer.header_done() {
                    return false;
                }
            }
            true
        })?;
        Ok(indexer.finish())
    }
}
