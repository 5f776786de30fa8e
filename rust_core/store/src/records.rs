//! What a volume writes into its logs (docs/formats.md): message content, and operations. Everything is little-endian.
//!
//! Records name mailboxes, folders and messages by their ids, never by UID: UIDs belong to the index, so that replay in any order
//! of streams gives valid ones. An operation record holds all the effects of one transaction and is applied as a whole.

use gatepost_log::Loc;

use crate::id::Id;

/// A piece of a large message.
pub const KIND_CHUNK: u8 = 1;
/// A message: where it goes, and its octets or the list of its chunks.
pub const KIND_MESSAGE: u8 = 2;
/// The operations of one transaction.
pub const KIND_OPS: u8 = 3;

/// The octets of a message once more, made by compaction; laid out as a message record. Replay passes over it: [`Op::Place`] points to it.
pub const KIND_CONTENT: u8 = 4;

/// Places of earlier records of this stream that replay passes over: what they say was refused (`refused`).
pub const KIND_VOID: u8 = 5;

/// Messages up to this size are kept within their record; larger ones in chunks of this size.
pub const CHUNK: usize = 256 << 10;

/// System flags as bits, in the order of their names in [`FLAG_NAMES`].
pub const SEEN: u32 = 1;
/// `\Deleted`
pub const DELETED: u32 = 8;
/// Names of the flag bits (RFC 3501 2.3.2).
pub const FLAG_NAMES: [(&str, u32); 5] = [("\\Seen", SEEN), ("\\Answered", 2), ("\\Flagged", 4), ("\\Deleted", DELETED), ("\\Draft", 16)];

/// Idempotency key of a delivery or an append.
pub type Key = [u8; 20];

/// The key of recipient `index` of a queue message.
pub fn delivery_key(message_id: &Id, index: i32) -> Key {
    let mut key = [0; 20];
    key[..16].copy_from_slice(message_id);
    key[16..].copy_from_slice(&index.to_be_bytes());
    key
}

/// Flags of a message: system flags as bits, keywords sorted and joined by spaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// System flags.
    pub bits: u32,
    /// Keywords.
    pub keywords: String,
}

/// Head of a [`KIND_MESSAGE`] record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageHead {
    /// Idempotency key.
    pub key: Key,
    /// Id of the message; the id of its content too.
    pub msg: Id,
    /// Mailbox it was meant for.
    pub mailbox: Id,
    /// Folder it was meant for; INBOX when that is gone.
    pub folder: Id,
    /// Internal date, Unix microseconds.
    pub date: i64,
    /// Octets of the message.
    pub octets: u64,
    /// First flags.
    pub flags: Flags,
    /// Chunks of a large message: place and length; empty when the octets follow.
    pub chunks: Vec<(Loc, u32)>,
}

/// A message row as an operation carries it (copy, move).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Id of this copy.
    pub msg: Id,
    /// Id of the content, shared by copies (RFC 8474 EMAILID).
    pub email: Id,
    /// Stream that holds the content.
    pub stream: String,
    /// First segment with octets of it.
    pub first_segment: u32,
    /// Its message record.
    pub at: Loc,
    /// Octets.
    pub octets: u64,
    /// Internal date.
    pub date: i64,
    /// Flags.
    pub flags: Flags,
}

/// One effect on the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// A new folder.
    CreateFolder { mailbox: Id, folder: Id, name: String, special: String, subscribed: bool },
    /// A folder's new name.
    Rename { folder: Id, name: String },
    /// The folder is gone; messages left in it (a delivery that raced) go to INBOX.
    DeleteFolder { folder: Id },
    /// Subscription.
    Subscribe { folder: Id, subscribed: bool },
    /// The flags of a message from now on.
    SetFlags { msg: Id, flags: Flags },
    /// The message is gone from its folder.
    Expunge { msg: Id },
    /// A copy appears in a folder.
    Insert { folder: Id, row: Row },
    /// The mailbox and all in it is gone.
    DeleteMailbox { mailbox: Id },
    /// The octets of a message are elsewhere now.
    Place { msg: Id, stream: String, first_segment: u32, at: Loc },
}

/// Builds a payload.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    fn u8(&mut self, v: u8) {
        self.0.push(v);
    }
    fn u32(&mut self, v: u32) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn u64(&mut self, v: u64) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn bytes(&mut self, v: &[u8]) {
        self.0.extend_from_slice(v);
    }
    fn text(&mut self, v: &str) {
        self.u32(v.len() as u32);
        self.bytes(v.as_bytes());
    }
    fn flags(&mut self, v: &Flags) {
        self.u32(v.bits);
        self.text(&v.keywords);
    }
}

