//! Recipients that were removed and can be restored for a while. Part of the index; `undo` ends what is over.
//!
//! In the figures and in `pending` of its destination such a recipient does not count; the destination keeps its name for it.

use crate::id::MessageId;
use crate::index::{GRACE, HELD, Index, NOWHERE, Recipient};

impl Index {
    /// The recipient is about to be removed with a grace. An attempt under way stays so: its outcome still counts.
    pub(super) fn enter_grace(&mut self, slot: u32, n: u16, until_us: u64) {
        self.unqueue(slot, n);
        let r = *self.recipient_mut(slot, n);
        self.held -= u64::from(r.has(HELD));
        self.count_pending(r.destination, -1);
        self.count_kept(r.destination, 1);
        if !self.message(slot).hidden {
            self.graces.insert((until_us, slot, n));
        }
    }

    /// The recipient is about to be pending again.
    pub(super) fn restore(&mut self, slot: u32, n: u16) {
        let r = *self.recipient_mut(slot, n);
        self.graces.remove(&(r.next_us, slot, n));
        self.held += u64::from(r.has(HELD));
        self.count_pending(r.destination, 1);
        self.count_kept(r.destination, -1);
    }

    /// The recipient's removal is final, or an outcome came in after it.
    pub(super) fn leave_grace(&mut self, slot: u32, n: u16) {
        self.land(slot, n);
        let r = self.recipient_mut(slot, n);
        r.flags &= !(HELD | GRACE);
        let (next_us, destination) = (r.next_us, std::mem::replace(&mut r.destination, NOWHERE));
        self.graces.remove(&(next_us, slot, n));
        self.count_kept(destination, -1);
        self.release_destination(destination);
    }

    /// The attempt that was under way when this recipient was removed is over, and changed nothing.
    pub fn land_in_grace(&mut self, slot: u32, recipient: u16) {
        if self.message(slot).recipients.as_slice().get(usize::from(recipient)).is_some_and(Recipient::in_grace) {
            self.land(slot, recipient);
        }
    }

    /// Up to `max` (message, recipient) whose grace ends at `now_us` or before, and when the next one ends (0: none).
    pub fn graces_over(&mut self, now_us: u64, max: usize) -> (Vec<(MessageId, u16)>, u64) {
        let mut over = Vec::new();
        while let Some((until, slot, n)) = self.graces.first().copied() {
            if until > now_us || over.len() >= max {
                return (over, until);
            }
            self.graces.pop_first();
            over.push((self.message(slot).id, n));
        }
        (over, 0)
    }

    pub(super) fn count_kept(&mut self, destination: u32, by: i32) {
        if destination != NOWHERE {
            let d = &mut self.destinations[destination as usize];
            d.kept = d.kept.saturating_add_signed(by);
        }
    }
}
