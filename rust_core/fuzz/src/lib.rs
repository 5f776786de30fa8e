//! What the targets share: the bound on time. Called by `fuzz_targets/*`.

use std::time::{Duration, Instant};

/// Panics when `work` takes longer than an input of `octets` may.
///
/// The bar is a second for 10 MB. Coverage and checks of overflow slow the code down about tenfold, and 100 ms are granted to all.
pub fn bounded<T>(octets: usize, work: impl Fn() -> T) -> T {
    within(Duration::from_millis(100) + Duration::from_micros(octets as u64), octets, work)
}

/// Panics when `work` on `octets` takes longer than `allowed`. The clock on the wall is asked first; a target that seems slow runs once
/// more by processor time, so that a busy machine, or a fuzzer that was stopped for a while, is no finding.
pub fn within<T>(allowed: Duration, octets: usize, work: impl Fn() -> T) -> T {
    let started = Instant::now();
    let result = work();
    if started.elapsed() > allowed {
        let before = processor_time();
        work();
        let spent = processor_time() - before;
        assert!(spent < allowed, "{spent:?} for {octets} octets");
    }
    result
}

/// Time this thread was on a processor, exact to a tick (Linux).
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
}
