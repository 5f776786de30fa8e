//! What is kept of a message, and its octets in a row (docs/formats.md). Reading is bounds-checked: damaged octets give None.

use gatepost_queue::{Envelope, MessageId, kind, reroute_detail};

use crate::terms::{Field, original};

/// Recipient number that means every recipient it applies to.
pub const ALL: u16 = u16::MAX;

/// One recipient as accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// Final address.
    pub address: String,
    /// RFC 3461 ORCPT, or empty.
    pub original: String,
    /// Scheduling key; empty when routing ended it (discard).
    pub destination: String,
    /// Entered the queue held.
    pub held: bool,
    /// When it was due first, Unix microseconds.
    pub next_us: u64,
}

/// One journal record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Unix microseconds.
    pub time_us: u64,
    /// Due time, or end of the grace of a removal.
    pub next_us: u64,
    /// Which recipient, or [`ALL`].
    pub recipient: u16,
    /// One of [`gatepost_queue::kind`].
    pub kind: u8,
    /// It finished the message.
    pub finished: bool,
    /// As journaled.
    pub detail: Vec<u8>,
}

/// A message with all that happened to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Id in the queue.
    pub id: MessageId,
    /// When it was accepted, Unix microseconds.
    pub received_us: u64,
    /// Octets with the prefix.
    pub size: u64,
    /// MAIL FROM; empty for the null reverse-path.
    pub sender: String,
    /// As the journal keeps it.
    pub meta: Vec<u8>,
    /// Subject, decoded and cut.
    pub subject: String,
    /// Message-ID field without angle brackets.
    pub header_id: String,
    /// In the order of the envelope.
    pub recipients: Vec<Recipient>,
    /// Oldest first.
    pub events: Vec<Event>,
}

impl Message {
    /// As accepted.
    pub fn new(envelope: Envelope, subject: String, header_id: String) -> Self {
        let recipients = envelope.recipients.into_iter().map(|r| Recipient {
            address: r.address,
            original: r.original,
            destination: r.destination,
            held: r.held,
            next_us: r.next_us,
        });
        Self {
            id: envelope.id,
            received_us: envelope.received_us,
            size: envelope.size,
            sender: envelope.reverse_path,
            meta: envelope.meta,
            subject,
            header_id,
            recipients: recipients.collect(),
            events: Vec::new(),
        }
    }

    /// When something happened to it last, Unix microseconds.
    pub fn last_us(&self) -> u64 {
        self.events.iter().map(|e| e.time_us).fold(self.received_us, u64::max)
    }

    /// True when nothing will happen to it any more.
    pub fn is_final(&self) -> bool {
        self.events.last().is_some_and(|e| e.finished) || self.recipients.iter().all(|r| r.destination.is_empty())
    }

    /// Octets it takes in memory, roughly.
    pub fn weight(&self) -> usize {
        let recipients: usize = self.recipients.iter().map(|r| 96 + r.address.len() + r.original.len() + r.destination.len()).sum();
        256 + self.sender.len() + self.meta.len() + self.subject.len() + self.header_id.len() + recipients
    }
}

/// Everything but id and events.
pub(crate) fn encode_head(m: &Message, out: &mut Vec<u8>) {
    out.extend_from_slice(&m.received_us.to_le_bytes());
    out.extend_from_slice(&m.size.to_le_bytes());
    put(out, m.sender.as_bytes());
    put(out, &m.meta);
    put(out, m.subject.as_bytes());
    put(out, m.header_id.as_bytes());
    out.extend_from_slice(&(m.recipients.len() as u16).to_le_bytes());
    for r in &m.recipients {
        out.push(u8::from(r.held));
        out.extend_from_slice(&r.next_us.to_le_bytes());
        put(out, r.address.as_bytes());
        put(out, r.original.as_bytes());
        put(out, r.destination.as_bytes());
    }
}

/// Inverse of [`encode_head`], without events.
pub(crate) fn decode_head(id: MessageId, data: &[u8]) -> Option<Message> {
    let mut c = Cursor(data);
    let (received_us, size) = (c.u64()?, c.u64()?);
    let (sender, meta, subject, header_id) = (c.text()?, c.bytes()?.to_vec(), c.text()?, c.text()?);
    let count = c.u16()?;
    let mut recipients = Vec::with_capacity(usize::from(count).min(1024));
    for _ in 0..count {
        let (held, next_us) = (c.u8()? != 0, c.u64()?);
        recipients.push(Recipient { held, next_us, address: c.text()?, original: c.text()?, destination: c.text()? });
    }
    Some(Message { id, received_us, size, sender, meta, subject, header_id, recipients, events: Vec::new() })
}

