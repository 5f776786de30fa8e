//! Recovery of a partition: checkpoint and log into the index, while new mail is taken in already.
//!
//! Opening cuts the log's torn end and begins a new segment; that is all a commit needs. What was there before is then read into the same index, in slices,
//! by a thread of its own ("spool-load"), or at once by who opens. Until all is read those messages are hidden: a later record may finish any of
//! them. Then they are published, again in slices. Meanwhile no segment is freed and no checkpoint written, since the index is not whole; a crash or a
//! close finds the log as it was, with some new segments. A failure to read closes the partition: nobody could say what is in it.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use gatepost_log::{Damage, Loc, LogError, Recovery, parse_segment_name};
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::checkpoint::{Checkpoint, may_live};
use crate::codec::{
    KIND_ACCEPTED, KIND_JOURNAL, KIND_MOVED, KIND_REMAIN, Remain, decode_accepted, decode_journal, decode_remain, decode_reroute,
};
use crate::debts::Debt;
use crate::error::QueueError;
use crate::id::{MessageId, now_us};
use crate::index::Index;
use crate::moved::replay_moved;
use crate::spool::{Core, Opening, Spool, message};
use crate::transition::{Transition, kind};

/// Messages published, or finished by a remain record, with the index locked.
const PUBLISH: usize = 2048;

/// Lets the recovery's thread go on only while somebody waits for it, so that a simulation gives the same order of calls every time.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    /// How often it may pass; None: nothing holds it, or it has ended.
    permits: Option<u32>,
    /// It stands at the gate.
    waits: bool,
}

/// How often the recovery passes in a step.
const STEP: u32 = 8;

impl Gate {
    /// The recovery is about to go on.
    fn pass(&self) {
        let mut state = self.state.lock();
        while state.permits == Some(0) {
            state.waits = true;
            self.changed.notify_all();
            self.changed.wait(&mut state);
        }
        state.permits = state.permits.map(|n| n - 1);
    }

    /// Nothing holds it any more.
    fn open(&self) {
        self.state.lock().permits = None;
        self.changed.notify_all();
    }

    /// Returns when the recovery has come a little further. False when it had ended.
    fn step(&self) -> bool {
        let mut state = self.state.lock();
        if state.permits.is_none() {
            return false;
        }
        *state = GateState { permits: Some(STEP), waits: false };
        self.changed.notify_all();
        while state.permits.is_some() && !state.waits {
            self.changed.wait(&mut state);
        }
        true
    }
}

/// How far the recovery is.
#[derive(Default)]
pub(crate) struct Progress {
    gate: Gate,
    /// The partition closes: stop.
    stop: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    opening: Opening,
    outcome: Option<Result<(), QueueError>>,
}

impl Progress {
    /// Ends a recovery that is under way.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.gate.open();
    }

    /// For a partition without threads: the recovery goes on only in [`Progress::step`].
    pub fn hold(&self) {
        self.gate.state.lock().permits = Some(0);
    }

    /// A piece of a recovery that is held. False when there is none.
    pub fn step(&self) -> bool {
        self.gate.step()
    }

    fn check(&self) -> Result<(), LogError> {
        if self.stop.load(Ordering::Relaxed) { Err(LogError::Closed) } else { Ok(()) }
    }

    /// The same in a place where a recovery may be interrupted.
    fn pause(&self) -> Result<(), LogError> {
        self.gate.pass();
        self.check()
    }

    /// The error that ended it, if one did.
    pub fn failure(&self) -> Option<LogError> {
        match &self.state.lock().outcome {
            Some(Err(QueueError::Log(error))) => Some(error.clone()),
            Some(Err(error)) => Some(LogError::Fatal(error.to_string())),
            _ => None,
        }
    }
}

impl Spool {
    /// What opening found; of a recovery that is under way only what is known so far.
    pub fn opening(&self) -> Opening {
        self.core.progress.state.lock().opening.clone()
    }

    /// All that was there is in the index and can be seen.
    pub fn recovered(&self) -> bool {
        matches!(self.core.progress.state.lock().outcome, Some(Ok(())))
    }

    /// Waits for that. Fails with what ended the recovery.
    pub fn wait_recovered(&self) -> Result<(), QueueError> {
        let mut state = self.core.progress.state.lock();
        loop {
            match &state.outcome {
                Some(outcome) => return outcome.clone(),
                None => self.core.progress.changed.wait(&mut state),
            }
        }
    }

    /// `ticket` comes back when the recovery is complete, with the error that ended it if there was one.
    pub fn when_recovered(&self, ticket: u64) {
        let mut index = self.core.shared.index.lock();
        if index.loading {
            index.loaded_tickets.push(ticket);
        } else {
            index.outbox.tickets.push((ticket, self.core.progress.failure()));
            self.core.shared.wake(&index);
        }
    }
}

