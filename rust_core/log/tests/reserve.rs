//! The last free space belongs to the journal: on a disk where nothing can be allocated the log still opens and takes transitions, and mail comes back
//! when space does. And: without free descriptors the log goes on.

use std::path::Path;
use std::time::Duration;

use gatepost_log::{Class, Log, LogError, Options};
use gatepost_sim::{Call, Disk, Fault};

const DIR: &str = "/data/log";

fn open(disk: &Disk, min_free_bytes: u64, resume_free_bytes: u64) -> Log {
    let storage = disk.storage();
    let options = Options { segment_bytes: 64 << 10, min_free_bytes, resume_free_bytes, storage, threads: false, ..Options::new(*b"TEST") };
    Log::prepare(Path::new(DIR), options).unwrap().start(Box::new(|_, _| {})).unwrap()
}

fn append(log: &Log, octets: usize, class: Class) -> Result<(), LogError> {
    log.append(1, &[&vec![b'x'; octets]], class, None).and_then(|_| log.sync())
}

/// The keeper has its time; what was tried a while ago is tried again.
fn later(disk: &Disk, log: &Log) {
    while log.step(true) {}
    disk.pass(Duration::from_secs(1));
}

fn there(disk: &Disk, name: &str) -> bool {
    disk.files(Path::new(DIR)).iter().any(|file| file == name)
}

#[test]
fn a_log_opens_on_a_full_disk_and_its_journal_has_room() {
    let disk = Disk::new(1);
    open(&disk, 0, 0).close().unwrap();
    assert!(there(&disk, "reserve"));
    disk.set_capacity(Some(disk.used()));
    let log = open(&disk, 0, 0);
    assert!(log.append(1, &[b"mail"], Class::Message, None).unwrap_err().is_disk_full());
    for _ in 0..150 {
        append(&log, 150, Class::Journal).unwrap();
    }
    disk.set_capacity(None);
    later(&disk, &log);
    append(&log, 20_000, Class::Message).unwrap();
    assert!(there(&disk, "reserve"));
    log.close().unwrap();
}

#[test]
fn reception_ends_below_the_minimum_and_begins_well_above_it() {
    let disk = Disk::new(2);
    let log = open(&disk, 100, 300);
    for (free, low) in [(1_000, false), (100, false), (99, true), (100, true), (299, true), (300, false), (101, false)] {
        disk.set_capacity(Some(disk.used() + free));
        later(&disk, &log);
        assert_eq!((log.free_bytes(), log.low_space()), (free, low));
        let taken = append(&log, 4, Class::Message);
        assert_eq!(matches!(taken, Err(LogError::DiskFull(_))), low, "with {free} octets free");
        append(&log, 7, Class::Journal).unwrap();
        append(&log, 5, Class::Move).unwrap();
    }
}

#[test]
fn without_descriptors_a_segment_that_is_full_is_followed_by_the_one_made_before() {
    let disk = Disk::new(3);
    let log = open(&disk, 0, 0);
    while log.tail().offset < 50_000 {
        append(&log, 1_000, Class::Message).unwrap();
    }
    later(&disk, &log);
    assert!(there(&disk, "spare-1"));
    for call in [Call::Create, Call::Open, Call::List] {
        disk.fail(Fault::new(call, libc::EMFILE));
    }
    while log.tail().segment == 1 {
        append(&log, 1_000, Class::Message).unwrap();
    }
    append(&log, 1_000, Class::Journal).unwrap();
    // Two segments' worth, so that the loop ends.
    let refused = (0..130).find_map(|_| append(&log, 1_000, Class::Message).err()).unwrap();
    assert!(matches!(refused, LogError::Io(_)), "{refused}");
    append(&log, 1_000, Class::Journal).unwrap();
    assert_eq!(log.fatal(), None);
    disk.mend();
    later(&disk, &log);
    append(&log, 1_000, Class::Message).unwrap();
    log.close().unwrap();
}
