//! A destination that is down: what is due for it is deferred as a whole, without anybody looking at single messages.
//!
//! Called by the scheduler from a thread, while the destination backs off. Each recipient keeps its own schedule, as if it had been tried and had met the
//! destination's fault. What needs more than that is handed out as a job instead: mail that is too old, or whose sender may have to be told of
//! the delay. The index is locked for a slice at a time, so that a hundred thousand messages hold up nobody. Failure: a change that
//! cannot be written is in effect in memory, as with every change.

use parking_lot::MutexGuard;

use crate::index::{Index, Message, NOTED};
use crate::query::{Job, Place};
use crate::spool::{Core, Spool};
use crate::transition::{Transition, kind};

/// Messages deferred while the index is locked once: about a millisecond.
const SLICE: usize = 256;
/// Octets that may wait for the disk before the next slice.
const PENDING: u64 = 8 << 20;
/// Times of what waits for the same moment are spread over this.
const SPREAD_US: f64 = 1e6;
/// Soonest next attempt.
const SOONEST_US: u64 = 10_000;

/// How long to wait, as the scheduler's retry policy has it. Times are microseconds.
#[derive(Debug, Clone, Copy)]
pub struct BackOff {
    /// Now, by the scheduler's clock.
    pub now_us: u64,
    /// Until when the destination is left alone.
    pub until_us: u64,
    /// Wait after the first attempt.
    pub first_us: f64,
    /// Each further wait is so many times the one before.
    pub factor: f64,
    /// Longest wait.
    pub longest_us: f64,
    /// Share of a wait that is random.
    pub jitter: f64,
    /// Age at which a message is given up.
    pub expire_us: u64,
    /// Age at which the sender may have to be told; 0 is never.
    pub notice_us: u64,
}

impl BackOff {
    /// When a recipient is due whose attempt number `attempts` just failed. `random` is in 0..=1.
    fn next(&self, received_us: u64, attempts: u16, random: f64) -> u64 {
        let exponent = i32::from(attempts.clamp(1, 65)) - 1;
        let wait = (self.first_us * self.factor.powi(exponent)).min(self.longest_us) * (1.0 + self.jitter * (2.0 * random - 1.0));
        let mut due = self.now_us.saturating_add(micros(wait));
        if due < self.until_us {
            due = self.until_us + micros(random * SPREAD_US);
        }
        due.min(received_us.saturating_add(self.expire_us)).max(self.now_us + SOONEST_US)
    }

    /// Nothing has to be told about it yet.
    fn plain(&self, message: &Message, recipients: &[u16]) -> Option<u64> {
        let received = message.received_us()?;
        let age = self.now_us.saturating_sub(received);
        let noted = || recipients.iter().all(|n| message.recipients.as_slice()[usize::from(*n)].has(NOTED));
        let quiet = self.notice_us == 0 || age < self.notice_us || noted();
        (age < self.expire_us && quiet).then_some(received)
    }
}

impl Spool {
    /// Defers what is ready for a destination, at most about `max` recipients, with `detail` as what happened to each. Returns how many, and up to `max_jobs`
    /// jobs that the caller has to deal with itself; when both are none, nothing is ready any more. Waits for the disk.
    pub fn defer_ready(&self, destination: &str, how: &BackOff, detail: &[u8], max: usize, max_jobs: usize) -> (usize, Vec<Job>) {
        let (mut deferred, mut places) = (0, Vec::new());
        let mut random = Random(how.now_us ^ 0x9e37_79b9_7f4a_7c15);
        while deferred < max && places.len() < max_jobs {
            self.core.log.wait_for_room(PENDING);
            let mut index = self.core.shared.index.lock();
            let Some(number) = index.destination(destination) else { break };
            let mut taken = 0;
            while taken < SLICE && places.len() < max_jobs {
                let Some((slot, recipients)) = index.take(number) else { break };
                taken += 1;
                match how.plain(index.message(slot), &recipients) {
                    Some(received) => deferred += self.core.defer(&mut index, slot, &recipients, how, received, detail, &mut random),
                    None => places.push(Place::new(&index, slot, Some(&recipients))),
                }
            }
            MutexGuard::unlock_fair(index);
            if taken < SLICE {
                break;
            }
        }
        (deferred, self.core.jobs(places))
    }
}

impl Core {
    #[allow(clippy::too_many_arguments)]
    fn defer(
        &self,
        index: &mut Index,
        slot: u32,
        recipients: &[u16],
        how: &BackOff,
        received_us: u64,
        detail: &[u8],
        random: &mut Random,
    ) -> usize {
        let id = index.message(slot).id;
        for n in recipients {
            let attempts = index.message(slot).recipients.as_slice()[usize::from(*n)].attempts.saturating_add(1);
            let next_us = how.next(received_us, attempts, random.next());
            let _ = self.transition(index, &id, *n, &Transition::Deferred { next_us }, detail, kind::DEFERRED, how.now_us);
        }
        recipients.len()
    }
}

/// Numbers good enough to spread load (`SplitMix64`).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        f64::from((z ^ (z >> 31)) as u32) / f64::from(u32::MAX)
    }
}

/// Whole microseconds; none for a negative time.
#[allow(clippy::cast_sign_loss)] // the cast saturates, at 0 too
fn micros(time: f64) -> u64 {
    time as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn policy() -> BackOff {
        BackOff {
            now_us: 1000 * SECOND,
            until_us: 0,
            first_us: 60e6,
            factor: 2.0,
            longest_us: 600e6,
            jitter: 0.1,
            expire_us: 5000 * SECOND,
            notice_us: 0,
        }
    }

    #[test]
    fn waits_grow_up_to_the_longest_and_end_with_the_message() {
        let wait = |attempts, random| (policy().next(900 * SECOND, attempts, random) - policy().now_us) / SECOND;
        assert_eq!((wait(1, 0.5), wait(2, 0.5), wait(3, 0.5), wait(40, 0.5), wait(u16::MAX, 0.5)), (60, 120, 240, 600, 600));
        assert_eq!((wait(1, 0.0), wait(1, 1.0)), (54, 66));
        let soon = BackOff { expire_us: 130 * SECOND, ..policy() };
        assert_eq!(soon.next(900 * SECOND, 1, 0.5), 1030 * SECOND);
        assert_eq!(soon.next(0, 1, 0.5), soon.now_us + SOONEST_US);
    }

    #[test]
    fn nothing_is_due_before_the_destination_is_tried_again() {
        let down = BackOff { until_us: 2000 * SECOND, ..policy() };
        assert_eq!(down.next(900 * SECOND, 1, 0.25), 2000 * SECOND + SECOND / 4);
        let mut random = Random(7);
        let drawn: Vec<f64> = (0..1000).map(|_| random.next()).collect();
        assert!(drawn.iter().all(|r| (0.0..=1.0).contains(r)) && drawn.iter().sum::<f64>() / 1000.0 > 0.45);
    }
}