/// Takes a payload apart; every method is `None` at its end.
pub struct Parser<'a>(&'a [u8]);

impl<'a> Parser<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }
    fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }
    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }
    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
    fn id(&mut self) -> Option<Id> {
        self.take(16)?.try_into().ok()
    }
    fn text(&mut self) -> Option<String> {
        let len = self.u32()? as usize;
        String::from_utf8(self.take(len)?.to_vec()).ok()
    }
    fn flags(&mut self) -> Option<Flags> {
        Some(Flags { bits: self.u32()?, keywords: self.text()? })
    }
    fn loc(&mut self) -> Option<Loc> {
        self.u64().map(Loc::unpack)
    }
}

impl MessageHead {
    /// The head; the octets of a small message follow it in the same record.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.bytes(&self.key);
        w.bytes(&self.msg);
        w.bytes(&self.mailbox);
        w.bytes(&self.folder);
        w.u64(self.date.cast_unsigned());
        w.u64(self.octets);
        w.flags(&self.flags);
        w.u32(self.chunks.len() as u32);
        for (at, len) in &self.chunks {
            w.u64(at.pack());
            w.u32(*len);
        }
        w.0
    }

    /// The head, and where in the payload the octets of a small message begin.
    pub fn decode(payload: &[u8]) -> Option<(Self, usize)> {
        let mut p = Parser(payload);
        let key = p.take(20)?.try_into().ok()?;
        let (msg, mailbox, folder) = (p.id()?, p.id()?, p.id()?);
        let (date, octets, flags) = (p.u64()?.cast_signed(), p.u64()?, p.flags()?);
        let count = p.u32()? as usize;
        let mut chunks = Vec::with_capacity(count.min(payload.len() / 12));
        for _ in 0..count {
            chunks.push((p.loc()?, p.u32()?));
        }
        let head = Self { key, msg, mailbox, folder, date, octets, flags, chunks };
        Some((head, payload.len() - p.0.len()))
    }

    /// The row of the message, whose record is at `at`.
    pub fn row(&self, stream: &str, at: Loc) -> Row {
        Row {
            msg: self.msg,
            email: self.msg,
            stream: stream.to_owned(),
            first_segment: self.first_segment(at),
            at,
            octets: self.octets,
            date: self.date,
            flags: self.flags.clone(),
        }
    }

    /// First segment that holds octets of this message, whose own record is at `at`.
    pub fn first_segment(&self, at: Loc) -> u32 {
        self.chunks.first().map_or(at.segment, |(c, _)| c.segment)
    }
}

/// Payload of a [`KIND_OPS`] record.
pub fn encode_ops(modseq: i64, ops: &[Op]) -> Vec<u8> {
    let mut w = Writer::default();
    w.u64(modseq.cast_unsigned());
    w.u32(ops.len() as u32);
    for op in ops {
        op.encode(&mut w);
    }
    w.0
}

/// Inverse of [`encode_ops`]; `None` when it is not such a payload.
pub fn decode_ops(payload: &[u8]) -> Option<(i64, Vec<Op>)> {
    let mut p = Parser(payload);
    let modseq = p.u64()?.cast_signed();
    let count = p.u32()? as usize;
    let mut ops = Vec::with_capacity(count.min(payload.len() / 17));
    for _ in 0..count {
        ops.push(Op::decode(&mut p)?);
    }
    p.0.is_empty().then_some((modseq, ops))
}

/// Payload of a [`KIND_VOID`] record.
pub fn encode_places(places: &[Loc]) -> Vec<u8> {
    let mut w = Writer::default();
    for at in places {
        w.u64(at.pack());
    }
    w.0
}

/// Inverse of [`encode_places`]; `None` when it is not such a payload.
pub fn decode_places(payload: &[u8]) -> Option<Vec<Loc>> {
    let mut p = Parser(payload);
    let places = (0..payload.len() / 8).map_while(|_| p.loc()).collect();
    p.0.is_empty().then_some(places)
}

