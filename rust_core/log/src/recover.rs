//! Reading a log directory from its files alone: which segments there are, every record in order, what is damaged,
//! where the log ends.
//!
//! A segment that is not the last was synced and cut to its length before its successor appeared, so anything in it that
//! is not a record is damage. In the last one a place without a record is damage if a later batch mark
//! stands behind it (marks are written after all before them was synced); else it is the torn end of a write that nobody was told
//! had succeeded, and is cut. Pages that the disk cannot read (`pages`) are damage wherever they lie, and are never cut.

use std::path::Path;

use crate::Loc;
use crate::error::LogError;
use crate::format::{KIND_MARK, RECORD_HEADER, RecordHeader, SEGMENT_HEADER, align, record_size, segment_name};
use crate::pages::{Lost, UNREADABLE};
use crate::segment::{Segment, is_internal};
use crate::storage::Storage;

/// Octets read at a time while scanning.
const WINDOW: usize = 1 << 20;
/// Damaged places of a segment that are told one by one; the last of them reaches to the end of all others.
const TOLD: usize = 64;

/// Takes a record of the log: its place, kind and payload. An error ends the replay.
pub type Replay<'a> = dyn FnMut(Loc, u8, &[u8]) -> Result<(), LogError> + 'a;

/// A stretch of a segment that is not what was written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Segment file name.
    pub file: String,
    /// First damaged octet.
    pub offset: u64,
    /// Octets set aside.
    pub length: u64,
    /// What is wrong.
    pub reason: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {} ({} octets set aside)", self.file, self.offset, self.reason, self.length)
    }
}

/// What opening a log found.
#[derive(Debug, Default, Clone)]
pub struct Recovery {
    /// Records handed to the replay callback.
    pub records: u64,
    /// Octets of unacknowledged writes cut from the end.
    pub torn_bytes: u64,
    /// Damaged places, in log order.
    pub damaged: Vec<Damage>,
}

impl Recovery {
    /// Takes in the `n`-th damaged place of a segment; what is said, and copied, is bounded.
    fn tell(&mut self, n: usize, damage: Damage) {
        match self.damaged.last_mut().filter(|_| n > TOLD) {
            Some(last) => {
                last.length = damage.offset + damage.length - last.offset;
                last.reason = format!("{} places from here on are damaged, the last at {}: {}", n - TOLD + 1, damage.offset, damage.reason);
            }
            None => self.damaged.push(damage),
        }
    }
}

/// How far a scan of one segment came.
pub(crate) struct ScanEnd {
    /// Where the next record would go.
    pub end: u32,
    /// Octets of the file that look written but are no synced record.
    pub torn: u64,
    /// All before here is known to be synced.
    pub synced: u32,
    /// The disk could not read some of it.
    pub unread: bool,
}

/// A window over a segment file that slides forward.
struct Window<'a> {
    segment: &'a Segment,
    len: u64,
    buf: Vec<u8>,
    base: u64,
    filled: usize,
    /// Places that cannot be read; zeroes stand for their octets.
    lost: Lost,
}

impl<'a> Window<'a> {
    fn new(segment: &'a Segment) -> Result<Self, LogError> {
        let path = segment_name(segment.number());
        let len = segment.file().len().map_err(|e| LogError::io("stat", Path::new(&path), &e))?;
        Ok(Self { segment, len, buf: Vec::new(), base: 0, filled: 0, lost: Lost::default() })
    }

