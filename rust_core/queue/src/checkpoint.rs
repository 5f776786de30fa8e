//! The index written to one file, so that opening needs to replay only the end of the log. Never more than a shortcut: with a missing or
//! bad checkpoint the whole log is replayed and gives the same state. Layout in docs/formats.md.
//!
//! It is written and read in slices, so that neither memory nor the time the index is locked grow with the queue. While it is written the index goes on
//! changing: each message is as of the moment its slice was copied, and the replay begins where the log ended before the first. So the replay
//! meets records that a message reflects already; it knows them by their place, which is not behind the message's newest record. What vouches for which
//! segment is written last: more than was true at the beginning does no harm, less would.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::Path;
use std::sync::atomic::Ordering;

use gatepost_log::{Loc, LogError, Storage, StorageFile};
use parking_lot::MutexGuard;

use crate::codec::{Cursor, decode_journal, encode_journal, put_bytes, put_text};
use crate::debts::Debt;
use crate::error::QueueError;
use crate::id::MessageId;
use crate::index::{GRACE, Index, LASTING, Message, NOWHERE, Recipient, Recipients, UNKNOWN_DELAY};
use crate::spool::Core;
use crate::transition::State;

const NAME: &str = "checkpoint";
const MAGIC: &[u8; 8] = b"GPSTCKP\n";
const VERSION: u32 = 4;
/// Magic, version, checksum of what follows.
const HEAD: usize = 16;
/// Octets read or written at a time.
const PIECE: usize = 256 << 10;
/// Messages copied with the index locked, about a millisecond's worth.
const SLICE: usize = 2048;
/// The same of destinations' domains.
const HOMES: usize = 2048;

/// A checkpoint whose checksum is right, to be read from its beginning.
pub(crate) struct Checkpoint {
    file: Box<dyn StorageFile>,
    version: u32,
    /// Octets of the file that were read, and those of them not used yet.
    read: u64,
    data: Vec<u8>,
    used: usize,
    names: Vec<String>,
    left: u32,
    /// All records before it are reflected.
    pub position: Loc,
}

/// Messages out of a checkpoint, their destinations as numbers into [`Checkpoint::names`].
pub(crate) type Slice = Vec<(Message, Vec<u32>)>;

/// A file and its first octets.
type Opened = (Box<dyn StorageFile>, [u8; HEAD]);

/// Refuses a checkpoint of a newer format.
pub(crate) fn check_version(storage: &dyn Storage, dir: &Path) -> Result<(), QueueError> {
    let path = dir.join(NAME);
    let Some((_, head)) = open(storage, &path)? else { return Ok(()) };
    let version = version(&head);
    if &head[..8] == MAGIC && version > VERSION {
        return Err(QueueError::Version(format!("{}: format version {version}, this program knows up to {VERSION}", path.display())));
    }
    Ok(())
}

fn version(head: &[u8; HEAD]) -> u32 {
    u32::from_le_bytes([head[8], head[9], head[10], head[11]])
}

fn open(storage: &dyn Storage, path: &Path) -> Result<Option<Opened>, QueueError> {
    let file = match storage.open(path, false) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(reading(&e)),
    };
    let mut head = [0; HEAD];
    match file.read_at(&mut head, 0) {
        Ok(n) => Ok((n == HEAD).then_some((file, head))),
        // As good as none: the log says it all.
        Err(e) if e.raw_os_error() == Some(libc::EIO) => Ok(None),
        Err(e) => Err(reading(&e)),
    }
}

fn reading(error: &std::io::Error) -> QueueError {
    QueueError::Log(LogError::Io(format!("read {NAME}: {error}")))
}

impl Checkpoint {
    /// The last checkpoint; None when there is no usable one.
    pub fn open(storage: &dyn Storage, dir: &Path) -> Result<Option<Self>, QueueError> {
        let Some((file, head)) = open(storage, &dir.join(NAME))? else { return Ok(None) };
        let version = version(&head);
        if &head[..8] != MAGIC || version == 0 || version > VERSION || checksum(&*file)?.is_none_or(|crc| crc.to_le_bytes() != head[12..16])
        {
            return Ok(None);
        }
        let (names, data) = (Vec::new(), Vec::new());
        let mut found = Self { file, version, read: HEAD as u64, data, used: 0, names, left: 0, position: Loc::NONE };
        let position = found.want(8)?.and_then(|data| Cursor(data).loc());
        found.used += 8;
        Ok(position.map(|position| Self { position, ..found }))
    }

