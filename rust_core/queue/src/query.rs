//! Calls that read records: jobs for the scheduler, state and history for operators, the message itself. The index is locked only to copy
//! places out of it; the reading happens afterwards.

use gatepost_log::{Loc, LogError};

use crate::codec::{
    ALL, CHUNK_HEAD, Envelope, Journal, KIND_ACCEPTED, KIND_CHUNK, KIND_JOURNAL, KIND_MOVED, Layout, RecipientSpec, accepted_length,
    decode_accepted, decode_journal, decode_reroute, reroute_note,
};
use crate::compact::unreadable as beyond_help;
use crate::error::QueueError;
use crate::id::{MessageId, format_id, now_us};
use crate::index::{HELD, Index, REROUTED, Recipient};
use crate::message::time_of;
use crate::moved::{JOURNAL_PIECE, Moved, take_journal};
use crate::reader::Reader;
use crate::spool::{Core, Spool};
use crate::transition::{State, Transition, kind};

/// Octets read of an accepted record to get its envelope; more only for long ones.
const ENVELOPE_GUESS: usize = 2048;
/// How long a message waits that could not be read for now.
const PUT_OFF_US: u64 = 60_000_000;

/// A due recipient of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRecipient {
    /// Place in the message's list.
    pub index: u16,
    /// Final address.
    pub address: String,
    /// RFC 3461 ORCPT, or empty.
    pub original: String,
    /// RFC 3461 NOTIFY bits.
    pub notify: u8,
    /// Opaque.
    pub route: Vec<u8>,
    /// Finished attempts.
    pub attempts: u16,
}

/// A message with its due recipients for one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The message.
    pub id: MessageId,
    /// Octets with prefix.
    pub size: u64,
    /// Unix microseconds.
    pub received_us: u64,
    /// MAIL FROM.
    pub reverse_path: String,
    /// Opaque.
    pub meta: Vec<u8>,
    /// Who is due.
    pub recipients: Vec<JobRecipient>,
}

/// State of one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientState {
    /// Final address.
    pub address: String,
    /// RFC 3461 ORCPT, or empty.
    pub original: String,
    /// Scheduling key.
    pub destination: String,
    /// RFC 3461 NOTIFY bits.
    pub notify: u8,
    /// Opaque.
    pub route: Vec<u8>,
    /// State.
    pub state: State,
    /// Held by an operator or by routing.
    pub held: bool,
    /// When it is due, Unix microseconds.
    pub next_us: u64,
    /// Finished attempts.
    pub attempts: u16,
    /// Detail of the last attempt or of what ended it.
    pub last_detail: Vec<u8>,
}

/// State of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// What was accepted.
    pub envelope: Envelope,
    /// A recipient is in flight.
    pub in_flight: bool,
    /// State now, in the order of the envelope.
    pub recipients: Vec<RecipientState>,
}

/// One line of a message's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Unix microseconds.
    pub time_us: u64,
    /// One of [`kind`].
    pub kind: u8,
    /// None for all recipients, or the message as a whole.
    pub recipient: Option<u16>,
    /// Opaque; for a reroute JSON with `address` and `destination`.
    pub detail: Vec<u8>,
}

/// What is copied out of the index about a message.
pub(crate) struct Place {
    pub id: MessageId,
    size: u32,
    pub accepted: Loc,
    pub head: Loc,
    pub recipients: Vec<(u16, Recipient, String)>,
    /// Of recipients that wait for a destination that is down: what is wrong with it.
    outages: Vec<(u16, Box<[u8]>)>,
}

