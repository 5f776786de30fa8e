//! A message being received: the intake machine with its place in the log. Dropping it before the commit gives everything back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use gatepost_log::Loc;
use memchr::memmem;

use crate::edit::{self, Content, Edit};
use crate::error::QueueError;
use crate::id::MessageId;
use crate::intake::{BUFFER, Defect, Intake};
use crate::spool::Core;

/// Octets of a long message's front that wait in memory, at most: so much of its header.
const FRONT: usize = 64 * 1024;

/// Looks at the octets of a message, piece by piece, prefix included; false from the first doubt on.
pub type Watch = Box<dyn FnMut(&[u8]) -> bool + Send>;

/// A message on its way in.
pub struct Incoming {
    core: Arc<Core>,
    id: MessageId,
    intake: Intake,
    pieces: Pieces,
    prefix: usize,
    /// By how much edits made it longer.
    grown: i64,
    closed: bool,
    watch: Option<Watch>,
}

/// What is in the log already, and the front of that.
#[derive(Default)]
struct Pieces {
    /// Prefix and header of a message that does not fit into memory: what is the first chunk at the commit, as it is then.
    front: Vec<u8>,
    /// The first has no place yet.
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
            prefix: prefix.len(),
            grown: 0,
            closed: false,
            watch: None,
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

    /// Octets with the prefix, after all edits.
    pub fn total(&self) -> u64 {
        self.intake.total().saturating_add_signed(self.grown)
    }

    /// Octets of the prefix as it was given.
    pub fn prefix(&self) -> usize {
        self.prefix
    }

    /// The whole message without its prefix, if all of it is in memory.
    pub fn in_memory(&self) -> Option<&[u8]> {
        self.pieces.chunks.is_empty().then(|| self.intake.rest().get(self.prefix..)).flatten()
    }

    /// From now on `watch` is shown all octets before they go to the log, the first time a full buffer.
    pub fn watch(&mut self, watch: Watch) {
        self.watch = Some(watch);
    }

    /// Shows the rest of a complete message to the watch. Whether there is one that had no doubt about any piece.
    pub fn passes_watch(&mut self) -> bool {
        let rest = self.intake.rest();
        self.watch.take().is_some_and(|mut watch| watch(rest))
    }

    /// What it takes to read it elsewhere.
    pub fn content(&self) -> Content {
        let behind = self.pieces.chunks.iter().enumerate().skip(1);
        Content {
            core: Arc::clone(&self.core),
            id: self.id,
            prefix: self.prefix,
            front: self.pieces.front.clone(),
            chunks: behind.map(|(number, (loc, _))| (number as u32, *loc)).collect(),
            rest: self.intake.rest().to_vec(),
            total: self.total(),
        }
    }

    /// Changes a message that is complete. Ranges count from the prefix's first octet, of the message as it is now. Writes to the log what
    /// of it was there and changes; after an error the message is not to be committed.
    pub fn edit(&mut self, mut edits: Vec<Edit>) -> Result<(), QueueError> {
        self.check_complete()?;
        edit::in_order(&mut edits, self.total())?;
        let behind = self.pieces.edit(&self.core, &self.id, &edits)?;
        if let Some(rest) = edit::apply(self.intake.rest(), behind, true, &edits) {
            self.intake.replace_rest(rest);
        }
        self.grown += edit::growth(&edits);
        Ok(())
    }

    /// Puts the front into the log.
    pub(crate) fn seal(&mut self) -> Result<(), QueueError> {
        self.pieces.seal(&self.core, &self.id)
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
        let (core, id, pieces, watch) = (&self.core, &self.id, &mut self.pieces, &mut self.watch);
        let taken = self.intake.feed(data, &mut |next| {
            for octets in next.into_iter().filter(|octets| !octets.is_empty()) {
                watch.take_if(|watch| !watch(octets));
            }
            pieces.store(core, id, next)
        });
        self.shed();
        taken
    }

