//! Messages that stay long keep their own segments and no others: guards against a spool that frees nothing while one message is held, and
//! against finished messages that come back, or live ones that go, when the segments that finished others are gone.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gatepost_log::{LockGuard, OsStorage, Storage, StorageFile};
use gatepost_queue::{Change, MessageId, Options, RecipientSpec, Spool, kind, new_message_id};
use parking_lot::Mutex;

const SIZE: usize = 3_000;

/// What the test knows of its messages at any instant.
#[derive(Default)]
struct Known {
    /// Committed, told so, and not asked to finish.
    live: BTreeSet<MessageId>,
    /// Finished, and told that it is durable.
    finished: BTreeSet<MessageId>,
}

/// A directory as a crash would have left it, with what has to be in it and what must not.
struct Crash {
    dir: tempfile::TempDir,
    live: BTreeSet<MessageId>,
    finished: BTreeSet<MessageId>,
}

/// Files that copy the directory before a segment goes, removed or renamed to be used again, and that can lose the writes with some octets in them.
#[derive(Default)]
struct Observed {
    known: Mutex<Known>,
    crashes: Mutex<Vec<Crash>>,
    needle: Mutex<Vec<u8>>,
    lost: AtomicBool,
}

struct Files(Arc<Observed>);

struct ObservedFile(Box<dyn StorageFile>, Arc<Observed>);

impl StorageFile for ObservedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let needle = self.1.needle.lock();
        if !needle.is_empty() && data.windows(needle.len()).any(|w| w == needle.as_slice()) {
            self.1.lost.store(true, Ordering::SeqCst);
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.0.write_at(data, offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.truncate(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}

impl Storage for Files {
    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(ObservedFile(OsStorage.create(path)?, Arc::clone(&self.0))))
    }
    fn open(&self, path: &Path, write: bool) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(ObservedFile(OsStorage.open(path, write)?, Arc::clone(&self.0))))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if is_segment(from) {
            let crash = self.0.crash(from.parent().unwrap());
            self.0.crashes.lock().push(crash);
        }
        OsStorage.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        if is_segment(path) {
            let crash = self.0.crash(path.parent().unwrap());
            self.0.crashes.lock().push(crash);
        }
        OsStorage.remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        OsStorage.list(dir)
    }
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        OsStorage.make_dir(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        OsStorage.sync_dir(dir)
    }
    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        OsStorage.free_bytes(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        OsStorage.lock(path)
    }
}

impl Observed {
    fn crash(&self, dir: &Path) -> Crash {
        let before = { self.known.lock().live.clone() };
        let finished = { self.known.lock().finished.clone() };
        let copy = copy_of(dir);
        let live = before.intersection(&self.known.lock().live).copied().collect();
        Crash { dir: copy, live, finished }
    }
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|x| x == "seg")
}

/// Segments and checkpoint, oldest segment first, so that what is in the copy is a prefix of what was written. Repeated when a segment goes meanwhile.
fn copy_of(dir: &Path) -> tempfile::TempDir {
    loop {
        let to = tempfile::tempdir().unwrap();
        let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        paths.retain(|path| is_segment(path) || path.ends_with("checkpoint"));
        paths.sort();
        let copied = paths.iter().all(|path| {
            let target = to.path().join(path.file_name().unwrap());
            fs::copy(path, target).is_ok()
        });
        if copied && paths.iter().all(|path| path.exists()) {
            return to;
        }
    }
}

struct Bench {
    spool: Spool,
    observed: Arc<Observed>,
    dir: tempfile::TempDir,
    ticket: u64,
    /// Committed by the round before, to be finished by the next.
    last: Vec<MessageId>,
}

fn open(dir: &Path) -> Spool {
    Spool::open(dir, Options { segment_bytes: 64 << 10, ..Options::new(*b"SPOL") }).unwrap()
}

fn body(id: &MessageId) -> Vec<u8> {
    id.iter().cycle().map(|b| b'a' + b % 26).take(SIZE).chain(*b"\r\n").collect()
}

fn read(spool: &Spool, id: &MessageId) -> Vec<u8> {
    let mut reader = spool.read(id).unwrap();
    let mut out = vec![0; reader.size() as usize];
    assert_eq!(reader.read(&mut out).unwrap(), out.len());
    out
}

fn recipient(held: bool) -> RecipientSpec {
    RecipientSpec {
        address: "a@b".into(),
        original: String::new(),
        destination: "d".into(),
        notify: 0,
        route: Vec::new(),
        next_us: 0,
        held,
    }
}