impl Core {
    /// Recovers everything before segment `before`. `sealed` is what cutting the log's end found.
    pub fn recover(&self, before: u32, sealed: Recovery, started: Instant) -> Result<(), QueueError> {
        let result = self.read_all(before, sealed);
        let outcome = match result {
            Ok(opening) => {
                let count = self.publish_all(before, &opening.damaged);
                count.map(|messages| Opening { messages, seconds: started.elapsed().as_secs_f64(), ..opening })
            }
            Err(error) => Err(error),
        };
        let mut state = self.progress.state.lock();
        state.outcome = Some(outcome.map(|opening| state.opening = opening));
        let outcome = state.outcome.clone().unwrap_or(Ok(()));
        self.progress.changed.notify_all();
        drop(state);
        self.end_loading();
        outcome
    }

    /// The index is whole, or never will be: whoever waits is told.
    fn end_loading(&self) {
        let failure = self.progress.failure();
        let mut index = self.shared.index.lock();
        // After a failure it stays as it is: nothing may be freed, and no checkpoint written.
        index.loading = failure.is_some();
        index.segments.dirty = true;
        for ticket in std::mem::take(&mut index.loaded_tickets) {
            index.outbox.tickets.push((ticket, failure.clone()));
        }
        self.shared.wake(&index);
        drop(index);
        self.want_sweep();
    }

    fn read_all(&self, before: u32, sealed: Recovery) -> Result<Opening, QueueError> {
        let (from, mut owed) = self.read_checkpoint(before)?;
        *self.checkpointed.lock() = from;
        let recovery = self.log.replay_before(from, before, &mut |loc, kind, payload| {
            self.progress.pause()?;
            self.replay(loc, kind, payload, &mut owed);
            Ok(())
        })?;
        self.shared.index.lock().debts.restore(owed);
        let mut damaged = sealed.damaged;
        for found in recovery.damaged {
            if !damaged.iter().any(|known| known.file == found.file && known.offset == found.offset) {
                damaged.push(found);
            }
        }
        Ok(Opening {
            messages: 0,
            records: recovery.records,
            torn_bytes: sealed.torn_bytes,
            damaged,
            seconds: 0.0,
            checkpoint: !from.is_none(),
        })
    }

    /// The index as of the last checkpoint. Returns where the replay has to begin,
    /// and what was owed then.
    fn read_checkpoint(&self, before: u32) -> Result<(Loc, VecDeque<Debt>), QueueError> {
        let Some(mut checkpoint) = Checkpoint::open(self.log.storage(), self.log.dir())? else { return Ok((Loc::NONE, VecDeque::new())) };
        let exists: BTreeSet<u32> = self.log.segments().iter().map(|(n, _)| *n).filter(|n| *n < before).collect();
        let mut vouched = checkpoint.begin()?;
        loop {
            self.progress.pause()?;
            let slice = checkpoint.slice()?;
            if slice.is_empty() {
                break;
            }
            self.checkpoint_holds.fetch_add(slice.len() as u64, Ordering::Relaxed);
            let mut index = self.shared.index.lock();
            for (mut message, others) in slice.into_iter().filter(|(message, _)| may_live(message, &exists)) {
                if index.lookup(&message.id).is_none() {
                    checkpoint.resolve(&mut index, &mut message);
                    index.insert(message, others, true);
                }
            }
            MutexGuard::unlock_fair(index);
        }
        for some in checkpoint.homes()?.chunks(PUBLISH) {
            let mut index = self.shared.index.lock();
            for (name, domain) in some {
                index.restore_home(name, domain);
            }
            MutexGuard::unlock_fair(index);
        }
        vouched.extend(checkpoint.end()?);
        let mut index = self.shared.index.lock();
        for (finisher, accepted) in vouched.iter().filter(|(finisher, accepted)| exists.contains(finisher) && exists.contains(accepted)) {
            index.segments.vouch(*finisher, *accepted);
        }
        drop(index);
        Ok((checkpoint.position, checkpoint.owed()?))
    }

    /// Applies one record to the index. Records of messages that are gone, or that make no sense, change nothing.
    fn replay(&self, loc: Loc, kind: u8, payload: &[u8], owed: &mut VecDeque<Debt>) {
        // Decoded without the lock, which is what takes the time.
        match kind {
            KIND_ACCEPTED => {
                let Some((envelope, layout)) = decode_accepted(payload) else { return };
                let mut index = self.shared.index.lock();
                if !forget_older(&mut index, &envelope.id, loc) || envelope.recipients.iter().all(|r| r.destination.is_empty()) {
                    return;
                }
                let extra = layout.chunks.iter().map(|(loc, _)| loc.segment).collect();
                let message = message(&mut index, &envelope, loc);
                index.insert(message, extra, true);
            }
            KIND_JOURNAL => {
                let Some(journal) = decode_journal(payload) else { return };
                let mut index = self.shared.index.lock();
                match owed.front() {
                    Some(debt) if debt.is_paid_by(&journal) => {
                        replay_payment(&mut index, loc, debt);
                        owed.pop_front();
                    }
                    _ => replay_journal(&mut index, loc, &journal),
                }
            }
            KIND_REMAIN => {
                let Some(remain) = decode_remain(payload) else { return };
                self.keep_only(&remain);
                let mut index = self.shared.index.lock();
                for segment in remain.keys() {
                    index.segments.vouch(loc.segment, *segment);
                }
            }
            KIND_MOVED => replay_moved(&mut self.shared.index.lock(), loc, payload),
            _ => {}
        }
    }