    /// Takes octets as they are.
    pub fn feed_raw(&mut self, data: &[u8]) {
        let (core, id, pieces) = (&self.core, &self.id, &mut self.pieces);
        self.intake.feed_raw(data, &mut |next| pieces.store(core, id, next));
        self.shed();
    }

    /// No more octets follow (raw mode).
    pub fn finish(&mut self) {
        let (core, id, pieces) = (&self.core, &self.id, &mut self.pieces);
        self.intake.finish(&mut |next| pieces.store(core, id, next));
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

    /// The header section is longer than what `header` gives: nobody can say what stands in the rest of it.
    pub fn long_header(&self) -> bool {
        self.intake.long_header()
    }

    /// Header section without the prefix, at most 256 KiB.
    pub fn header(&self) -> &[u8] {
        self.intake.header()
    }

    /// Received fields in the header section, without the prefix.
    pub fn received(&self) -> usize {
        self.intake.received()
    }

    /// A bare CR or LF was seen.
    pub fn bare(&self) -> bool {
        self.intake.bare()
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
    /// The next octets of the message: the two joined.
    fn store(&mut self, core: &Core, id: &MessageId, [mut data, more]: [&[u8]; 2]) -> Result<(), QueueError> {
        if self.chunks.is_empty() {
            self.losses = core.log.losses();
            let front = memmem::find(&data[..data.len().min(FRONT)], b"\r\n\r\n").map_or(FRONT.min(data.len() / 2), |n| n + 4);
            self.front = data[..front].to_vec();
            data = &data[front..];
            self.chunks.push((Loc::NONE, front as u32));
            core.streaming.fetch_add(1, Ordering::Relaxed);
        }
        let loc = core.append_chunk(self.losses, id, self.chunks.len() as u32, [data, more], &mut self.pins)?;
        self.chunks.push((loc, (data.len() + more.len()) as u32));
        Ok(())
    }

    fn seal(&mut self, core: &Core, id: &MessageId) -> Result<(), QueueError> {
        if let Some(first) = self.chunks.first_mut().filter(|(loc, _)| *loc == Loc::NONE) {
            let loc = core.append_chunk(self.losses, id, 0, [&self.front, &[]], &mut self.pins)?;
            *first = (loc, self.front.len() as u32);
            self.front = Vec::new();
        }
        Ok(())
    }

    /// Changes what is not the rest; returns where that began.
    fn edit(&mut self, core: &Core, id: &MessageId, edits: &[Edit]) -> Result<u64, QueueError> {
        let mut start = 0;
        let mut record = Vec::new();
        for number in 0..self.chunks.len() {
            let (loc, length) = self.chunks[number];
            if number == 0 {
                if let Some(changed) = edit::apply(&self.front, 0, false, edits) {
                    self.front = changed;
                    self.chunks[0].1 = self.front.len() as u32;
                }
            } else if edit::touches(start, u64::from(length), false, edits) {
                let octets = edit::chunk(core, id, number as u32, loc, &mut record)?;
                let changed = edit::apply(octets, start, false, edits).unwrap_or_default();
                let loc = core.append_chunk(self.losses, id, number as u32, [&changed, &[]], &mut self.pins)?;
                self.chunks[number] = (loc, changed.len() as u32);
            }
            start += u64::from(length);
        }
        self.unpin_unused(core);
        Ok(start)
    }

    /// Lets go of segments that no piece is in any more.
    fn unpin_unused(&mut self, core: &Core) {
        let used = |segment: &u32| self.chunks.iter().any(|(loc, _)| loc.segment == *segment);
        let (kept, gone): (Vec<u32>, Vec<u32>) = std::mem::take(&mut self.pins).into_iter().partition(used);
        self.pins = kept;
        if !gone.is_empty() {
            core.unpin(&gone);
        }
    }

    fn end_streaming(&self, core: &Core) {
        if !self.chunks.is_empty() {
            core.streaming.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn release(&mut self, core: &Core) {
        self.end_streaming(core);
        self.chunks = Vec::new();
        self.front = Vec::new();
        let pins = std::mem::take(&mut self.pins);
        if !pins.is_empty() {
            core.unpin(&pins);
        }
    }
}
