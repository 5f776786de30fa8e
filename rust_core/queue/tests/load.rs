//! A partition that takes mail before it has read what was there, and checkpoints written while everything changes.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gatepost_queue::{Change, Filter, LogError, MessageId, Options, QueueError, RecipientSpec, Spool, kind, new_message_id, now_us};
use gatepost_sim::{Hooks, RealFiles};
use parking_lot::{Condvar, Mutex};

/// Real files; opening the checkpoint waits at the second time, which is when the recovery reads it.
struct Gated {
    opened: AtomicUsize,
    closed: Mutex<bool>,
    changed: Condvar,
    fails: bool,
}

impl Gated {
    fn new(fails: bool) -> Arc<Self> {
        Arc::new(Self { opened: AtomicUsize::new(0), closed: Mutex::new(true), changed: Condvar::new(), fails })
    }

    fn release(&self) {
        *self.closed.lock() = false;
        self.changed.notify_all();
    }
}

impl Hooks for Gated {
    fn opening(&self, path: &Path) -> io::Result<()> {
        if path.ends_with("checkpoint") && self.opened.fetch_add(1, Ordering::SeqCst) == 1 {
            let mut closed = self.closed.lock();
            while *closed {
                self.changed.wait(&mut closed);
            }
            if self.fails {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
        }
        Ok(())
    }
}

fn options(storage: Option<Arc<Gated>>) -> Options {
    let plain = Options { segment_bytes: 64 << 10, ..Options::new(*b"SPOL") };
    match storage {
        Some(gate) => Options { storage: Arc::new(RealFiles(gate)), ..plain },
        None => plain,
    }
}

/// Appends a commit that nobody waits for; `due` in Unix microseconds.
fn commit(spool: &Spool, n: usize, due: u64) -> MessageId {
    let id = new_message_id();
    let mut incoming = spool.receive(id, b"P: 1\r\n", 0, false);
    incoming.feed_raw(&[b'x'; 300]);
    incoming.finish();
    let to = |address: String, destination: String| RecipientSpec {
        address,
        original: String::new(),
        destination,
        notify: 0,
        route: Vec::new(),
        next_us: due,
        held: false,
    };
    let mut recipients = vec![to(format!("a{n}@x"), format!("smtp:{}", n % 50))];
    if n.is_multiple_of(10) {
        recipients.push(to(format!("b{n}@y"), "local:main".into()));
    }
    spool.commit(0, &mut incoming, format!("from{}@x", n % 7), recipients, Vec::new()).unwrap();
    id
}

fn wait(spool: &Spool, ticket: u64) -> Result<(), LogError> {
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        let (tickets, _) = spool.completions();
        if let Some((_, error)) = tickets.into_iter().find(|(number, _)| *number == ticket) {
            return error.map_or(Ok(()), Err);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("ticket {ticket} never came back");
}

fn settle(spool: &Spool) {
    spool.sync(7);
    wait(spool, 7).unwrap();
}

fn change(id: MessageId, kind: u8, next_us: u64) -> Change {
    Change { id, recipient: None, kind, next_us, detail: b"{}".to_vec() }
}

/// What a partition says of its messages, without reading their octets.
fn state(spool: &Spool) -> Vec<String> {
    spool.ids(None, usize::MAX).iter().map(|id| format!("{:?}", spool.get(id).unwrap())).collect()
}

/// The directory as a crash would leave it, opened again, with its checkpoint or without.
fn after_a_crash(dir: &Path, checkpoint: bool) -> Vec<String> {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if entry.file_type().unwrap().is_file() && (checkpoint || name != "checkpoint") {
            fs::copy(entry.path(), copy.path().join(name)).unwrap();
        }
    }
    let spool = Spool::open(copy.path(), options(None)).unwrap();
    assert_eq!(spool.opening().checkpoint, checkpoint);
    state(&spool)
}

const FAR: u64 = 4_000_000_000_000_000;

/// A closed partition with `count` messages of which a tenth is held and another was tried.
fn filled(dir: &Path, count: usize) -> Vec<MessageId> {
    let spool = Spool::open(dir, options(None)).unwrap();
    let ids: Vec<MessageId> = (0..count).map(|n| commit(&spool, n, if n.is_multiple_of(3) { 0 } else { FAR })).collect();
    settle(&spool);
    let tenth: Vec<MessageId> = ids.iter().step_by(10).copied().collect();
    assert_eq!(spool.change_all(0, &tenth, kind::HELD, 0, b"{}"), tenth.len());
    spool.checkpoint().unwrap();
    let other: Vec<Change> = ids.iter().skip(5).step_by(10).map(|id| change(*id, kind::DEFERRED, FAR)).collect();
    assert_eq!(spool.change(0, &other), other.len());
    spool.change(0, &[change(ids[1], kind::DELIVERED, 0)]);
    spool.close().unwrap();
    ids
}

#[test]
fn mail_is_taken_while_the_queue_is_read_and_nothing_half_read_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let ids = filled(dir.path(), 3000);
    let storage = Gated::new(false);
    let spool = Spool::begin(dir.path(), options(Some(Arc::clone(&storage))), false).unwrap();
    let new = commit(&spool, 1, 0);
    settle(&spool);
    assert!(!spool.recovered());
    assert_eq!(spool.ids(None, 9), [new]);
    assert!(matches!(spool.get(&ids[0]), Err(QueueError::NotFound(_))));
    assert_eq!(spool.take("smtp:1", 9, 0).len(), 1);
    assert_eq!(spool.change(0, &[change(ids[0], kind::REMOVED, 0), change(new, kind::DEFERRED, FAR)]), 1);
    spool.checkpoint().unwrap();
    spool.when_recovered(3);
    storage.release();
    wait(&spool, 3).unwrap();
    spool.wait_recovered().unwrap();
    assert_eq!((spool.opening().messages, spool.ids(None, 9999).len()), (2999, 3000));
    assert_eq!(spool.count(&Filter { held: Some(true), ..Filter::default() }).unwrap().0, 300);
    assert_eq!(spool.take("smtp:3", 99, 0).len(), 20);
    assert!(spool.advance(now_us()) > now_us());
    let before = state(&spool);
    settle(&spool);
    assert_eq!(after_a_crash(dir.path(), false).len(), before.len());
}

