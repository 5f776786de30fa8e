//! What may be taken: ready queues per destination, and the timers of what is due later. Part of the index, called by it and by `query`.
//!
//! Timers are in one ordered set: a logarithm for each that begins or ends. Entries of ready queues are not removed when they become void but
//! recognised when they come up; when most are void, each further one has a few looked at, so that nobody waits for a long queue to be cleaned.

use std::collections::VecDeque;

use crate::index::{HELD, IN_FLIGHT, Index, NOWHERE, READY, Recipient, TIMED};

/// Most recipients made ready with the index locked.
const ADVANCE: usize = 4096;

/// Entries looked at for each that becomes void in a queue that is mostly void.
const TIDY: usize = 4;
/// Entries that are not worth it.
const FEW: usize = 64;

/// A destination's ready queue: (slot, recipient), the longest waiting first.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// Older than all in `rest`, looked at in this round of tidying.
    tidied: VecDeque<(u32, u16)>,
    rest: VecDeque<(u32, u16)>,
}

impl Queue {
    fn len(&self) -> usize {
        self.tidied.len() + self.rest.len()
    }

    fn front(&self) -> Option<&(u32, u16)> {
        self.tidied.front().or_else(|| self.rest.front())
    }

    fn pop(&mut self) -> Option<(u32, u16)> {
        self.tidied.pop_front().or_else(|| self.rest.pop_front())
    }

    /// Drops the void ones among the next few.
    fn tidy(&mut self, valid: impl Fn(u32, u16) -> bool) {
        for _ in 0..TIDY {
            let Some((slot, n)) = self.rest.pop_front() else {
                // All were looked at: the next round begins.
                self.rest = std::mem::take(&mut self.tidied);
                self.rest.shrink_to(2 * self.rest.len());
                return;
            };
            if valid(slot, n) {
                self.tidied.push_back((slot, n));
            }
        }
    }
}

impl Index {
    /// Puts a recipient where it belongs: its destination's ready queue when due, the timers when not.
    pub fn schedule(&mut self, slot: u32, n: u16, now_us: u64) {
        let r = *self.recipient_mut(slot, n);
        if !r.pending() || r.flags & (HELD | IN_FLIGHT | READY) != 0 || self.message(slot).hidden {
            return;
        }
        if r.next_us > now_us {
            if !r.has(TIMED) {
                self.recipient_mut(slot, n).flags |= TIMED;
                self.timers.insert((r.next_us, slot, n));
            }
            return;
        }
        if r.has(TIMED) {
            self.end_timer(slot, n);
        }
        self.recipient_mut(slot, n).flags |= READY;
        self.destinations[r.destination as usize].ready += 1;
        let wake = self.outage(r.destination).map(|outage| outage.wake_us);
        if !self.park(slot, n, now_us) {
            self.destinations[r.destination as usize].queue.rest.push_back((slot, n));
            self.announce(r.destination);
        } else if self.outage(r.destination).map(|outage| outage.wake_us) != wake {
            // Sooner than whoever keeps the time knows.
            self.announce(r.destination);
        }
    }

    /// Moves what is due to the ready queues, a bounded part of it at a time. Returns the next due time, 0 for none.
    pub fn advance(&mut self, now_us: u64) -> u64 {
        for _ in 0..ADVANCE {
            let Some((_, slot, n)) = self.timers.first().copied().filter(|(at, ..)| *at <= now_us) else { break };
            self.end_timer(slot, n);
            self.schedule(slot, n, now_us);
        }
        let woken = self.wake_up(now_us);
        let timer = self.timers.first().map_or(0, |(at, ..)| *at);
        [woken, timer].into_iter().filter(|at| *at > 0).min().unwrap_or(0)
    }

    pub(super) fn end_timer(&mut self, slot: u32, n: u16) {
        let r = self.recipient_mut(slot, n);
        r.flags &= !TIMED;
        let due = r.next_us;
        self.timers.remove(&(due, slot, n));
    }

    /// Takes the longest waiting message of a destination with all its ready recipients for it, now in flight.
    pub fn take(&mut self, destination: u32) -> Option<(u32, Vec<u16>)> {
        let slot = match self.next_queued(destination) {
            Some((slot, _)) => slot,
            None => self.destinations[destination as usize].parked.first()?.1,
        };
        Some((slot, self.take_slot(slot, destination)))
    }

