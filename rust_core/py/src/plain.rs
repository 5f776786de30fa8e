//! Plain mail without Python: connect, HELO or EHLO, MAIL, RCPT, DATA with one recipient, QUIT.
//!
//! What has to be decided is asked of the server once and remembered: what a MAIL or RCPT argument means, where a recipient is routed
//! under the present rule set, how near a client is. Whatever is not plain (a refusal, a parameter that matters, any other command)
//! goes to the session's methods, which are first told what was said so far ([`in_charge`]); they have the say until they hand back
//! (`Line.hand_back`). So there is one place for each decision, and it is Python's.
//!
//! Invariants: a command is answered here only if the session's method would give the same answer; the 250 for a message leaves after
//! the partition said that it is on the disk; no lock is held while Python is called.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use gatepost_queue as queue;
use gatepost_scan::LongText;
use gatepost_wire::{Origin, Pace, plain_name};
use parking_lot::Mutex;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

use crate::connections::Verdict;
use crate::errors::from_queue;
use crate::line::{Line, split_verb};
use crate::line_state::Sink;
use crate::mail_content::mark;
use crate::plain_memory::{Plain, Recipient, Sender, Terms};
use crate::plain_stages::{Question, may_hold, may_hold_at_data};
use crate::spool::Incoming;
use crate::wire::Wire;

/// Octets of a command line with its end (RFC 5321 4.5.3.1.4); longer ones are not plain.
const MAX_LINE: usize = 512;
const OK_MAIL: &[u8] = b"250 2.1.0 sender ok\r\n";
const OK_RCPT: &[u8] = b"250 2.1.5 recipient ok\r\n";
const GO_AHEAD: &[u8] = b"354 end data with <CR><LF>.<CR><LF>\r\n";
const BYE: &[u8] = b"221 2.0.0 bye\r\n";

/// A mail transaction (RFC 5321 3.3).
pub struct Mail {
    pub sender: Arc<Sender>,
    pub recipients: Vec<Arc<Recipient>>,
    pub terms: Arc<Terms>,
    /// What may concern this client, its name and this sender.
    concerns: u64,
    /// Of these what is asked at the end of data (see `plain_stages`).
    open: u64,
    /// Set at the commit.
    identity: String,
}

/// What a client has said.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools)]
pub struct Dialog {
    pub client: String,
    pub port: u16,
    pub trusted: bool,
    /// Counted among the open connections by the wire, not by a session.
    pub admitted: bool,
    /// The session's methods have the say.
    pub python: bool,
    pub helo: String,
    extended: bool,
    pub messages: u64,
    pub mail: Option<Box<Mail>>,
}

/// Takes a new connection without a session, if there are terms and room. False: the server's `open_session` is to see it.
pub fn admit(wire: &Bound<'_, Wire>, line: &Line, client: &str, port: u16) -> PyResult<bool> {
    let plain = &wire.get().plain;
    if plain.terms().is_none() {
        return Ok(false);
    }
    let host = wire.get().host.bind(wire.py());
    plain.look_at_settings(host)?;
    let Some(terms) = plain.terms() else { return Ok(false) };
    let (unlimited, trusted, concerns) = plain.standing(host, client)?;
    if concerns & terms.at_connect != 0 {
        return Ok(false);
    }
    let most = if unlimited { usize::MAX } else { terms.max_connections_per_client };
    if wire.get().connections.get().take(client, terms.max_connections, most) != Verdict::Admitted {
        return Ok(false);
    }
    plain.connected.fetch_add(1, Ordering::Relaxed);
    let mut state = line.state.lock();
    *state.dialog = Dialog { client: client.to_owned(), port, trusted, admitted: true, ..Dialog::default() };
    state.output.extend_from_slice(&terms.greeting);
    Ok(true)
}