    /// `want` octets at `offset`, fewer at the end of the file.
    fn at(&mut self, offset: u64, want: usize) -> Result<&[u8], LogError> {
        let want = want.min(usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX));
        if offset < self.base || offset + want as u64 > self.base + self.filled as u64 {
            self.buf.resize(want.max(WINDOW), 0);
            self.base = offset;
            self.filled = 0;
            self.filled = self.lost.read(self.segment, &mut self.buf, offset)?;
        }
        let start = usize::try_from(offset - self.base).unwrap_or(0);
        Ok(&self.buf[start..(start + want).min(self.filled)])
    }

    /// The record at `offset`, if a valid one is there.
    fn record(&mut self, offset: u32) -> Result<Option<(u8, &[u8])>, LogError> {
        let segment = self.segment;
        let head = self.at(u64::from(offset), RECORD_HEADER as usize)?;
        let Some(header) = RecordHeader::decode(head, segment.salt(), offset) else { return Ok(None) };
        let total = u64::from(RECORD_HEADER) + u64::from(header.length);
        if u64::from(offset) + total > self.len {
            return Ok(None);
        }
        let bytes = self.at(u64::from(offset), RECORD_HEADER as usize + header.length as usize)?;
        let payload = bytes.get(RECORD_HEADER as usize..).unwrap_or(&[]);
        let whole = payload.len() == header.length as usize && header.verify(payload);
        let valid = whole && (header.kind != KIND_MARK || segment.is_mark(payload));
        Ok(valid.then_some((header.kind, payload)))
    }

    /// Place of the first valid record at or after `offset`.
    fn resync(&mut self, offset: u32) -> Result<Option<u32>, LogError> {
        let salt = self.segment.salt();
        let mut at = align(offset);
        while u64::from(at) + u64::from(RECORD_HEADER) <= self.len {
            let head = self.at(u64::from(at), RECORD_HEADER as usize)?;
            if RecordHeader::decode(head, salt, at).is_some() && self.record(at)?.is_some() {
                return Ok(Some(at));
            }
            at += align(1);
        }
        Ok(None)
    }

    /// True when a valid batch mark stands at or after `offset`.
    fn mark_after(&mut self, offset: u32) -> Result<bool, LogError> {
        let mut at = offset;
        loop {
            match self.record(at)?.map(|(kind, payload)| (kind, payload.len())) {
                Some((KIND_MARK, _)) => return Ok(true),
                Some((_, length)) => at += record_size(length as u32),
                None => match self.resync(at + align(1))? {
                    Some(next) => at = next,
                    None => return Ok(false),
                },
            }
        }
    }

    /// Octets from `offset` on that belong to a record cut short.
    fn torn(&mut self, offset: u32) -> Result<u64, LogError> {
        let (salt, len) = (self.segment.salt(), self.len);
        let head = self.at(u64::from(offset), RECORD_HEADER as usize)?;
        Ok(match RecordHeader::decode(head, salt, offset) {
            Some(header) => u64::from(record_size(header.length)).min(len - u64::from(offset)),
            None => u64::from(RECORD_HEADER) * u64::from(head.iter().any(|b| *b != 0)),
        })
    }
}

/// Calls `replay` for every valid record of `segment` from `from` on.
pub(crate) fn scan(
    segment: &Segment,
    from: u32,
    last: bool,
    replay: &mut Replay<'_>,
    recovery: &mut Recovery,
) -> Result<ScanEnd, LogError> {
    let mut window = Window::new(segment)?;
    let mut at = from.max(SEGMENT_HEADER);
    let mut mark = at;
    let mut places = 0;
    while u64::from(at) < window.len {
        if let Some((kind, payload)) = window.record(at)? {
            let size = record_size(payload.len() as u32);
            if is_internal(kind) {
                mark = at;
            } else {
                replay(Loc { segment: segment.number(), offset: at }, kind, payload)?;
                recovery.records += 1;
            }
            at += size;
            continue;
        }
        let next = window.resync(at + align(1))?;
        let unread = window.lost.last_within(u64::from(at), next.map_or(window.len, u64::from));
        let synced = !last || unread.is_some() || next.map_or(Ok(false), |next| window.mark_after(next))?;
        if !synced {
            return Ok(ScanEnd { end: at, torn: window.torn(at)?, synced: mark, unread: window.lost.any() });
        }
        // Behind the last record of the newest segment there are only octets of a former life.
        let rest = unread.filter(|_| last).unwrap_or(window.len).min(window.len);
        let end = next.map_or(rest, u64::from);
        places += 1;
        recovery.tell(
            places,
            Damage {
                file: segment_name(segment.number()),
                offset: u64::from(at),
                length: end - u64::from(at),
                reason: if unread.is_some() { UNREADABLE } else { "checksum does not match" }.to_owned(),
            },
        );
        at = end as u32;
    }
    Ok(ScanEnd { end: at, torn: 0, synced: mark, unread: window.lost.any() })
}

