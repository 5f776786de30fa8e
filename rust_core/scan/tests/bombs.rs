//! Inputs made to cost much. Each must end by its budget, with the verdict that says so; memory is measured where it could grow.

mod make;

use std::time::{Duration, Instant};

use gatepost_scan::{Limits, Stop, Verdict, inspect};
use make::{entry, gzip_of, overlapping, zeros, zip};

/// Bound of a test that would else run for minutes; the speed itself belongs to benches.
const PATIENCE: Duration = Duration::from_secs(20);

fn ends(data: &[u8], name: &str) -> Stop {
    let started = Instant::now();
    let report = inspect(data, name, "", Limits { time: PATIENCE, ..Limits::default() });
    assert!(started.elapsed() < PATIENCE);
    assert_eq!(report.verdict, Verdict::Bomb, "{:?} after {} octets", report.stop, report.produced);
    report.stop.unwrap()
}

#[test]
fn ten_gigabytes_of_zeros_end_by_what_comes_out_of_them() {
    assert_eq!(ends(&gzip_of(&zeros(10), "zeros"), "zeros.gz"), Stop::Bytes);
    assert_eq!(ends(&gzip_of(&zeros(1)[..200_000], "zeros"), "zeros.gz"), Stop::Ratio);
}

#[test]
fn an_archive_of_archives_spends_one_budget() {
    // As 42.zip: sixteen in each, five deep, the last with much of nothing.
    let mut inner = zip(&[entry("0.dll", &vec![0; 1 << 20])]);
    for level in 0..5 {
        let entries: Vec<_> = (0..16).map(|number| entry(&format!("{level}-{number}.zip"), &inner)).collect();
        inner = zip(&entries);
    }
    assert!(matches!(ends(&inner, "42.zip"), Stop::Ratio | Stop::Entries | Stop::Bytes));
}

#[test]
fn entries_that_share_their_octets_are_counted_each_time() {
    assert_eq!(ends(&overlapping(5_000, &vec![0; 4 << 20]), "overlap.zip"), Stop::Ratio);
}

#[test]
fn nesting_ends_at_its_depth() {
    let mut inner = b"core".to_vec();
    for _ in 0..40 {
        let mut one = entry("next.zip", &inner);
        one.stored = true;
        inner = zip(&[one]);
    }
    assert_eq!(ends(&inner, "deep.zip"), Stop::Depth);
}

#[test]
fn a_directory_of_very_many_entries_ends_by_their_number() {
    let many: Vec<_> = (0..30_000).map(|number| entry(&format!("{number}"), b"")).collect();
    assert_eq!(ends(&zip(&many), "many.zip"), Stop::Entries);
}

#[test]
fn time_is_a_limit_of_its_own() {
    let limits = Limits { time: Duration::ZERO, ..Limits::default() };
    let report = inspect(&zip(&[entry("a", b"a")]), "a.zip", "", limits);
    assert_eq!((report.verdict, report.stop), (Verdict::Timeout, Some(Stop::Time)));
}

#[test]
fn an_ordinary_archive_of_much_text_is_no_bomb() {
    let text = (0..400_000).fold(String::new(), |text, number| text + &format!("line {number} of a log file\n"));
    let report = inspect(&zip(&[entry("log.txt", text.as_bytes())]), "log.zip", "", Limits { time: PATIENCE, ..Limits::default() });
    assert_eq!(report.verdict, Verdict::Complete);
    assert_eq!(report.entries[1].size, text.len() as u64);
}
