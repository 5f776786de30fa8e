//! Writing a message's octets into the own stream: small ones in their record, large ones in chunks that leave memory as they fill.

use gatepost_log::{Class, Loc};

use crate::error::{Result, StoreError};
use crate::records::{CHUNK, KIND_CHUNK, KIND_MESSAGE, MessageHead};
use crate::volume::Volume;

/// Octets appended and not yet synced at which a writer waits for the disk.
const PENDING_MAX: u64 = 384 << 10;
/// Longest message.
const MESSAGE_MAX: u64 = 4 << 30;
/// Room that a message record needs besides octets and chunk list.
const HEAD_ROOM: usize = 16 << 10;

/// Takes one message. Holds at most one chunk; dropping it leaves dead chunks in the log, freed with their segment.
pub struct Sink {
    chunk: usize,
    buffer: Vec<u8>,
    chunks: Vec<(Loc, u32)>,
    octets: u64,
}

impl Sink {
    /// For one message.
    pub fn new(volume: &Volume) -> Self {
        let chunk = CHUNK.min(volume.log.max_payload().saturating_sub(HEAD_ROOM)).max(1);
        Self { chunk, buffer: Vec::new(), chunks: Vec::new(), octets: 0 }
    }

    /// Octets taken so far.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Take octets.
    pub fn push(&mut self, volume: &Volume, mut data: &[u8]) -> Result<()> {
        self.octets += data.len() as u64;
        if self.octets > MESSAGE_MAX {
            return Err(StoreError::Invalid("message larger than 4 GiB".into()));
        }
        while self.buffer.len() + data.len() > self.chunk {
            let (now, later) = data.split_at(self.chunk - self.buffer.len());
            self.buffer.extend_from_slice(now);
            self.flush(volume)?;
            data = later;
        }
        let wanted = self.buffer.len() + data.len();
        if wanted > self.buffer.capacity() && wanted > self.chunk / 4 {
            // Grow once to a whole chunk, not by doubling beyond it.
            self.buffer.reserve_exact(self.chunk - self.buffer.len());
        }
        self.buffer.extend_from_slice(data);
        Ok(())
    }

    fn flush(&mut self, volume: &Volume) -> Result<()> {
        volume.log.wait_for_room(PENDING_MAX);
        let at = volume.log.append(KIND_CHUNK, &[&self.buffer], Class::Message, None)?;
        self.chunks.push((at, self.buffer.len() as u32));
        self.buffer.clear();
        Ok(())
    }

    /// Append the message record; it is durable after the next sync. `head` gets its length and chunks.
    pub fn finish(mut self, volume: &Volume, head: &mut MessageHead) -> Result<Loc> {
        if !self.chunks.is_empty() && !self.buffer.is_empty() {
            self.flush(volume)?;
        }
        head.octets = self.octets;
        head.chunks = self.chunks;
        Ok(volume.log.append(KIND_MESSAGE, &[&head.encode(), &self.buffer], Class::Message, None)?)
    }
}
