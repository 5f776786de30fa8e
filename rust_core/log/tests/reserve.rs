//! The last free space belongs to the journal: on a disk where nothing can be allocated the log still opens and takes transitions, and mail comes back
//! when space does. And: without free descriptors the log goes on.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gatepost_log::{Class, LockGuard, Log, LogError, Options, OsStorage, Storage, StorageFile};

/// A disk that is full, or has `free` octets, and a process that may be out of descriptors.
#[derive(Default)]
struct Scarce {
    full: AtomicBool,
    free: AtomicU64,
    no_descriptors: AtomicBool,
}

struct Files(Arc<Scarce>);

struct ScarceFile(Box<dyn StorageFile>, Arc<Scarce>);

impl StorageFile for ScarceFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(data, offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        if self.1.full.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.0.allocate(len)
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.truncate(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}

impl Files {
    fn descriptor(&self) -> io::Result<()> {
        if self.0.no_descriptors.load(Ordering::SeqCst) { Err(io::Error::from_raw_os_error(libc::EMFILE)) } else { Ok(()) }
    }
}

impl Storage for Files {
    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        self.descriptor()?;
        Ok(Box::new(ScarceFile(OsStorage.create(path)?, Arc::clone(&self.0))))
    }
    fn open(&self, path: &Path, write: bool) -> io::Result<Box<dyn StorageFile>> {
        self.descriptor()?;
        Ok(Box::new(ScarceFile(OsStorage.open(path, write)?, Arc::clone(&self.0))))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsStorage.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        OsStorage.remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.descriptor()?;
        OsStorage.list(dir)
    }
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        OsStorage.make_dir(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.descriptor()?;
        OsStorage.sync_dir(dir)
    }
    fn open_dir(&self, dir: &Path) -> io::Result<Option<Box<dyn StorageFile>>> {
        OsStorage.open_dir(dir)
    }
    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(self.0.free.load(Ordering::SeqCst))
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        OsStorage.lock(path)
    }
}

fn open(dir: &Path, scarce: &Arc<Scarce>, min_free_bytes: u64, resume_free_bytes: u64) -> Log {
    let storage = Arc::new(Files(Arc::clone(scarce)));
    let options = Options { segment_bytes: 64 << 10, min_free_bytes, resume_free_bytes, storage, ..Options::new(*b"TEST") };
    Log::prepare(dir, options).unwrap().start(Box::new(|_, _| {})).unwrap()
}

fn eventually(what: &str, mut test: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !test() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_log_opens_on_a_full_disk_and_its_journal_has_room() {
    let (dir, scarce) = (tempfile::tempdir().unwrap(), Arc::new(Scarce::default()));
    open(dir.path(), &scarce, 0, 0).close().unwrap();
    assert!(dir.path().join("reserve").exists());
    scarce.full.store(true, Ordering::SeqCst);
    let log = open(dir.path(), &scarce, 0, 0);
    assert!(log.append(1, &[b"mail"], Class::Message, None).unwrap_err().is_disk_full());
    for _ in 0..150 {
        log.append(1, &[&[b'j'; 150]], Class::Journal, None).unwrap();
        log.sync().unwrap();
    }
    scarce.full.store(false, Ordering::SeqCst);
    eventually("mail is taken again", || log.append(1, &[&vec![b'm'; 20_000]], Class::Message, None).is_ok());
    log.sync().unwrap();
    eventually("there is a reserve again", || dir.path().join("reserve").exists());
    log.close().unwrap();
}

#[test]
fn reception_ends_below_the_minimum_and_begins_well_above_it() {
    let (dir, scarce) = (tempfile::tempdir().unwrap(), Arc::new(Scarce::default()));
    scarce.free.store(1_000, Ordering::SeqCst);
    let log = open(dir.path(), &scarce, 100, 300);
    let set = |free: u64, low: bool| {
        scarce.free.store(free, Ordering::SeqCst);
        eventually("the figure is taken up", || log.free_bytes() == free);
        assert_eq!(log.low_space(), low, "with {free} octets free");
        let taken = log.append(1, &[b"mail"], Class::Message, None);
        assert_eq!(matches!(taken, Err(LogError::DiskFull(_))), low);
        log.append(1, &[b"journal"], Class::Journal, None).unwrap();
        log.append(1, &[b"moved"], Class::Move, None).unwrap();
    };
    set(100, false);
    set(99, true);
    set(100, true);
    set(299, true);
    set(300, false);
    set(101, false);
}

#[test]
fn without_descriptors_a_segment_that_is_full_is_followed_by_the_one_made_before() {
    let (dir, scarce) = (tempfile::tempdir().unwrap(), Arc::new(Scarce::default()));
    let log = open(dir.path(), &scarce, 0, 0);
    let append = |class| log.append(1, &[&[b'x'; 1_000]], class, None).and_then(|_| log.sync());
    while log.tail().offset < 50_000 {
        append(Class::Message).unwrap();
    }
    eventually("the next segment is made", || std::fs::read_dir(dir.path()).unwrap().any(|e| e.unwrap().file_name() == "spare-1"));
    scarce.no_descriptors.store(true, Ordering::SeqCst);
    while log.tail().segment == 1 {
        append(Class::Message).unwrap();
    }
    append(Class::Journal).unwrap();
    let refused = loop {
        match append(Class::Message) {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, LogError::Io(_)), "{refused}");
    append(Class::Journal).unwrap();
    assert_eq!(log.fatal(), None);
    scarce.no_descriptors.store(false, Ordering::SeqCst);
    eventually("mail is taken again", || append(Class::Message).is_ok());
    log.close().unwrap();
}