impl Place {
    pub fn new(index: &Index, slot: u32, only: Option<&[u16]>) -> Self {
        let m = index.message(slot);
        let (mut recipients, mut outages) = (Vec::new(), Vec::new());
        let list = m.recipients.as_slice().iter().enumerate().map(|(n, r)| (n as u16, *r));
        for (n, mut r) in list.filter(|(n, _)| only.is_none_or(|only| only.contains(n))) {
            if let Some(outage) = index.waits_for(&r) {
                outages.push((n, outage.detail.clone()));
                r.next_us = r.next_us.max(outage.until_us);
            }
            recipients.push((n, r, if only.is_none() { index.destination_name(r.destination).to_owned() } else { String::new() }));
        }
        Self { id: m.id, size: m.size, accepted: m.accepted, head: m.head, recipients, outages }
    }
}

impl Spool {
    /// Takes up to `max_jobs` due messages of a destination, oldest first, and marks their due recipients in flight. `max_bytes` (0: none)
    /// bounds the sum of sizes, but one job is always given. A message whose record is damaged is held with a note that says so; one that
    /// cannot be read for now (an error of the disk, too many open files) is due again in a minute.
    pub fn take(&self, destination: &str, max_jobs: usize, max_bytes: u64) -> Vec<Job> {
        loop {
            let places = self.core.pick(destination, max_jobs, max_bytes);
            let picked = places.len();
            let jobs = self.core.jobs(places);
            // Nothing is only given when there is nothing: an unreadable message must not make those behind it wait.
            if !jobs.is_empty() || picked == 0 {
                return jobs;
            }
        }
    }

    /// State of one live message. One whose record cannot be read is shown with what the index knows, the fault in place of the last detail: it must
    /// be seen to be removed.
    pub fn get(&self, id: &MessageId) -> Result<Summary, QueueError> {
        self.core.summary(id)
    }

    /// Journal of one live message, oldest first.
    pub fn history(&self, id: &MessageId) -> Result<Vec<HistoryEntry>, QueueError> {
        let read = |place: &Place| self.core.history(place);
        self.core.steady(self.core.place(id)?, read).map_err(|failed| failed.1)
    }

    /// Reader over prefix and message.
    pub fn read(&self, id: &MessageId) -> Result<Reader, QueueError> {
        let read = |place: &Place| {
            let (envelope, layout) = self.core.envelope(&place.id, place.accepted, &mut Vec::new())?;
            Reader::new(&self.core, place.id, place.accepted, &layout, envelope.size)
        };
        self.core.steady(self.core.place(id)?, read).map_err(|failed| failed.1)
    }
}

impl Core {
    /// The jobs of recipients that were taken. What cannot be read is held or put off.
    pub fn jobs(&self, places: Vec<Place>) -> Vec<Job> {
        let mut buffer = Vec::new();
        let mut jobs = Vec::with_capacity(places.len());
        for place in places {
            match self.steady(place, |place| self.job(place, &mut buffer)) {
                Ok(job) => jobs.push(job),
                Err(failed) if beyond_help(&failed.1) => self.quarantine(&failed.0, &failed.1),
                Err(failed) => self.put_off(&failed.0, &failed.1),
            }
        }
        jobs
    }

    /// Reads a message; once more when compaction moved it meanwhile. Of an error it also gives the place where the message is.
    fn steady<T>(&self, place: Place, mut read: impl FnMut(&Place) -> Result<T, QueueError>) -> Result<T, Box<(Place, QueueError)>> {
        let mut place = place;
        loop {
            match read(&place) {
                Ok(found) => return Ok(found),
                Err(error) => match self.fresh(&place) {
                    Some(now) => place = now,
                    None => return Err(Box::new((place, error))),
                },
            }
        }
    }

    /// Where the message is now, if that is another place.
    fn fresh(&self, place: &Place) -> Option<Place> {
        let index = self.shared.index.lock();
        let slot = index.find(&place.id).filter(|slot| index.message(*slot).accepted != place.accepted)?;
        let numbers: Vec<u16> = place.recipients.iter().map(|(n, ..)| *n).collect();
        let all = numbers.len() == index.message(slot).recipients.as_slice().len();
        Some(Place::new(&index, slot, (!all).then_some(&numbers)))
    }

