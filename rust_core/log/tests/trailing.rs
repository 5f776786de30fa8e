//! Of long records that were written a while ago the system is told that it need not keep them in memory; of short ones it is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gatepost_log::{Class, Log, Options};
use gatepost_sim::{Hooks, RealFiles};

/// Counts the octets that may be forgotten.
#[derive(Default)]
struct Counted(AtomicU64);

impl Hooks for Counted {
    fn forgetting(&self, length: u64) {
        self.0.fetch_add(length, Ordering::SeqCst);
    }
}

#[test]
fn only_what_was_written_last_of_long_records_stays_in_memory() {
    for (size, count) in [(100_000, 900_u32), (1_000, 90_000)] {
        let dir = tempfile::tempdir().unwrap();
        let forgotten = Arc::new(Counted::default());
        let storage = Arc::new(RealFiles(Arc::clone(&forgotten)));
        let options = Options { segment_bytes: 16 << 20, storage, ..Options::new(*b"TEST") };
        let log = Log::prepare(dir.path(), options).unwrap().start(Box::new(|_, _| {})).unwrap();
        let octets = |number: u32| vec![number as u8; size];
        let mut places = Vec::new();
        for number in 0..count {
            places.push(log.append(1, &[&octets(number)], Class::Message, None).unwrap());
            log.wait_for_room(4 << 20);
        }
        log.sync().unwrap();
        let (all, seen) = (u64::from(count) * size as u64, forgotten.0.load(Ordering::SeqCst));
        if size < 8 << 10 {
            assert_eq!(seen, 0);
        } else {
            // 64 MiB stay, and what came in runs too small to be worth a call.
            assert!(seen <= all - (60 << 20) && seen > 0, "{seen} of {all}");
        }
        let mut found = Vec::new();
        for number in (0..count).step_by(97) {
            log.read(places[number as usize], &mut found).unwrap();
            assert_eq!(found, octets(number));
        }
    }
}