    /// Takes the next valid entry out of a ready queue.
    pub fn next_queued(&mut self, destination: u32) -> Option<(u32, u16)> {
        loop {
            let (slot, n) = self.destinations[destination as usize].queue.pop()?;
            if self.is_ready(slot, n, destination) {
                return Some((slot, n));
            }
        }
    }

    /// All ready recipients of a message for a destination are in flight from now on.
    pub fn take_slot(&mut self, slot: u32, destination: u32) -> Vec<u16> {
        let list = self.message(slot).recipients.as_slice();
        let mine = |r: &Recipient| r.destination == destination && r.has(READY);
        let taken: Vec<u16> = list.iter().enumerate().filter(|(_, r)| mine(r)).map(|(n, _)| n as u16).collect();
        for n in &taken {
            self.clear_ready(slot, *n);
            self.recipient_mut(slot, *n).flags |= IN_FLIGHT;
        }
        self.in_flight += taken.len() as u64;
        self.destinations[destination as usize].in_flight += taken.len() as u32;
        taken
    }

    /// Size of the message that `take` would give next, if it is not void.
    pub fn next_size(&self, destination: u32) -> u64 {
        let d = &self.destinations[destination as usize];
        let next = d.queue.front().copied().or_else(|| d.parked.first().map(|(_, slot, n)| (*slot, *n)));
        next.filter(|(slot, n)| self.is_ready(*slot, *n, destination)).map_or(0, |(slot, _)| u64::from(self.message(slot).size))
    }

    /// Undoes a take.
    pub fn give_back(&mut self, slot: u32, n: u16, now_us: u64) {
        if self.message(slot).recipients.as_slice().get(usize::from(n)).is_some_and(|r| r.has(IN_FLIGHT)) {
            self.land(slot, n);
            self.schedule(slot, n, now_us);
        }
    }

    /// Not in flight any more.
    pub(super) fn land(&mut self, slot: u32, n: u16) {
        let r = self.recipient_mut(slot, n);
        if r.has(IN_FLIGHT) {
            r.flags &= !IN_FLIGHT;
            let destination = r.destination;
            self.in_flight -= 1;
            if destination != NOWHERE {
                self.destinations[destination as usize].in_flight -= 1;
            }
        }
    }

    /// Voids its entries in the ready queue and in the timers.
    pub(super) fn unqueue(&mut self, slot: u32, n: u16) {
        let r = self.recipient_mut(slot, n);
        let (ready, timed, destination) = (r.has(READY), r.has(TIMED), r.destination);
        r.flags &= !READY;
        if timed {
            self.end_timer(slot, n);
        }
        if ready && destination != NOWHERE {
            self.destinations[destination as usize].ready -= 1;
            if self.unpark(slot, n, destination) {
                return;
            }
            let d = &mut self.destinations[destination as usize];
            if d.queue.len() > FEW && d.queue.len() / 2 > d.ready as usize {
                let mut queue = std::mem::take(&mut d.queue);
                queue.tidy(|slot, n| self.is_ready(slot, n, destination));
                self.destinations[destination as usize].queue = queue;
            }
        }
    }

    /// All its pending recipients are ready.
    pub fn is_due(&self, slot: u32) -> bool {
        let message = self.message(slot);
        !message.shadow() && message.recipients.as_slice().iter().all(|r| !r.pending() || r.has(READY))
    }

    fn is_ready(&self, slot: u32, n: u16, destination: u32) -> bool {
        let r = self.messages.get(slot as usize).and_then(|m| m.recipients.as_slice().get(usize::from(n)));
        r.is_some_and(|r| r.has(READY) && r.destination == destination)
    }

    fn clear_ready(&mut self, slot: u32, n: u16) {
        let r = self.recipient_mut(slot, n);
        r.flags &= !READY;
        let destination = r.destination;
        self.destinations[destination as usize].ready -= 1;
        self.unpark(slot, n, destination);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_is_mostly_void_shrinks_in_steps_and_keeps_its_order() {
        let mut queue = Queue::default();
        queue.rest.extend((0..1000).map(|slot| (slot, 0)));
        for step in 0..2 * 1000 / TIDY {
            queue.tidy(|slot, _| slot % 10 == 0);
            if step == 40 {
                queue.rest.push_back((2000, 0));
            }
        }
        assert_eq!(queue.len(), 101);
        let left: Vec<u32> = std::iter::from_fn(|| queue.pop()).map(|(slot, _)| slot).collect();
        assert_eq!(left, (0..100).map(|n| n * 10).chain([2000]).collect::<Vec<_>>());
        assert!(queue.front().is_none());
    }
}