    fn history(&self, place: &Place) -> Result<Vec<HistoryEntry>, QueueError> {
        let received_us = self.envelope(&place.id, place.accepted, &mut Vec::new()).map_or(time_of(&place.id), |(e, _)| e.received_us);
        let mut entries = vec![HistoryEntry { time_us: received_us, kind: kind::ACCEPTED, recipient: None, detail: Vec::new() }];
        entries.extend(self.walk(place.head, place.accepted)?.into_iter().rev().map(|j| HistoryEntry {
            time_us: j.time_us,
            kind: j.kind,
            recipient: (j.recipient != ALL).then_some(j.recipient),
            detail: if j.kind == kind::REROUTED { reroute_json(&j.detail) } else { j.detail },
        }));
        Ok(entries)
    }

    /// See [`Spool::get`].
    pub fn summary(&self, id: &MessageId) -> Result<Summary, QueueError> {
        let untouched = |r: &Recipient| r.attempts == 0 && r.pending() && r.flags & REROUTED == 0;
        let mut place = self.place(id)?;
        let (read, journal) = loop {
            let read = self.envelope(&place.id, place.accepted, &mut Vec::new());
            let quiet = place.recipients.iter().all(|(_, r, _)| untouched(r));
            let journal = if quiet { Ok(Vec::new()) } else { self.walk(place.head, place.accepted) };
            let Some(now) = self.fresh(&place).filter(|_| read.is_err() || journal.is_err()) else { break (read, journal) };
            place = now;
        };
        let fault = read.as_ref().err().map(|error| format!("{{\"reason\":\"{}\"}}", json_text(&error.to_string())).into_bytes());
        let mut envelope = read.map_or_else(|_| unreadable(&place), |(envelope, _)| envelope);
        // A damaged journal record costs the details, not the state, which the index knows.
        let journal = journal.unwrap_or_default();
        for j in journal.iter().rev() {
            reroute(&mut envelope, j);
        }
        let detail = |n: u16| {
            let tells = |j: &&Journal| (kind::DELIVERED..=kind::REMOVED).contains(&j.kind) && (j.recipient == n || j.recipient == ALL);
            let outage = || place.outages.iter().find(|(m, _)| *m == n).map(|(_, detail)| detail.to_vec());
            let told = || journal.iter().find(tells).map(|j| j.detail.clone()).unwrap_or_default();
            fault.clone().or_else(outage).unwrap_or_else(told)
        };
        let recipients = place.recipients.iter().zip(&envelope.recipients).map(|((n, r, destination), spec)| RecipientState {
            address: spec.address.clone(),
            original: spec.original.clone(),
            destination: if destination.is_empty() { spec.destination.clone() } else { destination.clone() },
            notify: spec.notify,
            route: spec.route.clone(),
            state: r.state,
            held: r.has(HELD),
            next_us: r.next_us,
            attempts: r.attempts,
            last_detail: detail(*n),
        });
        let in_flight = place.recipients.iter().any(|(_, r, _)| r.has(crate::index::IN_FLIGHT));
        Ok(Summary { in_flight, recipients: recipients.collect(), envelope })
    }

    pub(crate) fn place(&self, id: &MessageId) -> Result<Place, QueueError> {
        let index = self.shared.index.lock();
        let slot = index.find(id).ok_or_else(|| QueueError::NotFound(format_id(id)))?;
        Ok(Place::new(&index, slot, None))
    }

    fn pick(&self, destination: &str, max_jobs: usize, max_bytes: u64) -> Vec<Place> {
        let mut index = self.shared.index.lock();
        let Some(number) = index.destination(destination) else { return Vec::new() };
        let mut places = Vec::new();
        let mut octets = 0;
        while places.len() < max_jobs {
            if max_bytes > 0 && !places.is_empty() && octets + index.next_size(number) > max_bytes {
                break;
            }
            let Some((slot, taken)) = index.take(number) else { break };
            octets += u64::from(index.message(slot).size);
            places.push(Place::new(&index, slot, Some(&taken)));
        }
        places
    }

