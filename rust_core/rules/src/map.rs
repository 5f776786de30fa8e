//! A file mapped for reading. Used by `Index` only.
//!
//! Invariant: what is mapped is a regular file that nobody writes to or cuts any more: an index is renamed into place when it is whole. A file
//! that was replaced or unlinked stays readable until the map is dropped.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr::NonNull;

use crate::error::RulesError;

/// The octets of a file.
pub(crate) struct Map {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the pages are never written to through it.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Maps the whole file.
    pub(crate) fn open(path: &Path) -> Result<Self, RulesError> {
        let file = File::open(path).map_err(RulesError::at(path))?;
        let length = file.metadata().map_err(RulesError::at(path))?.len();
        let length = usize::try_from(length).unwrap_or(0);
        if length == 0 {
            return Err(RulesError::damaged(path, "is empty"));
        }
        // SAFETY: a fresh map of an open file; the result is looked at.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => Ok(Self { start, length }),
            _ => Err(RulesError::at(path)(std::io::Error::last_os_error())),
        }
    }

    /// All of it.
    pub(crate) fn octets(&self) -> &[u8] {
        // SAFETY: mapped for as long as `self` lives, and never written to.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: mapped by `open`, and nobody borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}
