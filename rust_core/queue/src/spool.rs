//! The partition as its callers see it: opening and closing, commits, changes, figures. Calls that read records are in `query` and `scan`.
//!
//! A commit enters the index hidden, and is published when its record is durable. What the calls stand on is in `partition`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread::JoinHandle;
use std::time::Instant;

use gatepost_log::{Class, Damage, Loc, Log, LogError, Options};
use parking_lot::{Condvar, Mutex};

use crate::checkpoint;
use crate::codec::{ALL, Envelope, KIND_ACCEPTED, RecipientSpec, encode_accepted, encode_reroute};
use crate::error::QueueError;
use crate::id::{MessageId, format_id, now_us};
use crate::incoming::Incoming;
use crate::index::{Index, Operation};
use crate::load::{self, Progress};
use crate::partition::{Chores, enter};
pub(crate) use crate::partition::{Core, HARD_PENDING, Shared, message};
use crate::signal::Signal;
use crate::tail::Floor;
use crate::transition::{Transition, kind};

/// What opening a partition found.
#[derive(Debug, Clone, Default)]
pub struct Opening {
    /// Live messages.
    pub messages: u64,
    /// Records replayed.
    pub records: u64,
    /// Octets of an unacknowledged write cut from the end.
    pub torn_bytes: u64,
    /// Damaged places.
    pub damaged: Vec<Damage>,
    /// Time taken.
    pub seconds: f64,
    /// A checkpoint was used.
    pub checkpoint: bool,
}

/// Figures of a running partition.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stats {
    /// Live messages.
    pub messages: u64,
    /// Recipients of live messages.
    pub recipients: u64,
    /// Pending recipients that are held.
    pub held: u64,
    /// Recipients taken and not answered.
    pub in_flight: u64,
    /// Octets of live messages.
    pub octets: u64,
    /// Messages removed whose grace is not over, and their octets; in none of the figures above.
    pub removed: u64,
    /// See `removed`.
    pub removed_octets: u64,
    /// The log's own figures.
    pub log: gatepost_log::LogStats,
}

/// One change asked for by the scheduler or an operator.
#[derive(Debug, Clone)]
pub struct Change {
    /// Which message.
    pub id: MessageId,
    /// Which recipient; None for every pending one.
    pub recipient: Option<u16>,
    /// One of [`kind`].
    pub kind: u8,
    /// For deferred and retry.
    pub next_us: u64,
    /// Opaque.
    pub detail: Vec<u8>,
}

/// A partition of the spool. Cheap to share through [`Arc`]; closed on drop.
pub struct Spool {
    pub(crate) core: Arc<Core>,
    keeper: Mutex<Keeper>,
    loader: Mutex<Option<JoinHandle<()>>>,
}

/// Who does the chores: a thread, whoever calls [`Spool::step`], or nobody any more.
enum Keeper {
    Thread(JoinHandle<()>),
    Steps,
    Ended,
}

/// A piece of background work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Of the log's committer: take up what is pending, write and sync one run, or settle.
    Commit,
    /// Of the log's keeper: make one file, remove one.
    LogChore,
    /// Of the partition's keeper: free segments, checkpoint when due.
    Tidy,
    /// Of a recovery in the background ([`Spool::begin`]).
    Load,
}

impl Spool {
    /// Opens or creates the partition in `dir` and recovers it. Waits for the disk.
    pub fn open(dir: &Path, options: Options) -> Result<Self, QueueError> {
        Self::open_for(dir, options, false, true)
    }

    /// Like [`Spool::open`], for a partition whose records a [`crate::Tail`] will read: no segment is freed before the tail has
    /// read it, within what the disk can spare ([`crate::LAG`]).
    pub fn open_tailed(dir: &Path, options: Options) -> Result<Self, QueueError> {
        Self::open_for(dir, options, true, true)
    }

    /// Like [`Spool::open`] or [`Spool::open_tailed`], but returns as soon as new mail can be taken in. What was there before is read in the background and is
    /// not visible until all is: see [`crate::load`], [`Spool::when_recovered`].
    pub fn begin(dir: &Path, options: Options, tailed: bool) -> Result<Self, QueueError> {
        Self::open_for(dir, options, tailed, false)
    }

