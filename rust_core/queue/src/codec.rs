//! Payloads of the spool's records (docs/formats.md). Everything read is bounds-checked: any octets in, a value or an error out.

use std::collections::BTreeMap;

use gatepost_log::Loc;

use crate::error::QueueError;
use crate::id::MessageId;

/// A message with its envelope, and its octets as far as they are not in chunks.
pub(crate) const KIND_ACCEPTED: u8 = 1;
/// A piece of a large message.
pub(crate) const KIND_CHUNK: u8 = 2;
/// A transition of one message.
pub(crate) const KIND_JOURNAL: u8 = 3;
/// Which messages of older segments are left.
pub(crate) const KIND_REMAIN: u8 = 4;

/// A live message carried to a newer segment (`moved`).
pub(crate) const KIND_MOVED: u8 = 5;

/// Octets of an accepted record before its chunk table.
pub(crate) const ACCEPTED_HEAD: usize = 48;
/// Octets of a chunk record before the message's octets.
pub(crate) const CHUNK_HEAD: usize = 20;
const CHUNK_ENTRY: usize = 12;
const JOURNAL_HEAD: usize = 44;
const FLAG_FINISHED: u8 = 1;

/// A place in the journal that means every pending recipient.
pub(crate) const ALL: u16 = u16::MAX;
/// Most recipients of one message.
pub(crate) const MAX_RECIPIENTS: usize = 20_000;

/// One recipient as accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientSpec {
    /// Final address.
    pub address: String,
    /// RFC 3461 ORCPT, or empty.
    pub original: String,
    /// Scheduling key; empty when routing ended it (discard).
    pub destination: String,
    /// RFC 3461 NOTIFY bits.
    pub notify: u8,
    /// Opaque to the spool.
    pub route: Vec<u8>,
    /// When it is due first, Unix microseconds.
    pub next_us: u64,
    /// Enters the queue held.
    pub held: bool,
}

/// Everything but the octets of a message, as accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Id in the queue.
    pub id: MessageId,
    /// When it was accepted, Unix microseconds.
    pub received_us: u64,
    /// Octets with the prefix.
    pub size: u64,
    /// MAIL FROM; empty for the null reverse-path.
    pub reverse_path: String,
    /// Opaque to the spool.
    pub meta: Vec<u8>,
    /// Recipients in order.
    pub recipients: Vec<RecipientSpec>,
}

/// Where the octets of an accepted message are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Chunk records and how many octets of the message each holds.
    pub chunks: Vec<(Loc, u32)>,
    /// Octets in the accepted record itself, behind its envelope.
    pub inline_at: u32,
    pub inline_len: u32,
}

/// One transition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Journal {
    pub id: MessageId,
    /// The message's record before this one.
    pub previous: Loc,
    pub time_us: u64,
    pub next_us: u64,
    pub recipient: u16,
    pub kind: u8,
    /// The message has no pending recipient after this.
    pub finished: bool,
    pub detail: Vec<u8>,
}

/// By segment: the live messages accepted in it, as of one place of the log. All others accepted there are finished.
pub(crate) type Remain = BTreeMap<u32, Vec<MessageId>>;

/// Takes values off the front of octets.
pub(crate) struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub fn u8(&mut self) -> Option<u8> {
        Some(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn loc(&mut self) -> Option<Loc> {
        self.u64().map(Loc::unpack)
    }

    pub fn id(&mut self) -> Option<MessageId> {
        self.array()
    }

    pub fn text(&mut self) -> Option<String> {
        self.str().map(str::to_owned)
    }

    pub fn str(&mut self) -> Option<&'a str> {
        let n = self.u16()?;
        std::str::from_utf8(self.take(usize::from(n))?).ok()
    }

    pub fn bytes(&mut self) -> Option<Vec<u8>> {
        let n = self.u32()?;
        Some(self.take(n as usize)?.to_vec())
    }
}

