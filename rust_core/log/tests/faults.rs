//! What the log does when storage fails: a full disk passes and leaves nothing of the failed records, anything else closes the log for good.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gatepost_log::{Class, Loc, LockGuard, Log, LogError, Options, OsStorage, Storage, StorageFile};

/// Error numbers to fail with; 0 is no failure.
#[derive(Default)]
struct Faults {
    write: AtomicI32,
    sync: AtomicI32,
    allocate: AtomicI32,
    /// Octets of a failing write that get through.
    partial: AtomicU32,
    syncs: AtomicU32,
    calls: Mutex<Vec<String>>,
}

fn check(fault: &AtomicI32) -> io::Result<()> {
    match fault.load(Ordering::SeqCst) {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

#[derive(Clone)]
struct Faulty(Arc<Faults>);

struct FaultyFile(Box<dyn StorageFile>, Arc<Faults>);

impl StorageFile for FaultyFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        if let Err(error) = check(&self.1.write) {
            let n = data.len().min(self.1.partial.load(Ordering::SeqCst) as usize);
            self.0.write_at(&data[..n], offset)?;
            return Err(error);
        }
        self.0.write_at(data, offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.1.syncs.fetch_add(1, Ordering::SeqCst);
        check(&self.1.sync)?;
        self.0.sync()
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        check(&self.1.allocate)?;
        self.0.allocate(len)
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.truncate(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}

impl Storage for Faulty {
    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(FaultyFile(OsStorage.create(path)?, Arc::clone(&self.0))))
    }
    fn open(&self, path: &Path, write: bool) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(FaultyFile(OsStorage.open(path, write)?, Arc::clone(&self.0))))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.calls.lock().unwrap().push(format!("rename {}", to.file_name().unwrap().display()));
        OsStorage.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.calls.lock().unwrap().push(format!("remove {}", path.file_name().unwrap().display()));
        OsStorage.remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        OsStorage.list(dir)
    }
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        OsStorage.make_dir(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.calls.lock().unwrap().push("sync_dir".to_owned());
        OsStorage.sync_dir(dir)
    }
    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        OsStorage.free_bytes(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        OsStorage.lock(path)
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    faults: Arc<Faults>,
    log: Log,
    tokens: Receiver<(Vec<u64>, Result<(), LogError>)>,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let faults = Arc::new(Faults::default());
        let options = Options { segment_bytes: 64 << 10, storage: Arc::new(Faulty(Arc::clone(&faults))), ..Options::new(*b"TEST") };
        let (tx, tokens) = channel();
        let done = move |tokens: &[u64], result: Result<(), &LogError>| {
            let _ = tx.send((tokens.to_vec(), result.map_err(Clone::clone)));
        };
        let log = Log::prepare(dir.path(), options).unwrap().start(Box::new(done)).unwrap();
        Self { dir, faults, log, tokens }
    }

    fn append(&self, token: u64, data: &[u8]) -> Result<Loc, LogError> {
        self.log.append(1, &[data], Class::Message, Some(token))
    }

    fn next(&self) -> (Vec<u64>, Result<(), LogError>) {
        self.tokens.recv_timeout(Duration::from_secs(5)).unwrap()
    }

    /// Payloads after closing and reopening on sound storage.
    fn reopened(self) -> Vec<Vec<u8>> {
        let _ = self.log.close();
        let mut seen = Vec::new();
        let options = Options { segment_bytes: 64 << 10, ..Options::new(*b"TEST") };
        let mut prepared = Log::prepare(self.dir.path(), options).unwrap();
        let recovery = prepared
            .replay(Loc::NONE, &mut |_, _, payload| {
                seen.push(payload.to_vec());
                Ok(())
            })
            .unwrap();
        assert!(recovery.damaged.is_empty(), "{:?}", recovery.damaged);
        seen
    }
}

#[test]
fn a_full_disk_fails_the_append_and_nothing_of_it_remains() {
    for partial in [0, 20, 60, 300] {
        let f = Fixture::new();
        f.append(1, b"kept").unwrap();
        assert_eq!(f.next(), (vec![1], Ok(())));
        f.faults.partial.store(partial, Ordering::SeqCst);
        f.faults.write.store(libc::ENOSPC, Ordering::SeqCst);
        f.append(2, &[7; 30]).unwrap();
        let (tokens, result) = f.next();
        assert_eq!(tokens, [2]);
        assert!(result.unwrap_err().is_disk_full());
        f.faults.write.store(0, Ordering::SeqCst);
        let loc = f.append(3, b"after").unwrap();
        assert_eq!(f.next(), (vec![3], Ok(())));
        let mut out = Vec::new();
        f.log.read(loc, &mut out).unwrap();
        assert_eq!(out, b"after");
        assert_eq!(f.reopened(), [b"kept".to_vec(), b"after".to_vec()]);
    }
}

