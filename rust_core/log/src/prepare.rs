//! Opening a log: its directory is locked and its segments listed ([`Log::prepare`]), every record handed over ([`Prepared::replay`]), and a fresh
//! segment begun ([`Prepared::start`]).
//!
//! Invariants: nothing that was synced is cut; a number of a segment is never used twice, nor that of one that was moved aside; what cannot be
//! read is reported with its place, and the rest is handed over. Fails without a change when the disk does not answer.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::ahead::Ahead;
use crate::batch::Batch;
use crate::committer::Committer;
use crate::error::LogError;
use crate::format::{Identity, Loc, SEGMENT_HEADER, parse_segment_name, segment_name};
use crate::log::{Log, Options};
use crate::recover::{Damage, Recovery, Replay, move_aside, scan, seal, set_aside};
use crate::segment::Segment;
use crate::spares::{make_spare, name_segment};
use crate::state::{Shared, Spare, State};
use crate::step::Workers;
use crate::storage::{LockGuard, Storage, lock_holder};
use crate::trailing::Trailing;
use crate::{Done, Lost};

/// Smallest and largest segment a log can be opened with.
const SEGMENT_RANGE: std::ops::RangeInclusive<u32> = (64 << 10)..=(1 << 30);

/// A log whose directory is locked and whose segments are known, before any record was read.
pub struct Prepared {
    dir: PathBuf,
    options: Options,
    segments: Vec<u32>,
    spares: Vec<String>,
    /// The highest number any segment had, also one that was moved aside.
    highest: u32,
    replayed: bool,
    /// The last segment and where its records end; None when it could not be read.
    end: Option<(u32, u32)>,
    lost: Option<Lost>,
    /// Segments with pages that cannot be read.
    unread: BTreeSet<u32>,
    lock: Box<dyn LockGuard>,
}

impl Log {
    /// Creates the directory if need be, locks it and lists its segments.
    pub fn prepare(dir: &Path, options: Options) -> Result<Prepared, LogError> {
        if !SEGMENT_RANGE.contains(&options.segment_bytes) {
            return Err(LogError::TooLarge(options.segment_bytes as usize));
        }
        let storage = &options.storage;
        make_lasting_dir(&**storage, dir)?;
        let path = dir.join("lock");
        let lock = storage.lock(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::WouldBlock => LogError::Locked { path: path.display().to_string(), holder: lock_holder(&path) },
            _ => LogError::io("lock", &path, &e),
        })?;
        let names = storage.list(dir).map_err(|e| LogError::io("list", dir, &e))?;
        let mut segments: Vec<u32> = names.iter().filter_map(|n| parse_segment_name(n)).collect();
        segments.sort_unstable();
        let spares = names.into_iter().filter(|n| n.starts_with("spare-")).collect();
        let highest = segments.last().copied().unwrap_or(0);
        Ok(Prepared {
            dir: dir.to_owned(),
            options,
            segments,
            spares,
            highest,
            replayed: false,
            end: None,
            lost: None,
            unread: BTreeSet::new(),
            lock,
        })
    }
}

/// Creates the directory if need be and makes its name durable, and the names of those above it: what is synced in a directory that a power cut takes
/// away is lost all the same. Those above may not be ours to sync.
fn make_lasting_dir(storage: &dyn Storage, dir: &Path) -> Result<(), LogError> {
    storage.make_dir(dir).map_err(|e| LogError::io("create", dir, &e))?;
    for above in dir.ancestors().skip(1) {
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        match storage.sync_dir(above) {
            Err(e) if e.raw_os_error() == Some(libc::EIO) => return Err(LogError::io("sync", above, &e)),
            _ => {}
        }
    }
    Ok(())
}

impl Prepared {
    /// Numbers of the segments that exist, ascending.
    pub fn segments(&self) -> &[u32] {
        &self.segments
    }