fn eventually(what: &str, mut test: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !test() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Bench {
    fn new() -> Self {
        let (dir, observed) = (tempfile::tempdir().unwrap(), Arc::new(Observed::default()));
        let options = Options { segment_bytes: 64 << 10, storage: Arc::new(Files(Arc::clone(&observed))), ..Options::new(*b"SPOL") };
        Self { spool: Spool::open(dir.path(), options).unwrap(), observed, dir, ticket: 0, last: Vec::new() }
    }

    /// Waits for the newest ticket; false when it came back with an error.
    fn settled(&self) -> bool {
        let mut found = None;
        eventually("the ticket comes back", || {
            found = self.spool.completions().0.into_iter().find(|(number, _)| *number == self.ticket).or(found.take());
            found.is_some()
        });
        found.unwrap().1.is_none()
    }

    /// Ids of what was taken: all, unless the disk refused something.
    fn commit(&mut self, count: usize, held: bool) -> Vec<MessageId> {
        let mut ids = Vec::new();
        for _ in 0..count {
            let id = new_message_id();
            let mut incoming = self.spool.receive(id, b"", 0, false);
            incoming.feed_raw(&body(&id));
            incoming.finish();
            match self.spool.commit(self.ticket + 1, &mut incoming, "from@x".into(), vec![recipient(held)], Vec::new()) {
                Ok(()) => {
                    self.ticket += 1;
                    ids.push(id);
                }
                Err(error) => assert!(self.observed.lost.load(Ordering::SeqCst), "{error}"),
            }
        }
        if !ids.is_empty() {
            self.settled();
        }
        // They may have been in several batches, of which any may be lost.
        ids.retain(|id| self.spool.get(id).is_ok());
        self.observed.known.lock().live.extend(&ids);
        ids
    }

    fn finish(&mut self, ids: &[MessageId]) {
        self.observed.known.lock().live.retain(|id| !ids.contains(id));
        let change = |id: &MessageId| Change { id: *id, recipient: None, kind: kind::DELIVERED, next_us: 0, detail: b"250".to_vec() };
        self.ticket += 1;
        assert_eq!(self.spool.change(self.ticket, &ids.iter().map(change).collect::<Vec<_>>()), ids.len());
        // The ticket speaks of the last of the changes; while writes are lost, an earlier one may have gone with a batch before.
        if self.settled() && self.observed.needle.lock().is_empty() {
            self.observed.known.lock().finished.extend(ids);
        }
    }

    /// Messages come, those of the round before go: always some of every segment finish in the next.
    fn churn(&mut self, rounds: usize) {
        for _ in 0..rounds {
            let new = self.commit(10, false);
            let old = std::mem::replace(&mut self.last, new);
            self.finish(&old);
        }
    }

    fn finish_last(&mut self) {
        let last = std::mem::take(&mut self.last);
        self.finish(&last);
    }

    fn segments(&self) -> u64 {
        self.spool.stats().log.segments
    }

    /// A crash now, and every one just before a segment went, leaves what has to be there and nothing that is finished, with and without
    /// a checkpoint.
    fn check_crashes(&self) -> usize {
        let files = || fs::read_dir(self.dir.path()).unwrap().filter(|e| is_segment(&e.as_ref().unwrap().path())).count();
        eventually("what was freed is removed", || files() as u64 == self.segments());
        let mut crashes = std::mem::take(&mut *self.observed.crashes.lock());
        crashes.push(self.observed.crash(self.dir.path()));
        for crash in &crashes {
            let bare = copy_of(crash.dir.path());
            let _ = fs::remove_file(bare.path().join("checkpoint"));
            for dir in [&bare, &crash.dir] {
                let spool = open(dir.path());
                let found: BTreeSet<MessageId> = spool.ids(None, usize::MAX).into_iter().collect();
                assert!(found.is_superset(&crash.live), "{} live messages are gone", crash.live.difference(&found).count());
                assert!(found.is_disjoint(&crash.finished), "{} came back", found.intersection(&crash.finished).count());
                assert!(crash.live.iter().all(|id| read(&spool, id) == body(id)));
            }
        }
        crashes.len()
    }
}

#[test]
fn one_held_message_keeps_its_own_segment_and_a_handful_more() {
    let mut bench = Bench::new();
    let held = bench.commit(1, true)[0];
    bench.churn(60);
    bench.spool.checkpoint().unwrap();
    bench.churn(140);
    bench.finish_last();
    eventually("segments are freed", || bench.segments() <= 6);
    assert!(bench.spool.stats().log.appended >= 4001);
    assert!(bench.check_crashes() > 60);

    bench.spool.close().unwrap();
    for checkpoint in [true, false] {
        let copy = copy_of(bench.dir.path());
        if !checkpoint {
            fs::remove_file(copy.path().join("checkpoint")).unwrap();
        }
        let spool = open(copy.path());
        assert_eq!((spool.opening().checkpoint, spool.ids(None, 9)), (checkpoint, vec![held]));
        assert!(read(&spool, &held) == body(&held));
        let change = |kind| Change { id: held, recipient: None, kind, next_us: 0, detail: Vec::new() };
        assert_eq!(spool.change(0, &[change(kind::RELEASED), change(kind::DELIVERED)]), 2);
        eventually("the rest goes with the held message", || spool.stats().log.segments == 1);
    }
}

#[test]
fn held_messages_in_many_segments_keep_only_these() {
    let mut bench = Bench::new();
    let mut held = Vec::new();
    for _ in 0..12 {
        held.extend(bench.commit(1, true));
        bench.churn(16);
    }
    bench.finish_last();
    eventually("segments are freed", || bench.segments() <= 12 + 5);
    bench.check_crashes();
    // What was written down of a segment is written anew when more of it is finished, and counts with what is finished later.
    for ids in held.chunks(2) {
        bench.finish(ids);
        bench.churn(8);
    }
    bench.finish_last();
    bench.check_crashes();
    eventually("nothing is left", || bench.segments() == 1);
}

#[test]
fn no_segment_goes_while_the_record_of_what_is_left_or_moved_is_not_on_the_disk() {
    let mut bench = Bench::new();
    let held = bench.commit(1, true)[0];
    // Neither the record of what is left nor the one that moves the message gets through.
    *bench.observed.needle.lock() = held.to_vec();
    bench.churn(60);
    assert!(bench.observed.lost.load(Ordering::SeqCst));
    assert!(bench.segments() > 20, "{}", bench.segments());
    bench.check_crashes();
    bench.observed.needle.lock().clear();
    bench.churn(20);
    bench.finish_last();
    eventually("segments are freed", || bench.segments() <= 6);
    assert!(bench.check_crashes() > 20);
    assert_eq!(bench.spool.ids(None, 9), [held]);
}
