//! Changes that found no room on the disk, or no free descriptor for its next file: guards against finished messages that come back, and changes that
//! are forgotten or carried out twice, after that and a restart. Remain records: guards against finished messages that come back when one of their copies is damaged.

use std::path::Path;

use gatepost_log::{Loc, Log, RECORD_HEADER, segment_name};
use gatepost_queue::{Change, MessageId, Options, RecipientSpec, Spool, State, Work, kind, new_message_id};
use gatepost_sim::{Call, Disk, Fault};

const DIR: &str = "/data/spool/p0";

fn open(disk: &Disk) -> Spool {
    let options = Options { segment_bytes: 64 << 10, storage: disk.storage(), threads: false, ..Options::new(*b"SPOL") };
    Spool::open(Path::new(DIR), options).unwrap()
}

fn recipient(held: bool) -> RecipientSpec {
    let (original, route) = (String::new(), Vec::new());
    RecipientSpec { address: "a@b".into(), original, destination: "d".into(), notify: 0, route, next_us: 0, held }
}

fn settle(spool: &Spool) {
    while [Work::Commit, Work::LogChore, Work::Tidy].map(|work| spool.step(work)) != [false; 3] {}
}

fn commit(spool: &Spool, octets: usize, held: bool) -> MessageId {
    let id = receive(spool, octets, held);
    settle(spool);
    id
}

fn receive(spool: &Spool, octets: usize, held: bool) -> MessageId {
    let id = new_message_id();
    let mut incoming = spool.receive(id, b"", 0, false);
    incoming.feed_raw(&vec![b'a'; octets]);
    incoming.feed_raw(b"\r\n");
    incoming.finish();
    spool.commit(1, &mut incoming, String::new(), vec![recipient(held), recipient(held)], Vec::new()).unwrap();
    id
}

fn change(spool: &Spool, id: MessageId, recipient: Option<u16>, kind: u8) {
    let asked = Change { id, recipient, kind, next_us: u64::MAX / 2, detail: b"{}".to_vec() };
    assert_eq!(spool.change(2, &[asked]), 1);
}

fn refused(spool: &Spool) -> bool {
    spool.completions().0.into_iter().any(|(ticket, error)| ticket == 2 && error.is_some_and(|e| e.may_pass()))
}

/// Why changes cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    /// There is no room for a new segment.
    Room,
    /// There is none when a batch is written.
    RoomLater,
    /// There is no free descriptor for a new segment.
    Descriptors,
}

use Want::{Descriptors, Room, RoomLater};

/// The power goes, and the checkpoint with it if asked for.
fn again(disk: &Disk, checkpoint: bool) -> Spool {
    disk.power_cut();
    if !checkpoint {
        disk.delete(&Path::new(DIR).join("checkpoint"));
    }
    open(disk)
}

/// The next changes cannot be written.
fn fill(disk: &Disk, spool: &Spool, want: Want) {
    match want {
        Room => disk.set_capacity(Some(0)),
        // Segments are opened under the names of spare files.
        RoomLater => return disk.fail(Fault { name: "spare".into(), ..Fault::new(Call::Write, libc::ENOSPC) }),
        Descriptors => disk.fail(Fault::new(Call::Create, libc::EMFILE)),
    }
    // Until nothing of the newest segment is left.
    for _ in 0..spool.segment_bytes() / 5_000 {
        if spool.owed() > 0 {
            return;
        }
        let detail = vec![b'x'; 20_000];
        let id = spool.ids(None, 1)[0];
        spool.change(0, &[Change { id, recipient: None, kind: kind::NOTE, next_us: 0, detail }]);
        disk.pass(std::time::Duration::from_secs(1));
        settle_commits(spool);
    }
    panic!("nothing is owed");
}

fn settle_commits(spool: &Spool) {
    while spool.step(Work::Commit) {}
}

fn room(disk: &Disk) {
    disk.mend();
    disk.set_capacity(None);
    disk.pass(std::time::Duration::from_secs(1));
}

#[test]
fn what_was_finished_while_the_disk_was_full_does_not_come_back_once_there_was_room() {
    for (want, checkpoint) in [Room, RoomLater, Descriptors].into_iter().flat_map(|want| [(want, true), (want, false)]) {
        let disk = Disk::new(3);
        let spool = open(&disk);
        let (kept, gone) = (commit(&spool, 10, true), commit(&spool, 10, false));
        fill(&disk, &spool, want);
        change(&spool, gone, Some(0), kind::DELIVERED);
        settle_commits(&spool);
        change(&spool, gone, Some(1), kind::DELIVERED);
        settle_commits(&spool);
        assert!(refused(&spool) && spool.owed() >= 2, "{want:?}: {}", spool.owed());
        assert_eq!(spool.ids(None, 9), [kept]);
        room(&disk);
        settle(&spool);
        assert_eq!(spool.owed(), 0);
        drop(spool);
        assert_eq!(again(&disk, checkpoint).ids(None, 9), [kept], "{want:?} {checkpoint}");
    }
}

