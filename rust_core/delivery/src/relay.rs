//! Messages in a row over one SMTP session: octets of the peer in, octets for it out. No I/O, no clock but the time passed in.
//!
//! The machine takes plain jobs from the spool by itself and journals what the peer took. The envelope of the next message travels behind the
//! data of the one before (RFC 2920 3.1) when the peer has been quick so far. Everything else is left to the caller: a job that needs a closer
//! look, a refusal, a fault. Invariants: at most two jobs are under way, and each is journaled or comes back in [`Relay::left`]; a job counts as
//! delivered only after the peer's 2yz to the end of its data; at most one message of [`SMALL`] octets is in memory.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Arc;

use gatepost_queue::{Change, Job, Spool, kind, now_us};

use crate::detail;
use crate::reply::{Parser, Reply};

/// Larger messages are the caller's, who streams them.
const SMALL: u64 = 48 << 10;
/// A peer whose last answer to a message took longer gets one message at a time: the next must not wait behind it.
const QUICK_US: u64 = 100_000;
/// Characters of a reply that are journaled.
const TEXT: usize = 300;

/// What the session is known by and what the peer can do.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// Whose jobs are taken.
    pub destination: String,
    /// Name and address, as journaled.
    pub host: String,
    /// TLS version and cipher; empty on a plain session.
    pub tls: String,
    /// The peer knows SIZE (RFC 1870).
    pub size: bool,
    /// Its limit; 0 when it names none.
    pub size_limit: u64,
    /// It knows 8BITMIME (RFC 6152).
    pub eight_bit: bool,
    /// It knows DSN (RFC 3461).
    pub dsn: bool,
}

/// How far a job that is left came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The peer has said nothing about it: it may go anywhere.
    Untried,
    /// The peer has answered MAIL; it has no data.
    Begun,
    /// Data were sent; no answer.
    Sent,
    /// The octets cannot be read; the session is of no use any more.
    Unreadable(String),
    /// The peer's word to this command.
    Refused(&'static str, Reply),
}

/// A job that is the caller's to finish.
#[derive(Debug)]
pub struct LeftJob {
    /// As it was taken.
    pub job: Job,
    /// When its transaction began, Unix microseconds.
    pub started_us: u64,
    /// How far it came.
    pub fate: Fate,
}

/// What the caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Write the octets, bring what the peer says.
    Going,
    /// Nothing is under way and nothing was left to take.
    Dry,
    /// Nothing is under way; there may be more to take, or something is left.
    Stopped,
    /// The session is of no use any more; see [`Relay::fault`].
    Broken,
}

enum Awaited {
    Reset,
    Mail,
    Rcpt,
    Data,
    EmptyEnd,
    End,
}

struct Flight {
    job: Job,
    started_us: u64,
    fate: Fate,
    sent_us: u64,
}

/// The machine. One per session.
pub struct Relay {
    spool: Arc<Spool>,
    peer: Peer,
    parser: Parser,
    awaited: VecDeque<Awaited>,
    flights: VecDeque<Flight>,
    left: Vec<LeftJob>,
    out: Vec<u8>,
    budget: u32,
    dry: bool,
    quick: bool,
    reset: bool,
    fault: String,
    delivered: u32,
}

impl Relay {
    /// For an open session that knows PIPELINING and has nothing under way.
    pub fn new(spool: Arc<Spool>, peer: Peer) -> Self {
        Self {
            spool,
            peer,
            parser: Parser::default(),
            awaited: VecDeque::new(),
            flights: VecDeque::new(),
            left: Vec::new(),
            out: Vec::new(),
            budget: 0,
            dry: false,
            quick: false,
            reset: false,
            fault: String::new(),
            delivered: 0,
        }
    }

    /// Begins with up to `budget` jobs. `reset`: the peer needs RSET first.
    pub fn begin(&mut self, budget: u32, reset: bool) -> State {
        (self.budget, self.reset) = (budget, reset);
        self.take(true);
        self.state()
    }

    /// What the peer said. `more`: jobs may be taken.
    pub fn feed(&mut self, data: &[u8], more: bool) -> State {
        self.parser.feed(data);
        while self.fault.is_empty() {
            match self.parser.next() {
                Ok(Some(reply)) => self.hear(reply, more),
                Ok(None) => break,
                Err(fault) => self.fault = fault,
            }
        }
        if self.flights.is_empty() && self.fault.is_empty() && self.left.is_empty() {
            self.take(more);
        }
        self.state()
    }