    /// At least `n` unused octets; None when there are not so many.
    fn want(&mut self, n: usize) -> Result<Option<&[u8]>, QueueError> {
        while self.data.len() - self.used < n {
            self.data.drain(..self.used);
            self.used = 0;
            let (old, want) = (self.data.len(), PIECE.max(n));
            self.data.resize(old + want, 0);
            let got = self.file.read_at(&mut self.data[old..], self.read).map_err(|e| reading(&e))?;
            self.data.truncate(old + got);
            self.read += got as u64;
            if got == 0 {
                return Ok(None);
            }
        }
        Ok(Some(&self.data[self.used..]))
    }

    /// What `parse` takes off the front; it is tried again with more octets until it succeeds. Cannot fail: the checksum was right.
    fn parse<T>(&mut self, parse: impl Fn(&mut Cursor<'_>) -> Option<T>) -> Result<T, QueueError> {
        let mut n = 1;
        loop {
            let Some(data) = self.want(n)? else { return Err(QueueError::Damaged(format!("{NAME}: ends too early"))) };
            let (size, mut cursor) = (data.len(), Cursor(data));
            if let Some(value) = parse(&mut cursor) {
                let left = cursor.0.len();
                self.used += size - left;
                return Ok(value);
            }
            n = size + 1;
        }
    }

    #[allow(clippy::redundant_closure_for_method_calls)] // the method is not general over lifetimes
    fn number(&mut self) -> Result<u32, QueueError> {
        self.parse(|c| c.u32())
    }

    /// What stands before the messages in a checkpoint of version 1: destinations, vouchers, the number of messages.
    pub fn begin(&mut self) -> Result<Vec<(u32, u32)>, QueueError> {
        if self.version > 1 {
            return Ok(Vec::new());
        }
        self.names()?;
        let vouched = self.vouched()?;
        self.left = self.number()?;
        Ok(vouched)
    }

    /// The next messages; none at the end.
    pub fn slice(&mut self) -> Result<Slice, QueueError> {
        if self.version > 1 {
            self.names()?;
            self.left = self.number()?;
        }
        let count = if self.version > 1 { self.left } else { self.left.min(SLICE as u32) };
        self.left -= count;
        let version = self.version;
        (0..count).map(|_| self.parse(|c| message(c, version))).collect()
    }

    /// What stands next: the destinations and the domain that all recipients of each have, empty when it has several or nobody knows.
    pub fn homes(&mut self) -> Result<Vec<(String, String)>, QueueError> {
        let names = std::mem::take(&mut self.names);
        let known = if self.version < 4 { 0 } else { self.number()? as usize };
        let home = |n| if n < known { self.parse(|c| c.str().map(str::to_owned)) } else { Ok(String::new()) };
        let homes = (0..names.len()).map(home).collect::<Result<Vec<_>, _>>()?;
        Ok(names.into_iter().zip(homes).collect())
    }

    /// What stands behind that.
    pub fn end(&mut self) -> Result<Vec<(u32, u32)>, QueueError> {
        if self.version > 1 { self.vouched() } else { Ok(Vec::new()) }
    }

    /// What stands last: changes that the messages reflect and whose records are behind [`Checkpoint::position`], or nowhere yet.
    pub fn owed(&mut self) -> Result<VecDeque<Debt>, QueueError> {
        if self.version < 3 {
            return Ok(VecDeque::new());
        }
        (0..self.number()?).map(|_| self.parse(debt)).collect()
    }

    fn names(&mut self) -> Result<(), QueueError> {
        for _ in 0..self.number()? {
            let name = self.parse(|c| c.str().map(str::to_owned))?;
            self.names.push(name);
        }
        Ok(())
    }

    fn vouched(&mut self) -> Result<Vec<(u32, u32)>, QueueError> {
        (0..self.number()?).map(|_| self.parse(|c| Some((c.u32()?, c.u32()?)))).collect()
    }

    /// Gives the recipients of a message the numbers that their destinations have in the index.
    pub fn resolve(&self, index: &mut Index, message: &mut Message) {
        for r in message.recipients.as_mut_slice() {
            let wanted = r.destination != NOWHERE && (r.pending() || r.has(GRACE));
            let name = self.names.get(r.destination as usize).filter(|_| wanted);
            r.destination = name.map_or(NOWHERE, |name| index.intern(name));
        }
    }
}

/// None when the disk cannot read all of it.
fn checksum(file: &dyn StorageFile) -> Result<Option<u32>, QueueError> {
    let (mut piece, mut at, mut crc) = (vec![0; PIECE], HEAD as u64, 0);
    loop {
        let n = match file.read_at(&mut piece, at) {
            Ok(n) => n,
            Err(e) if e.raw_os_error() == Some(libc::EIO) => return Ok(None),
            Err(e) => return Err(reading(&e)),
        };
        if n == 0 {
            return Ok(Some(crc));
        }
        crc = crc32c::crc32c_append(crc, &piece[..n]);
        at += n as u64;
    }
}

fn debt(c: &mut Cursor<'_>) -> Option<Debt> {
    let vouches = (0..c.u16()?).map(|_| c.u32()).collect::<Option<Vec<_>>>()?;
    let journal = decode_journal(&c.bytes()?)?;
    Some(Debt { journal, vouches })
}

fn message(c: &mut Cursor<'_>, version: u32) -> Option<(Message, Vec<u32>)> {
    let (id, accepted, head, size) = (c.id()?, c.loc()?, c.loc()?, c.u32()?);
    let delay = if version > 1 { c.u32()? } else { UNKNOWN_DELAY };
    let extra = (0..c.u16()?).map(|_| c.u32()).collect::<Option<Vec<_>>>()?;
    let count = c.u16()?;
    let mut recipients = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let (next_us, destination, attempts, state, flags) = (c.u64()?, c.u32()?, c.u16()?, State::from_u8(c.u8()?)?, c.u8()?);
        recipients.push(Recipient { next_us, destination, attempts, state, flags: flags & LASTING });
    }
    let recipients = Recipients::new(recipients);
    Some((Message { id, accepted, head, size, others: 0, delay, hidden: true, recipients }, extra))
}

