//! Undoing operators' operations, and ending what can be undone.
//!
//! Every record of an operation has `"op":"ID"` in its detail, those of an undo `"undo":"ID"` too. What a recipient was before an operation
//! is found by going through its message's journal with the table of transitions, as replay does; nothing is guessed. A recipient that ended meanwhile, or
//! that a later operation changed, is left alone and counted. Called by queue/ in Python from a thread: [`Spool::undo`] reads the disk.

use gatepost_log::LogError;
use parking_lot::MutexGuard;

use crate::codec::{ALL, Envelope, Journal, decode_reroute, encode_reroute};
use crate::id::{MessageId, now_us};
use crate::index::{HELD, Index, NOWHERE, Recipient};
use crate::query::Place;
use crate::scan::lower_priority;
use crate::spool::{Core, HARD_PENDING, Spool};
use crate::trail::Trail;
use crate::transition::{State, Transition, kind};

/// Messages looked at at a time, and put back with the index locked.
const BATCH: usize = 4096;
const STEPS: usize = 128;
/// Messages from which on two threads look at them.
const SHARE_FROM: usize = 512;
/// Graces ended with the index locked.
const PURGE_BATCH: usize = 512;
/// How often a message that changes under our eyes is looked at again.
const TRIES: usize = 3;

/// What an undo did. Each message of the operation is in exactly one of the counts of messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Undone {
    /// Every recipient that the operation changed is as before.
    pub undone: u64,
    /// Some of them are; the others ended or were changed later.
    pub partly: u64,
    /// They are delivered, failed, expired, or removed for good.
    pub finished: u64,
    /// A later operation changed them.
    pub changed: u64,
    /// The operation did not change the message, or did not come to it.
    pub untouched: u64,
    /// Undone before.
    pub already: u64,
    /// The journal of the message cannot be read.
    pub unreadable: u64,
    /// Recipients put back.
    pub recipients: u64,
}

/// How an operation's records are recognised.
struct Marks {
    operation: memchr::memmem::Finder<'static>,
    undo: memchr::memmem::Finder<'static>,
}

/// State that an operation found a recipient in.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Before {
    held: bool,
    next_us: u64,
    /// Which journal record holds its way; None for the envelope.
    way: Option<usize>,
}

/// One recipient on the way through the journal.
struct Track {
    now: Recipient,
    way: Option<usize>,
    before: Option<Before>,
    later: bool,
    undone: bool,
}

/// One step back.
struct Step {
    recipient: u16,
    kind: u8,
    next_us: u64,
    /// Address, destination and route.
    way: Option<(String, String, Vec<u8>)>,
}

/// What there is to do about a message, and its recipients that the operation changed by what has become of them.
#[derive(Default)]
struct Plan {
    steps: Vec<Step>,
    restored: u64,
    finished: u64,
    later: u64,
    already: u64,
}

impl Spool {
    /// Undoes an operation on these messages as far as it can be. `note` is the detail of the records written; `ticket` as for `change`. Reads the disk.
    pub fn undo(&self, ticket: u64, operation: &str, ids: &[MessageId], note: &[u8]) -> Undone {
        let (marks, losses) = (Marks::new(operation), self.core.log.losses());
        let (mut counts, mut failure) = (Undone::default(), None);
        for batch in ids.chunks(BATCH) {
            self.core.log.wait_for_room(HARD_PENDING);
            let mut left = batch.to_vec();
            for attempt in 1..=TRIES {
                left = self.core.undo_batch(&left, &marks, note, attempt == TRIES, &mut counts, &mut failure);
            }
        }
        let mut index = self.core.shared.index.lock();
        self.answer(&mut index, ticket, losses, failure);
        self.core.shared.wake(&index);
        counts
    }

    /// How many of these messages an operation has changed; those that have left the queue since are not told. Reads the disk.
    pub fn touched(&self, operation: &str, ids: &[MessageId]) -> u64 {
        let marks = Marks::new(operation);
        let journal = |id: &MessageId| self.core.place(id).and_then(|place| self.core.walk(place.head, place.accepted)).unwrap_or_default();
        let touched = |id: &&MessageId| journal(id).iter().any(|j| marks.operation.find(&j.detail).is_some());
        ids.iter().filter(touched).count() as u64
    }

