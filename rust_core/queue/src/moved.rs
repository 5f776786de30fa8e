//! The payload of a "moved" record: a live message as it is at one place of the log, so that its older records are not needed any more.
//!
//! It begins with what an accepted record holds, the envelope as accepted and the octets of the message (so that readers treat both alike), then comes
//! the state of each recipient and the whole journal so far. Written by `compact`, read at replay and by whoever wants the journal.

use gatepost_log::Loc;

use crate::codec::{Cursor, Envelope, Journal, Layout, decode_accepted, decode_journal, put_text};
use crate::error::QueueError;
use crate::index::{GRACE, Index, LASTING, Message, NOWHERE, REROUTED, Recipient, Recipients};
use crate::sets::EMPTY;
use crate::transition::State;

/// Bit of a chunk's number that says: it holds journal, not octets of the message.
pub(crate) const JOURNAL_PIECE: u32 = 1 << 31;

/// What follows the message in a moved record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    /// The message's accepted or moved record that this one replaces.
    pub from: Loc,
    /// As in the index; the destination only where it is another than in the envelope.
    pub recipients: Vec<(Recipient, String)>,
    /// Records with the older part of the journal, and how many octets of it each holds.
    pub pieces: Vec<(Loc, u32)>,
    /// The rest of the journal: payloads of journal records, each behind its length, oldest first.
    pub journal: Vec<u8>,
}

impl Moved {
    /// State of a message now.
    pub fn state(index: &Index, message: &Message) -> Vec<(Recipient, String)> {
        let destination = |r: &Recipient| if r.has(REROUTED) { index.destination_name(r.destination).to_owned() } else { String::new() };
        message.recipients.as_slice().iter().map(|r| (*r, destination(r))).collect()
    }

    /// What goes behind the octets of the message.
    pub fn encode(&self) -> Result<Vec<u8>, QueueError> {
        let mut out = Vec::with_capacity(32 + 14 * self.recipients.len() + 12 * self.pieces.len() + self.journal.len());
        out.extend_from_slice(&self.from.pack().to_le_bytes());
        out.extend_from_slice(&(self.recipients.len() as u16).to_le_bytes());
        for (r, destination) in &self.recipients {
            out.extend_from_slice(&r.next_us.to_le_bytes());
            out.extend_from_slice(&r.attempts.to_le_bytes());
            out.extend_from_slice(&[r.state as u8, r.flags & LASTING]);
            put_text(&mut out, destination)?;
        }
        out.extend_from_slice(&(self.pieces.len() as u32).to_le_bytes());
        for (loc, length) in &self.pieces {
            out.extend_from_slice(&loc.pack().to_le_bytes());
            out.extend_from_slice(&length.to_le_bytes());
        }
        out.extend_from_slice(&self.journal);
        Ok(out)
    }

    /// A whole moved record.
    pub fn decode(payload: &[u8]) -> Option<(Envelope, Layout, Self)> {
        let (envelope, layout) = decode_accepted(payload)?;
        let mut c = Cursor(payload.get(layout.inline_at as usize + layout.inline_len as usize..)?);
        let from = c.loc()?;
        let mut recipients = Vec::new();
        for _ in 0..c.u16()? {
            let (next_us, attempts, state, flags) = (c.u64()?, c.u16()?, State::from_u8(c.u8()?)?, c.u8()? & LASTING);
            recipients.push((Recipient { next_us, destination: NOWHERE, attempts, state, flags }, c.text()?));
        }
        let pieces = (0..c.u32()?).map(|_| Some((c.loc()?, c.u32()?))).collect::<Option<_>>()?;
        (recipients.len() == envelope.recipients.len())
            .then(|| (envelope, layout, Self { from, recipients, pieces, journal: c.0.to_vec() }))
    }

    /// Segments with pieces of the message or of its journal.
    pub fn segments(&self, layout: &Layout) -> Vec<u32> {
        let mut segments: Vec<u32> = layout.chunks.iter().chain(&self.pieces).map(|(loc, _)| loc.segment).collect();
        segments.sort_unstable();
        segments.dedup();
        segments
    }
}