/// Writes a checkpoint piece by piece.
struct Writer {
    file: Box<dyn StorageFile>,
    at: u64,
    crc: u32,
    out: Vec<u8>,
    /// By name the number a destination has in the file.
    names: HashMap<Box<str>, u32>,
    /// By the index's number: the file's, and the name it is for (a number may be given to another destination meanwhile).
    known: Vec<(u32, Box<str>)>,
    /// Names that the next block introduces.
    fresh: Vec<u8>,
    fresh_count: u32,
    messages: u64,
}

impl Writer {
    fn new(file: Box<dyn StorageFile>) -> Self {
        let (names, known) = (HashMap::new(), Vec::new());
        Self { file, at: HEAD as u64, crc: 0, out: Vec::with_capacity(PIECE), names, known, fresh: Vec::new(), fresh_count: 0, messages: 0 }
    }

    /// Number of a destination in the file.
    fn number(&mut self, index: &Index, number: u32) -> Result<u32, QueueError> {
        if number == NOWHERE {
            return Ok(NOWHERE);
        }
        let name = index.destination_name(number);
        if self.known.len() <= number as usize {
            self.known.resize(number as usize + 1, (NOWHERE, Box::default()));
        }
        let known = &mut self.known[number as usize];
        if known.0 == NOWHERE || *known.1 != *name {
            let next = self.names.len() as u32;
            let given = *self.names.entry(name.into()).or_insert(next);
            if given == next {
                put_text(&mut self.fresh, name)?;
                self.fresh_count += 1;
            }
            *known = (given, name.into());
        }
        Ok(known.0)
    }

