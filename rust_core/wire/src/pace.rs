//! How the threads of this process share processors with others, by how much mail comes in.
//!
//! A thread that is woken by every few octets of a client interrupts that very client, is done in a moment, and is woken again: half of the
//! switches between threads under load are of that kind. So while mail comes in quickly all threads run as batch work (`SCHED_BATCH`,
//! sched(7)): they wait until what runs on their processor has had its turn, and find more to do. When it comes slowly they are woken at
//! once, as others are. Called by the binding crate at each accepted message and twice a second. Where the system refuses nothing changes.

use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Messages a second from which threads gather, and below which they cease to. A long message counts as several.
const QUICK: f64 = 400.0;
const SLOW: f64 = 150.0;
/// So many octets count as a message more.
const ONE_MORE: u64 = 128 << 10;
/// Messages that are timed together, and the least time between two looks.
const STRETCH: u32 = 32;
const LOOK: Duration = Duration::from_millis(400);

/// One per process.
#[derive(Debug)]
pub struct Pace(Mutex<State>);

#[derive(Debug)]
struct State {
    gathering: bool,
    count: u32,
    since: Instant,
}

impl Default for Pace {
    fn default() -> Self {
        Self(Mutex::new(State { gathering: false, count: 0, since: Instant::now() }))
    }
}

impl Pace {
    /// A message of so many octets was accepted.
    pub fn beat(&self, octets: u64, now: Instant) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.count += 1 + u32::try_from(octets / ONE_MORE).unwrap_or(STRETCH).min(STRETCH);
        if state.count >= STRETCH {
            state.decide(now);
        }
    }

    /// To be called now and then, so that the end of a load is seen.
    pub fn look(&self, now: Instant) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(state.since) >= LOOK {
            state.decide(now);
        }
    }
}

impl State {
    /// By the rate since the last time.
    fn decide(&mut self, now: Instant) {
        let rate = f64::from(self.count) / now.saturating_duration_since(self.since).as_secs_f64().max(1e-6);
        (self.count, self.since) = (0, now);
        let gather = if self.gathering { rate >= SLOW } else { rate >= QUICK };
        if gather != self.gathering {
            self.gather(gather);
        }
    }

    fn gather(&mut self, on: bool) {
        self.gathering = on;
        let policy = if on { libc::SCHED_BATCH } else { libc::SCHED_OTHER };
        let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        for thread in threads.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
            let parameter = libc::sched_param { sched_priority: 0 };
            // SAFETY: plain system call; `parameter` lives as long as it. A thread that has ended meanwhile is none of ours.
            unsafe { libc::sched_setscheduler(thread, policy, &raw const parameter) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> i32 {
        // SAFETY: plain system call on the calling thread.
        unsafe { libc::sched_getscheduler(0) }
    }

    #[test]
    fn threads_gather_under_load_and_are_woken_at_once_without() {
        let pace = Pace::default();
        let mut now = Instant::now();
        let mut run = |messages: u32, octets: u64, each: Duration| {
            for _ in 0..messages {
                now += each;
                pace.beat(octets, now);
                pace.look(now);
            }
            policy()
        };
        assert_eq!(run(200, 10_000, Duration::from_millis(10)), libc::SCHED_OTHER);
        assert_eq!(run(200, 10_000, Duration::from_millis(1)), libc::SCHED_BATCH);
        assert_eq!(run(200, 10_000, Duration::from_millis(4)), libc::SCHED_BATCH, "between the two nothing changes");
        assert_eq!(run(200, 10_000, Duration::from_millis(10)), libc::SCHED_OTHER);
        assert_eq!(run(200, 10_000, Duration::from_millis(1)), libc::SCHED_BATCH);
        assert_eq!(run(200, 10_000, Duration::from_millis(10)), libc::SCHED_OTHER);
        assert_eq!(run(200, 1_000_000, Duration::from_millis(10)), libc::SCHED_BATCH, "long ones are more work");
        pace.look(now + Duration::from_secs(2));
        assert_eq!(policy(), libc::SCHED_OTHER, "seen without another message");
    }
}
