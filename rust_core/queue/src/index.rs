//! The queue in memory: every live message with the state of its recipients, what is ready per destination, what is due when.
//!
//! Derived from the log and rebuilt from it. Meant to stay small with a million messages: addresses, routes and replies are not here but in the
//! records; a message with one recipient takes 64 octets, 4 in the order of ids, and about 25 while it waits for its time or 8 while it is ready.
//! Here: messages, and what transitions do to them. Further parts: what may be taken (`ready`), removals that can be undone (`grace`), destinations.

mod destinations;
mod grace;
mod parked;
mod ready;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use gatepost_log::{Loc, LogError};

use crate::codec::{ALL, Remain};
use crate::debts::Debts;
use crate::id::MessageId;
pub(crate) use crate::index::destinations::Destination;
pub(crate) use crate::index::parked::Outage;
pub(crate) use crate::message::{
    GRACE, HELD, IN_FLIGHT, LASTING, Message, NOTED, NOWHERE, READY, REROUTED, Recipient, Recipients, TIMED, UNKNOWN_DELAY,
};
use crate::order::Order;
use crate::segments::{Extra, Segments};
use crate::sets::{EMPTY, Sets};
use crate::transition::Transition;

/// What an asynchronous call waits for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operation {
    Commit { slot: u32, ticket: u64 },
    Ticket(u64),
}

/// What `completions` hands out next.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub tickets: Vec<(u64, Option<LogError>)>,
    pub ready: Vec<u32>,
}

#[derive(Debug, Default)]
pub(crate) struct Index {
    messages: Vec<Message>,
    free_slots: Vec<u32>,
    order: Order,
    pub destinations: Vec<Destination>,
    free_destinations: Vec<u32>,
    by_name: HashMap<Box<str>, u32>,
    /// (due, slot, recipient) of each recipient with TIMED.
    timers: BTreeSet<(u64, u32, u16)>,
    /// (when, destination) of what is to be announced before its mail comes due: see `parked`.
    wakes: BTreeSet<(u64, u32)>,
    /// As in `timers`, of each visible one in grace.
    graces: BTreeSet<(u64, u32, u16)>,
    pub segments: Segments,
    /// Messages whose moved record is appended but not in effect, with its segment: the record of their end vouches for it too.
    pub moving: HashMap<MessageId, u32>,
    sets: Sets,
    operations: Vec<Option<Operation>>,
    free_operations: Vec<u32>,
    pub outbox: Outbox,
    /// Segment of the newest record.
    pub newest_segment: u32,
    pub octets: u64,
    pub recipients: u64,
    pub held: u64,
    pub in_flight: u64,
    /// Messages of which only a removal's grace is left, and their octets; not in the figures above.
    pub shadows: u64,
    pub shadow_octets: u64,
    /// Recovery is not complete: what was there before this opening is hidden, and more of it may come.
    pub loading: bool,
    /// Changes whose records found no room.
    pub debts: Debts,
    /// Tickets that come back when it is.
    pub loaded_tickets: Vec<u64>,
}

impl Index {
    /// An empty one that a recovery is to fill.
    pub fn to_load() -> Self {
        Self { loading: true, ..Self::default() }
    }

    // ---- messages

    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Slot of a message, hidden or not.
    pub fn lookup(&self, id: &MessageId) -> Option<u32> {
        self.order.find(&self.messages, id)
    }

    /// Slot of a visible message.
    pub fn find(&self, id: &MessageId) -> Option<u32> {
        self.lookup(id).filter(|slot| !self.message(*slot).hidden)
    }

    pub fn message(&self, slot: u32) -> &Message {
        &self.messages[slot as usize]
    }

    fn recipient_mut(&mut self, slot: u32, recipient: u16) -> &mut Recipient {
        &mut self.messages[slot as usize].recipients.as_mut_slice()[usize::from(recipient)]
    }

    /// Messages with a pending recipient.
    pub fn live(&self) -> u64 {
        self.len() as u64 - self.shadows
    }

    /// Ids of visible messages with a pending recipient after `after`.
    pub fn ids(&self, after: Option<&MessageId>, limit: usize) -> Vec<MessageId> {
        let shown = self.visible(after, &[0; 16]).filter(|(_, slot)| !self.message(*slot).shadow());
        shown.map(|(id, _)| id).take(limit).collect()
    }

    /// Visible messages after `after` that are not below `low`, in id order, with their slots.
    pub fn visible(&self, after: Option<&MessageId>, low: &MessageId) -> impl Iterator<Item = (MessageId, u32)> {
        let slots = self.order.from(&self.messages, after, low).filter(|slot| !self.message(*slot).hidden);
        slots.map(|slot| (self.message(slot).id, slot))
    }

