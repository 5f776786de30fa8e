//! Briefs: beside each older segment of a deep queue a small file with what filters ask of its records (sender, addresses, journal), so that a
//! million messages are counted without reading their bodies. Layout in docs/formats.md.
//!
//! The keeper writes them (`Core::tend_briefs`), searches read them (`scan`). Derived from the sealed segment, which never changes, hence neither synced
//! nor needed: one that is missing, torn or of another version is made again, and what it does not tell is read from the log. The newest segments
//! have none, so mail that passes quickly costs nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gatepost_log::{Loc, LogError, ScanLimits};
use parking_lot::Mutex;

use crate::codec::{Cursor, Glance, KIND_ACCEPTED, KIND_CHUNK, KIND_JOURNAL, KIND_MOVED, accepted_length};
use crate::error::QueueError;
use crate::spool::Core;

const MAGIC: &[u8; 8] = b"GPSTBRF\n";
const VERSION: u32 = 1;
/// Magic, version, checksum of what follows.
const HEAD: usize = 16;
/// Behind it: segment, its salt, number of entries.
const FIXED: usize = HEAD + 12;
/// Place of the record, end of the entry.
const SLOT: usize = 8;
/// Newest sealed segments that get none.
const FRESH: usize = 4;
/// Octets of a segment per live message at the most: where there are fewer messages, each is read itself sooner than the brief would be made.
const SPARSE: u64 = 64 << 10;
/// Octets of a record that are looked at; one with a longer envelope or detail has no entry.
const PREFIX: usize = 4096;
/// A brief is at most this part of its segment: where records are small, the log itself is read as quickly.
const SHARE: u64 = 4;
/// After a failure (a full disk, say).
const PAUSE: Duration = Duration::from_secs(10);
/// Briefs that a search has in memory.
const SHELF: usize = 8;
/// Candidates of a search that pay for reading a brief, but for the first ones: else a search that leaps to and fro reads them again and again.
const WORTH: usize = 64;
const ADVANCE: usize = 16;

/// Which there are. Only the keeper adds.
#[derive(Debug, Default)]
pub(crate) struct Briefs {
    /// None: the directory was not looked at yet.
    made: Option<BTreeSet<u32>>,
    /// Segments that are to have none: their records are small, or cannot be read.
    unfit: BTreeSet<u32>,
    failed: Option<Instant>,
}

fn name(segment: u32) -> String {
    format!("brief-{segment:08}")
}

fn number(name: &str) -> Option<u32> {
    name.strip_prefix("brief-")?.parse().ok()
}

/// One that was read, its checksum verified.
pub(crate) struct Brief {
    octets: Vec<u8>,
    count: usize,
}

impl Brief {
    /// None when these octets are not the brief of this segment.
    fn new(octets: Vec<u8>, segment: u32, salt: u32) -> Option<Self> {
        let mut c = Cursor(octets.get(..FIXED)?);
        let magic = c.take(8)?;
        let (version, crc, of, its_salt, count) = (c.u32()?, c.u32()?, c.u32()?, c.u32()?, c.u32()? as usize);
        let whole = magic == MAGIC && version == VERSION && crc32c::crc32c(&octets[HEAD..]) == crc;
        let fits = whole && of == segment && its_salt == salt && count <= (octets.len() - FIXED) / SLOT;
        fits.then_some(Self { octets, count })
    }

    fn slot(&self, n: usize) -> Option<(u32, usize)> {
        let mut c = Cursor(self.octets.get(FIXED + n * SLOT..)?);
        Some((c.u32()?, c.u32()? as usize))
    }

    /// Kind and entry of the record at this offset.
    pub fn find(&self, offset: u32) -> Option<(u8, &[u8])> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.slot(middle)?.0 < offset { low = middle + 1 } else { high = middle }
        }
        let (found, end) = self.slot(low).filter(|_| low < self.count)?;
        let start = if low == 0 { 0 } else { self.slot(low - 1)?.1 };
        let entry = self.octets.get(FIXED + self.count * SLOT..)?.get(start..end)?;
        let (kind, entry) = entry.split_first()?;
        (found == offset).then_some((*kind, entry))
    }
}

/// A brief in the making.
#[derive(Default)]
struct Draft {
    slots: Vec<(u32, u32)>,
    entries: Vec<u8>,
}

impl Draft {
    fn add(&mut self, loc: Loc, kind: u8, entry: &[u8]) {
        self.entries.push(kind);
        self.entries.extend_from_slice(entry);
        self.slots.push((loc.offset, self.entries.len() as u32));
    }

    fn len(&self) -> u64 {
        (FIXED + self.slots.len() * SLOT + self.entries.len()) as u64
    }

    fn encode(&self, segment: u32, salt: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIXED + self.slots.len() * SLOT + self.entries.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for value in [segment, salt, self.slots.len() as u32] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        for (offset, end) in &self.slots {
            out.extend_from_slice(&offset.to_le_bytes());
            out.extend_from_slice(&end.to_le_bytes());
        }
        out.extend_from_slice(&self.entries);
        let crc = crc32c::crc32c(&out[HEAD..]);
        out[12..HEAD].copy_from_slice(&crc.to_le_bytes());
        out
    }
}