    fn job(&self, place: &Place, buffer: &mut Vec<u8>) -> Result<Job, QueueError> {
        let (mut envelope, _) = self.envelope(&place.id, place.accepted, buffer)?;
        if place.recipients.iter().any(|(_, r, _)| r.has(REROUTED)) {
            for j in self.walk(place.head, place.accepted)?.iter().rev() {
                reroute(&mut envelope, j);
            }
        }
        let missing = || QueueError::Damaged(format!("{}: fewer recipients than the index has", place.accepted));
        let mut recipients = Vec::with_capacity(place.recipients.len());
        for (n, r, _) in &place.recipients {
            let spec = envelope.recipients.get_mut(usize::from(*n)).ok_or_else(missing)?;
            recipients.push(JobRecipient {
                index: *n,
                address: std::mem::take(&mut spec.address),
                original: std::mem::take(&mut spec.original),
                notify: spec.notify,
                route: std::mem::take(&mut spec.route),
                attempts: r.attempts,
            });
        }
        let Envelope { id, received_us, size, reverse_path, meta, .. } = envelope;
        Ok(Job { id, size, received_us, reverse_path, meta, recipients })
    }

    /// The recipients of a message that cannot be read for now are due in a minute.
    fn put_off(&self, place: &Place, error: &QueueError) {
        let detail = format!("{{\"error\":\"{}\"}}", json_text(&error.to_string()));
        let now = now_us();
        let retry = Transition::Retry { next_us: now + PUT_OFF_US };
        let mut index = self.shared.index.lock();
        for (n, ..) in &place.recipients {
            let _ = self.transition(&mut index, &place.id, *n, &retry, detail.as_bytes(), kind::RETRY, now);
            if let Some(slot) = index.find(&place.id) {
                index.give_back(slot, *n, now);
            }
        }
    }

    /// Holds the recipients of a message that cannot be read, with the reason.
    fn quarantine(&self, place: &Place, error: &QueueError) {
        let detail = format!("{{\"error\":\"{}\"}}", json_text(&error.to_string()));
        let mut index = self.shared.index.lock();
        for (n, ..) in &place.recipients {
            // Held first, so that giving it back does not make it ready at once.
            let _ = self.transition(&mut index, &place.id, *n, &Transition::Held, detail.as_bytes(), kind::HELD, now_us());
            if let Some(slot) = index.find(&place.id) {
                index.give_back(slot, *n, now_us());
            }
        }
    }

    /// Envelope and layout of an accepted record.
    pub(crate) fn envelope(&self, id: &MessageId, loc: Loc, buffer: &mut Vec<u8>) -> Result<(Envelope, Layout), QueueError> {
        let damaged = || QueueError::Damaged(format!("{loc}: not the accepted record of message {}", format_id(id)));
        let (kind, _) = self.log.read_prefix(loc, ENVELOPE_GUESS, buffer)?;
        let length = accepted_length(buffer).ok_or_else(damaged)?;
        if length > buffer.len() && length > ENVELOPE_GUESS {
            self.log.read_prefix(loc, length, buffer)?;
        }
        let (envelope, layout) = decode_accepted(buffer).ok_or_else(damaged)?;
        if !matches!(kind, KIND_ACCEPTED | KIND_MOVED) || envelope.id != *id {
            return Err(damaged());
        }
        Ok((envelope, layout))
    }

    /// Journal records of a message, newest first, down to its accepted record, which is not looked at. Fails on one that was lost (disk full) or damaged.
    pub(crate) fn walk(&self, head: Loc, accepted: Loc) -> Result<Vec<Journal>, QueueError> {
        let mut found = self.chain(head, accepted)?;
        found.extend(self.carried(accepted)?.into_iter().rev());
        Ok(found)
    }