    /// All messages after `after` in id order, the hidden ones too.
    pub fn all(&self, after: Option<&MessageId>) -> impl Iterator<Item = u32> {
        self.order.from(&self.messages, after, &[0; 16])
    }

    /// Segments a message has records in besides those of `accepted` and `head`.
    pub fn others(&self, message: &Message) -> &[u32] {
        self.sets.segments(message.others)
    }

    /// Slots of the messages accepted in these segments, among `count` slots from `from` on; those whose commit is not durable yet among them. None behind
    /// the last slot. The segments have to be sealed: then nothing new is accepted in them between one part and the next.
    pub fn accepted_in(&self, segments: &BTreeSet<u32>, from: usize, count: usize) -> Option<Vec<u32>> {
        let part = self.messages.get(from..)?.iter().take(count).enumerate();
        let mine = part.filter(|(_, message)| segments.contains(&message.accepted.segment));
        Some(mine.map(|(n, _)| (from + n) as u32).collect())
    }

    /// What is left in these segments, of the messages that were there before.
    pub fn remain(&self, segments: &BTreeSet<u32>, slots: &[u32]) -> Remain {
        let mut found: Remain = segments.iter().map(|segment| (*segment, Vec::new())).collect();
        for message in slots.iter().filter_map(|slot| self.messages.get(*slot as usize)) {
            if let Some(ids) = found.get_mut(&message.accepted.segment) {
                ids.push(message.id);
            }
        }
        found
    }

    /// A message in this slot was accepted in one of these segments and is not listed: it is finished, and goes.
    pub fn keep_only(&mut self, listed: &BTreeMap<u32, HashSet<&MessageId>>, slots: &[u32]) {
        for slot in slots {
            // What was kept of a queue that became empty is gone.
            let Some(message) = self.messages.get(*slot as usize) else { return };
            if listed.get(&message.accepted.segment).is_some_and(|ids| !ids.contains(&message.id)) {
                self.remove(*slot);
            }
        }
    }

    /// After a recovery: a message of which a segment is gone was finished, else the segment would be there. The record that says so was lost (full disk), or
    /// was not durable when the segment went. `known` are the segments that exist or are damaged.
    pub fn incomplete(&self, slot: u32, known: &BTreeSet<u32>) -> bool {
        let message = self.message(slot);
        let mut records = [message.accepted.segment, message.head.segment].into_iter().chain(self.others(message).iter().copied());
        records.any(|segment| !known.contains(&segment))
    }

    /// Takes a message in. `extra` are segments with chunks of it; their counts are the caller's to hand over, unless `count_extra`.
    pub fn insert(&mut self, mut message: Message, mut extra: Extra, count_extra: bool) -> u32 {
        let (accepted, head) = (message.accepted.segment, message.head.segment);
        extra.retain(|s| *s != accepted && *s != head);
        extra.sort_unstable();
        extra.dedup();
        self.segments.add(accepted);
        if head != accepted {
            self.segments.add(head);
        }
        if count_extra {
            for segment in &extra {
                self.segments.add(*segment);
            }
        }
        for r in message.recipients.as_slice() {
            self.held += u64::from(r.pending() && r.has(HELD));
            if r.pending() {
                self.count_pending(r.destination, 1);
            }
            if r.in_grace() {
                self.count_kept(r.destination, 1);
            }
        }
        message.others = self.sets.take(extra);
        let shadow = message.shadow();
        let slot = if let Some(slot) = self.free_slots.pop() {
            self.messages[slot as usize] = message;
            slot
        } else {
            self.messages.push(message);
            (self.messages.len() - 1) as u32
        };
        self.count_message(slot, shadow, 1);
        self.order.insert(&self.messages, slot);
        slot
    }

    /// A message left the queue, or its commit failed. Its recipients are void from now on.
    pub fn remove(&mut self, slot: u32) {
        self.count_message(slot, self.message(slot).shadow(), -1);
        for n in 0..self.message(slot).recipients.as_slice().len() {
            let r = self.message(slot).recipients.as_slice()[n];
            if r.pending() {
                self.leave_pending(slot, n as u16);
            } else if r.in_grace() {
                self.leave_grace(slot, n as u16);
            }
        }
        let id = self.message(slot).id;
        self.order.remove(&self.messages, &id);
        let message = &mut self.messages[slot as usize];
        let (accepted, head, others) = (message.accepted.segment, message.head.segment, message.others);
        message.accepted = Loc::NONE;
        message.others = EMPTY;
        message.recipients = Recipients::new(Vec::new());
        self.free_slots.push(slot);
        self.segments.drop(accepted);
        if head != accepted {
            self.segments.drop(head);
        }
        for segment in self.sets.release(others).iter() {
            self.segments.drop(*segment);
        }
        if self.order.len() == 0 {
            // What a queue that was deep took is given back when it is empty.
            (self.messages, self.free_slots) = (Vec::new(), Vec::new());
        }
    }

