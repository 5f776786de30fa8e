//! What all of a partition's callers and threads share, and the two ways into the log that keep it in step with the index.
//!
//! One mutex guards the index; whoever appends a record that the index reflects holds it across the append, so that the log's order is the
//! order of the index's changes. The committer thread takes it in its callback, hence nothing that holds it waits for the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use gatepost_log::{Class, Loc, Log, LogError, Segment};
use parking_lot::{Condvar, Mutex};

use crate::briefs::Briefs;
use crate::codec::{Envelope, Journal, KIND_CHUNK, RecipientSpec, encode_chunk};
use crate::compact::Compaction;
use crate::error::QueueError;
use crate::id::{MessageId, now_us};
use crate::incoming::Incoming;
use crate::index::{HELD, Index, Message, NOWHERE, Operation, Recipient, Recipients};
use crate::load::Progress;
use crate::sets::EMPTY;
use crate::signal::Signal;
use crate::tail::Floor;
use crate::transition::{State, Transition};

/// Octets that may wait for the disk before a producer is made to wait.
pub(crate) const HARD_PENDING: u64 = 64 << 20;
/// The same while compaction is behind: its syncs wait for all that was written before them.
const BEHIND_PENDING: u64 = 8 << 20;
/// Octets of waiting data per streaming message above which `congested` asks for a pause, with bounds. What waits takes about four times its
/// size at the worst: the batch being written, the one being filled, and the room each grew to.
const CONGESTION_EACH: u64 = 256 << 10;
const CONGESTION: std::ops::RangeInclusive<u64> = (512 << 10)..=(8 << 20);

/// State that the committer's callback, the keeper thread and all callers share.
pub(crate) struct Core {
    pub log: Log,
    pub shared: Arc<Shared>,
    /// Messages being received that have data in the log.
    pub streaming: AtomicU64,
    /// Where the last checkpoint stands.
    pub checkpointed: Mutex<Loc>,
    /// Messages in it.
    pub checkpoint_holds: AtomicU64,
    /// Most messages there were since memory was last given back.
    pub peak: AtomicU64,
    pub compaction: Mutex<Compaction>,
    pub briefs: Mutex<Briefs>,
    /// Compaction does not keep up with what is written: see `Core::pressed`.
    pub behind: AtomicBool,
    /// Up to where the history has read.
    pub floor: Floor,
    /// Of the recovery.
    pub progress: Progress,
}

/// The part of it that exists before the log is open.
pub(crate) struct Shared {
    pub index: Mutex<Index>,
    pub signal: Signal,
    /// Wakes the keeper.
    pub chores: Condvar,
    pub chores_wanted: Mutex<Chores>,
}

/// What the keeper is asked to do.
#[derive(Default)]
pub(crate) struct Chores {
    pub sweep: bool,
    pub stop: bool,
}

impl Shared {
    /// Tells the owner that `completions` has something. Call with what was pushed already visible.
    pub fn wake(&self, index: &Index) {
        if !index.outbox.tickets.is_empty() || !index.outbox.ready.is_empty() {
            self.signal.raise();
        }
    }

    /// The log's callback: tokens are durable, or failed.
    pub fn settled(&self, tokens: &[u64], result: Result<(), &LogError>) {
        self.settle(&mut self.index.lock(), tokens, result);
    }

    /// The same with the index locked.
    pub fn settle(&self, index: &mut Index, tokens: &[u64], result: Result<(), &LogError>) {
        let now = now_us();
        for token in tokens {
            match index.end(*token) {
                Some(Operation::Commit { slot, ticket }) => {
                    match result {
                        Ok(()) => index.publish(slot, now),
                        Err(_) => index.remove(slot),
                    }
                    index.outbox.tickets.push((ticket, result.err().cloned()));
                }
                Some(Operation::Ticket(ticket)) => index.outbox.tickets.push((ticket, result.err().cloned())),
                None => {}
            }
        }
        self.wake(index);
    }
}

impl Core {
    pub fn start_keeper(self: &Arc<Self>) -> Result<JoinHandle<()>, LogError> {
        let core = Arc::clone(self);
        let thread = std::thread::Builder::new().name("spool-keep".into()).spawn(move || core.keep());
        thread.map_err(|e| LogError::Io(format!("start thread: {e}")))
    }

