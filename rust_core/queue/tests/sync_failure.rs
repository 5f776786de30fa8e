//! A full disk takes no message of which a part is lost. A sync that fails: the commit fails with it, its message never existed for anyone, and the partition takes nothing more.

use std::path::Path;
use std::time::{Duration, Instant};

use gatepost_log::LogError;
use gatepost_queue::{Change, MessageId, Options, QueueError, RecipientSpec, Spool, kind, new_message_id};
use gatepost_sim::{Call, Disk, Fault};

fn open(disk: &Disk, segment_bytes: u32) -> Spool {
    let options = Options { segment_bytes, storage: disk.storage(), ..Options::new(*b"SPOL") };
    Spool::open(Path::new("/data/spool/p0"), options).unwrap()
}

fn commit(spool: &Spool, ticket: u64) -> Result<MessageId, QueueError> {
    let id = new_message_id();
    let mut incoming = spool.receive(id, b"", 0, false);
    incoming.feed(b"x\r\n.\r\n");
    spool.commit(ticket, &mut incoming, String::new(), vec![recipient()], Vec::new()).map(|()| id)
}

fn recipient() -> RecipientSpec {
    RecipientSpec {
        address: "a@b".into(),
        original: String::new(),
        destination: "d".into(),
        notify: 0,
        route: Vec::new(),
        next_us: 0,
        held: false,
    }
}

fn wait(spool: &Spool, ticket: u64) -> Option<LogError> {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        for (number, error) in spool.completions().0 {
            if number == ticket {
                return error;
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("ticket {ticket} never came back");
}

#[test]
fn a_commit_whose_sync_fails_never_happened_and_the_partition_is_closed_for_good() {
    let disk = Disk::new(1);
    let spool = open(&disk, 1 << 20);
    commit(&spool, 1).unwrap();
    assert_eq!(wait(&spool, 1), None);
    disk.fail(Fault::new(Call::Sync, libc::EIO));
    commit(&spool, 2).unwrap();
    assert!(matches!(wait(&spool, 2), Some(LogError::Fatal(_))));
    disk.mend();
    assert!(matches!(spool.fatal(), Some(LogError::Fatal(_))));
    assert!(matches!(commit(&spool, 3), Err(QueueError::Log(LogError::Fatal(_)))));
    assert_eq!(spool.ids(None, 9).len(), 1);
    assert_eq!(spool.take("d", 9, 0).len(), 1);
    assert!(matches!(spool.close(), Err(QueueError::Log(LogError::Fatal(_)))));
}

#[test]
fn a_message_of_which_a_chunk_was_lost_to_a_full_disk_is_not_taken() {
    let disk = Disk::new(1);
    let spool = open(&disk, 1 << 20);
    let mut incoming = spool.receive(new_message_id(), b"", 0, false);
    disk.fail(Fault::new(Call::Write, libc::ENOSPC));
    incoming.feed_raw(&vec![b'a'; 300 << 10]);
    assert!(matches!(spool.checkpoint(), Err(QueueError::Log(LogError::DiskFull(_)))));
    disk.mend();
    commit(&spool, 1).unwrap();
    assert_eq!(wait(&spool, 1), None);
    incoming.finish();
    let refused = spool.commit(2, &mut incoming, String::new(), vec![recipient()], Vec::new());
    assert!(matches!(refused, Err(QueueError::Log(LogError::DiskFull(_)))), "{refused:?}");
    assert_eq!(spool.ids(None, 9).len(), 1);
}

#[test]
fn a_ticket_of_many_changes_tells_when_an_early_batch_of_them_was_lost_to_a_full_disk() {
    let disk = Disk::new(1);
    let spool = open(&disk, 64 << 10);
    let id = commit(&spool, 1).unwrap();
    assert_eq!(wait(&spool, 1), None);
    // Each remark fills most of a segment, so that the committer writes the first of them long before the last is appended.
    disk.fail(Fault { needle: b"first".to_vec(), ..Fault::new(Call::Write, libc::ENOSPC) });
    let note = |n: usize| {
        let mut detail = if n == 0 { b"first".to_vec() } else { Vec::new() };
        detail.resize(40_000, b'x');
        Change { id, recipient: None, kind: kind::NOTE, next_us: 0, detail }
    };
    assert_eq!(spool.change(2, &(0..200).map(note).collect::<Vec<_>>()), 200);
    assert!(disk.hits() > 0);
    assert!(matches!(wait(&spool, 2), Some(LogError::DiskFull(_))));
}