    /// Copies the messages after `after` into a block. Returns the last one's id, None when there was none.
    fn copy(&mut self, index: &Index, after: Option<&MessageId>) -> Result<Option<MessageId>, QueueError> {
        let (mut block, mut count, mut last) = (Vec::with_capacity(SLICE * 64), 0u32, None);
        for slot in index.all(after).take(SLICE) {
            let message = index.message(slot);
            self.message(&mut block, message, index)?;
            (count, last) = (count + 1, Some(message.id));
        }
        self.out.extend_from_slice(&std::mem::take(&mut self.fresh_count).to_le_bytes());
        self.out.append(&mut self.fresh);
        self.out.extend_from_slice(&count.to_le_bytes());
        self.out.append(&mut block);
        self.messages += u64::from(count);
        Ok(last)
    }

    fn message(&mut self, out: &mut Vec<u8>, message: &Message, index: &Index) -> Result<(), QueueError> {
        out.extend_from_slice(&message.id);
        out.extend_from_slice(&message.accepted.pack().to_le_bytes());
        out.extend_from_slice(&message.head.pack().to_le_bytes());
        out.extend_from_slice(&message.size.to_le_bytes());
        out.extend_from_slice(&message.delay.to_le_bytes());
        let others = index.others(message);
        out.extend_from_slice(&(others.len() as u16).to_le_bytes());
        others.iter().take(usize::from(u16::MAX)).for_each(|s| out.extend_from_slice(&s.to_le_bytes()));
        let recipients = message.recipients.as_slice();
        out.extend_from_slice(&(recipients.len() as u16).to_le_bytes());
        for r in recipients {
            out.extend_from_slice(&r.next_us.to_le_bytes());
            out.extend_from_slice(&self.number(index, r.destination)?.to_le_bytes());
            out.extend_from_slice(&r.attempts.to_le_bytes());
            out.extend_from_slice(&[r.state as u8, r.flags & LASTING]);
        }
        Ok(())
    }

    /// Copies the domains of the next destinations out of `names`.
    fn homes(&mut self, index: &Index, names: &[Box<str>]) -> Result<(), QueueError> {
        for name in names {
            let home = index.destination(name).and_then(|number| index.home(number));
            put_text(&mut self.out, home.unwrap_or_default())?;
        }
        Ok(())
    }

    /// All destinations, by their numbers.
    fn numbered(&mut self) -> Vec<Box<str>> {
        let mut names: Vec<_> = std::mem::take(&mut self.names).into_iter().collect();
        names.sort_unstable_by_key(|(_, number)| *number);
        names.into_iter().map(|(name, _)| name).collect()
    }

    fn vouched(&mut self, index: &Index) {
        let vouched: Vec<_> = index.segments.vouched().collect();
        self.out.extend_from_slice(&(vouched.len() as u32).to_le_bytes());
        for (finisher, accepted) in vouched {
            self.out.extend_from_slice(&finisher.to_le_bytes());
            self.out.extend_from_slice(&accepted.to_le_bytes());
        }
    }

    fn owed(&mut self, owed: &VecDeque<Debt>) -> Result<(), QueueError> {
        self.out.extend_from_slice(&(owed.len() as u32).to_le_bytes());
        for debt in owed {
            self.out.extend_from_slice(&(debt.vouches.len() as u16).to_le_bytes());
            debt.vouches.iter().for_each(|segment| self.out.extend_from_slice(&segment.to_le_bytes()));
            put_bytes(&mut self.out, &[&encode_journal(&debt.journal)[..], &debt.journal.detail].concat())?;
        }
        Ok(())
    }

    /// Hands what has gathered to the file when it is enough.
    fn flush(&mut self, least: usize) -> std::io::Result<()> {
        if self.out.len() < least {
            return Ok(());
        }
        self.crc = crc32c::crc32c_append(self.crc, &self.out);
        self.file.write_at(&self.out, self.at)?;
        self.at += self.out.len() as u64;
        self.out.clear();
        Ok(())
    }

    /// Writes the head, which makes the file whole, and syncs.
    fn finish(mut self) -> std::io::Result<()> {
        self.flush(0)?;
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(MAGIC);
        head[8..12].copy_from_slice(&VERSION.to_le_bytes());
        head[12..].copy_from_slice(&self.crc.to_le_bytes());
        self.file.write_at(&head, 0)?;
        self.file.sync()
    }
}

