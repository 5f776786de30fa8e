//! The records of many messages, read one message after the other in the order in which they were accepted.
//!
//! Called by whoever goes through a whole operation or queue (`undo`). Records of the same rank, the accepted ones, the newest ones, those before
//! them, then mostly follow each other in the log: each rank has a stretch of it in memory, so that a million messages do not cost millions of system
//! calls. Reads what [`Core::envelope`] and [`Core::walk`] read, with the same errors; what it cannot read its own way they are asked for.

use std::sync::Arc;

use gatepost_log::{Loc, LogError, Segment, Window};

use crate::codec::{Envelope, Journal, KIND_ACCEPTED, KIND_JOURNAL, KIND_MOVED, decode_accepted, decode_journal};
use crate::error::QueueError;
use crate::query::Place;
use crate::spool::Core;

/// Octets of an accepted record that mostly hold its envelope, and of a journal record.
const ENVELOPE: usize = 768;
const JOURNAL: usize = 256;
/// Journal records of a message whose rank has a stretch of its own.
const RANKS: usize = 6;

/// A stretch of the log.
#[derive(Default)]
struct Stretch {
    segment: Option<Arc<Segment>>,
    window: Window,
}

impl Stretch {
    fn open(&mut self, core: &Core, loc: Loc) -> Option<(&Segment, &mut Window)> {
        if self.segment.as_ref().is_none_or(|segment| segment.number() != loc.segment) {
            self.segment = core.segment(loc).ok();
        }
        Some((self.segment.as_deref()?, &mut self.window))
    }
}

/// Reads one message after the other.
pub(crate) struct Trail<'a> {
    core: &'a Core,
    accepted: Stretch,
    journal: [Stretch; RANKS],
    buffer: Vec<u8>,
}

impl<'a> Trail<'a> {
    pub fn new(core: &'a Core) -> Self {
        Self { core, accepted: Stretch::default(), journal: Default::default(), buffer: Vec::new() }
    }

    /// The envelope as it was accepted, and the journal, newest record first.
    pub fn read(&mut self, place: &Place) -> Result<(Envelope, Vec<Journal>), QueueError> {
        let Some((envelope, moved)) = self.envelope(place) else {
            let (envelope, _) = self.core.envelope(&place.id, place.accepted, &mut self.buffer)?;
            return Ok((envelope, self.core.walk(place.head, place.accepted)?));
        };
        let mut journal = self.chain(place)?;
        if moved {
            journal.extend(self.core.carried(place.accepted)?.into_iter().rev());
        }
        Ok((envelope, journal))
    }

    /// The envelope, and whether its record was moved.
    fn envelope(&mut self, place: &Place) -> Option<(Envelope, bool)> {
        let (segment, window) = self.accepted.open(self.core, place.accepted)?;
        let (kind, _, payload) = segment.read_within(place.accepted.offset, ENVELOPE, window).ok()?;
        let (envelope, _) = decode_accepted(payload).filter(|(envelope, _)| envelope.id == place.id)?;
        matches!(kind, KIND_ACCEPTED | KIND_MOVED).then_some((envelope, kind == KIND_MOVED))
    }

    /// As [`Core::chain`].
    fn chain(&mut self, place: &Place) -> Result<Vec<Journal>, QueueError> {
        let (mut found, mut at) = (Vec::new(), place.head);
        while at > place.accepted {
            if self.record(found.len(), at)? != KIND_JOURNAL {
                break;
            }
            let journal = decode_journal(&self.buffer).ok_or_else(|| QueueError::Damaged(format!("{at}: not a journal record")))?;
            if journal.previous >= at {
                return Err(QueueError::Damaged(format!("{at}: journal chain does not go back")));
            }
            at = journal.previous;
            found.push(journal);
        }
        Ok(found)
    }

    /// A whole record into the buffer. Returns its kind.
    fn record(&mut self, rank: usize, loc: Loc) -> Result<u8, LogError> {
        let stretch = self.journal.get_mut(rank).and_then(|stretch| stretch.open(self.core, loc));
        let read = stretch.and_then(|(segment, window)| segment.read_whole_within(loc.offset, JOURNAL, window).ok());
        if let Some((kind, payload)) = read {
            self.buffer.clear();
            self.buffer.extend_from_slice(payload);
            return Ok(kind);
        }
        // What is not written yet is in the log's memory.
        self.core.log.read(loc, &mut self.buffer)
    }
}