/// Appends a text with a 16-bit length.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) -> Result<(), QueueError> {
    let n = u16::try_from(text.len()).map_err(|_| QueueError::Invalid("a text of the envelope is longer than 65535 octets".into()))?;
    out.extend_from_slice(&n.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Appends octets with a 32-bit length.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), QueueError> {
    let n = u32::try_from(bytes.len()).map_err(|_| QueueError::Invalid("a field of the envelope is too long".into()))?;
    out.extend_from_slice(&n.to_le_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

/// Head, chunk table and envelope of an accepted record; the inline octets follow as the record's last part.
pub(crate) fn encode_accepted(envelope: &Envelope, chunks: &[(Loc, u32)], inline_len: usize) -> Result<Vec<u8>, QueueError> {
    if envelope.recipients.is_empty() || envelope.recipients.len() > MAX_RECIPIENTS {
        return Err(QueueError::Invalid(format!("a message has 1 to {MAX_RECIPIENTS} recipients")));
    }
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(&envelope.id);
    out.extend_from_slice(&envelope.received_us.to_le_bytes());
    out.extend_from_slice(&envelope.size.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&(chunks.len() as u32).to_le_bytes());
    out.extend_from_slice(&(inline_len as u32).to_le_bytes());
    for (loc, length) in chunks {
        out.extend_from_slice(&loc.pack().to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
    }
    let start = out.len();
    put_text(&mut out, &envelope.reverse_path)?;
    put_bytes(&mut out, &envelope.meta)?;
    out.extend_from_slice(&(envelope.recipients.len() as u16).to_le_bytes());
    for r in &envelope.recipients {
        out.extend_from_slice(&[r.notify, u8::from(r.held)]);
        out.extend_from_slice(&r.next_us.to_le_bytes());
        put_text(&mut out, &r.address)?;
        put_text(&mut out, &r.original)?;
        put_text(&mut out, &r.destination)?;
        put_bytes(&mut out, &r.route)?;
    }
    let length = (out.len() - start) as u32;
    out[32..36].copy_from_slice(&length.to_le_bytes());
    let crc = crc32c::crc32c(&out[ACCEPTED_HEAD..]);
    out[36..40].copy_from_slice(&crc.to_le_bytes());
    Ok(out)
}

/// Octets of an accepted record up to the end of its envelope, as its first [`ACCEPTED_HEAD`] octets tell.
pub(crate) fn accepted_length(head: &[u8]) -> Option<usize> {
    let mut cursor = Cursor(head.get(32..ACCEPTED_HEAD)?);
    let (envelope, _crc, chunks) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
    (chunks as usize).checked_mul(CHUNK_ENTRY)?.checked_add(envelope as usize)?.checked_add(ACCEPTED_HEAD)
}

/// Inverse of [`encode_accepted`] for at least [`accepted_length`] octets.
pub(crate) fn decode_accepted(data: &[u8]) -> Option<(Envelope, Layout)> {
    let length = accepted_length(data)?;
    let data = data.get(..length)?;
    let mut c = Cursor(data);
    let (id, received_us, size) = (c.id()?, c.u64()?, c.u64()?);
    let (_envelope, crc, chunks, inline_len) = (c.u32()?, c.u32()?, c.u32()?, c.u32()?);
    if crc32c::crc32c(c.0) != crc {
        return None;
    }
    let chunks = (0..chunks).map(|_| Some((c.loc()?, c.u32()?))).collect::<Option<Vec<_>>>()?;
    let (reverse_path, meta, count) = (c.text()?, c.bytes()?, c.u16()?);
    let mut recipients = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let (notify, held, next_us) = (c.u8()?, c.u8()? != 0, c.u64()?);
        let (address, original, destination, route) = (c.text()?, c.text()?, c.text()?, c.bytes()?);
        recipients.push(RecipientSpec { address, original, destination, notify, route, next_us, held });
    }
    let layout = Layout { chunks, inline_at: length as u32, inline_len };
    Some((Envelope { id, received_us, size, reverse_path, meta, recipients }, layout))
}

/// An accepted record looked at without a copy, for those who ask a million of them.
pub(crate) struct Glance<'a> {
    pub id: MessageId,
    pub received_us: u64,
    pub reverse_path: &'a str,
    recipients: u16,
    /// Addresses only, as a brief has them.
    brief: bool,
    /// The recipients that were not looked at.
    rest: Cursor<'a>,
}

impl<'a> Glance<'a> {
    /// Of at least [`accepted_length`] octets.
    pub fn new(data: &'a [u8]) -> Option<Self> {
        let mut c = Cursor(data.get(..accepted_length(data)?)?);
        let (id, received_us, _size) = (c.id()?, c.u64()?, c.u64()?);
        let (_envelope, crc, chunks, _inline_len) = (c.u32()?, c.u32()?, c.u32()?, c.u32()?);
        if crc32c::crc32c(c.0) != crc {
            return None;
        }
        c.take((chunks as usize).checked_mul(CHUNK_ENTRY)?)?;
        let reverse_path = c.str()?;
        let meta = c.u32()?;
        c.take(meta as usize)?;
        let recipients = c.u16()?;
        Some(Self { id, received_us, reverse_path, recipients, brief: false, rest: c })
    }

    /// Inverse of [`Glance::put_brief`].
    pub fn of_brief(data: &'a [u8]) -> Option<Self> {
        let mut c = Cursor(data);
        let (id, received_us, reverse_path, recipients) = (c.id()?, c.u64()?, c.str()?, c.u16()?);
        Some(Self { id, received_us, reverse_path, recipients, brief: true, rest: c })
    }

    /// Appends what filters ask for.
    pub fn put_brief(mut self, out: &mut Vec<u8>) -> Option<()> {
        out.extend_from_slice(&self.id);
        out.extend_from_slice(&self.received_us.to_le_bytes());
        put_text(out, self.reverse_path).ok()?;
        out.extend_from_slice(&self.recipients.to_le_bytes());
        for _ in 0..self.recipients {
            put_text(out, self.address()?).ok()?;
        }
        Some(())
    }

    /// Address of the next recipient.
    pub fn address(&mut self) -> Option<&'a str> {
        if self.brief {
            return self.rest.str();
        }
        self.rest.take(10)?;
        let address = self.rest.str()?;
        self.rest.str()?;
        self.rest.str()?;
        let route = self.rest.u32()?;
        self.rest.take(route as usize)?;
        Some(address)
    }
}

