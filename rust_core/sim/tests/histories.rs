//! A thousand random histories of the log, a thousand of the spool, and some of a volume, on the simulated disk. `make soak` runs twenty times as many.

use std::sync::atomic::{AtomicU64, Ordering};

use gatepost_sim::{Subject, run, tell};

/// Other seeds than those of `make soak`, which begin with the time of day.
const FIRST: u64 = 1;
const HISTORIES: u64 = 1_000;

const OF_A_VOLUME: u64 = 30;

fn all_hold(subject: Subject, histories: u64) {
    let next = AtomicU64::new(FIRST);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= FIRST + histories {
                        return;
                    }
                    if let Err(failure) = run(subject, seed) {
                        next.store(u64::MAX / 2, Ordering::Relaxed);
                        panic!("{failure}");
                    }
                }
            });
        }
    });
}

#[test]
fn a_thousand_histories_of_the_log_hold() {
    all_hold(Subject::Log, HISTORIES);
}

#[test]
fn a_thousand_histories_of_the_spool_hold() {
    all_hold(Subject::Spool, HISTORIES);
}

#[test]
fn histories_of_a_volume_hold() {
    all_hold(Subject::Volume, OF_A_VOLUME);
}

#[test]
fn a_seed_gives_the_same_history_every_time() {
    for subject in [Subject::Log, Subject::Spool] {
        for seed in 0..20 {
            assert_eq!(tell(subject, seed), tell(subject, seed), "{subject:?} {seed}");
        }
    }
}
