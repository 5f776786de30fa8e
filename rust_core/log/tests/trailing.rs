//! Of long records that were written a while ago the system is told that it need not keep them in memory; of short ones it is not.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gatepost_log::{Class, LockGuard, Log, Options, OsStorage, Storage, StorageFile};

/// Counts the octets that may be forgotten.
struct Files(Arc<AtomicU64>);

struct Counted(Box<dyn StorageFile>, Arc<AtomicU64>);

impl StorageFile for Counted {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(data, offset)
    }
    fn forget_read(&self, offset: u64, length: u64) {
        self.1.fetch_add(length, Ordering::SeqCst);
        self.0.forget_read(offset, length);
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
        Ok(Box::new(Counted(OsStorage.create(path)?, Arc::clone(&self.0))))
    }
    fn open(&self, path: &Path, write: bool) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(Counted(OsStorage.open(path, write)?, Arc::clone(&self.0))))
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

#[test]
fn only_what_was_written_last_of_long_records_stays_in_memory() {
    for (size, count) in [(100_000, 900_u32), (1_000, 90_000)] {
        let dir = tempfile::tempdir().unwrap();
        let forgotten = Arc::new(AtomicU64::new(0));
        let storage = Arc::new(Files(Arc::clone(&forgotten)));
        let options = Options { segment_bytes: 16 << 20, storage, ..Options::new(*b"TEST") };
        let log = Log::prepare(dir.path(), options).unwrap().start(Box::new(|_, _| {})).unwrap();
        let octets = |number: u32| vec![number as u8; size];
        let mut places = Vec::new();
        for number in 0..count {
            places.push(log.append(1, &[&octets(number)], Class::Message, None).unwrap());
            log.wait_for_room(4 << 20);
        }
        log.sync().unwrap();
        let (all, seen) = (u64::from(count) * size as u64, forgotten.load(Ordering::SeqCst));
        if size < 8 << 10 {
            assert_eq!(seen, 0);
        } else {
            // 64 MiB stay, and what came in runs too small to be worth a call.
            assert!(seen <= all - (60 << 20) && seen > 0, "{seen} of {all}");
        }
        let mut found = Vec::new();
        for number in (0..count).step_by(97) {
            log.read(places[number as usize], &mut found).unwrap();
            assert_eq!(found, octets(number));
        }
    }
}