#[test]
fn records_queued_behind_a_failed_write_fail_with_it() {
    let f = Fixture::new();
    f.faults.write.store(libc::ENOSPC, Ordering::SeqCst);
    let mut refused = 0;
    for n in 0..300 {
        match f.append(n, &[1; 500]) {
            Ok(_) => {}
            Err(error) => {
                assert!(error.is_disk_full());
                refused += 1;
            }
        }
    }
    let mut failed = 0;
    while failed + refused < 300 {
        let (tokens, result) = f.next();
        assert!(result.unwrap_err().is_disk_full());
        failed += tokens.len();
    }
    f.faults.write.store(0, Ordering::SeqCst);
    f.append(1000, b"after").unwrap();
    assert_eq!(f.next(), (vec![1000], Ok(())));
    assert_eq!(f.log.pending_bytes(), 0);
    assert_eq!(f.reopened(), [b"after".to_vec()]);
}

#[test]
fn records_that_belong_together_fail_when_an_earlier_one_was_given_up() {
    let f = Fixture::new();
    let losses = f.log.losses();
    f.faults.write.store(libc::ENOSPC, Ordering::SeqCst);
    f.log.append(1, &[b"first half"], Class::Message, None).unwrap();
    assert!(f.log.sync().unwrap_err().is_disk_full());
    f.faults.write.store(0, Ordering::SeqCst);
    f.append(9, b"of another").unwrap();
    assert_eq!(f.next(), (vec![9], Ok(())));
    assert_eq!(f.log.sync(), Ok(()));
    assert!(f.log.append_after(losses, 1, &[b"second half"], Class::Message, None).unwrap_err().is_disk_full());
    assert!(f.log.sync_since(losses).unwrap_err().is_disk_full());
    let losses = f.log.losses();
    f.log.append_after(losses, 1, &[b"whole"], Class::Message, None).unwrap();
    assert_eq!(f.log.sync_since(losses), Ok(()));
    assert_eq!(f.reopened(), [b"of another".to_vec(), b"whole".to_vec()]);
}

#[test]
fn a_segment_that_cannot_be_preallocated_refuses_mail_while_the_reserve_serves_the_journal() {
    let f = Fixture::new();
    f.faults.allocate.store(libc::ENOSPC, Ordering::SeqCst);
    let mut taken = 0;
    let error = loop {
        match f.append(taken, &[1; 1000]) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(error.is_disk_full());
    assert!((50..64).contains(&taken), "{taken}");
    for _ in 0..3 {
        f.log.append(1, &[&[2; 1000]], Class::Journal, None).unwrap();
    }
    f.log.sync().unwrap();
    f.faults.allocate.store(0, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(600));
    f.append(taken, &[1; 1000]).unwrap();
    f.log.sync().unwrap();
    assert_eq!(f.reopened().len() as u64, taken + 4);
}

#[test]
fn a_failed_sync_closes_the_log_for_good_and_is_never_retried() {
    let f = Fixture::new();
    f.append(1, b"kept").unwrap();
    assert_eq!(f.next(), (vec![1], Ok(())));
    f.faults.sync.store(libc::EIO, Ordering::SeqCst);
    f.append(2, b"unknown").unwrap();
    assert!(matches!(f.next(), (_, Err(LogError::Fatal(_)))));
    f.faults.sync.store(0, Ordering::SeqCst);
    let syncs = f.faults.syncs.load(Ordering::SeqCst);
    assert!(matches!(f.append(3, b"no"), Err(LogError::Fatal(_))));
    assert!(matches!(f.log.sync(), Err(LogError::Fatal(_))));
    assert!(matches!(f.log.close(), Err(LogError::Fatal(_))));
    assert_eq!(f.faults.syncs.load(Ordering::SeqCst), syncs);
    assert_eq!(f.reopened()[0], b"kept");
}

#[test]
fn a_write_that_fails_with_an_input_output_error_closes_the_log() {
    let f = Fixture::new();
    f.faults.write.store(libc::EIO, Ordering::SeqCst);
    f.append(1, b"x").unwrap();
    assert!(matches!(f.next(), (_, Err(LogError::Fatal(_)))));
    assert!(matches!(f.log.fatal(), Some(LogError::Fatal(_))));
}

#[test]
fn new_names_and_removals_are_made_durable_one_by_one() {
    let f = Fixture::new();
    for n in 0..400 {
        f.append(n, &[1; 500]).unwrap();
    }
    f.log.sync().unwrap();
    assert!(f.log.free(1) && f.log.free(2));
    f.log.wait_for_removals();
    let calls = f.faults.calls.lock().unwrap().clone();
    for (n, call) in calls.iter().enumerate() {
        if call.contains(".seg") {
            assert_eq!(calls.get(n + 1).map(String::as_str), Some("sync_dir"), "after {call}");
        }
    }
    assert!(calls.iter().position(|c| c == "remove 00000001.seg") < calls.iter().position(|c| c == "remove 00000002.seg"));
}
