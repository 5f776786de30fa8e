//! Freed segments whose files are used again: guards against records of a former life that come back, against a reader whose file is overwritten under
//! it, and against a crash that leaves a segment's name on another's octets.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use gatepost_log::{Class, Loc, Log, Options, segment_name};

const SIZE: u32 = 64 << 10;

fn open(dir: &Path) -> Log {
    let options = Options { segment_bytes: SIZE, ..Options::new(*b"TEST") };
    Log::prepare(dir, options).unwrap().start(Box::new(|_, _| {})).unwrap()
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|m| m.ino())
}

/// Appends records until the log has moved on to another segment, in which the last one is.
fn fill(log: &Log, octet: u8) -> Vec<Loc> {
    let first = log.tail().segment;
    let mut places = Vec::new();
    while log.tail().segment == first {
        places.push(log.append(1, &[&[octet; 1000]], Class::Message, None).unwrap());
    }
    log.sync().unwrap();
    places
}

fn free(log: &Log, number: u32) {
    let end = Instant::now() + Duration::from_secs(10);
    while !log.free(number) {
        assert!(Instant::now() < end, "segment {number} stays busy");
        std::thread::sleep(Duration::from_millis(1));
    }
    log.wait_for_removals();
}

/// The payloads' first octets, in order, and what was damaged.
fn replay(dir: &Path) -> (Vec<u8>, usize) {
    let mut seen = Vec::new();
    let mut prepared = Log::prepare(dir, Options { segment_bytes: SIZE, ..Options::new(*b"TEST") }).unwrap();
    let recovery = prepared
        .replay(Loc::NONE, &mut |_, _, payload| {
            seen.push(payload[0]);
            Ok(())
        })
        .unwrap();
    (seen, recovery.damaged.len())
}

/// A log on its third segment, which has the file of the first; one record in it.
fn recycled(dir: &Path) -> Log {
    let log = open(dir);
    fill(&log, b'a');
    let first = inode(&dir.join(segment_name(1))).unwrap();
    free(&log, 1);
    assert!(!dir.join(segment_name(1)).exists());
    while inode(&dir.join(segment_name(log.tail().segment))) != Some(first) {
        assert!(log.tail().segment < 5, "the file of segment 1 was not used again");
        fill(&log, b'b');
        log.sync().unwrap();
    }
    log
}

/// The directory as a crash leaves it.
fn crash(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

#[test]
fn the_file_of_a_freed_segment_becomes_a_later_one_and_its_old_records_stay_gone() {
    let dir = tempfile::tempdir().unwrap();
    let log = recycled(dir.path());
    let number = log.tail().segment;
    log.append(1, &[b"c"], Class::Message, None).unwrap();
    log.sync().unwrap();
    let octets = fs::read(dir.path().join(segment_name(number))).unwrap();
    assert!(octets.windows(1000).any(|w| w == [b'a'; 1000]), "nothing of the former life is left to be mistaken");
    let (seen, damaged) = replay(crash(dir.path()).path());
    assert!(former(&seen) == 1 && seen.ends_with(b"c"));
    assert_eq!(damaged, 0);
    log.close().unwrap();
    let (seen, damaged) = replay(dir.path());
    assert!(former(&seen) == 1 && seen.ends_with(b"c"));
    assert_eq!((damaged, spares(dir.path())), (0, 0));
}

/// Records like those of the file's former life. One is in the second segment and stays.
fn former(seen: &[u8]) -> usize {
    seen.split(|octet| *octet == b'a').count() - 1
}

fn spares(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("spare")).count()
}

#[test]
fn a_record_torn_within_a_recycled_segment_is_cut_and_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let log = recycled(dir.path());
    let loc = log.append(1, &[&[b'c'; 5000]], Class::Message, None).unwrap();
    log.sync().unwrap();
    let copy = crash(dir.path());
    drop(log);
    let file = OpenOptions::new().write(true).open(copy.path().join(segment_name(loc.segment))).unwrap();
    file.write_all_at(&[b'a'; 600], u64::from(loc.offset) + 3000).unwrap();
    let (seen, damaged) = replay(copy.path());
    assert!(former(&seen) == 1 && !seen.contains(&b'c'));
    assert_eq!(damaged, 0);
}

#[test]
fn whatever_prefix_of_a_batch_reached_a_recycled_file_only_whole_records_count() {
    let dir = tempfile::tempdir().unwrap();
    let log = recycled(dir.path());
    let before = crash(dir.path());
    let loc = log.append(1, &[&[b'c'; 200]], Class::Message, None).unwrap();
    log.sync().unwrap();
    let written = fs::read(dir.path().join(segment_name(loc.segment))).unwrap();
    let path = before.path().join(segment_name(loc.segment));
    let old = fs::read(&path).unwrap();
    let known = replay(crash(before.path()).path()).0.len();
    let start = loc.offset as usize - 24;
    for end in (start..start + 260).step_by(4) {
        let mut torn = old.clone();
        torn[start..end].copy_from_slice(&written[start..end]);
        fs::write(&path, &torn).unwrap();
        let (seen, damaged) = replay(crash(before.path()).path());
        let whole = usize::from(end >= loc.offset as usize + 12 + 200);
        assert_eq!((seen.len(), damaged), (known + whole, 0), "cut at {end}");
    }
}

#[test]
fn a_torn_header_of_a_recycled_file_is_mended_from_the_other_copy() {
    let dir = tempfile::tempdir().unwrap();
    let log = recycled(dir.path());
    let number = log.append(1, &[b"c"], Class::Message, None).unwrap().segment;
    log.sync().unwrap();
    let copy = crash(dir.path());
    drop(log);
    for at in [8, 64 + 24] {
        let torn = crash(copy.path());
        let file = OpenOptions::new().write(true).open(torn.path().join(segment_name(number))).unwrap();
        file.write_all_at(&[0xa5; 20], at).unwrap();
        let (seen, damaged) = replay(torn.path());
        assert!(seen.ends_with(b"c") && damaged == 0);
    }
}

#[test]
fn a_segment_that_is_being_read_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let places = fill(&log, b'a');
    let reader = log.segment(1).unwrap();
    let first = inode(&dir.path().join(segment_name(1))).unwrap();
    free(&log, 1);
    assert!(log.segment(1).is_err());
    for _ in 0..6 {
        let number = log.tail().segment;
        assert_ne!(inode(&dir.path().join(segment_name(number))), Some(first));
        fill(&log, b'b');
        free(&log, number);
    }
    let mut out = Vec::new();
    for place in places {
        reader.read(place.offset, &mut out).unwrap();
        assert_eq!(out, [b'a'; 1000]);
    }
}

#[test]
fn a_reader_whose_segment_was_pushed_out_of_the_table_still_keeps_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let place = fill(&log, b'a')[0];
    let reader = log.segment(1).unwrap();
    for _ in 0..70 {
        fill(&log, b'b');
    }
    free(&log, 1);
    for number in 2..12 {
        free(&log, number);
        fill(&log, b'b');
    }
    let mut out = Vec::new();
    reader.read(place.offset, &mut out).unwrap();
    assert_eq!(out, [b'a'; 1000]);
}

#[test]
fn no_more_files_are_kept_than_asked_for_and_the_figures_count_them() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for _ in 0..10 {
        fill(&log, b'a');
    }
    let last = log.tail().segment;
    for number in 1..last {
        free(&log, number);
    }
    assert!(spares(dir.path()) <= 2, "one that is ready and one that is kept");
    let on_disk: u64 = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    let lock = fs::metadata(dir.path().join("lock")).unwrap().len();
    assert_eq!(log.stats().disk_bytes, on_disk - lock);
}