    fn open_for(dir: &Path, options: Options, tailed: bool, wait: bool) -> Result<Self, QueueError> {
        let started = Instant::now();
        let threads = options.threads;
        let mut prepared = Log::prepare(dir, options)?;
        checkpoint::check_version(&**prepared.storage(), prepared.dir())?;
        let sealed = prepared.replay(Loc { segment: u32::MAX, offset: 0 }, &mut |_, _, _| Ok(()))?;
        let shared = Arc::new(Shared {
            index: Mutex::new(Index::to_load()),
            signal: Signal::new().map_err(|e| LogError::Io(format!("eventfd: {e}")))?,
            chores: Condvar::new(),
            chores_wanted: Mutex::new(Chores::default()),
        });
        let (callback, losing) = (Arc::clone(&shared), Arc::clone(&shared));
        prepared.on_loss(Box::new(move |loss| losing.lost(loss)));
        let log = prepared.start(Box::new(move |tokens, result| callback.settled(tokens, result)))?;
        let before = log.tail().segment;
        let core = Arc::new(Core {
            log,
            shared,
            streaming: AtomicU64::new(0),
            checkpointed: Mutex::new(Loc::NONE),
            checkpoint_holds: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            compaction: Mutex::default(),
            briefs: Mutex::default(),
            behind: AtomicBool::new(false),
            floor: Floor::new(tailed),
            progress: Progress::default(),
        });
        let keeper = if threads { Keeper::Thread(core.start_keeper()?) } else { Keeper::Steps };
        let spool = Self { core, keeper: Mutex::new(keeper), loader: Mutex::new(None) };
        if wait {
            spool.core.recover(before, sealed, started)?;
        } else {
            if !threads {
                spool.core.progress.hold();
            }
            *spool.loader.lock() = Some(load::spawn(Arc::clone(&spool.core), before, sealed, started)?);
        }
        Ok(spool)
    }

    /// Becomes readable when [`Spool::completions`] has something.
    pub fn event_fd(&self) -> i32 {
        self.core.shared.signal.fd()
    }

    /// Begins a message. `prefix` is stored in front of it; `max` bounds it (0: no bound).
    pub fn receive(&self, id: MessageId, prefix: &[u8], max: u64, allow_bare: bool) -> Incoming {
        Incoming::new(Arc::clone(&self.core), id, prefix, max, allow_bare)
    }

    /// Octets appended and not yet durable.
    pub fn pending_bytes(&self) -> u64 {
        self.core.log.pending_bytes()
    }

    /// Begins a run of commits that one sync is to take; see [`gatepost_log::Log::cork`].
    pub fn cork(&self) {
        self.core.log.cork();
    }

    /// Ends it.
    pub fn uncork(&self) {
        self.core.log.uncork();
    }

    /// So much waits for the disk that receivers should pause until a sync.
    pub fn congested(&self) -> bool {
        self.core.congested()
    }

    /// New mail would be refused for want of space.
    pub fn low_space(&self) -> bool {
        self.core.log.low_space()
    }

    /// Preallocated size of a segment.
    pub fn segment_bytes(&self) -> u64 {
        u64::from(self.core.log.segment_bytes())
    }

    /// The error that closed the log for good, if one did.
    pub fn fatal(&self) -> Option<LogError> {
        self.core.log.fatal()
    }

