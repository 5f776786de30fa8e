//! The files of one partition's history, as the writer and the readers share them: which there are, connections kept open for reading, the spans of
//! the file that is written to, and what is not known (`gap`).

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gatepost_queue::{MessageId, now_us};
use parking_lot::Mutex;
use rusqlite::Connection;

use crate::error::HistoryError;
use crate::file::{FIRST_VERSION, FileInfo, Row, file_name, merge_wal, open_reader, parse_file_name, read_sealed, row_by_id};
use crate::follow::Options;
pub use crate::gap::{Gap, Voids};
use crate::gap::{Gaps, read_voids};
use crate::seal::migrate;
use crate::span::{Span, place};

/// Connections kept open at most.
const KEPT: usize = 64;

/// The shared list.
#[derive(Default)]
pub struct Shelf {
    dir: PathBuf,
    files: Mutex<Vec<Arc<FileInfo>>>,
    open: Mutex<HashMap<u32, Connection>>,
    notices: Mutex<Vec<String>>,
    /// What was said of files that cannot be read: the list is read again every few seconds while something fails, and once is enough.
    faults: Mutex<HashMap<u32, HistoryError>>,
    /// The file that is written to, and its spans in the order of rows.
    written: Mutex<(u32, Vec<Span>)>,
    voids: Mutex<HashMap<u32, Arc<Voids>>>,
    gaps: Mutex<Gaps>,
}

impl Shelf {
    /// Lists the directory, which is made if need be. Files that cannot be read are set aside. A directory that cannot be used at all is said in a
    /// notice and looked at again later.
    pub fn open(dir: &Path) -> Self {
        let shelf = Self::unread(dir);
        shelf.look();
        shelf
    }

    /// Knows of no file yet.
    pub fn unread(dir: &Path) -> Self {
        // A directory that cannot be made is told when it is looked at.
        let _ = fs::create_dir_all(dir);
        Self { dir: dir.to_owned(), ..Self::default() }
    }

    /// Lists the directory; what is wrong with it is told in a notice.
    pub fn look(&self) {
        if let Err(error) = self.reload() {
            self.notice(format!("{}: {error}; mail is not concerned", self.dir.display()));
        }
    }

    /// Lists the directory anew. Files of an older layout are rewritten.
    pub fn reload(&self) -> Result<(), HistoryError> {
        fs::create_dir_all(&self.dir)?;
        let mut numbers: Vec<u32> = fs::read_dir(&self.dir)?.filter_map(|e| parse_file_name(e.ok()?.file_name().to_str()?)).collect();
        numbers.sort_unstable();
        let (mut files, mut faults) = (Vec::new(), Vec::new());
        for number in numbers {
            let info = FileInfo { number, path: self.dir.join(file_name(number)), sealed: None, merged: false };
            let opened = match open_reader(&info) {
                Err(HistoryError::Version { found: FIRST_VERSION, .. }) => migrate(&info.path).and_then(|()| open_reader(&info)),
                other => other,
            };
            match opened.and_then(|db| read_sealed(&db)) {
                Ok(Some(sealed)) => {
                    let merged = merge_wal(&info.path).is_ok();
                    files.push(Arc::new(FileInfo { sealed: Some(sealed), merged, ..info }));
                }
                Ok(sealed) => files.push(Arc::new(FileInfo { sealed, ..info })),
                Err(HistoryError::Damaged(why)) => self.set_aside(&info, &why),
                // Perhaps a file that was made and not written to when the process died; the writer will see.
                Err(HistoryError::Version { found: 0, .. }) => files.push(Arc::new(info)),
                Err(error) => faults.push((info, error)),
            }
        }
        self.blame(faults);
        self.open.lock().clear();
        *self.files.lock() = files;
        self.recall();
        Ok(())
    }