/// The moment a checkpoint is begun.
struct Begin {
    position: Loc,
    losses: u64,
    owed: VecDeque<Debt>,
    incurred: u64,
}

impl Core {
    /// Writes a checkpoint: what it reflects is made durable first, then the file replaces the old one. Does nothing while a recovery is under way, whose
    /// index is not whole.
    pub fn checkpoint(&self) -> Result<(), QueueError> {
        let mut last = self.checkpointed.lock();
        let begin = {
            let index = self.shared.index.lock();
            let losses = self.log.losses();
            match index.loading {
                true => return Ok(()),
                // Records were lost a moment ago, and the index is still to hear which.
                _ if index.debts.losses != losses => return Err(index.debts.error().into()),
                _ => {}
            }
            Begin { position: self.log.tail(), losses, owed: index.debts.queue.clone(), incurred: index.debts.incurred }
        };
        let (storage, dir) = (self.log.storage(), self.log.dir());
        let (path, temporary) = (dir.join(NAME), dir.join("checkpoint.new"));
        match storage.remove(&temporary) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(writing(&e)),
            _ => {}
        }
        let written = self.write_checkpoint(&temporary, &begin).and_then(|messages| {
            storage.rename(&temporary, &path).map_err(|e| writing(&e))?;
            storage.sync_dir(dir).map_err(|e| writing(&e))?;
            Ok(messages)
        });
        match &written {
            Ok(messages) => {
                *last = begin.position;
                self.checkpoint_holds.store(*messages, Ordering::Relaxed);
            }
            Err(_) => {
                let _ = storage.remove(&temporary);
            }
        }
        written.map(drop)
    }

    /// Returns how many messages are in it.
    fn write_checkpoint(&self, path: &Path, begin: &Begin) -> Result<u64, QueueError> {
        let mut writer = Writer::new(self.log.storage().create(path).map_err(|e| writing(&e))?);
        writer.out.extend_from_slice(&begin.position.pack().to_le_bytes());
        let mut after = None;
        loop {
            let index = self.shared.index.lock();
            let copied = writer.copy(&index, after.as_ref())?;
            if copied.is_none() {
                // An empty block: there are no more.
                break;
            }
            after = copied;
            MutexGuard::unlock_fair(index);
            writer.flush(PIECE).map_err(|e| writing(&e))?;
        }
        self.write_homes(&mut writer)?;
        {
            let index = self.shared.index.lock();
            writer.vouched(&index);
            writer.owed(&begin.owed)?;
            if index.debts.incurred != begin.incurred {
                // Some messages reflect it and others were copied before.
                return Err(index.debts.error().into());
            }
        }
        // A commit that is in the index and gets lost must not come back by way of the checkpoint.
        self.log.sync_since(begin.losses)?;
        let messages = writer.messages;
        writer.finish().map_err(|e| writing(&e))?;
        Ok(messages)
    }

    /// After all messages, so that nothing of a destination that a message was copied with is missing. If the destination went meanwhile and came back, so
    /// did its messages go, and the word of that is behind the checkpoint's place.
    fn write_homes(&self, writer: &mut Writer) -> Result<(), QueueError> {
        let names = writer.numbered();
        writer.out.extend_from_slice(&(names.len() as u32).to_le_bytes());
        for some in names.chunks(HOMES) {
            let index = self.shared.index.lock();
            writer.homes(&index, some)?;
            MutexGuard::unlock_fair(index);
            writer.flush(PIECE).map_err(|e| writing(&e))?;
        }
        Ok(())
    }
}

fn writing(error: &std::io::Error) -> QueueError {
    QueueError::Log(match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => LogError::DiskFull(format!("write {NAME}: {error}")),
        _ => LogError::Io(format!("write {NAME}: {error}")),
    })
}

/// Whether a message out of a checkpoint may still be live: a segment goes only after all messages accepted in it are finished, and the word of it may
/// have gone as well.
pub(crate) fn may_live(message: &Message, exists: &BTreeSet<u32>) -> bool {
    exists.contains(&message.accepted.segment)
}
