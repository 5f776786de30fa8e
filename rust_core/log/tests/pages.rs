//! Pages that the disk cannot read: the rest of the log is there, the place is reported, nothing is cut or given back; and a disk that does not answer
//! is not taken for one that has lost everything.

use std::path::Path;

use gatepost_log::{Class, Loc, Log, LogError, Options, Recovery, segment_name};
use gatepost_sim::{Call, Disk, Fault};

const DIR: &str = "/data/log";
const PAGE: u64 = 4096;

type Records = Vec<(Loc, Vec<u8>)>;

fn options(disk: &Disk) -> Options {
    Options { segment_bytes: 64 << 10, storage: disk.storage(), threads: false, ..Options::new(*b"TEST") }
}

fn payload(n: u8) -> Vec<u8> {
    vec![n; 3000]
}

/// Opens, replays, starts: what was found, the records, the log.
fn open(disk: &Disk) -> Result<(Recovery, Records, Log), LogError> {
    let mut seen = Vec::new();
    let mut prepared = Log::prepare(Path::new(DIR), options(disk))?;
    let recovery = prepared.replay(Loc::NONE, &mut |loc, _, payload| {
        seen.push((loc, payload.to_vec()));
        Ok(())
    })?;
    Ok((recovery, seen, prepared.start(Box::new(|_, _| {}))?))
}

/// Sixty records in some segments, on the disk; the process is gone.
fn filled(seed: u64) -> (Disk, Vec<Loc>) {
    let disk = Disk::new(seed);
    let (_, _, log) = open(&disk).unwrap();
    let places = (0..60).map(|n| log.append(1, &[&payload(n)], Class::Message, None).unwrap()).collect();
    log.sync().unwrap();
    drop(log);
    disk.power_cut();
    (disk, places)
}

fn file(number: u32) -> std::path::PathBuf {
    Path::new(DIR).join(segment_name(number))
}

/// Records that do not reach into this page.
fn sound(places: &[Loc], segment: u32, page: u64) -> Records {
    let hit = |loc: &Loc| {
        let (start, end) = (u64::from(loc.offset), u64::from(loc.offset) + 3012);
        loc.segment == segment && start < page + PAGE && end > page
    };
    places.iter().enumerate().filter(|(_, loc)| !hit(loc)).map(|(n, loc)| (*loc, payload(n as u8))).collect()
}

#[test]
fn a_lost_page_is_reported_with_its_place_and_all_other_records_are_there() {
    let (disk, places) = filled(1);
    disk.spoil(&file(1), 5 * PAGE + 17);
    for _ in 0..2 {
        let (recovery, seen, log) = open(&disk).unwrap();
        assert_eq!(seen, sound(&places, 1, 5 * PAGE));
        let [damage] = &recovery.damaged[..] else { panic!("{:?}", recovery.damaged) };
        assert_eq!(damage.file, segment_name(1));
        assert!(damage.offset <= 5 * PAGE && damage.offset + damage.length >= 6 * PAGE, "{damage}");
        assert!(damage.reason.contains("cannot be read"), "{damage}");
        for (loc, expected) in &seen {
            let mut out = Vec::new();
            assert_eq!(log.read(*loc, &mut out).map(|_| out), Ok(expected.clone()), "{loc}, also where reading ahead comes to the page");
        }
        let next = log.append(1, &[b"new"], Class::Message, None).unwrap();
        log.sync().unwrap();
        let mut out = Vec::new();
        assert_eq!(log.read(next, &mut out).map(|kind| (kind, out)), Ok((1, b"new".to_vec())));
        log.close().unwrap();
        drop(log);
        disk.kill();
        // What was appended here is no matter of the next round.
        disk.delete(&file(next.segment));
    }
    disk.unspoil();
    let (recovery, seen, _) = open(&disk).unwrap();
    assert!(recovery.damaged.is_empty() && seen.len() == places.len(), "readable again, it is as it was");
}

#[test]
fn a_lost_page_of_the_newest_segment_is_not_cut_as_a_torn_write() {
    let (disk, places) = filled(2);
    let last = places[59];
    let page = u64::from(last.offset) / PAGE * PAGE;
    disk.spoil(&file(last.segment), page);
    let (recovery, seen, log) = open(&disk).unwrap();
    assert_eq!(seen, sound(&places, last.segment, page));
    assert_eq!(recovery.damaged.len(), 1, "{:?}", recovery.damaged);
    log.close().unwrap();
    drop(log);
    disk.power_cut();
    disk.unspoil();
    let (_, seen, _) = open(&disk).unwrap();
    let there: Vec<Loc> = seen.into_iter().map(|(loc, _)| loc).collect();
    let kept = places.iter().filter(|loc| u64::from(loc.offset) < page || loc.segment != last.segment);
    assert!(kept.clone().all(|loc| there.contains(loc)), "what begins before the page is whole again: {there:?}");
}