    /// The commit point: the message is in the queue once `ticket` comes back without an error. Consumes what `incoming` holds.
    pub fn commit(
        &self,
        ticket: u64,
        incoming: &mut Incoming,
        reverse_path: String,
        recipients: Vec<RecipientSpec>,
        meta: Vec<u8>,
    ) -> Result<(), QueueError> {
        incoming.check_complete()?;
        incoming.seal()?;
        self.core.wait_for_room();
        let size = incoming.total();
        if size > u64::from(u32::MAX) {
            return Err(QueueError::Invalid("a message of 4 GiB or more".into()));
        }
        let envelope = Envelope { id: incoming.id(), received_us: now_us(), size, reverse_path, meta, recipients };
        let head = encode_accepted(&envelope, incoming.chunks(), incoming.rest().len())?;
        let mut index = self.core.shared.index.lock();
        if index.lookup(&envelope.id).is_some() {
            return Err(QueueError::Invalid(format!("message {} exists already", format_id(&envelope.id))));
        }
        // What is owed may be the end of an earlier message of this id.
        self.core.pay(&mut index)?;
        let operation = index.begin(Operation::Ticket(ticket));
        let parts = [&head[..], incoming.rest()];
        let appended = match incoming.losses() {
            Some(losses) => self.core.log.append_after(losses, KIND_ACCEPTED, &parts, Class::Message, Some(operation)),
            None => self.core.log.append(KIND_ACCEPTED, &parts, Class::Message, Some(operation)),
        };
        let loc = match appended {
            Ok(loc) => loc,
            Err(error) => {
                index.end(operation);
                return Err(error.into());
            }
        };
        self.core.note_segment(&mut index, loc.segment);
        enter(&mut index, &envelope, loc, operation, ticket, incoming);
        Ok(())
    }

    /// Appends transitions, in order. Illegal ones are skipped; returns how many were carried out. `ticket` (0: none) comes back when they are durable.
    /// A transition that finds no space takes effect in memory all the same, and is written later; the ticket says so.
    pub fn change(&self, ticket: u64, changes: &[Change]) -> usize {
        let losses = self.core.log.losses();
        let now = now_us();
        let mut index = self.core.shared.index.lock();
        let mut failure = None;
        let mut done = 0;
        for change in changes {
            let Some(transition) = Transition::asked(change.kind, change.next_us, now) else {
                continue;
            };
            let recipient = change.recipient.unwrap_or(ALL);
            if let Some(result) = self.core.transition(&mut index, &change.id, recipient, &transition, &change.detail, change.kind, now) {
                done += 1;
                failure = result.err().or(failure);
            }
        }
        self.answer(&mut index, ticket, losses, failure);
        self.core.shared.wake(&index);
        done
    }

    /// Gives a pending recipient a new route; it is due now. `note` is JSON that says who did it.
    #[allow(clippy::too_many_arguments)]
    pub fn reroute(
        &self,
        ticket: u64,
        id: &MessageId,
        recipient: u16,
        address: &str,
        destination: &str,
        route: &[u8],
        note: &[u8],
    ) -> Result<(), QueueError> {
        if destination.is_empty() {
            return Err(QueueError::Invalid("a route needs a destination".into()));
        }
        let detail = encode_reroute(address, destination, route, note)?;
        let losses = self.core.log.losses();
        let now = now_us();
        let mut index = self.core.shared.index.lock();
        index.find(id).ok_or_else(|| QueueError::NotFound(format_id(id)))?;
        let number = index.intern(destination);
        let transition = Transition::Reroute { destination: number, next_us: now };
        let result = self.core.transition(&mut index, id, recipient, &transition, &detail, kind::REROUTED, now);
        index.release_destination(number);
        let Some(result) = result else { return Err(QueueError::Invalid(format!("recipient {recipient} is not pending"))) };
        self.answer(&mut index, ticket, losses, result.err());
        self.core.shared.wake(&index);
        Ok(())
    }

    /// `ticket` comes back once everything appended so far is durable.
    pub fn sync(&self, ticket: u64) {
        let mut index = self.core.shared.index.lock();
        self.answer(&mut index, ticket, self.core.log.losses(), None);
        self.core.shared.wake(&index);
    }

    /// Tells `ticket` how it went: with `failure`, or once all is durable, unless the log lost something since `losses` was read.
    pub(crate) fn answer(&self, index: &mut Index, ticket: u64, losses: u64, failure: Option<LogError>) {
        if ticket == 0 {
            return;
        }
        if let Some(error) = failure.or_else(|| self.core.pay(index).err()) {
            index.outbox.tickets.push((ticket, Some(error)));
            return;
        }
        let token = index.begin(Operation::Ticket(ticket));
        if let Err(error) = self.core.log.sync_token_since(losses, token) {
            index.end(token);
            index.outbox.tickets.push((ticket, Some(error)));
        }
    }