impl Core {
    /// Removes briefs of segments that are gone, and makes one that is missing. True when it made one: there may be more to make.
    pub fn tend_briefs(&self) -> bool {
        let segments = self.log.segments();
        let older = &segments[..segments.len().saturating_sub(1 + FRESH)];
        let now = self.log.storage().now();
        let wanted = {
            let index = self.shared.index.lock();
            let worth: Vec<_> =
                older.iter().filter(|(n, octets)| u64::from(index.segments.count(*n)) * SPARSE >= *octets).copied().collect();
            drop(index);
            let mut briefs = self.briefs.lock();
            if briefs.failed.is_some_and(|then| now.duration_since(then) < PAUSE) || self.drop_needless(&mut briefs, &segments).is_err() {
                return false;
            }
            worth.into_iter().find(|(n, _)| !briefs.unfit.contains(n) && !briefs.made.as_ref().is_some_and(|made| made.contains(n)))
        };
        let Some((segment, octets)) = wanted.filter(|_| !self.log.low_space()) else { return false };
        let made = self.write_brief(segment, octets);
        let mut briefs = self.briefs.lock();
        match made {
            Ok(true) => drop(briefs.made.get_or_insert_default().insert(segment)),
            Ok(false) => drop(briefs.unfit.insert(segment)),
            Err(_) => briefs.failed = Some(now),
        }
        made.is_ok()
    }

    fn drop_needless(&self, briefs: &mut Briefs, segments: &[(u32, u64)]) -> std::io::Result<()> {
        let (storage, dir) = (self.log.storage(), self.log.dir());
        let exists = |n: &u32| segments.binary_search_by_key(n, |(n, _)| *n).is_ok();
        if briefs.made.is_none() {
            briefs.made = Some(storage.list(dir)?.iter().filter_map(|name| number(name)).collect());
        }
        briefs.unfit.retain(exists);
        let made = briefs.made.get_or_insert_default();
        for gone in made.iter().filter(|n| !exists(n)).copied().collect::<Vec<_>>() {
            match storage.remove(&dir.join(name(gone))) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => drop(made.remove(&gone)),
            }
        }
        Ok(())
    }

    /// False when the segment is better read itself.
    fn write_brief(&self, segment: u32, octets: u64) -> Result<bool, QueueError> {
        let Some(salt) = self.log.salt(segment) else { return Ok(false) };
        let most = octets / SHARE;
        let draft = match self.draft(segment, true)? {
            whole if whole.len() <= most => whole,
            _ => self.draft(segment, false)?,
        };
        if draft.len() > most {
            return Ok(false);
        }
        let (storage, path) = (self.log.storage(), self.log.dir().join(name(segment)));
        let failed = |error: std::io::Error| QueueError::Log(LogError::Io(format!("write {}: {error}", name(segment))));
        match storage.remove(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let file = storage.create(&path).map_err(failed)?;
        if let Err(error) = file.write_at(&draft.encode(segment, salt), 0) {
            let _ = storage.remove(&path);
            return Err(failed(error));
        }
        Ok(true)
    }

    fn draft(&self, segment: u32, journal: bool) -> Result<Draft, QueueError> {
        let (mut draft, mut entry) = (Draft::default(), Vec::new());
        let limits = ScanLimits { records: usize::MAX, prefix: PREFIX, without: KIND_CHUNK };
        self.log.scan_sealed(segment, limits, &mut |loc, kind, payload, length| {
            match kind {
                KIND_ACCEPTED | KIND_MOVED if accepted_length(payload).is_some_and(|needed| needed <= payload.len()) => {
                    entry.clear();
                    if Glance::new(payload).and_then(|glance| glance.put_brief(&mut entry)).is_some() {
                        draft.add(loc, kind, &entry);
                    }
                }
                KIND_JOURNAL if journal && payload.len() == length as usize => draft.add(loc, kind, payload),
                _ => {}
            }
            true
        })?;
        Ok(draft)
    }

    fn read_brief(&self, segment: u32) -> Option<Brief> {
        let file = self.log.storage().open(&self.log.dir().join(name(segment)), false).ok()?;
        let mut octets = vec![0; usize::try_from(file.len().ok()?).ok()?];
        let n = file.read_at(&mut octets, 0).ok()?;
        octets.truncate(n);
        Brief::new(octets, segment, self.log.salt(segment)?)
    }
}

/// The briefs that one search has open. Shared by its threads.
pub(crate) struct Shelf<'a> {
    core: &'a Core,
    open: Mutex<Vec<(u32, Option<Arc<Brief>>)>>,
    read: AtomicUsize,
    asked: AtomicUsize,
}

impl<'a> Shelf<'a> {
    pub fn new(core: &'a Core) -> Self {
        Self { core, open: Mutex::default(), read: AtomicUsize::new(0), asked: AtomicUsize::new(0) }
    }

    /// So many candidates were looked at.
    pub fn used(&self, candidates: usize) {
        self.asked.fetch_add(candidates, Ordering::Relaxed);
    }

    /// The brief of a segment in which some of so many candidates lie; None when there is none, or the log tells it as quickly.
    pub fn get(&self, segment: u32, candidates: usize) -> Option<Arc<Brief>> {
        let mut open = self.open.lock();
        if let Some((_, brief)) = open.iter().find(|(n, _)| *n == segment) {
            return brief.clone();
        }
        // Most of the segment would have to be asked for.
        let few = candidates * 8 < self.core.shared.index.lock().segments.count(segment) as usize;
        let dear = self.read.load(Ordering::Relaxed) > ADVANCE + self.asked.load(Ordering::Relaxed) / WORTH;
        if few || dear || !self.core.briefs.lock().made.as_ref().is_some_and(|made| made.contains(&segment)) {
            return None;
        }
        self.read.fetch_add(1, Ordering::Relaxed);
        let brief = self.core.read_brief(segment).map(Arc::new);
        if brief.is_none()
            && let Some(made) = &mut self.core.briefs.lock().made
        {
            // It is made again.
            made.remove(&segment);
        }
        if open.len() >= SHELF {
            open.remove(0);
        }
        open.push((segment, brief.clone()));
        brief
    }
}