#[test]
fn a_crash_or_a_close_during_the_recovery_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 500);
    for round in 1..4 {
        let storage = Gated::new(false);
        let spool = Spool::begin(dir.path(), options(Some(Arc::clone(&storage))), false).unwrap();
        commit(&spool, 1, FAR);
        settle(&spool);
        assert_eq!(after_a_crash(dir.path(), true).len(), 499 + round);
        let closer = std::thread::spawn(move || spool.close());
        std::thread::sleep(Duration::from_millis(20));
        storage.release();
        closer.join().unwrap().unwrap();
    }
    let spool = Spool::open(dir.path(), options(None)).unwrap();
    assert_eq!(spool.ids(None, 9999).len(), 502);
}

#[test]
fn a_queue_that_cannot_be_read_closes_the_partition() {
    let dir = tempfile::tempdir().unwrap();
    let ids = filled(dir.path(), 50);
    let storage = Gated::new(true);
    let spool = Spool::begin(dir.path(), options(Some(Arc::clone(&storage))), false).unwrap();
    spool.when_recovered(3);
    storage.release();
    assert!(wait(&spool, 3).is_err());
    assert!(spool.wait_recovered().is_err() && !spool.recovered());
    let end = Instant::now() + Duration::from_secs(10);
    while spool.fatal().is_none() {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(spool);
    let spool = Spool::open(dir.path(), options(None)).unwrap();
    assert_eq!(spool.ids(None, 9999).len(), ids.len() - 1);
}

#[test]
fn a_checkpoint_written_while_everything_changes_gives_the_same_queue_as_none() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Arc::new(Spool::open(dir.path(), options(None)).unwrap());
    let busy = Arc::clone(&spool);
    let worker = std::thread::spawn(move || {
        let mut ids: Vec<MessageId> = Vec::new();
        for n in 0..12_000 {
            ids.push(commit(&busy, n, FAR));
            // Only what is durable is visible, and can be changed.
            if let Some(id) = n.checked_sub(700).and_then(|old| ids.get(old)) {
                let what = [kind::DEFERRED, kind::HELD, kind::DELIVERED, kind::RETRY, kind::DELIVERED][n % 5];
                busy.change(0, &[change(*id, what, FAR + n as u64)]);
            }
            if n.is_multiple_of(900) {
                settle(&busy);
            }
        }
    });
    let mut rounds = 0;
    while !worker.is_finished() {
        spool.checkpoint().unwrap();
        rounds += 1;
    }
    worker.join().unwrap();
    settle(&spool);
    let now = state(&spool);
    assert!(rounds > 2 && now.len() > 5000, "{rounds} {}", now.len());
    assert_eq!(after_a_crash(dir.path(), true), now);
    assert_eq!(after_a_crash(dir.path(), false), now);
}
