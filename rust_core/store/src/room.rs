//! Room for the index on a disk that is full. `SQLite` makes files beside the index when the first process opens it; where no block is free for them, no
//! mailbox could be opened and nothing delivered that would free space.
//!
//! Called by `Volume::open`. A file of this size is kept while there is plenty, and given up for the opening that finds the disk full. Best effort: without it
//! the opening fails as it would, and says why.

use std::path::Path;

use gatepost_log::{OsStorage, Storage};

use crate::error::StoreError;

const NAME: &str = "reserve";
const OCTETS: u64 = 1 << 20;
/// Free space at which the reserve is made.
const PLENTY: u64 = 16 << 20;

fn free(dir: &Path) -> u64 {
    OsStorage.free_bytes(dir).unwrap_or(u64::MAX)
}

/// Gives the reserve up if the disk is full.
pub fn use_reserve(dir: &Path) {
    if free(dir) < OCTETS {
        let _ = std::fs::remove_file(dir.join(NAME));
    }
}

/// Makes the reserve if there is none, and room for it.
pub fn keep_reserve(dir: &Path) {
    let path = dir.join(NAME);
    if free(dir) < PLENTY || path.exists() {
        return;
    }
    if OsStorage.create(&path).and_then(|file| file.allocate(OCTETS)).is_err() {
        let _ = std::fs::remove_file(&path);
    }
}

/// What `SQLite` calls an I/O error is want of room on a full disk.
pub fn explain(dir: &Path, error: StoreError) -> StoreError {
    match error {
        StoreError::Io(text) | StoreError::DiskFull(text) if free(dir) < OCTETS => {
            StoreError::DiskFull(format!("{}: no room on the disk to open the mailboxes: {text}", dir.display()))
        }
        other => other,
    }
}
