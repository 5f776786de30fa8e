//! A destination that is down: its mail waits for it, without anybody looking at single messages.
//!
//! Called by the scheduler, `wait_for` from a thread whenever a destination begins to back off or something of it becomes due meanwhile, `done_waiting` when
//! it answers or somebody wants it to be tried. What is ready is parked (see `index::parked`): no record is written, no attempt counted, the next attempt is
//! the destination's. What needs more than waiting is handed out as a job instead: mail that is too old, or whose sender may have to be told of the
//! delay. The index is locked for a slice at a time, so that a hundred thousand messages hold up nobody. Nothing of it is on the disk: after a restart
//! all of it is due, and the first attempt tells how it stands.

use parking_lot::MutexGuard;

use crate::index::{Index, Outage};
use crate::query::{Job, Place};
use crate::spool::Spool;

/// Messages looked at while the index is locked once: less than a millisecond.
const SLICE: usize = 1024;

/// How a destination is left alone. Times are Unix microseconds.
#[derive(Debug, Clone, Copy)]
pub struct BackOff {
    /// Now, by the scheduler's clock.
    pub now_us: u64,
    /// Until when.
    pub until_us: u64,
    /// Age at which a message is given up.
    pub expire_us: u64,
    /// Age at which the sender may have to be told; 0 is never.
    pub notice_us: u64,
}

impl Spool {
    /// Has what is ready for a destination, and what becomes so, wait for it. `detail` is what is shown as the last attempt at each. Returns up to `max_jobs`
    /// jobs that the caller has to deal with itself, and whether there may be more of them. The destination is announced again when there are, or the
    /// time is over.
    pub fn wait_for(&self, destination: &str, how: &BackOff, detail: &[u8], max_jobs: usize) -> (bool, Vec<Job>) {
        let (mut places, mut begun) = (Vec::new(), false);
        let more = loop {
            let mut index = self.core.shared.index.lock();
            let Some(number) = index.destination(destination) else { break false };
            if !std::mem::replace(&mut begun, true) {
                index.go_down(number, outage(how, detail));
            }
            let more = sort_out(&mut index, number, how.now_us, max_jobs, &mut places);
            index.next_wake(number);
            MutexGuard::unlock_fair(index);
            if !more || places.len() >= max_jobs {
                break more;
            }
        };
        (more, self.core.jobs(places))
    }

    /// What waits for a destination may be taken: it is announced.
    pub fn done_waiting(&self, destination: &str) {
        let mut index = self.core.shared.index.lock();
        if let Some(number) = index.destination(destination) {
            index.come_up(number);
        }
        self.core.shared.wake(&index);
    }
}

fn outage(how: &BackOff, detail: &[u8]) -> Outage {
    let BackOff { until_us, expire_us, notice_us, .. } = *how;
    Outage { until_us, detail: detail.into(), expire_us, notice_us, told: (0, 0, 0), wake_us: 0 }
}

/// One slice: what is ready is parked, what has to be dealt with taken. True when there may be more.
fn sort_out(index: &mut Index, number: u32, now_us: u64, max_jobs: usize, places: &mut Vec<Place>) -> bool {
    for _ in 0..SLICE {
        if places.len() >= max_jobs {
            return true;
        }
        let taken = match index.next_queued(number) {
            Some((slot, n)) if index.park(slot, n, now_us) => continue,
            Some((slot, _)) => Some((slot, index.take_slot(slot, number))),
            None => index.take_overdue(number, now_us),
        };
        let Some((slot, recipients)) = taken else { return false };
        places.push(Place::new(index, slot, Some(&recipients)));
    }
    true
}
