//! What can go wrong, split by what the caller does about it.

use std::io;
use std::path::{Path, PathBuf};

/// Why an index could not be built or opened.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// Torn or damaged, or not an index at all: build it anew.
    #[error("{}: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Of another format version: build it anew.
    #[error("{}: format version {found}, this Gatepost knows {known}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The one that can be read.
        known: u32,
    },
    /// No space for it; what was there before is still there.
    #[error("{}: {error}", path.display())]
    DiskFull {
        /// What was being written.
        path: PathBuf,
        /// As the system says it.
        error: io::Error,
    },
    /// Any other error of the file system.
    #[error("{}: {error}", path.display())]
    Io {
        /// What was being read or written.
        path: PathBuf,
        /// As the system says it.
        error: io::Error,
    },
    /// The tables could not be read.
    #[error("the directory could not be read: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

impl RulesError {
    /// An error of the file system at a path.
    pub(crate) fn at(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        move |error| match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Self::DiskFull { path: path.to_owned(), error },
            _ => Self::Io { path: path.to_owned(), error },
        }
    }

    /// A file that is no index, or not a whole one.
    pub(crate) fn damaged(path: &Path, why: &'static str) -> Self {
        Self::Damaged { path: path.to_owned(), why }
    }
}
