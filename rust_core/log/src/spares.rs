//! Files that become segments: preallocated ones, and freed segments that are used again. The keeper thread makes them, the committer names them.
//!
//! Writing into blocks that were written before costs the file system no journal commit, about a third of the time of a sync into
//! preallocated ones. So a freed segment is renamed to a spare. Invariants: the rename is durable before the file is written again, so
//! no crash leaves a segment's name on another's octets; a file that somebody may still read (an `Arc<Segment>` is out) is removed, never
//! written again; the next life has another salt and nonce (`format`). Failure: a file that cannot be kept is removed; one that cannot be removed is
//! tried again later, and until then no other goes.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use crate::batch::SpareFile;
use crate::error::LogError;
use crate::format::{FORMAT_VERSION, Identity, SEGMENT_HEADER, SegmentHeader, segment_name};
use crate::recover::move_aside;
use crate::state::Shared;

/// Kept for the journal on a disk so full that nothing else can be had, across restarts too.
const RESERVE_NAME: &str = "reserve";
/// Its largest size.
const RESERVE_MAX: u32 = 4 << 20;
/// Smallest segment worth having when the disk is nearly full.
const SMALLEST_SEGMENT: u32 = 32 << 10;

impl Shared {
    fn spare_path(&self) -> PathBuf {
        self.dir.join(format!("spare-{}", self.spares.fetch_add(1, Ordering::Relaxed)))
    }

    /// Takes a segment out of the directory, durably before the next one goes: as a spare if `keep` and nobody reads it, else removed. After an error no
    /// other may go before it: a later one can hold the word that what is in this one is finished.
    pub fn retire_segment(&self, number: u32, keep: bool) -> io::Result<Option<SpareFile>> {
        let unused = self.table.retire(number);
        if self.unread.lock().contains(&number) {
            return self.put_away(number).map(|()| None);
        }
        if keep
            && unused
            && let Some(spare) = self.recycle(number)
        {
            return Ok(Some(spare));
        }
        match self.storage.remove(&self.dir.join(segment_name(number))) {
            // An earlier attempt came that far.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
        self.sync_dir().map(|()| None)
    }

    /// Mail may have been in what could not be read, so the file is not given back but kept in `damaged/`.
    fn put_away(&self, number: u32) -> io::Result<()> {
        match move_aside(&*self.storage, &self.dir, number, &format!("{}-freed", segment_name(number))) {
            Ok(_) => Ok(()),
            Err(_)
                if self.storage.open(&self.dir.join(segment_name(number)), false).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) =>
            {
                Ok(())
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// The segment's file as a spare of full size; None when it is not worth it or something fails.
    fn recycle(&self, number: u32) -> Option<SpareFile> {
        let (from, path) = (self.dir.join(segment_name(number)), self.spare_path());
        let file = self.storage.open(&from, true).ok()?;
        let mut header = [0; SEGMENT_HEADER as usize];
        let n = file.read_at(&mut header, 0).ok()?;
        let former = SegmentHeader::decode(&header[..n], number).ok()?.identity.salt;
        let (length, size) = (file.len().ok()?, u64::from(self.segment_bytes));
        if length < size / 2 || length > size {
            return None;
        }
        self.storage.rename(&from, &path).ok()?;
        let ready = self.sync_dir().and_then(|()| file.allocate(size)).and_then(|()| file.sync());
        if ready.is_err() {
            let _ = self.storage.remove(&path).and_then(|()| self.sync_dir());
            return None;
        }
        Some(SpareFile { path, file: file.into(), former: Some(former), size: self.segment_bytes, made: self.storage.now() })
    }
}

impl Shared {
    /// Sees to it that there is a reserve file. Without one all goes on; the next time that a whole spare is made it is tried again.
    pub fn keep_reserve(&self) {
        if self.reserved.load(Ordering::Relaxed) > 0 {
            return;
        }
        let (path, new) = (self.dir.join(RESERVE_NAME), self.dir.join("reserve.new"));
        let size = u64::from((self.segment_bytes / 16).clamp(SMALLEST_SEGMENT, RESERVE_MAX));
        let there = self.storage.open(&path, false).and_then(|file| file.len()).is_ok_and(|length| length == size);
        let made = || {
            let _ = self.storage.remove(&new);
            let file = self.storage.create(&new)?;
            file.allocate(size).and_then(|()| file.sync()).and_then(|()| self.storage.rename(&new, &path)).and_then(|()| self.sync_dir())
        };
        if there || made().is_ok() {
            self.reserved.store(size, Ordering::Relaxed);
        } else {
            let _ = self.storage.remove(&new);
        }
    }

    /// The reserve as a spare, when nothing else can be had.
    fn take_reserve(&self) -> Option<SpareFile> {
        let (from, path) = (self.dir.join(RESERVE_NAME), self.spare_path());
        let file = self.storage.open(&from, true).ok()?;
        let size = file.len().ok().and_then(|length| u32::try_from(length).ok()).filter(|size| *size >= SMALLEST_SEGMENT)?;
        self.storage.rename(&from, &path).ok()?;
        self.reserved.store(0, Ordering::Relaxed);
        Some(SpareFile { path, file: file.into(), former: None, size, made: self.storage.now() })
    }
}

/// A file under a name that is no segment's: a whole segment, or on a nearly full disk as much of one as can be had; the reserve at last.
pub(crate) fn make_spare(shared: &Shared) -> Result<SpareFile, LogError> {
    let made = allocate_spare(shared);
    match &made {
        Ok(spare) if spare.size == shared.segment_bytes => shared.keep_reserve(),
        Err(error) if error.is_disk_full() => return shared.take_reserve().ok_or_else(|| error.clone()),
        _ => {}
    }
    made
}

fn allocate_spare(shared: &Shared) -> Result<SpareFile, LogError> {
    let path = shared.spare_path();
    let mut size = shared.segment_bytes;
    loop {
        let file = shared.storage.create(&path).map_err(|e| LogError::io("create", &path, &e))?;
        let Err(error) = file.allocate(u64::from(size)).and_then(|()| file.sync()) else {
            return Ok(SpareFile { path, file: file.into(), former: None, size, made: shared.storage.now() });
        };
        drop(file);
        let _ = shared.storage.remove(&path);
        let error = LogError::io("allocate", &path, &error);
        if !error.is_disk_full() || size <= SMALLEST_SEGMENT {
            return Err(error);
        }
        // Only the journal uses a smaller one: it must not take what others need on a disk that is nearly full.
        size = (size / 16).max(SMALLEST_SEGMENT);
    }
}

/// Writes the header of segment `number` into a spare file and renames it, durably.
pub(crate) fn name_segment(shared: &Shared, spare: &SpareFile, number: u32, identity: Identity) -> Result<(), LogError> {
    let path = shared.dir.join(segment_name(number));
    let header = SegmentHeader { version: FORMAT_VERSION, number, identity, app: shared.app }.encode();
    spare.file.write_at(&header, 0).map_err(|e| LogError::writing("write", &path, &e))?;
    spare.file.sync().map_err(|e| LogError::syncing(&path, &e))?;
    shared.storage.rename(&spare.path, &path).map_err(|e| LogError::writing("rename", &path, &e))?;
    shared.sync_dir().map_err(|e| LogError::syncing(&shared.dir, &e))
}