    /// What was accepted in these segments and is not listed goes, some at a time: new mail is taken in meanwhile.
    fn keep_only(&self, remain: &Remain) {
        let listed: BTreeMap<u32, HashSet<&MessageId>> = remain.iter().map(|(segment, ids)| (*segment, ids.iter().collect())).collect();
        for slots in self.accepted_in(&listed.keys().copied().collect()).chunks(PUBLISH) {
            self.shared.index.lock().keep_only(&listed, slots);
        }
    }

    /// Makes what was recovered visible. Returns how many messages that are.
    fn publish_all(&self, before: u32, damaged: &[Damage]) -> Result<u64, QueueError> {
        let (mut after, mut messages) = (None, 0);
        let mut known: BTreeSet<u32>;
        {
            // Under the lock, so that no segment begins in between.
            let mut index = self.shared.index.lock();
            known = self.log.segments().iter().map(|(n, _)| *n).collect();
            index.segments.retain(&known);
        }
        known.extend(damaged.iter().filter_map(|damage| parse_segment_name(&damage.file)));
        loop {
            self.progress.check()?;
            let now = now_us();
            let mut index = self.shared.index.lock();
            let slots: Vec<u32> = index.all(after.as_ref()).take(PUBLISH).collect();
            let Some(last) = slots.last() else { return Ok(messages) };
            after = Some(index.message(*last).id);
            for slot in slots {
                // A hidden one behind is a commit under way, which is published when it is durable.
                let message = index.message(slot);
                if !message.hidden || message.accepted.segment >= before {
                    continue;
                }
                if index.incomplete(slot, &known) {
                    index.remove(slot);
                } else {
                    index.publish(slot, now);
                    messages += u64::from(!index.message(slot).shadow());
                }
            }
            self.shared.wake(&index);
            MutexGuard::unlock_fair(index);
        }
    }
}

/// Makes room for a message accepted at `loc`. False when the index reflects that record already.
fn forget_older(index: &mut Index, id: &crate::id::MessageId, loc: Loc) -> bool {
    // An id is accepted again only when its former message is finished; the word of that is in a remain record still to come.
    match index.lookup(id) {
        Some(slot) if index.message(slot).head >= loc => false,
        Some(slot) => {
            index.remove(slot);
            true
        }
        None => true,
    }
}

fn replay_journal(index: &mut Index, loc: Loc, journal: &crate::codec::Journal) {
    let Some(slot) = index.lookup(&journal.id).filter(|slot| index.message(*slot).head < loc) else { return };
    let transition = match journal.kind {
        kind::REROUTED => decode_reroute(&journal.detail)
            .map(|(_, destination, _)| Transition::Reroute { destination: index.intern(&destination), next_us: journal.next_us }),
        other => Transition::from_kind(other, journal.next_us),
    };
    index.advance_head(slot, loc);
    if let Some(transition) = transition {
        index.apply(slot, journal.recipient, &transition, None);
        if let Transition::Reroute { destination, .. } = transition {
            index.release_destination(destination);
        }
    }
    if journal.finished {
        let accepted = index.message(slot).accepted.segment;
        index.segments.vouch(loc.segment, accepted);
        index.remove(slot);
    }
}

/// The record of a change that the checkpoint reflects already.
fn replay_payment(index: &mut Index, loc: Loc, debt: &Debt) {
    if let Some(slot) = index.lookup(&debt.journal.id).filter(|slot| index.message(*slot).head < loc) {
        index.advance_head(slot, loc);
    }
    for segment in &debt.vouches {
        index.segments.vouch(loc.segment, *segment);
    }
}

/// Runs a recovery in a thread of its own.
pub(crate) fn spawn(core: Arc<Core>, before: u32, sealed: Recovery, started: Instant) -> Result<std::thread::JoinHandle<()>, QueueError> {
    let body = move || {
        core.progress.gate.pass();
        if let Err(error) = core.recover(before, sealed, started)
            && error != QueueError::Log(LogError::Closed)
        {
            core.log.fail(LogError::Fatal(format!("recovery: {error}")));
        }
        core.progress.gate.open();
    };
    let thread = std::thread::Builder::new().name("spool-load".into()).spawn(body);
    thread.map_err(|e| LogError::Io(format!("start thread: {e}")).into())
}