/// Carries a command out if it is plain. False: the session's method is to see it.
pub fn command(slf: &Bound<'_, Line>, command: &[u8]) -> PyResult<bool> {
    let wire = slf.get().wire.get();
    if slf.get().state.lock().dialog.python || command.len() + 2 > MAX_LINE {
        return Ok(false);
    }
    let Some(terms) = wire.plain.terms() else { return Ok(false) };
    let (verb, argument) = split_verb(command);
    match verb.to_ascii_uppercase().as_slice() {
        b"HELO" => helo(slf, &terms, argument, false),
        b"EHLO" => helo(slf, &terms, argument, true),
        b"MAIL" => mail(slf, terms, argument),
        b"RCPT" => rcpt(slf, &terms, argument),
        b"DATA" if argument.is_empty() => data(slf),
        b"QUIT" if argument.is_empty() => {
            let mut state = slf.get().state.lock();
            state.output.extend_from_slice(BYE);
            state.flags.dropping = true;
            state.flags.closing = true;
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn helo(slf: &Bound<'_, Line>, terms: &Terms, argument: &[u8], extended: bool) -> PyResult<bool> {
    let Some(name) = plain_name(argument) else { return Ok(false) };
    if terms.at_helo != 0 {
        let client = slf.get().state.lock().dialog.client.clone();
        let (trusted, concerns) = concerns(slf, terms, &client, name)?;
        let bits = concerns & terms.at_helo;
        if may_hold(slf, &Question { stage: "helo", bits, name, trusted, sender: None, recipient: None, incoming: None })? {
            return Ok(false);
        }
    }
    let mut state = slf.get().state.lock();
    name.clone_into(&mut state.dialog.helo);
    state.dialog.extended = extended;
    state.dialog.mail = None;
    state.output.extend_from_slice(if extended { &terms.ehlo_reply } else { &terms.helo_reply });
    Ok(true)
}

/// Whether a client is trusted, and what may concern it under its name.
fn concerns(slf: &Bound<'_, Line>, terms: &Terms, client: &str, name: &str) -> PyResult<(bool, u64)> {
    let wire = slf.get().wire.get();
    let host = wire.host.bind(slf.py());
    let (_, trusted, concerns) = wire.plain.standing(host, client)?;
    Ok((trusted, concerns & wire.plain.name(host, terms, name)?))
}

fn mail(slf: &Bound<'_, Line>, terms: Arc<Terms>, argument: &[u8]) -> PyResult<bool> {
    let wire = slf.get().wire.get();
    let (extended, client, name) = {
        let dialog = &slf.get().state.lock().dialog;
        let enough = terms.max_messages != 0 && dialog.messages >= terms.max_messages;
        if dialog.helo.is_empty() || dialog.mail.is_some() || enough || !wire.plain.receiving.load(Ordering::Relaxed) {
            return Ok(false);
        }
        (dialog.extended, dialog.client.clone(), dialog.helo.clone())
    };
    let Some(sender) = wire.plain.sender(wire.host.bind(slf.py()), argument)? else { return Ok(false) };
    if sender.extended && !extended {
        return Ok(false);
    }
    let (trusted, concerns) = concerns(slf, &terms, &client, &name)?; // anew: the rules may have changed
    let concerns = concerns & sender.concerns;
    if concerns & terms.at_mail != 0 {
        return Ok(false);
    }
    let (bits, reverse_path) = (concerns & terms.asked_at_mail, Some(sender.reverse_path.as_str()));
    if may_hold(slf, &Question { stage: "mail", bits, name: &name, trusted, sender: reverse_path, recipient: None, incoming: None })? {
        return Ok(false);
    }
    let mut state = slf.get().state.lock();
    state.dialog.trusted = trusted;
    state.dialog.mail = Some(Box::new(Mail { sender, recipients: Vec::new(), terms, concerns, open: 0, identity: String::new() }));
    state.output.extend_from_slice(OK_MAIL);
    Ok(true)
}

fn rcpt(slf: &Bound<'_, Line>, terms: &Arc<Terms>, argument: &[u8]) -> PyResult<bool> {
    let wire = slf.get().wire.get();
    let (extended, trusted, planned, concerns) = {
        let dialog = &slf.get().state.lock().dialog;
        match &dialog.mail {
            // Other terms since MAIL: what concerns the sender was found under the former ones.
            Some(mail) if mail.recipients.len() < terms.max_recipients && Arc::ptr_eq(&mail.terms, terms) => {
                let planned = mail.recipients.iter().map(|one| one.specs.len()).sum::<usize>();
                (dialog.extended, dialog.trusted, planned, mail.concerns)
            }
            _ => return Ok(false),
        }
    };
    let Some(recipient) = wire.plain.recipient(wire.host.bind(slf.py()), argument, trusted)? else { return Ok(false) };
    let concerns = concerns & recipient.concerns;
    if concerns & terms.at_rcpt != 0 || (recipient.extended && !extended) || planned + recipient.specs.len() > terms.max_planned {
        return Ok(false);
    }
    if may_refuse(slf, concerns & terms.asked_at_rcpt, trusted, &recipient)? {
        return Ok(false);
    }
    let mut state = slf.get().state.lock();
    let dialog = &mut *state.dialog;
    let Some(mail) = &mut dialog.mail else { return Ok(false) };
    if terms.records {
        wire.asked.note(&dialog.client, &dialog.helo, trusted, &mail.sender, &recipient);
    }
    mail.recipients.push(recipient);
    mail.open |= concerns & mail.terms.at_data;
    state.output.extend_from_slice(OK_RCPT);
    Ok(true)
}

/// Whether a policy may hold for a recipient.
fn may_refuse(slf: &Bound<'_, Line>, bits: u64, trusted: bool, recipient: &Recipient) -> PyResult<bool> {
    if bits == 0 {
        return Ok(false);
    }
    let (name, sender) = {
        let dialog = &slf.get().state.lock().dialog;
        let Some(mail) = &dialog.mail else { return Ok(true) };
        (dialog.helo.clone(), Arc::clone(&mail.sender))
    };
    let sender = Some(sender.reverse_path.as_str());
    may_hold(slf, &Question { stage: "rcpt", bits, name: &name, trusted, sender, recipient: Some(recipient), incoming: None })
}

fn data(slf: &Bound<'_, Line>) -> PyResult<bool> {
    let wire = slf.get().wire.get();
    let incoming = {
        let dialog = &slf.get().state.lock().dialog;
        let Some(mail) = &dialog.mail else { return Ok(false) };
        let [recipient] = mail.recipients.as_slice() else { return Ok(false) };
        let id = queue::new_message_id();
        let prefix = origin(dialog, &mail.terms).received(&queue::format_id(&id), &recipient.address, now());
        let mut incoming = wire.spool.get().core().receive(id, prefix.as_bytes(), mail.terms.max_message_bytes, mail.terms.allow_bare);
        if recipient.field.is_some() && !recipient.judged {
            let mut text = LongText::new(prefix.len());
            incoming.watch(Box::new(move |octets| text.take(octets)));
        }
        incoming
    };
    let incoming = Py::new(slf.py(), Incoming { inner: Mutex::new(incoming) })?;
    let mut state = slf.get().state.lock();
    state.begin_data(Sink::Data(incoming), 0);
    state.output.extend_from_slice(GO_AHEAD);
    Ok(true)
}

fn origin<'a>(dialog: &'a Dialog, terms: &'a Terms) -> Origin<'a> {
    Origin {
        extended: dialog.extended,
        client: &dialog.client,
        port: dialog.port,
        helo: &dialog.helo,
        hostname: &terms.hostname,
        listener: &terms.listener,
    }
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0))
}

/// The end of data of a plain transaction: the one commit point. A message that is to be refused, or that a policy may hold for, goes to the
/// session.
pub fn end_of_data(slf: &Bound<'_, Line>, incoming: &Py<Incoming>) -> PyResult<()> {
    let (py, line) = (slf.py(), slf.get());
    let open = {
        let mut inner = incoming.get().inner.lock();
        let state = line.state.lock();
        state
            .dialog
            .mail
            .as_ref()
            .filter(|mail| is_sound(&inner, mail, &line.wire.get().plain) && passes(&mut inner, mail))
            .map(|mail| mail.open)
    };
    let passes = match open {
        Some(0) => true,
        Some(open) => !may_hold_at_data(slf, incoming, open)?,
        None => false,
    };
    let commit = {
        let mut inner = incoming.get().inner.lock();
        let mut state = line.state.lock();
        let dialog = &mut *state.dialog;
        match &dialog.mail {
            Some(mail) if passes && marked(&mut inner, mail) => {
                let recipient = &mail.recipients[0];
                let meta = origin(dialog, &mail.terms).meta(&mail.sender.body, recipient.rule_version, recipient.field.is_some());
                let (sender, specs) = (Arc::clone(&mail.sender), recipient.specs.clone());
                if let Some(mail) = &mut dialog.mail {
                    mail.identity = queue::format_id(&inner.id());
                }
                state.flags.held = true;
                state.flags.committing = true;
                Some((inner.id(), inner.total(), sender, specs, meta))
            }
            _ => None,
        }
    };
    let Some((id, octets, sender, specs, meta)) = commit else {
        return in_charge(slf)?.call_method1(intern!(py, "adopt"), (incoming,)).map(drop);
    };
    let spool = line.wire.get().spool.get();
    let ticket = spool.commits.begin(slf, id, octets, &sender);
    let reverse_path = sender.reverse_path.clone();
    let incoming = incoming.get();
    let done = py.detach(|| spool.core().commit(ticket, &mut incoming.inner.lock(), reverse_path, specs, meta));
    match done {
        Ok(()) => Ok(()),
        Err(error) => {
            spool.commits.forget(ticket);
            refused(slf, from_queue(&error).into_value(py).into_any())
        }
    }
}

/// Whether nothing about it is to be refused: what `Messages.end_of_data` looks at. Under other terms than at MAIL that is the session's affair.
fn is_sound(incoming: &queue::Incoming, mail: &Mail, plain: &Plain) -> bool {
    let sound = incoming.defect().is_none() && !incoming.long_header() && incoming.received() <= mail.terms.max_hops;
    sound && plain.terms().is_some_and(|terms| Arc::ptr_eq(&mail.terms, &terms))
}

/// Whether a message may go on as it is: nothing is to be looked into, or it is only text. What needs an inspection is the session's affair.
fn passes(incoming: &mut queue::Incoming, mail: &Mail) -> bool {
    let [recipient] = mail.recipients.as_slice() else { return false };
    recipient.field.is_none() || (!recipient.judged && is_only_text(incoming))
}

/// Has it written before a message that it is only text, if it was looked at.
fn marked(incoming: &mut queue::Incoming, mail: &Mail) -> bool {
    let field = mail.recipients[0].field.as_deref().unwrap_or_default();
    mark(incoming, field, &mail.terms.scan_field, Vec::new()).is_ok()
}

/// Looked at where it is: an inspection would find nothing.
fn is_only_text(incoming: &mut queue::Incoming) -> bool {
    incoming.in_memory().is_some_and(gatepost_scan::is_plain) || incoming.passes_watch()
}

/// The message could not be committed: the session says so.
fn refused(slf: &Bound<'_, Line>, error: Py<PyAny>) -> PyResult<()> {
    let identity = {
        let mut state = slf.get().state.lock();
        state.flags.committing = false;
        if state.flags.broken {
            return Ok(());
        }
        state.dialog.mail.as_ref().map(|mail| mail.identity.clone()).unwrap_or_default()
    };
    in_charge(slf)?.call_method1(intern!(slf.py(), "commit_failed"), (identity, error)).map(drop)
}

/// The partition's verdict on a commit.
fn committed(slf: &Bound<'_, Line>, error: Option<Py<PyAny>>) -> PyResult<()> {
    let line = slf.get();
    let plain = &line.wire.get().plain;
    if let Some(error) = error {
        return refused(slf, error);
    }
    plain.accepted.fetch_add(1, Ordering::Relaxed);
    {
        let mut state = line.state.lock();
        state.flags.committing = false;
        state.flags.held = false;
        state.active = *line.wire.get().now.lock();
        state.dialog.messages += 1;
        let mail = state.dialog.mail.take();
        if let Some(Mail { sender, recipients, terms, .. }) = mail.as_deref()
            && terms.counts
            && let [recipient] = recipients.as_slice()
        {
            line.wire.get().taken.note(&state.dialog.client, "", state.dialog.trusted, sender, recipient);
        }
        if state.flags.broken {
            return Ok(());
        }
        if let Some(mail) = mail
            && !state.ended()
        {
            state.output.extend_from_slice(b"250 2.0.0 ");
            state.output.extend_from_slice(mail.identity.as_bytes());
            state.output.extend_from_slice(b" queued\r\n");
        }
    }
    if plain.stopping.load(Ordering::Relaxed) {
        in_charge(slf)?.call_method0(intern!(slf.py(), "shut_down"))?;
    }
    Line::advance(slf);
    Ok(())
}

/// The session, told all that was said: from now on its methods have the say.
pub fn in_charge<'py>(slf: &Bound<'py, Line>) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    let session = Line::session(slf)?;
    let (helo, extended, messages, mail) = {
        let mut state = slf.get().state.lock();
        let dialog = &mut state.dialog;
        if std::mem::replace(&mut dialog.python, true) {
            return Ok(session);
        }
        (PyString::new(py, &dialog.helo), dialog.extended, dialog.messages, dialog.mail.take())
    };
    let (sender, recipients) = match &mail {
        Some(mail) => {
            let pairs = mail.recipients.iter().map(|one| (one.parsed.clone_ref(py), one.plan.clone_ref(py)));
            (Some(mail.sender.parsed.clone_ref(py)), PyList::new(py, pairs.collect::<Vec<_>>())?)
        }
        None => (None, PyList::empty(py)),
    };
    session.call_method1(intern!(py, "catch_up"), (helo, extended, messages, sender, recipients))?;
    Ok(session)
}