    /// The octets to write.
    pub fn out(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Jobs delivered and journaled since the last call.
    pub fn delivered(&mut self) -> u32 {
        std::mem::take(&mut self.delivered)
    }

    /// Why the session is broken.
    pub fn fault(&self) -> &str {
        &self.fault
    }

    /// The peer needs RSET before the next MAIL.
    pub fn needs_reset(&self) -> bool {
        self.reset
    }

    /// Data were sent whose end the peer has not answered: it may take its time (RFC 5321 4.5.3.2.6).
    pub fn sending(&self) -> bool {
        self.flights.front().is_some_and(|flight| flight.fate == Fate::Sent)
    }

    /// All jobs that are the caller's now, in order; also those under way, when the session is broken or the caller gives it up.
    pub fn left(&mut self) -> Vec<LeftJob> {
        self.awaited.clear();
        let mut left = std::mem::take(&mut self.left);
        left.extend(self.flights.drain(..).map(|f| LeftJob { job: f.job, started_us: f.started_us, fate: f.fate }));
        left
    }

    fn state(&self) -> State {
        match () {
            () if !self.fault.is_empty() => State::Broken,
            () if !self.flights.is_empty() => State::Going,
            () if self.dry && self.left.is_empty() => State::Dry,
            () => State::Stopped,
        }
    }

    /// Takes the next job and writes its envelope, unless it is not for us or nothing may be taken.
    fn take(&mut self, more: bool) {
        self.dry = false;
        if !more || self.budget == 0 || !self.left.is_empty() {
            return;
        }
        let Some(job) = self.spool.take(&self.peer.destination, 1, 0).pop() else {
            self.dry = true;
            return;
        };
        self.budget -= 1;
        let started_us = now_us();
        let Some(body) = self.plain(&job) else {
            self.left.push(LeftJob { job, started_us, fate: Fate::Untried });
            return;
        };
        self.envelope(&job, body);
        self.flights.push_back(Flight { job, started_us, fate: Fate::Untried, sent_us: 0 });
    }

    /// MAIL, RCPT and DATA as one group.
    fn envelope(&mut self, job: &Job, body: &str) {
        // Behind data the end of data clears the transaction.
        if self.reset && self.flights.is_empty() {
            self.out.extend_from_slice(b"RSET\r\n");
            self.awaited.push_back(Awaited::Reset);
        }
        let mut line = format!("MAIL FROM:<{}>", job.reverse_path);
        if self.peer.size {
            let _ = write!(line, " SIZE={}", job.size);
        }
        let _ = write!(line, "{body}\r\nRCPT TO:<{}>\r\nDATA\r\n", job.recipients[0].address);
        self.out.extend_from_slice(line.as_bytes());
        self.awaited.extend([Awaited::Mail, Awaited::Rcpt, Awaited::Data]);
    }

    /// The BODY parameter of a job that every such peer takes as it is; None when it needs a closer look.
    fn plain(&self, job: &Job) -> Option<&'static str> {
        let [recipient] = job.recipients.as_slice() else { return None };
        let printable = |text: &str| text.bytes().all(|b| (0x20..0x7f).contains(&b));
        let fits = self.peer.size_limit == 0 || job.size <= self.peer.size_limit;
        let quiet = recipient.notify == 0 && (recipient.original.is_empty() || !self.peer.dsn);
        // The end of a route that asks for more than a place (`Route.encode`): another sender, edits, options.
        if recipient.route.ends_with(b"}]")
            || job.size > SMALL
            || !fits
            || !quiet
            || !printable(&job.reverse_path)
            || !printable(&recipient.address)
        {
            return None;
        }
        match body(&job.meta)? {
            Body::Seven => Some(""),
            Body::Eight => Some(if self.peer.eight_bit { " BODY=8BITMIME" } else { "" }),
        }
    }

    fn hear(&mut self, reply: Reply, more: bool) {
        let Some(awaited) = self.awaited.pop_front() else {
            self.fault = format!("an unexpected reply: {} {}", reply.code, reply.text(TEXT));
            return;
        };
        match awaited {
            Awaited::Reset if reply.good() => self.reset = false,
            Awaited::Reset => self.fault = "the peer refused RSET".into(),
            Awaited::Mail if reply.code == 421 => self.fault = format!("the peer said 421 {}", reply.text(TEXT)),
            Awaited::Mail => {
                self.reset = true;
                self.front().fate = if reply.good() { Fate::Begun } else { Fate::Refused("MAIL", reply) };
            }
            Awaited::Rcpt => self.refuse("RCPT", reply),
            Awaited::Data if reply.code == 354 => self.send(more),
            Awaited::Data => {
                if self.front().fate == Fate::Begun {
                    self.front().fate = Fate::Refused("DATA", reply);
                }
                self.leave();
            }
            Awaited::EmptyEnd => self.leave(),
            Awaited::End => self.end(reply),
        }
    }

    fn front(&mut self) -> &mut Flight {
        self.flights.front_mut().expect("a reply is awaited only for a job under way")
    }