#[test]
fn a_change_that_a_checkpoint_knew_before_the_log_is_carried_out_once() {
    for want in [Room, RoomLater, Descriptors] {
        let disk = Disk::new(4);
        let mut spool = open(&disk);
        let id = commit(&spool, 10, false);
        fill(&disk, &spool, want);
        change(&spool, id, Some(0), kind::DEFERRED);
        settle_commits(&spool);
        change(&spool, id, Some(0), kind::DEFERRED);
        settle_commits(&spool);
        disk.mend();
        // Segments are opened under the names of spare files.
        disk.fail(Fault { name: "spare".into(), ..Fault::new(Call::Write, libc::ENOSPC) });
        disk.set_capacity(Some(disk.used() + 60_000));
        spool.checkpoint().unwrap();
        let attempts = |spool: &Spool| spool.get(&id).unwrap().recipients[0].attempts;
        for checkpoint in [true, true, false] {
            room(&disk);
            drop(spool);
            spool = again(&disk, checkpoint);
            assert_eq!(attempts(&spool), 2, "{want:?} {checkpoint}");
            settle(&spool);
            assert_eq!((attempts(&spool), spool.owed()), (2, 0), "{want:?} {checkpoint}");
        }
        change(&spool, id, Some(0), kind::DELIVERED);
        assert_eq!(spool.get(&id).unwrap().recipients[0].state, State::Delivered);
        let order: Vec<u8> = spool.history(&id).unwrap().iter().map(|entry| entry.kind).filter(|kind| *kind != kind::NOTE).collect();
        assert_eq!(order, [kind::ACCEPTED, kind::DEFERRED, kind::DEFERRED, kind::DELIVERED]);
    }
}

#[test]
fn a_message_whose_newest_record_was_lost_with_its_segment_is_there_after_a_restart() {
    let disk = Disk::new(5);
    let spool = open(&disk);
    let id = commit(&spool, 50_000, false);
    // The record opens a new segment, which cannot be had.
    disk.fail(Fault { name: ".seg".into(), times: 1, ..Fault::new(Call::Rename, libc::ENOSPC) });
    let detail = vec![b'x'; 20_000];
    spool.change(2, &[Change { id, recipient: None, kind: kind::NOTE, next_us: 0, detail }]);
    settle_commits(&spool);
    assert_eq!((refused(&spool), disk.hits()), (true, 1));
    let other = receive(&spool, 10, false);
    settle_commits(&spool);
    spool.checkpoint().unwrap();
    drop(spool);
    let spool = again(&disk, true);
    assert!(spool.opening().checkpoint);
    assert_eq!(spool.ids(None, 9), [id, other]);
}

/// Places and lengths of the records of this kind.
fn records(disk: &Disk, wanted: u8) -> Vec<(Loc, usize)> {
    let options = Options { storage: disk.fork().storage(), threads: false, ..Options::new(*b"SPOL") };
    let mut found = Vec::new();
    let mut take = |loc, kind, payload: &[u8]| {
        found.extend((kind == wanted).then_some((loc, payload.len())));
        Ok(())
    };
    Log::prepare(Path::new(DIR), options).unwrap().replay(Loc::NONE, &mut take).unwrap();
    found
}

#[test]
fn damage_to_one_copy_of_what_is_left_brings_nothing_back() {
    let remain = 4;
    let disk = Disk::new(6);
    let spool = open(&disk);
    // So large that its segment is worth keeping.
    let held = commit(&spool, 50_000, true);
    let beside = commit(&spool, 3_000, false);
    // Some of every segment is finished in the next, so that all are kept for the held one's sake until it is written down what is left.
    let mut last = vec![beside];
    for _ in 0..6 {
        let new: Vec<MessageId> = (0..16).map(|_| receive(&spool, 3_000, false)).collect();
        settle_commits(&spool);
        for id in std::mem::replace(&mut last, new) {
            change(&spool, id, None, kind::DELIVERED);
        }
    }
    for id in last {
        change(&spool, id, None, kind::DELIVERED);
    }
    settle(&spool);
    assert!(spool.stats().log.segments <= 3, "{:?}", spool.stats());
    commit(&spool, 40_000, true);
    commit(&spool, 40_000, true);
    drop(spool);
    disk.power_cut();
    let copies = records(&disk, remain);
    let flip = |disk: &Disk, (loc, length): &(Loc, usize)| {
        disk.flip(&Path::new(DIR).join(segment_name(loc.segment)), u64::from(loc.offset + RECORD_HEADER) + *length as u64 / 2, 4);
    };
    assert_eq!(copies.len(), 2);
    assert!(u64::from(copies[1].0.offset - copies[0].0.offset) > 4096);
    for copy in &copies {
        let damaged = disk.fork();
        flip(&damaged, copy);
        let spool = again(&damaged, false);
        assert_eq!((spool.opening().damaged.len(), spool.ids(None, 9).len()), (1, 3), "{copy:?}");
        assert_eq!(spool.ids(None, 1), [held]);
    }
    // That they are needed here.
    for copy in &copies {
        flip(&disk, copy);
    }
    assert!(again(&disk, false).ids(None, 9).len() > 3);
}
