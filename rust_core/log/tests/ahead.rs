//! Zeros written ahead of the records: they are there for small batches, never stand on a record however slow the disk takes them, and never make an
//! ended segment longer.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gatepost_log::{Class, Loc, Log, Options};
use gatepost_sim::{Hooks, RealFiles};

const SEGMENT: u32 = 16 << 20;

/// The operating system's files, on which zeros take their time and are counted, or cannot be written at all.
#[derive(Default)]
struct Disk {
    zeros: AtomicU64,
    delay_ms: u64,
    refuse: bool,
}

impl Hooks for Disk {
    fn writing(&self, data: &[u8]) -> io::Result<()> {
        if data.iter().any(|octet| *octet != 0) {
            return Ok(());
        }
        let done = self.zeros.fetch_add(data.len() as u64, Ordering::SeqCst);
        if self.refuse {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        // The first ones are quick, so that records come close to those behind.
        if done > u64::from(SEGMENT / 16) {
            std::thread::sleep(Duration::from_millis(self.delay_ms));
        }
        Ok(())
    }
}

fn open(dir: &Path, disk: &Arc<Disk>, threads: bool) -> Log {
    let storage = Arc::new(RealFiles(Arc::clone(disk)));
    let options = Options { segment_bytes: SEGMENT, storage, threads, ..Options::new(*b"TEST") };
    Log::prepare(dir, options).unwrap().start(Box::new(|_, _| {})).unwrap()
}

fn octets(number: u32) -> Vec<u8> {
    let size = 1_000 + (number.wrapping_mul(2_654_435_761) >> 18) as usize;
    vec![number.to_le_bytes()[0] | 1; size]
}

/// Appends records until two segments are full, a sync every `every` of them.
fn fill(log: &Log, every: u32) -> Vec<(Loc, u32)> {
    let mut places = Vec::new();
    for number in 0.. {
        let loc = log.append(1, &[&octets(number)], Class::Message, None).unwrap();
        places.push((loc, number));
        if number % every == 0 {
            log.sync().unwrap();
        }
        if loc.segment > 2 {
            break;
        }
    }
    log.sync().unwrap();
    places
}

fn check(log: &Log, places: &[(Loc, u32)]) {
    let mut found = Vec::new();
    for (loc, number) in places {
        log.read(*loc, &mut found).unwrap();
        assert_eq!(found, octets(*number));
    }
}

fn eventually(what: &str, mut test: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !test() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn zeros_that_come_slowly_never_stand_on_a_record_nor_lengthen_a_segment() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk { delay_ms: 15, ..Disk::default() });
    let log = open(dir.path(), &disk, true);
    let places = fill(&log, 10);
    assert!(disk.zeros.load(Ordering::SeqCst) > u64::from(SEGMENT / 16), "zeros were written");
    check(&log, &places);
    let ends = log.segments();
    log.close().unwrap();
    for (number, end) in &ends[..ends.len() - 1] {
        assert_eq!(std::fs::metadata(dir.path().join(format!("{number:08}.seg"))).unwrap().len(), *end);
    }
    let mut prepared = Log::prepare(dir.path(), Options { segment_bytes: SEGMENT, ..Options::new(*b"TEST") }).unwrap();
    let mut count = 0;
    let recovery = prepared
        .replay(Loc { segment: 0, offset: 0 }, &mut |_, kind, payload| {
            if kind == 1 {
                assert_eq!(payload, octets(count));
                count += 1;
            }
            Ok(())
        })
        .unwrap();
    assert_eq!((count as usize, recovery.torn_bytes, recovery.damaged.len()), (places.len(), 0, 0));
}

#[test]
fn a_disk_that_refuses_zeros_is_not_asked_again_and_takes_the_records() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk { refuse: true, ..Disk::default() });
    let log = open(dir.path(), &disk, true);
    eventually("zeros are tried", || disk.zeros.load(Ordering::SeqCst) > 0);
    let places = fill(&log, 50);
    check(&log, &places);
    let segments = u64::from(log.tail().segment);
    assert!(disk.zeros.load(Ordering::SeqCst) <= segments * u64::from(SEGMENT / 64), "one attempt a segment");
}

/// What the threads of a log would do, to the end.
fn rest(log: &Log) {
    while log.step(false) || log.step(true) {}
}

#[test]
fn large_batches_have_no_zeros_written_before_them_and_small_ones_have() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let log = open(dir.path(), &disk, false);
    rest(&log);
    assert!(disk.zeros.load(Ordering::SeqCst) >= u64::from(SEGMENT / 64 * 3), "the lead is there");
    let append = |count: u32| {
        for number in 0..count {
            log.append(1, &[&octets(number)], Class::Message, None).unwrap();
        }
        rest(&log);
    };
    append(100);
    append(100);
    let before = disk.zeros.load(Ordering::SeqCst);
    for _ in 0..8 {
        append(100);
    }
    assert_eq!(disk.zeros.load(Ordering::SeqCst), before);
    for _ in 0..200 {
        append(2);
    }
    assert!(disk.zeros.load(Ordering::SeqCst) > before);
}