/// Puts journal records, oldest first, behind what is there.
pub(crate) fn put_journal(out: &mut Vec<u8>, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(payload);
}

/// Inverse of [`put_journal`]; None when the octets are not such a list.
pub(crate) fn take_journal(octets: &[u8]) -> Option<Vec<Journal>> {
    let mut c = Cursor(octets);
    let mut found = Vec::new();
    while !c.0.is_empty() {
        let n = c.u32()?;
        found.push(decode_journal(c.take(n as usize)?)?);
    }
    Some(found)
}

/// Applies a moved record while the log is replayed.
pub(crate) fn replay_moved(index: &mut Index, loc: Loc, payload: &[u8]) {
    let Some((envelope, layout, moved)) = Moved::decode(payload) else { return };
    index.segments.vouch(loc.segment, moved.from.segment);
    let segments = moved.segments(&layout);
    if let Some(slot) = index.lookup(&envelope.id) {
        let (accepted, head) = (index.message(slot).accepted, index.message(slot).head);
        if accepted >= loc {
            return;
        }
        index.segments.vouch(loc.segment, accepted.segment);
        if head > loc {
            // A checkpoint taken later knows its state already, but not where it is.
            index.relocate(slot, loc, &segments);
            return;
        }
        index.remove(slot);
    }
    let recipients = moved.recipients.iter().zip(&envelope.recipients).map(|((r, destination), spec)| {
        let name = if destination.is_empty() { &spec.destination } else { destination };
        let wanted = r.pending() || r.flags & GRACE != 0;
        Recipient { destination: if wanted { index.intern_for(name, &spec.address) } else { NOWHERE }, ..*r }
    });
    let recipients = Recipients::new(recipients.collect());
    let size = u32::try_from(envelope.size).unwrap_or(u32::MAX);
    let delay = Message::delay_of(&envelope.id, envelope.received_us);
    let message = Message { id: envelope.id, accepted: loc, head: loc, size, others: EMPTY, delay, hidden: true, recipients };
    index.insert(message, segments, true);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{RecipientSpec, encode_accepted, encode_journal};

    #[test]
    fn a_moved_record_says_what_was_put_in_and_a_cut_one_is_refused() {
        let spec = RecipientSpec {
            address: "a@b".into(),
            original: String::new(),
            destination: "d".into(),
            notify: 1,
            route: vec![7],
            next_us: 5,
            held: false,
        };
        let envelope = Envelope { id: [9; 16], received_us: 4, size: 3, reverse_path: "f@x".into(), meta: vec![1], recipients: vec![spec] };
        let at = |segment| Loc { segment, offset: 128 };
        let head = encode_accepted(&envelope, &[(at(3), 70)], 3).unwrap();
        let journal =
            Journal { id: [9; 16], previous: at(2), time_us: 6, next_us: 7, recipient: 0, kind: 2, finished: false, detail: b"x".to_vec() };
        let recipient = Recipient { next_us: 8, destination: NOWHERE, attempts: 2, state: State::Pending, flags: REROUTED };
        let mut moved = Moved { from: at(1), recipients: vec![(recipient, "e".into())], pieces: vec![(at(4), 90)], journal: Vec::new() };
        put_journal(&mut moved.journal, &[&encode_journal(&journal)[..], b"x"].concat());
        let payload = [&head[..], b"abc", &moved.encode().unwrap()].concat();
        let (read, layout, back) = Moved::decode(&payload).unwrap();
        assert_eq!((&read, &back), (&envelope, &moved));
        assert_eq!(back.segments(&layout), [3, 4]);
        assert_eq!(take_journal(&back.journal), Some(vec![journal]));
        let tail = payload.len() - moved.journal.len();
        assert!((0..tail).all(|n| Moved::decode(&payload[..n]).is_none()));
        assert_eq!(take_journal(&moved.journal[..moved.journal.len() - 1]), None);
    }
}
