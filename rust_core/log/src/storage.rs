//! The storage seam: every call the log makes to the file system, and the one real implementation.
//!
//! Nothing in this crate touches a file but through [`Storage`] and [`StorageFile`], so that a simulated storage can
//! stand in and fail, tear or reorder any single call. Positions are absolute: there is no shared file offset.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

/// An open file.
pub trait StorageFile: Send + Sync {
    /// Reads up to `buf.len()` octets at `offset`; fewer only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `data` at `offset`.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// A hint that these octets may go to the disk now. Neither waits nor tells how it went.
    fn begin_writing(&self, _offset: u64, _length: u64) {}
    /// A hint that these octets will be read soon. Does not wait.
    fn begin_reading(&self, _offset: u64, _length: u64) {}
    /// A hint that the next reading of these octets, which are synced, is to come from the disk.
    fn forget_read(&self, _offset: u64, _length: u64) {}
    /// Makes written data and the file's size durable.
    fn sync(&self) -> io::Result<()>;
    /// Reserves blocks for `len` octets and makes the file that long.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Cuts or extends the file to `len` octets.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Length in octets.
    fn len(&self) -> io::Result<u64>;
    /// True when the file has no octets.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// A held lock; dropping it releases.
pub trait LockGuard: Send + Sync {}

/// A file system.
pub trait Storage: Send + Sync {
    /// Creates a file that must not exist, for reading and writing.
    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>>;
    /// Opens an existing file, for writing too if `write`.
    fn open(&self, path: &Path, write: bool) -> io::Result<Box<dyn StorageFile>>;
    /// Renames, replacing the target.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Names of the entries of a directory, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Creates a directory and its parents; an existing one is fine.
    fn make_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// A handle through which [`StorageFile::sync`] does what `sync_dir` does, so that a process that is out of descriptors still can. None: there is none.
    fn open_dir(&self, _dir: &Path) -> io::Result<Option<Box<dyn StorageFile>>> {
        Ok(None)
    }
    /// Free octets on the file system of `dir` for an unprivileged writer.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// Takes an exclusive lock on `path` without waiting. `WouldBlock` when another holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>>;
    /// The clock that tells how old a failure or a figure of free space is.
    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// The operating system's files.
#[derive(Debug, Default, Clone, Copy)]
pub struct OsStorage;

struct OsFile(File);

impl OsFile {
    fn advise(&self, offset: u64, length: u64, advice: libc::c_int) {
        if let (Ok(offset), Ok(length)) = (libc::off_t::try_from(offset), libc::off_t::try_from(length)) {
            // SAFETY: the descriptor is open for as long as `self` lives.
            unsafe { libc::posix_fadvise(self.0.as_raw_fd(), offset, length, advice) };
        }
    }
}

impl StorageFile for OsFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn begin_writing(&self, offset: u64, length: u64) {
        if let (Ok(offset), Ok(length)) = (libc::off64_t::try_from(offset), libc::off64_t::try_from(length)) {
            // SAFETY: the descriptor is open for as long as `self` lives.
            unsafe { libc::sync_file_range(self.0.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE) };
        }
    }

    fn begin_reading(&self, offset: u64, length: u64) {
        self.advise(offset, length, libc::POSIX_FADV_WILLNEED);
    }

    fn forget_read(&self, offset: u64, length: u64) {
        self.advise(offset, length, libc::POSIX_FADV_DONTNEED);
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let length = libc::off_t::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
        loop {
            // SAFETY: the descriptor is open for as long as `self` lives.
            let rc = unsafe { libc::fallocate(self.0.as_raw_fd(), 0, 0, length) };
            if rc == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                // A signal came meanwhile; some file systems give up for it.
                Some(libc::EINTR) => {}
                Some(libc::EOPNOTSUPP) => return self.0.set_len(len),
                _ => return Err(error),
            }
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

/// An open directory.
struct OsDir(File);

impl StorageFile for OsDir {
    fn read_at(&self, _buf: &mut [u8], _offset: u64) -> io::Result<usize> {
        Err(io::ErrorKind::IsADirectory.into())
    }

    fn write_at(&self, _data: &[u8], _offset: u64) -> io::Result<()> {
        Err(io::ErrorKind::IsADirectory.into())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn allocate(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::IsADirectory.into())
    }

    fn truncate(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::IsADirectory.into())
    }

    fn len(&self) -> io::Result<u64> {
        Err(io::ErrorKind::IsADirectory.into())
    }
}

struct OsLock {
    _file: File,
}

impl LockGuard for OsLock {}

impl Storage for OsStorage {
    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Box::new(OsFile(file)))
    }

    fn open(&self, path: &Path, write: bool) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(OsFile(OpenOptions::new().read(true).write(write).open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Option<Box<dyn StorageFile>>> {
        Ok(Some(Box::new(OsDir(File::open(dir)?))))
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let path = CString::new(dir.as_os_str().as_bytes())?;
        // SAFETY: statvfs is plain data, for which all zeroes is a valid value.
        let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: `path` is NUL-terminated and `stat` is a valid place to write to.
        if unsafe { libc::statvfs(path.as_ptr(), &raw mut stat) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(stat.f_bavail * stat.f_frsize)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        // SAFETY: the descriptor is open.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // For people only: a disk without a free block must not keep a log from being opened.
        let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
        Ok(Box::new(OsLock { _file: file }))
    }
}

/// What the holder of a lock file wrote into it (its process id), or nothing.
pub(crate) fn lock_holder(path: &Path) -> String {
    let mut text = String::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(32).read_to_string(&mut text);
    }
    text.trim().to_owned()
}
