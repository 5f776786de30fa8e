//! A thousand random histories of the log and a thousand of the spool on the simulated disk. `make soak` runs twenty times as many.

use std::sync::atomic::{AtomicU64, Ordering};

use gatepost_sim::{Subject, run, tell};

/// Other seeds than those of `make soak`, which begin with the time of day.
const FIRST: u64 = 1;
const HISTORIES: u64 = 1_000;

fn all_hold(subject: Subject) {
    let next = AtomicU64::new(FIRST);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= FIRST + HISTORIES {
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
    all_hold(Subject::Log);
}

#[test]
fn a_thousand_histories_of_the_spool_hold() {
    all_hold(Subject::Spool);
}

#[test]
fn a_seed_gives_the_same_history_every_time() {
    for subject in [Subject::Log, Subject::Spool] {
        for seed in 0..20 {
            assert_eq!(tell(subject, seed), tell(subject, seed), "{subject:?} {seed}");
        }
    }
}
