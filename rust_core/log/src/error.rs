//! One error enum, split by what the caller has to do about it.

use std::io;
use std::path::Path;

use crate::Loc;

/// Everything that can go wrong in the log. Cloneable, since one failed batch fails many callers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// No space left, or free space below the configured minimum. The log stays usable; try again later.
    #[error("disk full: {0}")]
    DiskFull(String),
    /// A sync or a write failed. What is on disk is unknown, so the log is closed for good; reopen it to recover.
    #[error("storage failed, the log is closed: {0}")]
    Fatal(String),
    /// Another process (or another `Log` of this process) holds the directory.
    #[error("{path} is in use by another process{}", if .holder.is_empty() { String::new() } else { format!(" (pid {})", .holder) })]
    Locked {
        /// The lock file.
        path: String,
        /// What the holder wrote into it: its process id, or nothing.
        holder: String,
    },
    /// A record failed its checksum, or is not where the index says.
    #[error("{file}:{offset}: {reason}")]
    Damaged {
        /// File name inside the log directory.
        file: String,
        /// Byte offset of the record.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A file carries a format version this program does not know.
    #[error("{file}: format version {found}, this program knows up to {known}")]
    Version {
        /// The file.
        file: String,
        /// The version found in it.
        found: u32,
        /// The newest version this program reads.
        known: u32,
    },
    /// The segment of that location does not exist (any more).
    #[error("no segment for {0}")]
    NotFound(Loc),
    /// The record does not fit into a segment.
    #[error("record of {0} octets is too large")]
    TooLarge(usize),
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// An operation failed that leaves the log intact (reading, listing, opening).
    #[error("{0}")]
    Io(String),
}

impl LogError {
    /// An I/O failure while reading or opening.
    pub(crate) fn io(what: &str, path: &Path, error: &io::Error) -> Self {
        if is_disk_full(error) {
            return Self::DiskFull(format!("{what} {}: {error}", path.display()));
        }
        Self::Io(format!("{what} {}: {error}", path.display()))
    }

    /// An I/O failure while writing: full disks pass, anything else is final.
    pub(crate) fn writing(what: &str, path: &Path, error: &io::Error) -> Self {
        if is_disk_full(error) {
            return Self::DiskFull(format!("{what} {}: {error}", path.display()));
        }
        Self::Fatal(format!("{what} {}: {error}", path.display()))
    }

    /// A failed sync is always final: the kernel may have dropped the dirty pages.
    pub(crate) fn syncing(path: &Path, error: &io::Error) -> Self {
        Self::Fatal(format!("sync {}: {error}", path.display()))
    }

    /// There was no room.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::DiskFull(_))
    }

    /// True when trying again later can help: room and descriptors come back, the log is as it was.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::DiskFull(_) | Self::Io(_))
    }
}

fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG))
}