    /// The journal that a moved record at `accepted` brought with it, oldest first.
    pub(crate) fn carried(&self, accepted: Loc) -> Result<Vec<Journal>, QueueError> {
        let mut buffer = Vec::new();
        match self.log.read_prefix(accepted, 0, &mut buffer) {
            Ok((KIND_MOVED, _)) => {}
            Ok(_) | Err(LogError::Damaged { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let damaged = || QueueError::Damaged(format!("{accepted}: not a moved record with its journal"));
        self.log.read(accepted, &mut buffer)?;
        let (.., moved) = Moved::decode(&buffer).ok_or_else(damaged)?;
        let mut octets = Vec::new();
        for (n, (loc, length)) in moved.pieces.iter().enumerate() {
            let kind = self.log.read(*loc, &mut buffer)?;
            let mine = buffer.get(16..CHUNK_HEAD) == Some(&(JOURNAL_PIECE | n as u32).to_le_bytes()[..]);
            if kind != KIND_CHUNK || !mine || buffer.len() != CHUNK_HEAD + *length as usize {
                return Err(damaged());
            }
            octets.extend_from_slice(&buffer[CHUNK_HEAD..]);
        }
        octets.extend_from_slice(&moved.journal);
        take_journal(&octets).ok_or_else(damaged)
    }

    /// The part of it behind the message's accepted or moved record.
    pub(crate) fn chain(&self, head: Loc, accepted: Loc) -> Result<Vec<Journal>, QueueError> {
        let mut found = Vec::new();
        let mut at = head;
        let mut buffer = Vec::new();
        // Before a moved record there may be journal that it holds.
        while at > accepted {
            if self.log.read(at, &mut buffer)? != KIND_JOURNAL {
                break;
            }
            let journal = decode_journal(&buffer).ok_or_else(|| QueueError::Damaged(format!("{at}: not a journal record")))?;
            if journal.previous >= at {
                return Err(QueueError::Damaged(format!("{at}: journal chain does not go back")));
            }
            at = journal.previous;
            found.push(journal);
        }
        Ok(found)
    }
}

/// Stands for an envelope that cannot be read.
fn unreadable(place: &Place) -> Envelope {
    let recipient = |(_, r, destination): &(u16, Recipient, String)| RecipientSpec {
        address: String::new(),
        original: String::new(),
        destination: destination.clone(),
        notify: 0,
        route: Vec::new(),
        next_us: r.next_us,
        held: r.has(HELD),
    };
    let recipients = place.recipients.iter().map(recipient).collect();
    let (received_us, size) = (time_of(&place.id), u64::from(place.size));
    Envelope { id: place.id, received_us, size, reverse_path: String::new(), meta: Vec::new(), recipients }
}

/// Puts a journaled new route into the envelope.
fn reroute(envelope: &mut Envelope, journal: &Journal) {
    if journal.kind != kind::REROUTED {
        return;
    }
    let spec = envelope.recipients.get_mut(usize::from(journal.recipient));
    if let (Some(spec), Some((address, destination, route))) = (spec, decode_reroute(&journal.detail)) {
        (spec.address, spec.destination, spec.route) = (address, destination, route);
    }
}

/// The detail of a reroute as JSON: address, destination and what was noted with it.
pub fn reroute_json(detail: &[u8]) -> Vec<u8> {
    let Some((address, destination, _)) = decode_reroute(detail) else { return Vec::new() };
    let note = reroute_note(detail).and_then(|note| std::str::from_utf8(note).ok()).unwrap_or_default();
    // The note is a JSON object of its own: its fields join ours.
    let more = note.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).filter(|fields| !fields.is_empty());
    let more = more.map_or(String::new(), |fields| format!(",{fields}"));
    format!("{{\"address\":\"{}\",\"destination\":\"{}\"{more}}}", json_text(&address), json_text(&destination)).into_bytes()
}

fn json_text(text: &str) -> String {
    let escape = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c < ' ' => format!("\\u{:04x}", c as u32),
        c => c.to_string(),
    };
    text.chars().map(escape).collect()
}