    /// What happened since the last call: finished tickets, and destinations that have new ready recipients.
    pub fn completions(&self) -> (Vec<(u64, Option<LogError>)>, Vec<String>) {
        let mut index = self.core.shared.index.lock();
        self.core.shared.signal.clear();
        (std::mem::take(&mut index.outbox.tickets), index.drain_ready())
    }

    /// Moves what is due to the ready queues. Returns the next due time in Unix microseconds, 0 for none.
    pub fn advance(&self, now_us: u64) -> u64 {
        let mut index = self.core.shared.index.lock();
        let next = index.advance(now_us);
        self.core.shared.wake(&index);
        next
    }

    /// Undoes `take` for these recipients.
    pub fn give_back(&self, id: &MessageId, recipients: &[u16]) {
        let now = now_us();
        let mut index = self.core.shared.index.lock();
        if let Some(slot) = index.find(id) {
            for n in recipients {
                index.give_back(slot, *n, now);
            }
        }
        self.core.shared.wake(&index);
    }

    /// Ids of live messages in order, after `after`.
    pub fn ids(&self, after: Option<&MessageId>, limit: usize) -> Vec<MessageId> {
        self.core.shared.index.lock().ids(after, limit)
    }

    /// Figures.
    pub fn stats(&self) -> Stats {
        let log = self.core.log.stats();
        let index = self.core.shared.index.lock();
        Stats {
            messages: index.live(),
            recipients: index.recipients,
            held: index.held,
            in_flight: index.in_flight,
            octets: index.octets,
            removed: index.shadows,
            removed_octets: index.shadow_octets,
            log,
        }
    }

    /// Changes that took effect and whose records wait for room on the disk.
    pub fn owed(&self) -> usize {
        self.core.shared.index.lock().debts.queue.len()
    }

    /// (name, pending, ready, in flight) of every destination in use.
    pub fn destinations(&self) -> Vec<(String, u32, u32, u32)> {
        let (index, now) = (self.core.shared.index.lock(), now_us());
        let used = index.destinations.iter().enumerate().filter(|(_, d)| d.pending > 0);
        used.map(|(n, d)| (d.name.to_string(), d.pending, index.takeable(n as u32, now), d.in_flight)).collect()
    }

    /// Recipients of a destination that are ready to be taken.
    pub fn ready(&self, destination: &str) -> u32 {
        let index = self.core.shared.index.lock();
        index.destination(destination).map_or(0, |number| index.takeable(number, now_us()))
    }

    /// Writes a checkpoint now. Waits for the disk.
    pub fn checkpoint(&self) -> Result<(), QueueError> {
        self.core.checkpoint()
    }

    /// Without threads (`Options::threads`): a piece of background work. False when nothing was done, or nothing that changed anything.
    pub fn step(&self, work: Work) -> bool {
        match work {
            Work::Commit => self.core.log.step(false),
            Work::LogChore => self.core.log.step(true),
            Work::Load => self.core.progress.step(),
            Work::Tidy => {
                let wanted = std::mem::take(&mut self.core.shared.chores_wanted.lock().sweep);
                self.core.tidy() || wanted
            }
        }
    }

    /// Checkpoints, ends the threads, unlocks. Idempotent.
    pub fn close(&self) -> Result<(), QueueError> {
        self.core.progress.stop();
        if let Some(loader) = self.loader.lock().take() {
            let _ = loader.join();
        }
        match std::mem::replace(&mut *self.keeper.lock(), Keeper::Ended) {
            Keeper::Ended => return Ok(()),
            Keeper::Steps => {}
            Keeper::Thread(thread) => {
                self.core.shared.chores_wanted.lock().stop = true;
                self.core.shared.chores.notify_all();
                let _ = thread.join();
            }
        }
        let checkpointed = self.core.checkpoint();
        self.core.log.close()?;
        match checkpointed {
            // Without a new checkpoint the next opening takes longer, no more.
            Err(QueueError::Log(error)) if error.is_disk_full() => Ok(()),
            other => other,
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let _ = self.close();
    }
}
