//! The log through its public face: what is acknowledged is there after reopening, what is not is cut, damage is reported with its place.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use gatepost_log::{Class, FORMAT_VERSION, Loc, Log, LogError, LogReader, Options, OsStorage, Recovery};

const KIND: u8 = 7;

fn options() -> Options {
    Options { segment_bytes: 64 << 10, ..Options::new(*b"TEST") }
}

type Tokens = Receiver<(Vec<u64>, Result<(), LogError>)>;

fn open(dir: &Path) -> (Log, Vec<(Loc, Vec<u8>)>, Recovery, Tokens) {
    let mut prepared = Log::prepare(dir, options()).unwrap();
    let mut seen = Vec::new();
    let recovery = prepared
        .replay(Loc::NONE, &mut |loc, kind, payload| {
            assert_eq!(kind, KIND);
            seen.push((loc, payload.to_vec()));
            Ok(())
        })
        .unwrap();
    let (tx, rx) = channel();
    let log = prepared
        .start(Box::new(move |tokens, result| {
            let _ = tx.send((tokens.to_vec(), result.map_err(Clone::clone)));
        }))
        .unwrap();
    (log, seen, recovery, rx)
}

fn payload(n: usize) -> Vec<u8> {
    (0..n * 37 % 3000).map(|i| (i * n) as u8).collect()
}

fn fill(log: &Log, count: usize) -> Vec<(Loc, Vec<u8>)> {
    let records: Vec<_> = (0..count)
        .map(|n| {
            (
                log.append(KIND, &[&payload(n)[..n * 37 % 3000 / 2], &payload(n)[n * 37 % 3000 / 2..]], Class::Journal, None).unwrap(),
                payload(n),
            )
        })
        .collect();
    log.sync().unwrap();
    records
}

#[test]
fn records_over_many_segments_come_back_in_order_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (log, seen, _, _) = open(dir.path());
    assert!(seen.is_empty());
    let records = fill(&log, 400);
    assert!(log.segments().len() > 5);
    log.close().unwrap();
    let (log, seen, recovery, _) = open(dir.path());
    assert_eq!(seen, records);
    assert_eq!((recovery.records, recovery.torn_bytes, recovery.damaged.len()), (400, 0, 0));
    let mut out = Vec::new();
    for (loc, payload) in &records {
        assert_eq!(log.read(*loc, &mut out).unwrap(), KIND);
        assert_eq!(&out, payload);
    }
}

#[test]
fn a_record_can_be_read_before_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (log, ..) = open(dir.path());
    let mut out = Vec::new();
    for n in 0..200 {
        let loc = log.append(KIND, &[&payload(n)], Class::Journal, None).unwrap();
        log.read(loc, &mut out).unwrap();
        assert_eq!(out, payload(n));
        let mut part = [0u8; 10];
        let got = log.read_range(loc, 5, &mut part).unwrap();
        assert_eq!(&part[..got], payload(n).get(5..(15.min(payload(n).len()))).unwrap_or(&[]));
    }
}

#[test]
fn every_token_comes_back_once_after_its_record_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _, _, tokens) = open(dir.path());
    for n in 0..500u64 {
        log.append(KIND, &[&payload(n as usize)], Class::Message, Some(n)).unwrap();
    }
    log.sync_token(500).unwrap();
    let mut got = BTreeSet::new();
    while got.len() < 501 {
        let (batch, result) = tokens.recv_timeout(Duration::from_secs(5)).unwrap();
        assert_eq!(result, Ok(()));
        for token in batch {
            assert!(got.insert(token));
        }
    }
    assert_eq!(log.pending_bytes(), 0);
}

/// Copies the directory while the log is open: what a crash would leave.
fn crash_copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
        }
    }
    to
}

fn flip(dir: &Path, loc: Loc, at: u64) {
    let path = dir.join(gatepost_log::segment_name(loc.segment));
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, u64::from(loc.offset) + at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], u64::from(loc.offset) + at).unwrap();
}

#[test]
fn a_torn_last_record_is_cut_and_the_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (log, ..) = open(dir.path());
    let mut records = fill(&log, 5);
    let torn = log.append(KIND, &[&[1; 500]], Class::Journal, None).unwrap();
    log.sync().unwrap();
    let copy = crash_copy(dir.path());
    flip(copy.path(), torn, 300);
    let (log, seen, recovery, _) = open(copy.path());
    assert_eq!(seen, records);
    assert_eq!(recovery.torn_bytes, 512);
    assert!(recovery.damaged.is_empty());
    records.push((log.append(KIND, &[b"after"], Class::Journal, None).unwrap(), b"after".to_vec()));
    log.close().unwrap();
    let (_, seen, recovery, _) = open(copy.path());
    assert_eq!((seen, recovery.torn_bytes), (records, 0));
}