/// Makes what was replayed of the last segment durable, and cuts off what follows. What no later mark proves synced is written again: it may be in the
/// page cache only, of a process that was killed, or of a sync that failed, after which the kernel takes it for written.
pub(crate) fn seal(dir: &Path, segment: &Segment, found: &ScanEnd) -> Result<(), LogError> {
    let path = dir.join(segment_name(segment.number()));
    let (file, end) = (segment.file(), u64::from(found.end));
    let (mut at, mut buf) = (u64::from(found.synced), Vec::new());
    while at < end {
        buf.resize(WINDOW.min(usize::try_from(end - at).unwrap_or(WINDOW)), 0);
        let mut lost = Lost::default();
        let n = lost.read(segment, &mut buf, at)?;
        if n == 0 {
            break;
        }
        for (from, to) in lost.readable(at, at + n as u64) {
            let (start, stop) = (usize::try_from(from - at).unwrap_or(n), usize::try_from(to - at).unwrap_or(n));
            file.write_at(&buf[start..stop], from).map_err(|e| LogError::io("write", &path, &e))?;
        }
        at += n as u64;
    }
    if file.len().map_err(|e| LogError::io("stat", &path, &e))? != end {
        file.truncate(end).map_err(|e| LogError::io("truncate", &path, &e))?;
    }
    file.sync().map_err(|e| LogError::syncing(&path, &e))
}

/// Copies a damaged stretch to `damaged/`, once; the original stays where it is until its segment is freed.
pub(crate) fn set_aside(storage: &dyn Storage, dir: &Path, segment: &Segment, damage: &Damage) -> Result<(), LogError> {
    let room = dir.join("damaged");
    storage.make_dir(&room).map_err(|e| LogError::io("create", &room, &e))?;
    let path = room.join(format!("{}-{}", damage.file, damage.offset));
    let file = match storage.create(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        Err(e) => return Err(LogError::io("create", &path, &e)),
    };
    let mut buf = vec![0u8; WINDOW.min(usize::try_from(damage.length).unwrap_or(WINDOW))];
    let mut done = 0;
    while done < damage.length {
        let want = buf.len().min(usize::try_from(damage.length - done).unwrap_or(WINDOW));
        let n = Lost::default().read(segment, &mut buf[..want], damage.offset + done)?;
        if n == 0 {
            break;
        }
        file.write_at(&buf[..n], done).map_err(|e| LogError::io("write", &path, &e))?;
        done += n as u64;
    }
    file.sync().map_err(|e| LogError::io("sync", &path, &e))?;
    storage.sync_dir(&room).map_err(|e| LogError::io("sync", &room, &e))?;
    storage.sync_dir(dir).map_err(|e| LogError::io("sync", dir, &e))
}

/// Moves a whole segment to `damaged/` under this name. Returns its length.
pub(crate) fn move_aside(storage: &dyn Storage, dir: &Path, number: u32, name: &str) -> Result<u64, LogError> {
    let (room, path) = (dir.join("damaged"), dir.join(segment_name(number)));
    let length = storage.open(&path, false).and_then(|f| f.len()).unwrap_or(0);
    storage.make_dir(&room).and_then(|()| storage.sync_dir(dir)).map_err(|e| LogError::io("create", &room, &e))?;
    storage.rename(&path, &room.join(name)).map_err(|e| LogError::io("rename", &path, &e))?;
    storage.sync_dir(&room).map_err(|e| LogError::io("sync", &room, &e))?;
    storage.sync_dir(dir).map_err(|e| LogError::io("sync", dir, &e))?;
    Ok(length)
}
