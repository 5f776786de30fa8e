//! Mail of destinations that are down: it is due, and waits for its destination. Part of the index; `down` begins and ends an outage.
//!
//! A destination that is down has an outage: until when it is left alone, and what is wrong with it. What becomes due meanwhile is ready as ever, but lies in
//! `parked` in the order in which it was received, and nobody hears of it: no journal, no announcement, the time of the next attempt is the destination's.
//! What has to be looked at sooner (too old, or its sender may have to be told of the delay) goes to the ready queue. `wakes` says when the next one does, or
//! when the outage is over; the destination is announced then. Invariant: a recipient in `parked` has READY, and its message can say when it was received.

use std::collections::BTreeSet;
use std::ops::Bound;

use crate::index::{Index, Message, NOTED, READY, Recipient};

/// When it was received, where it is. Unix microseconds, slot, recipient.
pub(crate) type Parked = (u64, u32, u16);

/// Why and until when a destination is left alone. Times are Unix microseconds.
#[derive(Debug)]
pub(crate) struct Outage {
    pub until_us: u64,
    /// What is wrong, as an attempt would have journaled it.
    pub detail: Box<[u8]>,
    /// Age at which a message is given up.
    pub expire_us: u64,
    /// Age at which its sender may have to be told; 0 is never.
    pub notice_us: u64,
    /// The senders of what is parked up to here were told. What comes before it later was told, too, or it would not be parked.
    pub told: Parked,
    /// Its entry in `wakes`; 0 for none.
    pub wake_us: u64,
}

impl Outage {
    /// When it was received, if nothing has to be done about it but to wait.
    pub fn quiet(&self, message: &Message, n: u16, now_us: u64) -> Option<u64> {
        let received = message.received_us()?;
        let age = now_us.saturating_sub(received);
        let told = self.notice_us == 0 || age < self.notice_us || message.recipients.as_slice()[usize::from(n)].has(NOTED);
        (age < self.expire_us && told).then_some(received)
    }

    /// When something has to be done about what was received then.
    fn deadline(&self, received_us: u64, told: bool) -> u64 {
        let notice = if told || self.notice_us == 0 { u64::MAX } else { self.notice_us };
        received_us.saturating_add(self.expire_us.min(notice)).min(self.until_us)
    }
}

impl Index {
    /// Parks a due recipient. False when its destination is not down, or it cannot wait.
    pub fn park(&mut self, slot: u32, n: u16, now_us: u64) -> bool {
        let number = self.recipient_mut(slot, n).destination;
        let Some(outage) = self.outage(number).filter(|outage| now_us < outage.until_us) else { return false };
        let Some(received) = outage.quiet(self.message(slot), n, now_us) else { return false };
        let told = self.message(slot).recipients.as_slice()[usize::from(n)].has(NOTED);
        let (deadline, wake) = (outage.deadline(received, told), outage.wake_us);
        self.destinations[number as usize].parked.insert((received, slot, n));
        if wake == 0 || deadline < wake {
            self.wake_at(number, deadline);
        }
        true
    }

    pub fn outage(&self, number: u32) -> Option<&Outage> {
        self.destinations.get(number as usize)?.outage.as_deref()
    }

    /// The outage for which a recipient waits.
    pub fn waits_for(&self, r: &Recipient) -> Option<&Outage> {
        self.outage(r.destination).filter(|_| r.pending() && r.has(READY))
    }

    /// Takes a recipient out of `parked`. False when it is not there.
    pub(super) fn unpark(&mut self, slot: u32, n: u16, number: u32) -> bool {
        let Some(received) = self.message(slot).received_us() else { return false };
        self.destinations[number as usize].parked.remove(&(received, slot, n))
    }

    /// Announces the destinations whose moment has come. Returns the next one, 0 for none.
    pub(super) fn wake_up(&mut self, now_us: u64) -> u64 {
        while let Some((at, number)) = self.wakes.first().copied() {
            if at > now_us {
                return at;
            }
            self.wakes.pop_first();
            if let Some(outage) = &mut self.destinations[number as usize].outage {
                outage.wake_us = 0;
            }
            self.announce(number);
        }
        0
    }

    fn wake_at(&mut self, number: u32, at: u64) {
        let Some(outage) = &mut self.destinations[number as usize].outage else { return };
        let old = std::mem::replace(&mut outage.wake_us, at);
        self.wakes.remove(&(old, number));
        if at > 0 {
            self.wakes.insert((at, number));
        }
    }

    /// Begins an outage, or goes on with it.
    pub fn go_down(&mut self, number: u32, fresh: Outage) {
        self.wake_at(number, 0);
        let former = self.destinations[number as usize].outage.take();
        let told = former.map_or((0, 0, 0), |former| former.told);
        self.destinations[number as usize].outage = Some(Box::new(Outage { told, wake_us: 0, ..fresh }));
        self.next_wake(number);
    }

    /// Ends an outage; what was parked may be taken.
    pub fn come_up(&mut self, number: u32) {
        self.wake_at(number, 0);
        if self.destinations[number as usize].outage.take().is_some() {
            self.announce(number);
        }
    }

    /// A parked message with something to be done about, taken: it is too old, or its sender may have to be told.
    pub fn take_overdue(&mut self, number: u32, now_us: u64) -> Option<(u32, Vec<u16>)> {
        loop {
            let d = &self.destinations[number as usize];
            let outage = d.outage.as_deref()?;
            let oldest = d.parked.first().filter(|(received, ..)| received.saturating_add(outage.expire_us) <= now_us);
            if let Some((_, slot, _)) = oldest.copied() {
                return Some((slot, self.take_slot(slot, number)));
            }
            let due = |next: &Parked| outage.notice_us > 0 && next.0.saturating_add(outage.notice_us) <= now_us;
            let next @ (_, slot, n) = untold(&d.parked, outage).filter(due)?;
            if !self.message(slot).recipients.as_slice()[usize::from(n)].has(NOTED) {
                return Some((slot, self.take_slot(slot, number)));
            }
            if let Some(outage) = &mut self.destinations[number as usize].outage {
                outage.told = next;
            }
        }
    }

    /// Sets the time at which the destination is announced again.
    pub fn next_wake(&mut self, number: u32) {
        let d = &self.destinations[number as usize];
        let Some(outage) = d.outage.as_deref().filter(|_| d.ready > 0) else { return };
        let expiry = d.parked.first().map_or(u64::MAX, |(received, ..)| outage.deadline(*received, true));
        let notice = untold(&d.parked, outage).map_or(u64::MAX, |(received, ..)| outage.deadline(received, false));
        self.wake_at(number, expiry.min(notice).min(outage.until_us));
    }
}

/// The first whose sender may not have been told.
fn untold(parked: &BTreeSet<Parked>, outage: &Outage) -> Option<Parked> {
    parked.range((Bound::Excluded(outage.told), Bound::Unbounded)).next().copied()
}