#[test]
fn a_damaged_record_inside_is_reported_with_its_place_and_the_others_survive() {
    for at in [0, 4, 9, 200] {
        let dir = tempfile::tempdir().unwrap();
        let (log, ..) = open(dir.path());
        let mut records = fill(&log, 60);
        log.append(KIND, &[b"a later batch"], Class::Journal, None).unwrap();
        log.sync().unwrap();
        let copy = crash_copy(dir.path());
        let (victim, bytes) = records.remove(31);
        assert!(bytes.len() > 200);
        flip(copy.path(), victim, at);
        let (log, mut seen, recovery, _) = open(copy.path());
        seen.pop();
        assert_eq!(seen, records);
        assert_eq!(recovery.damaged.len(), 1);
        let damage = &recovery.damaged[0];
        assert_eq!((damage.file.clone(), damage.offset), (gatepost_log::segment_name(victim.segment), u64::from(victim.offset)));
        let aside = copy.path().join("damaged").join(format!("{}-{}", damage.file, damage.offset));
        assert_eq!(fs::metadata(aside).unwrap().len(), damage.length);
        assert!(matches!(log.read(victim, &mut Vec::new()), Err(LogError::Damaged { .. })));
    }
}

#[test]
fn the_last_record_damaged_after_a_clean_close_is_reported_not_cut() {
    let dir = tempfile::tempdir().unwrap();
    let (log, ..) = open(dir.path());
    let records = fill(&log, 20);
    log.close().unwrap();
    flip(dir.path(), records[19].0, 100);
    let (_, seen, recovery, _) = open(dir.path());
    assert_eq!(seen, records[..19]);
    assert_eq!((recovery.damaged.len(), recovery.torn_bytes), (1, 0));
}

#[test]
fn a_segment_without_a_readable_header_is_moved_aside_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (log, ..) = open(dir.path());
    let records = fill(&log, 200);
    log.close().unwrap();
    let lost = Loc { segment: 2, offset: 0 };
    flip(dir.path(), lost, 3);
    flip(dir.path(), lost, 67);
    let (log, seen, recovery, _) = open(dir.path());
    assert_eq!(seen, records.iter().filter(|(l, _)| l.segment != 2).cloned().collect::<Vec<_>>());
    assert_eq!((recovery.damaged[0].file.as_str(), recovery.damaged[0].offset), ("00000002.seg", 0));
    assert!(dir.path().join("damaged/00000002.seg").exists());
    let gone = records.iter().find(|(l, _)| l.segment == 2).unwrap().0;
    assert!(matches!(log.read(gone, &mut Vec::new()), Err(LogError::NotFound(_))));
}

#[test]
fn a_last_segment_without_a_readable_header_is_moved_aside_and_its_number_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let (log, ..) = open(dir.path());
    let records = fill(&log, 100);
    let last = log.segments().last().unwrap().0;
    log.close().unwrap();
    flip(dir.path(), Loc { segment: last, offset: 0 }, 3);
    flip(dir.path(), Loc { segment: last, offset: 64 }, 3);
    let (log, seen, recovery, _) = open(dir.path());
    assert_eq!(seen, records.into_iter().filter(|(l, _)| l.segment < last).collect::<Vec<_>>());
    assert_eq!(recovery.damaged[0].file, gatepost_log::segment_name(last));
    assert_eq!(log.segments().last().unwrap().0, last + 1);
}

#[test]
fn octets_of_a_message_never_pass_for_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let (log, ..) = open(dir.path());
    let inner = fill(&log, 30);
    let copy = crash_copy(dir.path());
    let segment = fs::read(copy.path().join("00000001.seg")).unwrap();
    let outer = log.append(KIND, &[&[0; 4], &segment[..8192]], Class::Journal, None).unwrap();
    log.sync().unwrap();
    log.append(KIND, &[b"later"], Class::Journal, None).unwrap();
    log.sync().unwrap();
    let copy = crash_copy(dir.path());
    flip(copy.path(), outer, 2);
    let (_, seen, recovery, _) = open(copy.path());
    assert_eq!(seen.len(), inner.len() + 1);
    assert_eq!(recovery.damaged.len(), 1);
}

#[test]
fn a_second_log_on_the_same_directory_is_refused_until_the_first_closes() {
    let dir = tempfile::tempdir().unwrap();
    let (log, ..) = open(dir.path());
    let Err(LogError::Locked { holder, .. }) = Log::prepare(dir.path(), options()).map(|_| ()) else { panic!("not locked") };
    assert_eq!(holder, std::process::id().to_string());
    log.close().unwrap();
    assert!(Log::prepare(dir.path(), options()).is_ok());
}