    /// Ends up to `max` graces that are over at `now_us`, the oldest first. Returns when the next one is over (0: none is left) and how many ended.
    pub fn purge(&self, now_us: u64, max: usize) -> (u64, usize) {
        let mut done = 0;
        loop {
            self.core.log.wait_for_room(HARD_PENDING);
            let (next, count) = self.core.purge_batch(now_us, PURGE_BATCH.min(max - done));
            done += count;
            if count == 0 || done >= max || next == 0 || next > now_us {
                return (next, done);
            }
        }
    }
}

impl Marks {
    fn new(operation: &str) -> Self {
        let finder = |key: &str| memchr::memmem::Finder::new(format!("\"{key}\":\"{operation}\"").as_bytes()).into_owned();
        Self { operation: finder("op"), undo: finder("undo") }
    }
}

impl Core {
    fn purge_batch(&self, now: u64, max: usize) -> (u64, usize) {
        let mut index = self.shared.index.lock();
        let (over, next) = index.graces_over(now, max);
        for (id, n) in &over {
            // Without a record of it the grace begins anew at the next opening; then it ends again.
            let _ = self.transition(&mut index, id, *n, &Transition::Purged, &[], kind::PURGED, now_us());
        }
        (next, over.len())
    }

    /// Returns those that changed between the look and the deed.
    fn undo_batch(
        &self,
        ids: &[MessageId],
        marks: &Marks,
        note: &[u8],
        last: bool,
        counts: &mut Undone,
        failure: &mut Option<LogError>,
    ) -> Vec<MessageId> {
        let mut again = Vec::new();
        for some in self.plans(ids, marks, counts).chunks(STEPS) {
            self.log.wait_for_room(HARD_PENDING);
            let mut index = self.shared.index.lock();
            for (place, plan) in some {
                let unchanged = index.find(&place.id).is_some_and(|slot| index.message(slot).head == place.head);
                if unchanged {
                    self.step_back(&mut index, &place.id, plan, note, failure);
                    plan.count(counts);
                } else if last {
                    counts.changed += 1;
                } else {
                    again.push(place.id);
                }
            }
            self.shared.wake(&index);
            MutexGuard::unlock_fair(index);
        }
        again
    }

    /// What there is to do about these messages; those about which there is nothing to do are counted. By two threads when they are many.
    fn plans(&self, ids: &[MessageId], marks: &Marks, counts: &mut Undone) -> Vec<(Place, Plan)> {
        let look = |some: &[MessageId]| {
            if ids.len() >= SHARE_FROM {
                lower_priority();
            }
            let mut trail = Trail::new(self);
            some.iter().map(|id| self.place(id).ok().map(|place| (plan(&mut trail, &place, marks), place))).collect::<Vec<_>>()
        };
        let looked = if ids.len() < SHARE_FROM {
            vec![look(ids)]
        } else {
            std::thread::scope(|scope| {
                let (first, second) = ids.split_at(ids.len() / 2);
                let threads = [first, second].map(|some| scope.spawn(|| look(some)));
                threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
            })
        };
        let mut plans = Vec::with_capacity(ids.len());
        for found in looked.into_iter().flatten() {
            match found {
                Some((Some(plan), _)) if plan.steps.is_empty() => plan.count(counts),
                Some((Some(plan), place)) => plans.push((place, plan)),
                Some((None, _)) => counts.unreadable += 1,
                None => counts.finished += 1,
            }
        }
        plans
    }

    fn step_back(&self, index: &mut Index, id: &MessageId, plan: &Plan, note: &[u8], failure: &mut Option<LogError>) {
        for step in &plan.steps {
            let now = now_us();
            let result = if let Some((address, destination, route)) = &step.way {
                let Ok(detail) = encode_reroute(address, destination, route, note) else { continue };
                let number = index.intern(destination);
                let transition = Transition::Reroute { destination: number, next_us: step.next_us };
                let result = self.transition(index, id, step.recipient, &transition, &detail, step.kind, now);
                index.release_destination(number);
                result
            } else {
                let Some(transition) = Transition::from_kind(step.kind, step.next_us) else { continue };
                self.transition(index, id, step.recipient, &transition, note, step.kind, now)
            };
            *failure = result.and_then(Result::err).or(failure.take());
        }
    }
}

