//! The index written to one file, so that opening needs to replay only the end of the log. Never more than a shortcut: with a missing or
//! bad checkpoint the whole log is replayed and gives the same state. Layout in docs/formats.md.

use std::collections::BTreeSet;
use std::path::Path;

use gatepost_log::{Loc, LogError, Prepared, Storage};

use crate::codec::{Cursor, put_text};
use crate::error::QueueError;
use crate::index::{GRACE, Index, LASTING, Message, NOWHERE, Recipient, Recipients};
use crate::spool::Core;
use crate::transition::State;

const NAME: &str = "checkpoint";
const MAGIC: &[u8; 8] = b"GPSTCKP\n";
const VERSION: u32 = 1;
const HEAD: usize = 16;

/// The index as of the last checkpoint, and where the replay has to begin. None when there is no usable one.
pub(crate) fn load(prepared: &Prepared) -> Result<Option<(Index, Loc)>, QueueError> {
    let path = prepared.dir().join(NAME);
    let Some(bytes) = read(&**prepared.storage(), &path)? else { return Ok(None) };
    if bytes.len() < HEAD || &bytes[..8] != MAGIC || crc32c::crc32c(&bytes[HEAD..]).to_le_bytes() != bytes[12..16] {
        return Ok(None);
    }
    let version = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    if version > VERSION {
        return Err(QueueError::Version(format!("{}: format version {version}, this program knows up to {VERSION}", path.display())));
    }
    let exists = prepared.segments().iter().copied().collect();
    Ok(decode(&bytes[HEAD..], &exists))
}

fn read(storage: &dyn Storage, path: &Path) -> Result<Option<Vec<u8>>, QueueError> {
    let failed = |e: std::io::Error| QueueError::Log(LogError::Io(format!("read {}: {e}", path.display())));
    let file = match storage.open(path, false) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let mut bytes = vec![0; usize::try_from(file.len().map_err(failed)?).unwrap_or(0)];
    let n = file.read_at(&mut bytes, 0).map_err(failed)?;
    bytes.truncate(n);
    Ok(Some(bytes))
}

/// The whole file for an index that reflects everything before `position`.
fn encode(index: &Index, position: Loc) -> Result<Vec<u8>, QueueError> {
    let mut out = Vec::with_capacity(64 + index.len() * 72);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&position.pack().to_le_bytes());
    out.extend_from_slice(&(index.destinations.len() as u32).to_le_bytes());
    for destination in &index.destinations {
        put_text(&mut out, &destination.name)?;
    }
    let vouched: Vec<_> = index.segments.vouched().collect();
    out.extend_from_slice(&(vouched.len() as u32).to_le_bytes());
    for (finisher, accepted) in vouched {
        out.extend_from_slice(&finisher.to_le_bytes());
        out.extend_from_slice(&accepted.to_le_bytes());
    }
    out.extend_from_slice(&(index.len() as u32).to_le_bytes());
    for (message, extra) in index.all() {
        put_message(&mut out, message, extra);
    }
    let crc = crc32c::crc32c(&out[HEAD..]);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    Ok(out)
}

fn put_message(out: &mut Vec<u8>, message: &Message, extra: &[u32]) {
    out.extend_from_slice(&message.id);
    out.extend_from_slice(&message.accepted.pack().to_le_bytes());
    out.extend_from_slice(&message.head.pack().to_le_bytes());
    out.extend_from_slice(&message.size.to_le_bytes());
    out.extend_from_slice(&(extra.len() as u16).to_le_bytes());
    extra.iter().take(usize::from(u16::MAX)).for_each(|s| out.extend_from_slice(&s.to_le_bytes()));
    let recipients = message.recipients.as_slice();
    out.extend_from_slice(&(recipients.len() as u16).to_le_bytes());
    for r in recipients {
        out.extend_from_slice(&r.next_us.to_le_bytes());
        out.extend_from_slice(&r.destination.to_le_bytes());
        out.extend_from_slice(&r.attempts.to_le_bytes());
        out.extend_from_slice(&[r.state as u8, r.flags & LASTING]);
    }
}

fn decode(body: &[u8], exists: &BTreeSet<u32>) -> Option<(Index, Loc)> {
    let mut c = Cursor(body);
    let mut index = Index::default();
    let position = c.loc()?;
    let names = (0..c.u32()?).map(|_| c.text()).collect::<Option<Vec<_>>>()?;
    for _ in 0..c.u32()? {
        let (finisher, accepted) = (c.u32()?, c.u32()?);
        index.segments.vouch(finisher, accepted);
    }
    index.segments.retain(exists);
    for _ in 0..c.u32()? {
        let (message, extra) = message(&mut c, &mut index, &names)?;
        // A segment goes only after all messages accepted in it are finished; the word of it may have gone as well.
        if exists.contains(&message.accepted.segment) {
            index.insert(message, extra, true);
        }
    }
    Some((index, position))
}

fn message(c: &mut Cursor<'_>, index: &mut Index, names: &[String]) -> Option<(Message, Vec<u32>)> {
    let (id, accepted, head, size) = (c.id()?, c.loc()?, c.loc()?, c.u32()?);
    let extra = (0..c.u16()?).map(|_| c.u32()).collect::<Option<Vec<_>>>()?;
    let mut recipients = Vec::new();
    for _ in 0..c.u16()? {
        let (next_us, number, attempts, state, flags) = (c.u64()?, c.u32()?, c.u16()?, State::from_u8(c.u8()?)?, c.u8()?);
        let wanted = number != NOWHERE && (state == State::Pending || flags & GRACE != 0);
        let destination = if wanted { index.intern(names.get(number as usize)?) } else { NOWHERE };
        recipients.push(Recipient { next_us, destination, attempts, state, flags });
    }
    Some((Message { id, accepted, head, size, committing: false, recipients: Recipients::new(recipients) }, extra))
}

impl Core {
    /// Writes a checkpoint of the index as it is now: first everything it reflects is made durable, then the file replaces the old one.
    pub fn checkpoint(&self) -> Result<(), QueueError> {
        let mut last = self.checkpointed.lock();
        let (bytes, position, losses) = {
            let index = self.shared.index.lock();
            let (position, losses) = (self.log.tail(), self.log.losses());
            (encode(&index, position)?, position, losses)
        };
        // A commit that is in the index and gets lost must not come back by way of the checkpoint.
        self.log.sync_since(losses)?;
        self.write_checkpoint(&bytes)?;
        *last = position;
        Ok(())
    }

    fn write_checkpoint(&self, bytes: &[u8]) -> Result<(), QueueError> {
        let (storage, dir) = (self.log.storage(), self.log.dir());
        let (path, temporary) = (dir.join(NAME), dir.join("checkpoint.new"));
        let failed = |e: std::io::Error| match e.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => QueueError::Log(LogError::DiskFull(format!("write checkpoint: {e}"))),
            _ => QueueError::Log(LogError::Io(format!("write checkpoint: {e}"))),
        };
        match storage.remove(&temporary) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let file = storage.create(&temporary).map_err(failed)?;
        let written = file.write_at(bytes, 0).and_then(|()| file.sync()).and_then(|()| storage.rename(&temporary, &path));
        if let Err(error) = written {
            let _ = storage.remove(&temporary);
            return Err(failed(error));
        }
        storage.sync_dir(dir).map_err(failed)
    }
}