    /// The commit is durable, or the recovery complete: the message can be seen, its due recipients are ready, its graces run.
    pub fn publish(&mut self, slot: u32, now_us: u64) {
        self.messages[slot as usize].hidden = false;
        for n in 0..self.message(slot).recipients.as_slice().len() {
            let r = self.message(slot).recipients.as_slice()[n];
            if r.in_grace() {
                self.graces.insert((r.next_us, slot, n as u16));
            }
            self.schedule(slot, n as u16, now_us);
        }
    }

    /// A record of this message was appended at `loc`.
    pub fn advance_head(&mut self, slot: u32, loc: Loc) {
        let message = &mut self.messages[slot as usize];
        let old = std::mem::replace(&mut message.head, loc).segment;
        if loc.segment == old || loc.segment == message.accepted.segment {
            return;
        }
        if old != message.accepted.segment {
            let others = self.sets.with(self.message(slot).others, old);
            self.messages[slot as usize].others = others;
        }
        self.segments.add(loc.segment);
    }

    /// The newest record of this message was given up: `previous` is the newest again.
    pub fn retreat_head(&mut self, slot: u32, previous: Loc) {
        let message = &mut self.messages[slot as usize];
        let accepted = message.accepted;
        // Compaction may have moved the message behind it.
        let previous = previous.max(accepted);
        let lost = std::mem::replace(&mut message.head, previous).segment;
        if lost == previous.segment || lost == accepted.segment {
            return;
        }
        self.segments.drop(lost);
        if previous.segment != accepted.segment {
            let others = self.sets.without(self.message(slot).others, previous.segment);
            self.messages[slot as usize].others = others;
        }
    }

    /// Segments with later records of this message stay as long as the one that accepted it.
    pub fn keep_behind_accepted(&mut self, slot: u32) {
        let message = &self.messages[slot as usize];
        let (accepted, head) = (message.accepted.segment, message.head.segment);
        let later = self.sets.segments(message.others).iter().copied().chain([head]).filter(|segment| *segment > accepted);
        for segment in later {
            self.segments.vouch(segment, accepted);
        }
    }

    /// Has the message a record in this segment that is needed?
    pub fn holds(&self, slot: u32, segment: u32) -> bool {
        let message = self.message(slot);
        self.others(message).contains(&segment) || message.accepted.segment == segment || message.head.segment == segment
    }

    /// The message is in the record at `to` now, with pieces in `pieces`. Records behind that still count, none before it does.
    pub fn relocate(&mut self, slot: u32, to: Loc, pieces: &[u32]) {
        let former = self.sets.release(self.message(slot).others);
        let message = &mut self.messages[slot as usize];
        let (accepted, head) = (message.accepted.segment, message.head.segment);
        message.accepted = to;
        message.head = message.head.max(to);
        let own = [to.segment, message.head.segment];
        let mut extra: Vec<u32> = former.iter().copied().filter(|s| *s > to.segment).chain(pieces.iter().copied()).collect();
        extra.sort_unstable();
        extra.dedup();
        extra.retain(|s| !own.contains(s));
        for segment in own.iter().take(if own[0] == own[1] { 1 } else { 2 }).chain(&extra) {
            self.segments.add(*segment);
        }
        self.segments.drop(accepted);
        if head != accepted {
            self.segments.drop(head);
        }
        for segment in former.iter() {
            self.segments.drop(*segment);
        }
        let others = self.sets.take(extra);
        self.messages[slot as usize].others = others;
    }

    // ---- transitions

    /// Would this change anything? (legal, is any recipient left pending or in grace after it)
    pub fn judge(&self, slot: u32, recipient: u16, transition: &Transition) -> (bool, bool) {
        let list = self.message(slot).recipients.as_slice();
        let named = |n: usize| recipient == ALL || usize::from(recipient) == n;
        if recipient != ALL && usize::from(recipient) >= list.len() {
            return (false, true);
        }
        let applies = |n: usize, r: &Recipient| named(n) && transition.applies(r, recipient != ALL);
        let legal = transition.is_note() || list.iter().enumerate().any(|(n, r)| applies(n, r));
        let ends = |n: usize, r: &Recipient| transition.ends() && applies(n, r);
        let open = list.iter().enumerate().any(|(n, r)| (r.pending() || r.in_grace()) && !ends(n, r));
        (legal, open)
    }