    /// Judges, journals and applies one transition. None when it is illegal; an error when it could not be journaled.
    #[allow(clippy::too_many_arguments)]
    pub fn transition(
        &self,
        index: &mut Index,
        id: &MessageId,
        recipient: u16,
        transition: &Transition,
        detail: &[u8],
        kind: u8,
        now: u64,
    ) -> Option<Result<(), LogError>> {
        let slot = index.find(id)?;
        let (legal, open) = index.judge(slot, recipient, transition);
        if !legal {
            if matches!(transition, Transition::Deferred { .. } | Transition::Expired) {
                index.land_in_grace(slot, recipient);
            }
            return None;
        }
        let (previous, next_us) = (Loc::NONE, transition.time());
        let journal = Journal { id: *id, previous, time_us: now, next_us, recipient, kind, finished: !open, detail: Vec::new() };
        let written = self.journal(index, slot, journal, detail);
        index.apply(slot, recipient, transition, Some(now));
        if !open {
            index.remove(slot);
        }
        if index.segments.dirty {
            self.want_sweep();
        }
        Some(written)
    }

    /// Stores a piece of a message being received. `pins` are the segments it has pieces in already.
    /// Fails when the log lost something since `losses` was read: it may have been an earlier piece.
    pub fn append_chunk(&self, losses: u64, id: &MessageId, number: u32, data: [&[u8]; 2], pins: &mut Vec<u32>) -> Result<Loc, QueueError> {
        self.wait_for_room();
        let mut index = self.shared.index.lock();
        let loc = self.log.append_after(losses, KIND_CHUNK, &[&encode_chunk(id, number), data[0], data[1]], Class::Message, None)?;
        self.note_segment(&mut index, loc.segment);
        if !pins.contains(&loc.segment) {
            pins.push(loc.segment);
            index.segments.add(loc.segment);
        }
        Ok(loc)
    }

    /// Lets go of the segments of a message that was not committed.
    pub fn unpin(&self, pins: &[u32]) {
        let mut index = self.shared.index.lock();
        for segment in pins {
            index.segments.drop(*segment);
        }
        if index.segments.dirty {
            self.want_sweep();
        }
    }

    /// Until so little waits for the disk that a message may be appended.
    pub fn wait_for_room(&self) {
        self.log.wait_for_room(if self.behind.load(Ordering::Relaxed) { BEHIND_PENDING } else { HARD_PENDING });
    }

    /// See [`Spool::congested`].
    pub fn congested(&self) -> bool {
        let streaming = self.streaming.load(Ordering::Relaxed).max(1);
        self.log.pending_bytes() > (streaming * CONGESTION_EACH).clamp(*CONGESTION.start(), *CONGESTION.end())
    }

    /// Wakes the keeper to free segments.
    pub fn want_sweep(&self) {
        let mut chores = self.shared.chores_wanted.lock();
        if !chores.sweep {
            chores.sweep = true;
            self.shared.chores.notify_one();
        }
    }

    /// The open segment of a written record.
    pub fn segment(&self, loc: Loc) -> Result<Arc<Segment>, LogError> {
        self.log.segment(loc.segment)
    }
}

/// Index entry for a message that was just appended; hands the chunk counts of `incoming` over.
pub(crate) fn enter(index: &mut Index, envelope: &Envelope, loc: Loc, operation: u64, ticket: u64, incoming: &mut Incoming) {
    let pins = incoming.committed();
    if envelope.recipients.iter().all(|r| r.destination.is_empty()) {
        // Routing ended all of it (discard): nothing to do once it is durable, and nothing to remember.
        for segment in &pins {
            index.segments.drop(*segment);
        }
        return;
    }
    if pins.contains(&loc.segment) {
        index.segments.drop(loc.segment);
    }
    let message = message(index, envelope, loc);
    let slot = index.insert(message, pins, false);
    index.replace(operation, Operation::Commit { slot, ticket });
}

/// A message that was or is to be appended at `loc`, hidden.
pub(crate) fn message(index: &mut Index, envelope: &Envelope, loc: Loc) -> Message {
    let recipients = envelope.recipients.iter().map(|r| recipient(index, r)).collect();
    let size = u32::try_from(envelope.size).unwrap_or(u32::MAX);
    let (delay, recipients) = (Message::delay_of(&envelope.id, envelope.received_us), Recipients::new(recipients));
    Message { id: envelope.id, accepted: loc, head: loc, size, others: EMPTY, delay, hidden: true, recipients }
}

fn recipient(index: &mut Index, spec: &RecipientSpec) -> Recipient {
    let destination = index.intern_for(&spec.destination, &spec.address);
    let state = if destination == NOWHERE { State::Delivered } else { State::Pending };
    let flags = if spec.held && state == State::Pending { HELD } else { 0 };
    Recipient { next_us: spec.next_us, destination, attempts: 0, state, flags }
}