#[test]
fn a_segment_whose_header_cannot_be_read_is_moved_aside_and_the_others_open() {
    let (disk, places) = filled(3);
    disk.spoil(&file(2), 0);
    let (recovery, seen, _log) = open(&disk).unwrap();
    let expected: Vec<Loc> = places.iter().copied().filter(|loc| loc.segment != 2).collect();
    assert_eq!(seen.into_iter().map(|(loc, _)| loc).collect::<Vec<_>>(), expected);
    assert!(recovery.damaged.iter().any(|d| d.file == segment_name(2) && d.offset == 0), "{:?}", recovery.damaged);
    assert_eq!(disk.files(&Path::new(DIR).join("damaged")), [segment_name(2)]);
}

#[test]
fn a_freed_segment_with_a_lost_page_is_kept_aside() {
    let (disk, places) = filled(4);
    disk.spoil(&file(1), 3 * PAGE);
    let (_, _, log) = open(&disk).unwrap();
    assert!(log.free(1) && log.free(2));
    while log.step(true) {}
    let kept = disk.files(&Path::new(DIR).join("damaged"));
    assert!(kept.contains(&format!("{}-freed", segment_name(1))), "{kept:?}");
    assert!(!kept.contains(&format!("{}-freed", segment_name(2))), "{kept:?}");
    let files = disk.files(Path::new(DIR));
    assert!(!files.contains(&segment_name(1)) && !files.contains(&segment_name(2)), "{files:?}");
    drop(log);
    disk.power_cut();
    let (recovery, seen, _) = open(&disk).unwrap();
    assert_eq!(recovery.damaged, Vec::new());
    assert_eq!(seen.len(), places.iter().filter(|loc| loc.segment > 2).count());
}

#[test]
fn a_disk_that_does_not_answer_fails_the_opening_and_changes_nothing() {
    let (disk, places) = filled(5);
    for name in ["00000001", "seg"] {
        disk.fail(Fault { name: name.into(), after: 1, ..Fault::new(Call::Read, libc::EIO) });
        assert!(open(&disk).is_err(), "reads of {name} fail");
        disk.kill();
    }
    let (recovery, seen, _) = open(&disk).unwrap();
    assert_eq!((recovery.damaged, seen.len()), (Vec::new(), places.len()));
}

#[test]
fn a_read_that_fails_for_a_moment_loses_nothing() {
    for (after, times) in [(0, 1), (1, 1), (2, 1), (2, 2), (3, 1), (5, 2)] {
        let (disk, places) = filled(6);
        disk.fail(Fault { name: "seg".into(), after, times, ..Fault::new(Call::Read, libc::EIO) });
        let opened = open(&disk).or_else(|_| {
            disk.kill();
            open(&disk)
        });
        let (recovery, seen, _) = opened.unwrap();
        assert_eq!((recovery.damaged, seen.len()), (Vec::new(), places.len()), "{after} {times}");
    }
}

/// Segments of a megabyte and more, so that one read meets many pages.
fn large(disk: &Disk) -> Options {
    Options { segment_bytes: 4 << 20, ..options(disk) }
}

#[test]
fn however_many_pages_are_lost_all_other_records_are_there_and_what_is_told_is_bounded() {
    let disk = Disk::new(7);
    let log = Log::prepare(Path::new(DIR), large(&disk)).unwrap().start(Box::new(|_, _| {})).unwrap();
    let places: Vec<Loc> = (0..1200u16).map(|n| log.append(1, &[&payload((n % 255) as u8 + 1)], Class::Message, None).unwrap()).collect();
    log.close().unwrap();
    drop(log);
    disk.power_cut();
    // Every third page for a while, then a stretch of a megabyte.
    let lost: Vec<u64> = (3..400).step_by(3).chain(420..676).map(|n| n * PAGE).collect();
    for page in &lost {
        disk.spoil(&file(1), *page);
    }
    let mut seen = Vec::new();
    let mut prepared = Log::prepare(Path::new(DIR), large(&disk)).unwrap();
    let recovery = prepared.replay(Loc::NONE, &mut |loc, _, _| {
        seen.push(loc);
        Ok(())
    });
    let damaged = recovery.unwrap().damaged;
    let hit = |loc: &&Loc| {
        let (start, end) = (u64::from(loc.offset), u64::from(loc.offset) + 3012);
        loc.segment == 1 && lost.iter().any(|page| start < page + PAGE && end > *page)
    };
    let sound: Vec<Loc> = places.iter().filter(|loc| !hit(loc)).copied().collect();
    let missing: Vec<&Loc> = sound.iter().filter(|loc| !seen.contains(loc)).collect();
    let extra: Vec<&Loc> = seen.iter().filter(|loc| !sound.contains(loc)).collect();
    assert!(missing.is_empty() && seen.len() == sound.len(), "{missing:?} {extra:?} {} {}", seen.len(), sound.len());
    assert_eq!(damaged.len(), 64);
    let reaches = damaged.last().map(|last| last.offset + last.length).unwrap();
    assert!(reaches >= 676 * PAGE && damaged[63].reason.contains("places from here on"), "{}", damaged[63]);
    assert!(lost.iter().all(|page| damaged.iter().any(|d| d.offset < page + PAGE && d.offset + d.length > *page)));
}