#[test]
fn a_freed_segment_goes_and_an_open_reader_of_it_reads_on() {
    let dir = tempfile::tempdir().unwrap();
    let (log, ..) = open(dir.path());
    let records = fill(&log, 300);
    let held = log.segment(1).unwrap();
    assert!(log.free(1) && !log.free(1));
    log.wait_for_removals();
    assert!(!dir.path().join("00000001.seg").exists());
    let mut out = Vec::new();
    held.read(records[3].0.offset, &mut out).unwrap();
    assert_eq!(out, records[3].1);
    assert_eq!(log.read(records[3].0, &mut out), Err(LogError::NotFound(Loc { segment: 1, offset: 0 })));
    let active = log.segments().last().unwrap().0;
    assert!(!log.free(active));
    log.close().unwrap();
    let (_, seen, ..) = open(dir.path());
    assert_eq!(seen, records.into_iter().filter(|(l, _)| l.segment != 1).collect::<Vec<_>>());
}

#[test]
fn a_segment_of_a_newer_version_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).0.close().unwrap();
    let path = dir.path().join("00000001.seg");
    let mut bytes = fs::read(&path).unwrap();
    for copy in [0, 64] {
        bytes[copy + 8] = 9;
        let crc = crc32c::crc32c(&bytes[copy..copy + 60]);
        bytes[copy + 60..copy + 64].copy_from_slice(&crc.to_le_bytes());
    }
    fs::write(&path, &bytes).unwrap();
    let mut prepared = Log::prepare(dir.path(), options()).unwrap();
    let error = prepared.replay(Loc::NONE, &mut |_, _, _| Ok(())).unwrap_err();
    assert_eq!(error, LogError::Version { file: path.display().to_string(), found: 9, known: FORMAT_VERSION });
}

#[test]
fn opening_and_closing_again_and_again_leaves_one_empty_segment() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..5 {
        open(dir.path()).0.close().unwrap();
    }
    let (log, seen, ..) = open(dir.path());
    assert!(seen.is_empty());
    assert_eq!(log.segments().len(), 1);
    assert_eq!(log.segments()[0].0, 6);
}

#[test]
fn a_record_too_large_for_a_segment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (log, ..) = open(dir.path());
    let most = log.max_payload();
    log.append(KIND, &[&vec![1; most]], Class::Message, None).unwrap();
    assert_eq!(log.append(KIND, &[&vec![1; most + 1]], Class::Message, None), Err(LogError::TooLarge(most + 1)));
    log.sync().unwrap();
}

#[test]
fn too_little_free_space_refuses_mail_but_not_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    options.min_free_bytes = u64::MAX;
    let log = Log::prepare(dir.path(), options).unwrap().start(Box::new(|_, _| {})).unwrap();
    assert!(log.low_space());
    assert!(log.append(KIND, &[b"mail"], Class::Message, None).unwrap_err().is_disk_full());
    log.append(KIND, &[b"journal"], Class::Journal, None).unwrap();
    log.sync().unwrap();
}

#[test]
fn a_reader_lets_go_of_removed_segments_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (log, ..) = open(dir.path());
    fill(&log, 200);
    let reader = LogReader::new(dir.path(), Arc::new(OsStorage));
    reader.segment(1).unwrap();
    reader.segment(2).unwrap();
    assert!(log.free(1));
    log.wait_for_removals();
    assert!(reader.segment(1).is_ok());
    reader.forget_removed();
    assert!(matches!(reader.segment(1).map(|_| ()), Err(LogError::NotFound(_))));
    assert!(reader.segment(2).is_ok());
}

#[test]
fn what_is_appended_between_cork_and_uncork_is_one_batch_and_one_sync() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _, _, tokens) = open(dir.path());
    log.append(KIND, &[b"x"], Class::Journal, Some(0)).unwrap();
    assert_eq!(tokens.recv_timeout(Duration::from_secs(10)).unwrap().0, [0]);
    // The committer has nothing to do, and has gone to sleep.
    std::thread::sleep(Duration::from_millis(50));
    let syncs = log.stats().syncs;
    log.cork();
    for token in 1..=5 {
        log.append(KIND, &[b"x"], Class::Journal, Some(token)).unwrap();
    }
    // Nobody wakes the committer meanwhile.
    assert!(tokens.recv_timeout(Duration::from_millis(50)).is_err());
    assert_eq!(log.stats().syncs, syncs);
    log.uncork();
    assert_eq!(tokens.recv_timeout(Duration::from_secs(10)).unwrap(), (vec![1, 2, 3, 4, 5], Ok(())));
    assert_eq!(log.stats().syncs, syncs + 1);
    log.append(KIND, &[b"y"], Class::Journal, Some(6)).unwrap();
    assert_eq!(tokens.recv_timeout(Duration::from_secs(10)).unwrap().0, [6]);
}

#[test]
fn a_spare_that_could_not_be_removed_is_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    // A directory: it cannot be removed as a file, so its name stays taken.
    fs::create_dir(dir.path().join("spare-0")).unwrap();
    let (log, _, _, _) = open(dir.path());
    let records = fill(&log, 400);
    log.close().unwrap();
    assert_eq!(open(dir.path()).1, records);
}