/// Calls `f` with every address of a head, without taking the rest of it apart: reverse-path, final and original recipients.
pub(crate) fn addresses(head: &[u8], f: &mut dyn FnMut(Field, &str)) -> Option<()> {
    let mut c = Cursor(head);
    c.take(16)?;
    f(Field::Sender, c.str()?);
    for _ in 0..3 {
        c.bytes()?;
    }
    for _ in 0..c.u16()? {
        c.take(9)?;
        let (address, orcpt) = (c.str()?, original(c.str()?));
        f(Field::Recipient, address);
        if !orcpt.is_empty() && !orcpt.eq_ignore_ascii_case(address) {
            f(Field::Recipient, orcpt);
        }
        c.bytes()?;
    }
    Some(())
}

/// Calls `f` with every address that an event of a row rerouted to.
pub(crate) fn rerouted(events: &[u8], f: &mut dyn FnMut(&str)) -> Option<()> {
    let mut c = Cursor(events);
    while !c.0.is_empty() {
        c.take(18)?;
        let (number, _) = (c.u8()?, c.u8()?);
        let detail = c.bytes()?;
        if number == kind::REROUTED
            && let Some((address, ..)) = reroute_detail(detail)
        {
            f(&address);
        }
    }
    Some(())
}

/// Appends one event.
pub(crate) fn encode_event(e: &Event, out: &mut Vec<u8>) {
    out.extend_from_slice(&e.time_us.to_le_bytes());
    out.extend_from_slice(&e.next_us.to_le_bytes());
    out.extend_from_slice(&e.recipient.to_le_bytes());
    out.extend_from_slice(&[e.kind, u8::from(e.finished)]);
    put(out, &e.detail);
}

/// All events of a row, appended to `events`. None when they are damaged; those before the damage are in.
pub(crate) fn decode_events(data: &[u8], events: &mut Vec<Event>) -> Option<()> {
    let mut c = Cursor(data);
    while !c.0.is_empty() {
        let (time_us, next_us, recipient) = (c.u64()?, c.u64()?, c.u16()?);
        let (kind, finished) = (c.u8()?, c.u8()? != 0);
        events.push(Event { time_us, next_us, recipient, kind, finished, detail: c.bytes()?.to_vec() });
    }
    Some(())
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    let n = bytes.len() as u32;
    if n < 0xff {
        out.push(n as u8);
    } else {
        out.push(0xff);
        out.extend_from_slice(&n.to_le_bytes());
    }
    out.extend_from_slice(bytes);
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let n = match self.u8()? {
            0xff => u32::from_le_bytes(self.array()?) as usize,
            short => usize::from(short),
        };
        self.take(n)
    }

    /// A text as it is; an empty one in place of damaged octets.
    fn str(&mut self) -> Option<&'a str> {
        Some(std::str::from_utf8(self.bytes()?).unwrap_or_default())
    }

    fn text(&mut self) -> Option<String> {
        Some(String::from_utf8_lossy(self.bytes()?).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_reads_back_and_no_prefix_of_it_is_taken_for_a_whole() {
        let recipient =
            Recipient { address: "b@c".into(), original: "rfc822;x@y".into(), destination: "d".repeat(300), held: true, next_us: 7 };
        let event = Event { time_us: 1, next_us: 2, recipient: 0, kind: 3, finished: true, detail: vec![9; 400] };
        let message = Message {
            id: [1; 16],
            received_us: 5,
            size: 6,
            sender: "a@b".into(),
            meta: b"[]".to_vec(),
            subject: "Grüße".into(),
            header_id: "i@d".into(),
            recipients: vec![recipient],
            events: vec![event.clone(), event],
        };
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        encode_head(&message, &mut head);
        message.events.iter().for_each(|e| encode_event(e, &mut tail));
        let mut read = decode_head([1; 16], &head).unwrap();
        decode_events(&tail, &mut read.events).unwrap();
        assert_eq!(read, message);
        for n in 0..head.len() {
            assert!(decode_head([1; 16], &head[..n]).is_none());
        }
        assert!(decode_events(&tail[..tail.len() - 1], &mut Vec::new()).is_none());
    }
}