/// None when the message's records cannot be read.
fn plan(trail: &mut Trail<'_>, place: &Place, marks: &Marks) -> Option<Plan> {
    let (envelope, journal) = trail.read(place).ok()?;
    let mut plan = Plan::default();
    if !journal.iter().any(|j| marks.operation.find(&j.detail).is_some()) {
        return Some(plan);
    }
    let mut tracks: Vec<Track> = envelope.recipients.iter().map(Track::new).collect();
    for (at, j) in journal.iter().enumerate().rev() {
        follow(&mut tracks, at, j, marks);
    }
    for ((n, recipient, _), track) in place.recipients.iter().zip(&tracks) {
        plan.add(*n, *recipient, track, &envelope, &journal);
    }
    Some(plan)
}

/// Carries one record out on every recipient it names.
fn follow(tracks: &mut [Track], at: usize, j: &Journal, marks: &Marks) {
    let transition = match j.kind {
        kind::REROUTED => Some(Transition::Reroute { destination: 0, next_us: j.next_us }),
        other => Transition::from_kind(other, j.next_us),
    };
    let Some(transition) = transition else { return };
    let (mine, undo) = (marks.operation.find(&j.detail).is_some(), marks.undo.find(&j.detail).is_some());
    for (n, track) in tracks.iter_mut().enumerate() {
        let named = j.recipient != ALL;
        if named && usize::from(j.recipient) != n || !transition.applies(&track.now, named) {
            continue;
        }
        if mine {
            track.before.get_or_insert(Before { held: track.now.has(HELD), next_us: track.now.next_us, way: track.way });
        } else if track.before.is_some() {
            track.undone |= undo;
            // An attempt is no operation: its outcome stands beside what the operation did.
            track.later |= !undo && matches!(j.kind, kind::HELD..=kind::RETRY | kind::REMOVED | kind::REROUTED | kind::RESTORED);
        }
        transition.write(&mut track.now);
        if transition.ends() {
            track.now.flags = 0;
        }
        if j.kind == kind::REROUTED {
            track.way = Some(at);
        }
    }
}

impl Track {
    fn new(spec: &crate::codec::RecipientSpec) -> Self {
        let state = if spec.destination.is_empty() { State::Delivered } else { State::Pending };
        let flags = if spec.held && state == State::Pending { HELD } else { 0 };
        let now = Recipient { next_us: spec.next_us, destination: NOWHERE, attempts: 0, state, flags };
        Self { now, way: None, before: None, later: false, undone: false }
    }
}

impl Plan {
    fn add(&mut self, n: u16, now: Recipient, track: &Track, envelope: &Envelope, journal: &[Journal]) {
        let Some(before) = track.before else { return };
        if track.undone && !track.later {
            self.already += 1;
        } else if !now.pending() && !now.in_grace() {
            self.finished += 1;
        } else if track.later {
            self.later += 1;
        } else if let Some(steps) = steps(n, now, track, before, envelope, journal) {
            self.steps.extend(steps);
            self.restored += 1;
        } else {
            self.finished += 1;
        }
    }

    fn count(&self, counts: &mut Undone) {
        counts.recipients += self.restored;
        let count = match (self.restored, self.later, self.finished, self.already) {
            (0, 0, 0, 0) => &mut counts.untouched,
            (0, 0, 0, _) => &mut counts.already,
            (0, 0, _, _) => &mut counts.finished,
            (0, ..) => &mut counts.changed,
            (_, 0, 0, _) => &mut counts.undone,
            _ => &mut counts.partly,
        };
        *count += 1;
    }
}

/// The steps that lead from the state now to the one before; they are taken with the index locked, so nothing comes between. None when its former way cannot be told.
fn steps(n: u16, now: Recipient, track: &Track, before: Before, envelope: &Envelope, journal: &[Journal]) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    if now.in_grace() {
        steps.push(Step { recipient: n, kind: kind::RESTORED, next_us: before.next_us, way: None });
    }
    if track.way != before.way {
        let way = if let Some(at) = before.way {
            decode_reroute(&journal[at].detail)?
        } else {
            let spec = envelope.recipients.get(usize::from(n))?;
            (spec.address.clone(), spec.destination.clone(), spec.route.clone())
        };
        steps.push(Step { recipient: n, kind: kind::REROUTED, next_us: before.next_us, way: Some(way) });
    }
    if now.has(HELD) != before.held {
        let kind = if before.held { kind::HELD } else { kind::RELEASED };
        steps.push(Step { recipient: n, kind, next_us: 0, way: None });
    }
    Some(steps)
}
