//! The files of one partition's history, as the writer and the readers share them: which there are, and connections kept open for reading.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gatepost_queue::{MessageId, now_us};
use parking_lot::Mutex;
use rusqlite::Connection;

use crate::error::HistoryError;
use crate::file::{FileInfo, Row, file_name, merge_wal, open_reader, parse_file_name, read_sealed, row_by_id};
use crate::follow::Options;

/// Connections kept open at most.
const KEPT: usize = 64;

/// The shared list.
#[derive(Default)]
pub struct Shelf {
    dir: PathBuf,
    files: Mutex<Vec<Arc<FileInfo>>>,
    open: Mutex<HashMap<u32, Connection>>,
    notices: Mutex<Vec<String>>,
}

impl Shelf {
    /// Lists the directory, which is made if need be. Files that cannot be read are set aside. A directory that cannot be used at all is said in a
    /// notice and looked at again later.
    pub fn open(dir: &Path) -> Self {
        let shelf = Self { dir: dir.to_owned(), ..Self::default() };
        if let Err(error) = shelf.reload() {
            shelf.notice(format!("{}: {error}; mail is not concerned", dir.display()));
        }
        shelf
    }

    /// Lists the directory anew.
    pub fn reload(&self) -> Result<(), HistoryError> {
        fs::create_dir_all(&self.dir)?;
        let mut numbers: Vec<u32> = fs::read_dir(&self.dir)?.filter_map(|e| parse_file_name(e.ok()?.file_name().to_str()?)).collect();
        numbers.sort_unstable();
        let mut files = Vec::new();
        for number in numbers {
            let info = FileInfo { number, path: self.dir.join(file_name(number)), sealed: None, merged: false };
            match open_reader(&info).and_then(|db| read_sealed(&db)) {
                Ok(Some(sealed)) => {
                    let merged = merge_wal(&info.path).is_ok();
                    files.push(Arc::new(FileInfo { sealed: Some(sealed), merged, ..info }));
                }
                Ok(sealed) => files.push(Arc::new(FileInfo { sealed, ..info })),
                Err(HistoryError::Damaged(why)) => self.set_aside(&info, &why),
                // Perhaps a file that was made and not written to when the process died; the writer will see.
                Err(HistoryError::Version { found: 0, .. }) => files.push(Arc::new(info)),
                Err(error) => self.notice(format!("{}: {error}", info.path.display())),
            }
        }
        self.open.lock().clear();
        *self.files.lock() = files;
        Ok(())
    }

    /// Where the files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// All files, oldest first.
    pub fn files(&self) -> Vec<Arc<FileInfo>> {
        self.files.lock().clone()
    }

    /// Adds a file, or puts it in the place of the one with its number.
    pub fn put(&self, info: FileInfo) {
        self.open.lock().remove(&info.number);
        let mut files = self.files.lock();
        files.retain(|f| f.number != info.number);
        files.push(Arc::new(info));
        files.sort_unstable_by_key(|f| f.number);
    }

    /// Forgets a file and unlinks it.
    pub fn remove(&self, number: u32) {
        self.forget(number);
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(self.dir.join(file_name(number) + suffix));
        }
    }

    fn forget(&self, number: u32) {
        self.files.lock().retain(|f| f.number != number);
        self.open.lock().remove(&number);
    }

    /// Renames a file that cannot be read, so that it is in nobody's way and can be looked at.
    pub fn set_aside(&self, info: &FileInfo, why: &str) {
        self.forget(info.number);
        let name = file_name(info.number);
        let mut aside = self.dir.join(format!("{name}.damaged"));
        for n in 1..100 {
            if !aside.exists() {
                break;
            }
            aside = self.dir.join(format!("{name}.damaged-{n}"));
        }
        let moved = fs::rename(&info.path, &aside);
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(self.dir.join(format!("{name}{suffix}")));
        }
        let outcome =
            moved.map_or_else(|e| format!("and cannot be set aside: {e}"), |()| format!("and was set aside as {}", aside.display()));
        self.notice(format!("history file {name} is damaged ({why}) {outcome}; mail is not concerned"));
    }

    /// Runs `f` on a reading connection to a file.
    pub fn read<T>(&self, info: &FileInfo, f: impl FnOnce(&Connection) -> Result<T, HistoryError>) -> Result<T, HistoryError> {
        let kept = self.open.lock().remove(&info.number);
        let db = match kept {
            Some(db) => db,
            None => open_reader(info)?,
        };
        let result = f(&db);
        if result.is_ok() {
            let mut open = self.open.lock();
            // A file that was sealed or removed meanwhile must not be read through what was opened before.
            let same = self
                .files
                .lock()
                .iter()
                .any(|f| f.number == info.number && f.sealed.is_some() == info.sealed.is_some() && f.merged == info.merged);
            if open.len() < KEPT && same {
                open.insert(info.number, db);
            }
        }
        result
    }

    /// The newest row of a message in files with a number above `above`.
    pub fn find(&self, files: &[Arc<FileInfo>], id: &MessageId, above: u32) -> Result<Option<Row>, HistoryError> {
        for info in files.iter().rev().take_while(|f| f.number > above) {
            if info.sealed.as_ref().is_none_or(|sealed| sealed.may_have(id))
                && let Some(row) = self.read(info, |db| row_by_id(db, id))?
            {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// Octets of all files.
    pub fn octets(&self) -> u64 {
        let size = |path: &Path| fs::metadata(path).map_or(0, |m| m.len());
        self.files().iter().map(|f| size(&f.path) + size(&f.path.with_extension("db-wal"))).sum()
    }

    /// Something an administrator should read in the log; kept until it is asked for, within bounds.
    pub fn notice(&self, text: String) {
        let mut notices = self.notices.lock();
        if notices.len() < 100 && notices.last() != Some(&text) {
            notices.push(text);
        }
    }

    /// What [`Shelf::notice`] was told since the last call.
    pub fn take_notices(&self) -> Vec<String> {
        std::mem::take(&mut self.notices.lock())
    }
}

/// Unlinks what is too old or too much of a history that nobody writes to any more (its partition is gone). Nothing in it is in the queue.
pub fn expire(shelf: &Shelf, options: Options) {
    let now = now_us();
    let old = |info: &FileInfo| {
        let until = info.sealed.as_ref().map_or_else(|| modified_us(&info.path).unwrap_or(now), |sealed| sealed.until_us);
        now.saturating_sub(until) > options.age_seconds.saturating_mul(1_000_000)
    };
    while let Some(oldest) = shelf.files().first()
        && (old(oldest) || shelf.octets() > options.max_octets)
    {
        shelf.remove(oldest.number);
    }
}

fn modified_us(path: &Path) -> Option<u64> {
    let modified = fs::metadata(path).ok()?.modified().ok()?;
    Some(modified.duration_since(std::time::UNIX_EPOCH).ok()?.as_micros() as u64)
}