/// Fixed part of a journal record; the detail follows as the record's second part.
pub(crate) fn encode_journal(j: &Journal) -> [u8; JOURNAL_HEAD] {
    let mut out = [0; JOURNAL_HEAD];
    out[..16].copy_from_slice(&j.id);
    out[16..24].copy_from_slice(&j.previous.pack().to_le_bytes());
    out[24..32].copy_from_slice(&j.time_us.to_le_bytes());
    out[32..40].copy_from_slice(&j.next_us.to_le_bytes());
    out[40..42].copy_from_slice(&j.recipient.to_le_bytes());
    out[42] = j.kind;
    out[43] = if j.finished { FLAG_FINISHED } else { 0 };
    out
}

/// Inverse of [`encode_journal`], with the detail.
pub(crate) fn decode_journal(data: &[u8]) -> Option<Journal> {
    let mut c = Cursor(data);
    let (id, previous, time_us, next_us) = (c.id()?, c.loc()?, c.u64()?, c.u64()?);
    let (recipient, kind, flags) = (c.u16()?, c.u8()?, c.u8()?);
    Some(Journal { id, previous, time_us, next_us, recipient, kind, finished: flags & FLAG_FINISHED != 0, detail: c.0.to_vec() })
}

/// The whole of a remain record.
pub(crate) fn encode_remain(remain: &Remain) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + remain.values().map(|ids| 8 + 16 * ids.len()).sum::<usize>());
    out.extend_from_slice(&(remain.len() as u32).to_le_bytes());
    for (segment, ids) in remain {
        out.extend_from_slice(&segment.to_le_bytes());
        out.extend_from_slice(&(ids.len() as u32).to_le_bytes());
        for id in ids {
            out.extend_from_slice(id);
        }
    }
    out
}

/// Inverse of [`encode_remain`].
pub(crate) fn decode_remain(data: &[u8]) -> Option<Remain> {
    let mut c = Cursor(data);
    let mut remain = Remain::new();
    for _ in 0..c.u32()? {
        let (segment, count) = (c.u32()?, c.u32()?);
        remain.insert(segment, (0..count).map(|_| c.id()).collect::<Option<Vec<_>>>()?);
    }
    Some(remain)
}

/// Head of a chunk record.
pub(crate) fn encode_chunk(id: &MessageId, index: u32) -> [u8; CHUNK_HEAD] {
    let mut out = [0; CHUNK_HEAD];
    out[..16].copy_from_slice(id);
    out[16..].copy_from_slice(&index.to_le_bytes());
    out
}

/// True when these are the first octets of that chunk.
pub(crate) fn is_chunk(data: &[u8], id: &MessageId, index: u32) -> bool {
    data.get(..CHUNK_HEAD) == Some(&encode_chunk(id, index))
}

/// A recipient's new route, kept as the detail of its journal record.
pub(crate) fn encode_reroute(address: &str, destination: &str, route: &[u8], note: &[u8]) -> Result<Vec<u8>, QueueError> {
    let mut out = Vec::new();
    put_text(&mut out, address)?;
    put_text(&mut out, destination)?;
    put_bytes(&mut out, route)?;
    put_bytes(&mut out, note)?;
    Ok(out)
}

/// Who did it, in JSON; nothing in a record of format version 1.
pub(crate) fn reroute_note(data: &[u8]) -> Option<&[u8]> {
    let mut c = Cursor(data);
    let (_address, _destination) = (c.text()?, c.text()?);
    let length = c.u32()? as usize;
    c.take(length)?;
    let length = c.u32()? as usize;
    c.take(length)
}

/// Inverse of [`encode_reroute`]: address, destination, route.
pub(crate) fn decode_reroute(data: &[u8]) -> Option<(String, String, Vec<u8>)> {
    let mut c = Cursor(data);
    Some((c.text()?, c.text()?, c.bytes()?))
}