impl Dialog {
    /// The session has no transaction and nothing that is not plain: go on here.
    pub fn resume(&mut self, helo: &str, extended: bool, messages: u64) {
        if helo.is_empty() || plain_name(helo.as_bytes()).is_some() {
            helo.clone_into(&mut self.helo);
            (self.extended, self.messages, self.mail, self.python) = (extended, messages, None, false);
        }
    }
}

/// Plain messages that wait for the disk, by ticket.
#[derive(Default)]
pub struct Commits {
    next: AtomicU64,
    /// Of mail that is taken here: the rest costs Python more than a switch between threads.
    pub pace: Pace,
    waiting: Mutex<HashMap<u64, Waiting>>,
}

struct Waiting {
    line: Py<Line>,
    id: queue::MessageId,
    octets: u64,
    sender: Arc<Sender>,
}

/// Tickets of plain messages have this bit; the others are counted by Python from 1.
const PLAIN: u64 = 1 << 63;

impl Commits {
    fn begin(&self, line: &Bound<'_, Line>, id: queue::MessageId, octets: u64, sender: &Arc<Sender>) -> u64 {
        let ticket = PLAIN | self.next.fetch_add(1, Ordering::Relaxed);
        self.waiting.lock().insert(ticket, Waiting { line: line.clone().unbind(), id, octets, sender: Arc::clone(sender) });
        ticket
    }

    fn forget(&self, ticket: u64) {
        let waiting = self.waiting.lock().remove(&ticket);
        drop(waiting);
    }

    /// Is this the ticket of a plain message?
    pub fn owns(ticket: u64) -> bool {
        ticket & PLAIN != 0
    }

    /// Answers a client whose message is on the disk, or is not to be. Returns id and reverse-path of one that is.
    pub fn settle(&self, py: Python<'_>, ticket: u64, error: Option<Py<PyAny>>) -> Option<(queue::MessageId, String)> {
        let waiting = self.waiting.lock().remove(&ticket)?;
        self.pace.beat(waiting.octets, Instant::now());
        let accepted = error.is_none().then(|| (waiting.id, waiting.sender.reverse_path.clone()));
        let line = waiting.line.bind(py);
        if let Err(failure) = committed(line, error) {
            failure.write_unraisable(py, Some(line));
            Line::give_up(line);
        }
        accepted
    }
}
