//! Real files behind the storage seam, watched or hindered by a test: [`RealFiles`] passes every call on, after it has asked the [`Hooks`].
//!
//! Callers: tests of `gatepost-log` and `gatepost-queue` that need the operating system's behaviour, not [`crate::Disk`]'s.

use std::io;
use std::path::Path;
use std::sync::Arc;

use gatepost_log::{LockGuard, OsStorage, Storage, StorageFile};

/// What a test wants to see, to delay or to refuse. An error is the outcome of the call, which then does not reach the file.
pub trait Hooks: Send + Sync + 'static {
    /// A file that exists is opened.
    fn opening(&self, path: &Path) -> io::Result<()> {
        let _ = path;
        Ok(())
    }
    /// Octets are written.
    fn writing(&self, data: &[u8]) -> io::Result<()> {
        let _ = data;
        Ok(())
    }
    /// So many octets need not stay in memory.
    fn forgetting(&self, length: u64) {
        let _ = length;
    }
}

/// The operating system's storage, with hooks.
pub struct RealFiles<H>(pub Arc<H>);

struct RealFile<H>(Box<dyn StorageFile>, Arc<H>);

impl<H: Hooks> RealFiles<H> {
    fn hooked(&self, file: Box<dyn StorageFile>) -> Box<dyn StorageFile> {
        Box::new(RealFile(file, Arc::clone(&self.0)))
    }
}

impl<H: Hooks> StorageFile for RealFile<H> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.1.writing(data)?;
        self.0.write_at(data, offset)
    }
    fn forget_read(&self, offset: u64, length: u64) {
        self.1.forgetting(length);
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

impl<H: Hooks> Storage for RealFiles<H> {
    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        Ok(self.hooked(OsStorage.create(path)?))
    }
    fn open(&self, path: &Path, write: bool) -> io::Result<Box<dyn StorageFile>> {
        self.0.opening(path)?;
        Ok(self.hooked(OsStorage.open(path, write)?))
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