    fn refuse(&mut self, command: &'static str, reply: Reply) {
        if !reply.good() && self.front().fate == Fate::Begun {
            self.front().fate = Fate::Refused(command, reply);
        }
    }

    /// The first job under way is the caller's.
    fn leave(&mut self) {
        if let Some(flight) = self.flights.pop_front() {
            self.left.push(LeftJob { job: flight.job, started_us: flight.started_us, fate: flight.fate });
        }
    }

    /// The peer waits for data: those of the message, and the next envelope behind them.
    fn send(&mut self, more: bool) {
        if self.front().fate != Fate::Begun {
            // RFC 2920 3.1: its recipient was refused, yet the peer waits for data: give it none.
            self.out.extend_from_slice(b".\r\n");
            self.awaited.push_back(Awaited::EmptyEnd);
            return;
        }
        let id = self.front().job.id;
        let mut out = std::mem::take(&mut self.out);
        let read = self.spool.read(&id).and_then(|mut reader| {
            let size = usize::try_from(reader.size()).unwrap_or(usize::MAX);
            out.reserve(size + size / 64 + 512);
            // Dots and line ends make it longer by less than this.
            reader.read_dotted(size.saturating_mul(2).saturating_add(64), &mut out)
        });
        self.out = out;
        if let Err(error) = read {
            self.fault = error.to_string();
            self.front().fate = Fate::Unreadable(error.to_string());
            return;
        }
        (self.front().fate, self.front().sent_us) = (Fate::Sent, now_us());
        self.awaited.push_back(Awaited::End);
        if self.quick && self.left.is_empty() {
            self.take(more);
        }
    }

    fn end(&mut self, reply: Reply) {
        let now = now_us();
        self.reset = false;
        self.quick = now.saturating_sub(self.front().sent_us) < QUICK_US;
        if !reply.good() {
            self.front().fate = Fate::Refused("end of data", reply);
            self.leave();
            return;
        }
        let Some(flight) = self.flights.pop_front() else { return };
        let mut json = detail::delivered(now, flight.started_us);
        detail::text(&mut json, "host", &self.peer.host);
        let _ = write!(json, ",\"code\":{}", reply.code);
        detail::text(&mut json, "enhanced", &reply.enhanced);
        detail::text(&mut json, "text", &reply.text(TEXT));
        detail::text(&mut json, "command", "end of data");
        if !self.peer.tls.is_empty() {
            detail::text(&mut json, "tls", &self.peer.tls);
        }
        json.push('}');
        let recipient = Some(flight.job.recipients[0].index);
        let change = Change { id: flight.job.id, recipient, kind: kind::DELIVERED, next_us: 0, detail: json.into_bytes() };
        self.spool.change(0, &[change]);
        self.delivered += 1;
    }
}

/// BODY of a plain message (RFC 6152).
#[derive(Debug, PartialEq, Eq)]
enum Body {
    Seven,
    Eight,
}

/// What is behind the origin in `Meta.encode`: ENVID, RET, BODY, SMTPUTF8, rule version, and the verdict if there is one. None for a message
/// that has an ENVID, RET or SMTPUTF8.
fn body(meta: &[u8]) -> Option<Body> {
    let (mut quoted, mut escaped) = (false, false);
    let end = meta.iter().position(|octet| {
        match octet {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ => return *octet == b']' && !quoted,
        }
        false
    })?;
    let rest = &meta[end..];
    if rest.starts_with(b"],\"\",\"\",\"7BIT\",false,") {
        Some(Body::Seven)
    } else if rest.starts_with(b"],\"\",\"\",\"8BITMIME\",false,") {
        Some(Body::Eight)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_the_origin_says_how_plain_a_message_is() {
        let with = |rest: &str| body(format!("[[\"ESMTP\",\"192.0.2.1\",25,\"a\\\"],\\\\\",\"\",\"\",\"smtp\"]{rest}]").as_bytes());
        assert_eq!(with(",\"\",\"\",\"7BIT\",false,7"), Some(Body::Seven));
        assert_eq!(with(",\"\",\"\",\"8BITMIME\",false,7"), Some(Body::Eight));
        let verdict = "[\"tag\",\"p\",\"r\",\"\",[[\"a.doc\",\"],\",\"tag\",\"\"]],[],0,0]";
        assert_eq!(with(&format!(",\"\",\"\",\"8BITMIME\",false,7,{verdict}")), Some(Body::Eight));
        for other in [",\"id\",\"\",\"7BIT\",false,7", ",\"\",\"FULL\",\"7BIT\",false,7", ",\"\",\"\",\"7BIT\",true,7", ""] {
            assert_eq!(with(other), None, "{other}");
        }
        assert_eq!(body(b"[[\"],\\\"\\\",\\\"\\\",\\\"7BIT\\\",false,"), None);
        assert_eq!(body(b""), None);
    }
}
