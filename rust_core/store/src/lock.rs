//! Locks across processes by flock(2): the kernel frees them when their holder dies.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Result, StoreError};

/// A held lock; dropping it frees it.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

/// Take the lock at once, or `None` when another holds it.
pub fn try_lock(path: &Path) -> Result<Option<FileLock>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    // SAFETY: the descriptor is open.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(Some(FileLock { _file: file }));
    }
    let error = std::io::Error::last_os_error();
    if error.kind() == std::io::ErrorKind::WouldBlock { Ok(None) } else { Err(error.into()) }
}

/// Take the lock, waiting for another holder at most `limit`.
pub fn wait_lock(path: &Path, limit: Duration) -> Result<FileLock> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(lock) = try_lock(path)? {
            return Ok(lock);
        }
        if Instant::now() >= deadline {
            return Err(StoreError::Locked(format!("{}: held by another process for {limit:?}", path.display())));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