    /// These files cannot be read: says so of those of which it was not said before.
    fn blame(&self, found: Vec<(FileInfo, HistoryError)>) {
        let mut known = self.faults.lock();
        let before = std::mem::take(&mut *known);
        for (info, error) in found {
            if before.get(&info.number) != Some(&error) {
                let told = match &error {
                    HistoryError::Version { .. } => {
                        format!(
                            "{error}; run the gatepost that wrote it, or move the file away to go on without what it tells; mail is not concerned"
                        )
                    }
                    _ => format!("{}: {error}", info.path.display()),
                };
                self.notice(told);
            }
            known.insert(info.number, error);
        }
    }

    /// What the files say about each other and about what is missing. One that cannot be read says nothing.
    fn recall(&self) {
        let mut voids: HashMap<u32, Voids> = HashMap::new();
        let mut gaps = self.gaps.lock().clone();
        for info in self.files() {
            let read = self.read(&info, |db| {
                gaps.read(db)?;
                read_voids(db, &mut |file, row| voids.entry(file).or_default().set(row))
            });
            if let (Err(error), Some(_)) = (read, &info.sealed) {
                self.notice(format!("{}: {error}", info.path.display()));
            }
        }
        *self.voids.lock() = voids.into_iter().map(|(file, voids)| (file, Arc::new(voids))).collect();
        *self.gaps.lock() = gaps;
    }

    /// Rows of a file that newer ones replaced.
    pub fn voids(&self, number: u32) -> Arc<Voids> {
        self.voids.lock().get(&number).cloned().unwrap_or_default()
    }

    /// Notes rows that the file that is written to replaced; each with the number of its file.
    pub fn void(&self, rows: &[(u32, u32)]) {
        let mut voids = self.voids.lock();
        for (file, row) in rows {
            Arc::make_mut(voids.entry(*file).or_default()).set(*row);
        }
    }

    /// Where records are missing.
    pub fn gaps(&self) -> Vec<Gap> {
        self.gaps.lock().0.clone()
    }

    /// As they are kept, without those that ended before.
    pub fn gap_octets(&self, before_us: u64) -> Vec<u8> {
        let mut gaps = self.gaps.lock();
        gaps.forget(before_us);
        gaps.encode()
    }

    /// Records of a span of time are missing.
    pub fn missing(&self, from_us: u64, to_us: u64) {
        self.gaps.lock().add(Gap { from_us: from_us.min(to_us), to_us });
    }

    /// The spans of the file that is written to, row by row; None when it is another, or nobody writes here any more.
    pub fn open_spans(&self, number: u32) -> Option<Vec<Span>> {
        let written = self.written.lock();
        (written.0 == number).then(|| written.1.clone())
    }

    /// Begins with the spans of another file, row by row.
    pub fn set_spans(&self, number: u32, spans: Vec<Span>) {
        *self.written.lock() = (number, spans);
    }

    /// Puts spans in the place of those of their rows, or behind them all.
    pub fn put_spans(&self, spans: &[Span]) {
        place(&mut self.written.lock().1, spans);
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

    /// Nothing in a file happened before: when the file before it was sealed.
    fn begin_of(&self, info: &FileInfo) -> u64 {
        let before = self.files().into_iter().rev().find(|f| f.number < info.number);
        before.and_then(|f| Some(f.sealed.as_ref()?.until_us)).unwrap_or(0)
    }

    fn forget(&self, number: u32) {
        self.files.lock().retain(|f| f.number != number);
        self.open.lock().remove(&number);
    }

    /// Renames a file that cannot be read, so that it is in nobody's way and can be looked at. What it told is missing from now on.
    pub fn set_aside(&self, info: &FileInfo, why: &str) {
        self.forget(info.number);
        self.missing(self.begin_of(info), info.sealed.as_ref().map_or_else(now_us, |sealed| sealed.until_us));
        self.recall();
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

    /// The newest row of a message in files with a number above `above`, and the number of its file.
    pub fn find(&self, files: &[Arc<FileInfo>], id: &MessageId, above: u32) -> Result<Option<(u32, Row)>, HistoryError> {
        for info in files.iter().rev().take_while(|f| f.number > above) {
            if info.sealed.as_ref().is_none_or(|sealed| sealed.may_have(id))
                && let Some(row) = self.read(info, |db| row_by_id(db, id))?
            {
                return Ok(Some((info.number, row)));
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