impl Op {
    fn encode(&self, w: &mut Writer) {
        match self {
            Self::CreateFolder { mailbox, folder, name, special, subscribed } => {
                w.u8(1);
                w.bytes(mailbox);
                w.bytes(folder);
                w.text(name);
                w.text(special);
                w.u8(u8::from(*subscribed));
            }
            Self::Rename { folder, name } => {
                w.u8(2);
                w.bytes(folder);
                w.text(name);
            }
            Self::DeleteFolder { folder } => {
                w.u8(3);
                w.bytes(folder);
            }
            Self::Subscribe { folder, subscribed } => {
                w.u8(4);
                w.bytes(folder);
                w.u8(u8::from(*subscribed));
            }
            Self::SetFlags { msg, flags } => {
                w.u8(5);
                w.bytes(msg);
                w.flags(flags);
            }
            Self::Expunge { msg } => {
                w.u8(6);
                w.bytes(msg);
            }
            Self::Insert { folder, row } => {
                w.u8(7);
                w.bytes(folder);
                row.encode(w);
            }
            Self::DeleteMailbox { mailbox } => {
                w.u8(8);
                w.bytes(mailbox);
            }
            Self::Place { msg, stream, first_segment, at } => {
                w.u8(9);
                w.bytes(msg);
                w.text(stream);
                w.u32(*first_segment);
                w.u64(at.pack());
            }
        }
    }

    fn decode(p: &mut Parser<'_>) -> Option<Self> {
        Some(match p.u8()? {
            1 => Self::CreateFolder { mailbox: p.id()?, folder: p.id()?, name: p.text()?, special: p.text()?, subscribed: p.u8()? != 0 },
            2 => Self::Rename { folder: p.id()?, name: p.text()? },
            3 => Self::DeleteFolder { folder: p.id()? },
            4 => Self::Subscribe { folder: p.id()?, subscribed: p.u8()? != 0 },
            5 => Self::SetFlags { msg: p.id()?, flags: p.flags()? },
            6 => Self::Expunge { msg: p.id()? },
            7 => Self::Insert { folder: p.id()?, row: Row::decode(p)? },
            8 => Self::DeleteMailbox { mailbox: p.id()? },
            9 => Self::Place { msg: p.id()?, stream: p.text()?, first_segment: p.u32()?, at: p.loc()? },
            _ => return None,
        })
    }
}

impl Row {
    fn encode(&self, w: &mut Writer) {
        w.bytes(&self.msg);
        w.bytes(&self.email);
        w.text(&self.stream);
        w.u32(self.first_segment);
        w.u64(self.at.pack());
        w.u64(self.octets);
        w.u64(self.date.cast_unsigned());
        w.flags(&self.flags);
    }

    fn decode(p: &mut Parser<'_>) -> Option<Self> {
        Some(Self {
            msg: p.id()?,
            email: p.id()?,
            stream: p.text()?,
            first_segment: p.u32()?,
            at: p.loc()?,
            octets: p.u64()?,
            date: p.u64()?.cast_signed(),
            flags: p.flags()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_decode_to_what_was_encoded_and_refuse_a_cut_payload() {
        let flags = Flags { bits: 5, keywords: "$Forwarded x".into() };
        let at = Loc { segment: 3, offset: 128 };
        let row =
            Row { msg: [1; 16], email: [2; 16], stream: "w0".into(), first_segment: 2, at, octets: 9, date: -4, flags: flags.clone() };
        let ops = vec![
            Op::CreateFolder { mailbox: [1; 16], folder: [2; 16], name: "é/x".into(), special: "\\Sent".into(), subscribed: true },
            Op::Rename { folder: [2; 16], name: "y".into() },
            Op::SetFlags { msg: [3; 16], flags: flags.clone() },
            Op::Insert { folder: [4; 16], row },
            Op::Expunge { msg: [5; 16] },
            Op::Place { msg: [6; 16], stream: "w1".into(), first_segment: 3, at },
        ];
        let payload = encode_ops(77, &ops);
        assert_eq!(decode_ops(&payload), Some((77, ops)));
        assert_eq!(decode_ops(&payload[..payload.len() - 1]), None);
        let head = MessageHead {
            key: delivery_key(&[9; 16], 3),
            msg: [1; 16],
            mailbox: [2; 16],
            folder: [3; 16],
            date: 1,
            octets: 2,
            flags,
            chunks: vec![(at, 7)],
        };
        let mut payload = head.encode();
        let len = payload.len();
        payload.extend_from_slice(b"octets");
        assert_eq!(MessageHead::decode(&payload), Some((head, len)));
    }
}
