//! A full disk takes no message of which a part is lost. A sync that fails: the commit fails with it, its message never existed for anyone, and the partition takes nothing more.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use gatepost_log::{LockGuard, LogError, OsStorage, Storage, StorageFile};
use gatepost_queue::{Options, QueueError, RecipientSpec, Spool, new_message_id};

/// What fails: nothing, every sync (EIO), every write (ENOSPC).
const SOUND: i32 = 0;
const SYNC: i32 = 1;
const FULL: i32 = 2;

struct Broken(Arc<AtomicI32>);

struct BrokenFile(Box<dyn StorageFile>, Arc<AtomicI32>);

impl StorageFile for BrokenFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        if self.1.load(Ordering::SeqCst) == FULL { Err(io::Error::from_raw_os_error(libc::ENOSPC)) } else { self.0.write_at(data, offset) }
    }
    fn sync(&self) -> io::Result<()> {
        if self.1.load(Ordering::SeqCst) == SYNC { Err(io::Error::from_raw_os_error(libc::EIO)) } else { self.0.sync() }
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

impl Storage for Broken {
    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(BrokenFile(OsStorage.create(path)?, Arc::clone(&self.0))))
    }
    fn open(&self, path: &Path, write: bool) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(BrokenFile(OsStorage.open(path, write)?, Arc::clone(&self.0))))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsStorage.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
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

fn commit(spool: &Spool, ticket: u64) -> Result<(), QueueError> {
    let mut incoming = spool.receive(new_message_id(), b"", 0, false);
    incoming.feed(b"x\r\n.\r\n");
    spool.commit(ticket, &mut incoming, String::new(), vec![recipient()], Vec::new())
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
    let (dir, broken) = (tempfile::tempdir().unwrap(), Arc::new(AtomicI32::new(SOUND)));
    let options = Options { segment_bytes: 1 << 20, storage: Arc::new(Broken(Arc::clone(&broken))), ..Options::new(*b"SPOL") };
    let spool = Spool::open(dir.path(), options).unwrap();
    commit(&spool, 1).unwrap();
    assert_eq!(wait(&spool, 1), None);
    broken.store(SYNC, Ordering::SeqCst);
    commit(&spool, 2).unwrap();
    assert!(matches!(wait(&spool, 2), Some(LogError::Fatal(_))));
    broken.store(SOUND, Ordering::SeqCst);
    assert!(matches!(spool.fatal(), Some(LogError::Fatal(_))));
    assert!(matches!(commit(&spool, 3), Err(QueueError::Log(LogError::Fatal(_)))));
    assert_eq!(spool.ids(None, 9).len(), 1);
    assert_eq!(spool.take("d", 9, 0).len(), 1);
    assert!(matches!(spool.close(), Err(QueueError::Log(LogError::Fatal(_)))));
}

#[test]
fn a_message_of_which_a_chunk_was_lost_to_a_full_disk_is_not_taken() {
    let (dir, broken) = (tempfile::tempdir().unwrap(), Arc::new(AtomicI32::new(SOUND)));
    let options = Options { segment_bytes: 1 << 20, storage: Arc::new(Broken(Arc::clone(&broken))), ..Options::new(*b"SPOL") };
    let spool = Spool::open(dir.path(), options).unwrap();
    let mut incoming = spool.receive(new_message_id(), b"", 0, false);
    broken.store(FULL, Ordering::SeqCst);
    incoming.feed_raw(&vec![b'a'; 300 << 10]);
    assert!(matches!(spool.checkpoint(), Err(QueueError::Log(LogError::DiskFull(_)))));
    broken.store(SOUND, Ordering::SeqCst);
    commit(&spool, 1).unwrap();
    assert_eq!(wait(&spool, 1), None);
    incoming.finish();
    let refused = spool.commit(2, &mut incoming, String::new(), vec![recipient()], Vec::new());
    assert!(matches!(refused, Err(QueueError::Log(LogError::DiskFull(_)))), "{refused:?}");
    assert_eq!(spool.ids(None, 9).len(), 1);
}