    /// The locked directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The storage it is on.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.options.storage
    }

    /// Hands over every valid record at or after `from` in log order. Cuts a torn end, sets damaged places aside and reports them.
    /// An error of the callback ends the replay.
    pub fn replay(&mut self, from: Loc, each: &mut Replay<'_>) -> Result<Recovery, LogError> {
        let mut recovery = Recovery::default();
        self.replayed = true;
        recovery.damaged = self.moved_before()?;
        let moved = recovery.damaged.iter().filter_map(|damage| parse_segment_name(&damage.file)).max();
        self.highest = self.highest.max(moved.unwrap_or(0));
        let last = self.segments.last().copied();
        for number in self.segments.clone() {
            let Some(segment) = self.open_segment(number, &mut recovery)? else { continue };
            if number < from.segment && Some(number) != last {
                continue;
            }
            let start = if number == from.segment { from.offset } else { 0 };
            let known = recovery.damaged.len();
            let mut wanted = |loc: Loc, kind: u8, payload: &[u8]| if loc < from { Ok(()) } else { each(loc, kind, payload) };
            let found = scan(&segment, start, Some(number) == last, &mut wanted, &mut recovery)?;
            if found.unread {
                self.unread.insert(number);
            }
            for damage in &mut recovery.damaged[known..] {
                if let Err(error) = set_aside(&*self.options.storage, &self.dir, &segment, damage) {
                    damage.reason = format!("{}; no copy could be made: {error}", damage.reason);
                }
            }
            if Some(number) == last {
                seal(&self.dir, &segment, &found)?;
                recovery.torn_bytes = found.torn;
                self.end = Some((number, found.end));
            }
        }
        Ok(recovery)
    }

    fn open_segment(&mut self, number: u32, recovery: &mut Recovery) -> Result<Option<Segment>, LogError> {
        match Segment::open(&*self.options.storage, &self.dir, number, true) {
            Ok((segment, header)) if header.app == self.options.app => Ok(Some(segment)),
            Ok((_, header)) => Err(LogError::Io(format!(
                "{} belongs to {:?}, not to {:?}",
                self.dir.join(segment_name(number)).display(),
                String::from_utf8_lossy(&header.app),
                String::from_utf8_lossy(&self.options.app),
            ))),
            Err(LogError::Damaged { file, offset, reason }) => {
                let length = move_aside(&*self.options.storage, &self.dir, number, &segment_name(number))?;
                self.segments.retain(|n| *n != number);
                recovery.damaged.push(Damage { file, offset, length, reason });
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Segments that an earlier opening moved aside: reported as long as they lie there, since nobody may have heard of it that time.
    fn moved_before(&self) -> Result<Vec<Damage>, LogError> {
        let (storage, room) = (&self.options.storage, self.dir.join("damaged"));
        let mut names = match storage.list(&room) {
            Ok(names) => names,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(LogError::io("list", &room, &e)),
        };
        names.retain(|name| parse_segment_name(name).is_some());
        names.sort_unstable();
        let describe = |file: String| {
            let length = storage.open(&room.join(&file), false).and_then(|f| f.len()).unwrap_or(0);
            Damage { file, offset: 0, length, reason: "moved to damaged/ by an earlier opening".to_owned() }
        };
        Ok(names.into_iter().map(describe).collect())
    }

    /// Has `lost` hear of records that are given up for want of space.
    pub fn on_loss(&mut self, lost: Lost) {
        self.lost = Some(lost);
    }

    /// Creates a fresh segment and starts the threads. Call after [`Prepared::replay`].
    pub fn start(mut self, done: Done) -> Result<Log, LogError> {
        if !self.replayed {
            self.replay(Loc { segment: u32::MAX, offset: 0 }, &mut |_, _, _| Ok(()))?;
        }
        let number = self.highest + 1;
        let identity = Identity::new(None);
        let mut shared = self.shared(number, identity)?;
        for name in &self.spares {
            let _ = shared.storage.remove(&self.dir.join(name));
        }
        // One that could not be removed keeps its name.
        let numbers = self.spares.iter().filter_map(|name| name.strip_prefix("spare-")?.parse::<u64>().ok());
        *shared.spares.get_mut() = numbers.max().map_or(0, |last| last.saturating_add(1));
        let spare = make_spare(&shared)?;
        shared.state.get_mut().limit = spare.size;
        shared.state.get_mut().ahead = Ahead::default().next(&spare);
        name_segment(&shared, &spare, number, identity)?;
        let current = Arc::new(Segment::new(number, identity, spare.file));
        shared.table.insert(Arc::clone(&current));
        self.drop_empty(&shared);
        let shared = Arc::new(shared);
        let keeper = Arc::clone(&shared);
        let committer = Committer { shared: Arc::clone(&shared), done, lost: self.lost, current, trailing: Trailing::default() };
        let workers = if shared.threads { Workers::threads(committer, keeper)? } else { Workers::steps(committer) };
        Ok(Log { shared, workers: Mutex::new(workers), lock: Mutex::new(Some(self.lock)) })
    }

    fn shared(&self, number: u32, identity: Identity) -> Result<Shared, LogError> {
        let storage = &self.options.storage;
        let mut segments = Vec::new();
        for n in &self.segments {
            let path = self.dir.join(segment_name(*n));
            let length = storage.open(&path, false).and_then(|f| f.len()).map_err(|e| LogError::io("stat", &path, &e))?;
            segments.push((*n, length));
        }
        segments.push((number, u64::from(self.options.segment_bytes)));
        let state = State {
            segment: number,
            identity,
            offset: SEGMENT_HEADER,
            limit: self.options.segment_bytes,
            ahead: Ahead::default(),
            cut: false,
            pending: Batch::default(),
            writing: None,
            spare: Spare::None,
            kept: Vec::new(),
            discarded: Vec::new(),
            buffer: Vec::new(),
            appended: 0,
            settled: 0,
            lost: None,
            losses: 0,
            hurry: false,
            fatal: None,
            closing: false,
            doomed: Vec::new(),
            refused: None,
            segments,
        };
        let shared = Shared::new(&self.dir, &self.options, state);
        shared.unread.lock().clone_from(&self.unread);
        Ok(shared)
    }

    /// The last segment of the former run may hold nothing. It goes only now that a segment with a higher number is durable, so that numbers are
    /// never used twice.
    fn drop_empty(&self, shared: &Shared) {
        let Some((number, end)) = self.end else { return };
        if end > SEGMENT_HEADER {
            return;
        }
        shared.state.lock().segments.retain(|(n, _)| *n != number);
        shared.empty.store(number, Ordering::Relaxed);
        if shared.storage.remove(&self.dir.join(segment_name(number))).is_ok() {
            let _ = shared.sync_dir();
        }
    }
}
