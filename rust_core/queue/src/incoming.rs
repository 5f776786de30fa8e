//! A message being received: the intake machine with its place in the log. Dropping it before the commit gives everything back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use gatepost_log::Loc;

use crate::error::QueueError;
use crate::id::MessageId;
use crate::intake::{BUFFER, Defect, Facts, Intake};
use crate::spool::Core;

/// A message on its way in.
pub struct Incoming {
    core: Arc<Core>,
    id: MessageId,
    intake: Intake,
    pieces: Pieces,
    closed: bool,
}

/// What is in the log already.
#[derive(Default)]
struct Pieces {
    chunks: Vec<(Loc, u32)>,
    /// Segments they are in; counted as live until the commit takes them over.
    pins: Vec<u32>,
    /// The log's count of losses before the first of them: when it has grown, chunks may be gone.
    losses: u64,
}

impl Incoming {
    pub(crate) fn new(core: Arc<Core>, id: MessageId, prefix: &[u8], max: u64, allow_bare: bool) -> Self {
        let mut incoming = Self {
            core,
            id,
            intake: Intake::new(&prefix[..prefix.len().min(BUFFER / 2)], max, allow_bare),
            pieces: Pieces::default(),
            closed: false,
        };
        if prefix.len() > BUFFER / 2 {
            incoming.intake.fail(Defect::TooBig);
        }
        incoming
    }

    /// Id the message will have in the queue.
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// Octets so far, without the prefix.
    pub fn size(&self) -> u64 {
        self.intake.size()
    }

    /// Octets with the prefix.
    pub fn total(&self) -> u64 {
        self.intake.total()
    }

    /// The end was seen, or `finish` was called.
    pub fn done(&self) -> bool {
        self.intake.done()
    }

    /// Why it will be refused.
    pub fn defect(&self) -> Option<Defect> {
        self.intake.defect()
    }

    /// Takes DATA (RFC 5321 4.5.2). Returns the octets consumed.
    pub fn feed(&mut self, data: &[u8]) -> usize {
        let (core, id, pieces) = (&self.core, &self.id, &mut self.pieces);
        let taken = self.intake.feed(data, &mut |full| pieces.store(core, id, full));
        self.shed();
        taken
    }

    /// Takes octets as they are.
    pub fn feed_raw(&mut self, data: &[u8]) {
        let (core, id, pieces) = (&self.core, &self.id, &mut self.pieces);
        self.intake.feed_raw(data, &mut |full| pieces.store(core, id, full));
        self.shed();
    }

    /// No more octets follow (raw mode).
    pub fn finish(&mut self) {
        let (core, id, pieces) = (&self.core, &self.id, &mut self.pieces);
        self.intake.finish(&mut |full| pieces.store(core, id, full));
        self.shed();
    }

    /// With a defect nothing of it is needed any more.
    fn shed(&mut self) {
        if self.intake.defect().is_some() {
            self.pieces.release(&self.core);
        }
    }

    /// So much waits for the disk that more should not be taken until a sync.
    pub fn congested(&self) -> bool {
        self.core.congested()
    }

    /// Header section without the prefix, at most 64 KiB.
    pub fn header(&self) -> &[u8] {
        self.intake.header()
    }

    /// What was seen of it.
    pub fn facts(&self) -> Facts {
        self.intake.facts()
    }

    /// Gives everything back.
    pub fn abort(&mut self) {
        self.pieces.release(&self.core);
        self.intake.discard();
        self.intake.fail(Defect::Closed);
        self.closed = true;
    }

    /// Ready for the commit point?
    pub(crate) fn check_complete(&self) -> Result<(), QueueError> {
        match self.intake.defect() {
            _ if self.closed => Err(QueueError::Invalid("the message was committed or aborted already".into())),
            Some(defect) => Err(QueueError::Invalid(format!("the message has a defect: {}", defect.name()))),
            None if !self.intake.done() => Err(QueueError::Invalid("the message is not complete".into())),
            None => Ok(()),
        }
    }

    pub(crate) fn chunks(&self) -> &[(Loc, u32)] {
        &self.pieces.chunks
    }

    /// The log's count of losses before the first chunk; None without chunks.
    pub(crate) fn losses(&self) -> Option<u64> {
        (!self.pieces.chunks.is_empty()).then_some(self.pieces.losses)
    }

    pub(crate) fn rest(&self) -> &[u8] {
        self.intake.rest()
    }

    /// The message is appended: hands over its segments, which stay counted.
    pub(crate) fn committed(&mut self) -> Vec<u32> {
        self.closed = true;
        self.intake.discard();
        self.pieces.end_streaming(&self.core);
        self.pieces.chunks.clear();
        std::mem::take(&mut self.pieces.pins)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.pieces.release(&self.core);
    }
}

impl Pieces {
    fn store(&mut self, core: &Core, id: &MessageId, data: &[u8]) -> Result<(), QueueError> {
        if self.chunks.is_empty() {
            self.losses = core.log.losses();
        }
        let loc = core.append_chunk(self.losses, id, self.chunks.len() as u32, data, &mut self.pins)?;
        if self.chunks.is_empty() {
            core.streaming.fetch_add(1, Ordering::Relaxed);
        }
        self.chunks.push((loc, data.len() as u32));
        Ok(())
    }

    fn end_streaming(&self, core: &Core) {
        if !self.chunks.is_empty() {
            core.streaming.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn release(&mut self, core: &Core) {
        self.end_streaming(core);
        self.chunks = Vec::new();
        let pins = std::mem::take(&mut self.pins);
        if !pins.is_empty() {
            core.unpin(&pins);
        }
    }
}