    /// Carries a transition out. With `now_us` None (replay) nothing is queued.
    pub fn apply(&mut self, slot: u32, recipient: u16, transition: &Transition, now_us: Option<u64>) {
        let count = self.message(slot).recipients.as_slice().len();
        let range = if recipient == ALL { 0..count } else { usize::from(recipient)..count.min(usize::from(recipient) + 1) };
        if transition.is_note() {
            // One of the message as a whole is an operator's remark.
            let named = self.messages[slot as usize].recipients.as_mut_slice().get_mut(usize::from(recipient));
            if let Some(named) = named {
                named.flags |= NOTED;
            }
            return;
        }
        let before = self.message(slot).shadow();
        for n in range {
            let n = n as u16;
            if transition.applies(&self.message(slot).recipients.as_slice()[usize::from(n)], recipient != ALL) {
                self.apply_one(slot, n, transition, now_us);
            }
        }
        let after = self.message(slot).shadow();
        if before != after {
            self.count_message(slot, before, -1);
            self.count_message(slot, after, 1);
        }
    }

    /// Puts a message into the figures, or takes it out.
    fn count_message(&mut self, slot: u32, shadow: bool, by: i64) {
        let message = self.message(slot);
        let (octets, recipients) = (i64::from(message.size), i64::try_from(message.recipients.as_slice().len()).unwrap_or(0));
        if shadow {
            self.shadows = self.shadows.saturating_add_signed(by);
            self.shadow_octets = self.shadow_octets.saturating_add_signed(by * octets);
        } else {
            self.octets = self.octets.saturating_add_signed(by * octets);
            self.recipients = self.recipients.saturating_add_signed(by * recipients);
        }
    }

    fn apply_one(&mut self, slot: u32, n: u16, transition: &Transition, now_us: Option<u64>) {
        match transition {
            t if t.ends() && self.recipient_mut(slot, n).pending() => self.leave_pending(slot, n),
            t if t.ends() => self.leave_grace(slot, n),
            Transition::Removed { until_us } => self.enter_grace(slot, n, *until_us),
            Transition::Restored { .. } => self.restore(slot, n),
            Transition::Released => self.held -= 1,
            Transition::Held => {
                self.held += 1;
                self.unqueue(slot, n);
            }
            Transition::Deferred { .. } => {
                self.unqueue(slot, n);
                self.land(slot, n);
            }
            Transition::Retry { .. } => self.unqueue(slot, n),
            Transition::Reroute { destination, .. } => {
                self.unqueue(slot, n);
                self.land(slot, n);
                let old = std::mem::replace(&mut self.recipient_mut(slot, n).destination, *destination);
                self.count_pending(*destination, 1);
                self.count_pending(old, -1);
                self.release_destination(old);
            }
            _ => {}
        }
        transition.write(self.recipient_mut(slot, n));
        if let Some(now) = now_us {
            self.schedule(slot, n, now);
        }
    }

    /// The recipient's state is about to become final.
    fn leave_pending(&mut self, slot: u32, n: u16) {
        self.unqueue(slot, n);
        self.land(slot, n);
        let r = *self.recipient_mut(slot, n);
        self.held -= u64::from(r.has(HELD));
        let ended = self.recipient_mut(slot, n);
        // Its number may be given to another destination from now on; the record has the name.
        (ended.flags, ended.destination) = (ended.flags & !HELD, NOWHERE);
        self.count_pending(r.destination, -1);
        self.release_destination(r.destination);
    }

    // ---- operations

    pub fn begin(&mut self, operation: Operation) -> u64 {
        if let Some(slot) = self.free_operations.pop() {
            self.operations[slot as usize] = Some(operation);
            return u64::from(slot);
        }
        self.operations.push(Some(operation));
        (self.operations.len() - 1) as u64
    }

    pub fn replace(&mut self, token: u64, operation: Operation) {
        self.operations[token as usize] = Some(operation);
    }

    pub fn end(&mut self, token: u64) -> Option<Operation> {
        let operation = self.operations.get_mut(token as usize)?.take();
        if operation.is_some() {
            self.free_operations.push(token as u32);
        }
        operation
    }
}
