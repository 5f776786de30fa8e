//! `Line` for Python: the native half of an SMTP session.
//!
//! A `Line` reads its socket, cuts command lines, looks the command up and calls its method on the session; message octets go from the
//! socket into an `Incoming` without passing through Python. Replies gather and leave in one write when the input is used up (RFC 2920).
//! A session that has to wait holds its line: input is kept, bounded, until it goes on. Under TLS the octets come and go through an
//! asyncio transport instead of a socket; the rest is the same.
//!
//! Everything runs in the event loop's thread. No lock is held while Python is called, so a method may call back into its line; what
//! would end the line there happens when its turn ends. A session method that raises ends its connection.

#![allow(clippy::needless_pass_by_value)]

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use gatepost_wire::{Cut, Ready};
use parking_lot::Mutex;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::line_state::{DRAIN_EVERY, Sink, State, Step};
use crate::plain;
use crate::spool::Incoming;
use crate::wire::Wire;

/// Input kept for a session that waits; beyond it the socket is not read.
const INPUT_HIGH: usize = 65_536;
/// Commands of one session before the others get their turn.
const COMMANDS_PER_TURN: usize = 200;
/// Pieces of a message shorter than this are taken without releasing the interpreter lock, which would cost more than the work.
const RELEASE_FROM: usize = 32_768;

/// A command line's verb, and what is behind the first space.
pub(crate) fn split_verb(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|octet| *octet == b' ') {
        Some(space) => (&line[..space], &line[space + 1..]),
        None => (line, &[]),
    }
}

/// The native half of one session.
#[pyclass(module = "gatepost._core", frozen)]
pub struct Line {
    pub(crate) wire: Py<Wire>,
    pub(crate) token: u64,
    pub(crate) session: Mutex<Option<Py<PyAny>>>,
    pub(crate) state: Mutex<State>,
}

impl Line {
    pub(crate) fn new(wire: &Bound<'_, Wire>) -> Self {
        let token = wire.get().next.fetch_add(1, Ordering::Relaxed);
        let now = *wire.get().now.lock();
        let mut state = State { active: now, started: now, ..State::default() };
        state.dialog.python = true;
        Self { wire: wire.clone().unbind(), token, session: Mutex::default(), state: Mutex::new(state) }
    }

    /// The session; made now if the line got along without one.
    pub(crate) fn session<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (py, line) = (slf.py(), slf.get());
        if let Some(session) = line.session.lock().as_ref() {
            return Ok(session.bind(py).clone());
        }
        let (client, port) = {
            let mut state = line.state.lock();
            state.dialog.admitted = false;
            (state.dialog.client.clone(), state.dialog.port)
        };
        let session = line.wire.get().host.bind(py).call_method1(intern!(py, "resume_session"), (slf, client, port))?;
        *line.session.lock() = Some(session.clone().unbind());
        Ok(session)
    }

    /// The client has been silent for longer, or is there for longer, than allowed.
    pub(crate) fn overdue(&self, now: f64, (silence, data_silence, age): (f64, f64, f64)) -> bool {
        let state = self.state.lock();
        let allowed = if matches!(state.sink, Sink::Commands) { silence } else { data_silence };
        now - state.started > age || now - state.active > allowed
    }

    /// Something that must not happen did: the connection ends.
    pub(crate) fn give_up(slf: &Bound<'_, Self>) {
        slf.get().state.lock().flags.broken = true;
        Self::settle(slf);
    }

    /// Its socket is ready; at most `limit` octets are read.
    pub(crate) fn on_ready(slf: &Bound<'_, Self>, ready: Ready, limit: usize) {
        let (line, wire) = (slf.get(), slf.get().wire.get());
        if ready.write {
            line.state.lock().send(wire, line.token);
            Self::advance(slf);
        }
        if !ready.read && !ready.broken {
            return;
        }
        let mut scratch = wire.scratch.lock();
        let got = {
            let mut state = line.state.lock();
            if state.interest.read {
                state.receive(&mut scratch[..limit])
            } else {
                // Not wanted now, unless it is that the connection is gone.
                state.flags.broken |= ready.broken;
                Some(Err(std::io::ErrorKind::WouldBlock.into()))
            }
        };
        match got {
            None => {}
            Some(Ok(0)) => Self::on_eof(slf),
            Some(Ok(n)) => Self::take(slf, &scratch[..n]),
            Some(Err(error)) => {
                line.state.lock().flags.broken |= !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted);
                Self::settle(slf);
            }
        }
    }

    /// The client sends no more; it may still read, so what it sent is worked off before the connection closes.
    fn on_eof(slf: &Bound<'_, Self>) {
        {
            let mut state = slf.get().state.lock();
            state.flags.eof = true;
            if state.flags.dropping {
                state.flags.closing = true;
            }
            state.watch(slf.get().wire.get(), slf.get().token);
        }
        Self::settle(slf);
    }

    /// Octets from the client: run them, or keep them.
    fn take(slf: &Bound<'_, Self>, data: &[u8]) {
        let line = slf.get();
        let kept = {
            let mut state = line.state.lock();
            if state.ended() {
                return;
            }
            if state.stopped() || state.flags.running {
                line.keep(slf.py(), &mut state, data);
                return;
            }
            let mut kept = std::mem::take(&mut state.input);
            if !kept.is_empty() {
                kept.extend_from_slice(data);
            }
            kept
        };
        Self::run(slf, if kept.is_empty() { data } else { &kept });
    }

    fn keep(&self, py: Python<'_>, state: &mut State, data: &[u8]) {
        state.input.extend_from_slice(data);
        if state.input.len() <= INPUT_HIGH || state.flags.paused {
            return;
        }
        state.flags.paused = true;
        if let Some(transport) = &state.transport {
            let _ = transport.call_method0(py, intern!(py, "pause_reading"));
        } else {
            state.watch(self.wire.get(), self.token);
        }
    }

    /// Feeds the sink or runs commands until the input is used up or something has to be waited for.
    fn run(slf: &Bound<'_, Self>, data: &[u8]) {
        let (py, line) = (slf.py(), slf.get());
        line.state.lock().flags.running = true;
        let (mut at, mut budget) = (0, COMMANDS_PER_TURN);
        while at < data.len() {
            let done = match line.step(py, &data[at..]) {
                Step::Stop => break,
                Step::Flood => {
                    at = data.len();
                    Ok(())
                }
                Step::Bad(next, what) => {
                    at += next;
                    plain::in_charge(slf).and_then(|session| session.call_method1(intern!(py, "bad_line"), (what,))).map(drop)
                }
                Step::Answer(text, next) => {
                    let answer: String = data[at..at + text].iter().map(|octet| char::from(*octet)).collect();
                    at += next;
                    Self::session(slf).and_then(|session| session.call_method1(intern!(py, "got_line"), (answer,))).map(drop)
                }
                Step::Run(text, next) => {
                    let command = &data[at..at + text];
                    at += next;
                    budget -= 1;
                    plain::command(slf, command).and_then(|done| if done { Ok(()) } else { line.command(&plain::in_charge(slf)?, command) })
                }
                Step::Data(incoming) => Self::data(slf, &incoming, &data[at..]).map(|used| at += used),
                Step::Python(sink) => {
                    line.state.lock().active = *line.wire.get().now.lock();
                    sink.call1(py, (PyBytes::new(py, &data[at..]),)).and_then(|used| used.extract(py)).map(|used: usize| at += used)
                }
            };
            if let Err(error) = done.and_then(|()| Self::turn_over(slf, budget)) {
                error.write_unraisable(py, Some(slf));
                line.state.lock().flags.broken = true;
            }
        }
        {
            let mut state = line.state.lock();
            state.flags.running = false;
            if !std::mem::take(&mut state.flags.discard) && at < data.len() && !state.ended() {
                line.keep(py, &mut state, &data[at..]);
            }
        }
        Self::settle(slf);
    }

    fn step(&self, py: Python<'_>, data: &[u8]) -> Step {
        let mut state = self.state.lock();
        if state.stopped() {
            return Step::Stop;
        }
        match &state.sink {
            Sink::Data(incoming) => return Step::Data(incoming.clone_ref(py)),
            Sink::Python(sink) => return Step::Python(sink.clone_ref(py)),
            Sink::Commands => {}
        }
        let wire = self.wire.get();
        let cut = state.cutter.cut(data, wire.allow_bare.load(Ordering::Relaxed));
        match cut {
            Cut::Partial => return Step::Stop,
            Cut::Flood => return Step::Flood,
            _ => state.active = *wire.now.lock(),
        }
        let wanted = std::mem::take(&mut state.flags.wanted);
        match cut {
            Cut::TooLong(next) => Step::Bad(next, "too-long"),
            Cut::Bare(next) => Step::Bad(next, "bare"),
            Cut::Line(text, next) if wanted => Step::Answer(text, next),
            Cut::Line(text, next) => Step::Run(text, next),
            Cut::Partial | Cut::Flood => Step::Stop,
        }
    }

    /// Looks the command up and calls its method.
    fn command(&self, session: &Bound<'_, PyAny>, line: &[u8]) -> PyResult<()> {
        let py = session.py();
        let (verb, argument) = split_verb(line);
        let commands = &self.wire.get().commands;
        let Some(command) = commands.get(verb).or_else(|| commands.get(&verb.to_ascii_uppercase())) else {
            return session.call_method1(intern!(py, "unknown_command"), (PyBytes::new(py, line),)).map(drop);
        };
        let bad = |what: &str| session.call_method1(intern!(py, "bad_line"), (what,)).map(drop);
        if line.len() + 2 > command.limit {
            return bad("too-long");
        }
        if argument.contains(&0) {
            return bad("nul");
        }
        let Ok(argument) = std::str::from_utf8(argument) else { return bad("not-utf8") };
        match command.method.bind(py).call1((session, PyString::new(py, argument))) {
            Ok(waiting) if waiting.is_none() => Ok(()),
            Ok(waiting) => session.call_method1(intern!(py, "hold"), (waiting,)).map(drop),
            Err(error) => session.call_method1(intern!(py, "command_failed"), (error.into_value(py),)).map(drop),
        }
    }

    /// Message octets up to the end of data (RFC 5321 4.1.1.4), which the session is told.
    fn data(slf: &Bound<'_, Self>, incoming: &Py<Incoming>, data: &[u8]) -> PyResult<usize> {
        let (py, line) = (slf.py(), slf.get());
        let inner = &incoming.get().inner;
        let feed = || {
            let mut inner = inner.lock();
            let used = inner.feed(data);
            (used, inner.done())
        };
        let (used, done) = if data.len() < RELEASE_FROM { feed() } else { py.detach(feed) };
        let (look, python) = {
            let mut state = line.state.lock();
            state.active = *line.wire.get().now.lock();
            state.taken += used as u64;
            if done {
                state.sink = Sink::Commands;
            }
            let look = !done && state.taken >= state.next_drain;
            if look {
                state.next_drain = state.taken + DRAIN_EVERY;
            }
            (look, state.dialog.python)
        };
        if done && !python {
            plain::end_of_data(slf, incoming)?;
        } else if done {
            Self::session(slf)?.call_method0(intern!(py, "end_of_data"))?;
        } else if look && inner.lock().congested() {
            Self::session(slf)?.call_method0(intern!(py, "congested"))?;
        }
        Ok(used)
    }

    fn turn_over(slf: &Bound<'_, Self>, budget: usize) -> PyResult<()> {
        if budget > 0 || std::mem::replace(&mut slf.get().state.lock().flags.turn_over, true) {
            return Ok(());
        }
        Self::session(slf)?.call_method0(intern!(slf.py(), "turn_over")).map(drop)
    }

    /// Runs kept input unless something still holds the line.
    pub(crate) fn advance(slf: &Bound<'_, Self>) {
        let line = slf.get();
        let kept = {
            let mut state = line.state.lock();
            if state.flags.running {
                return;
            }
            if state.stopped() {
                Vec::new()
            } else {
                line.resume(slf.py(), &mut state);
                std::mem::take(&mut state.input)
            }
        };
        if kept.is_empty() {
            Self::settle(slf);
        } else {
            Self::run(slf, &kept);
        }
    }

    fn resume(&self, py: Python<'_>, state: &mut State) {
        if !std::mem::take(&mut state.flags.paused) {
            return;
        }
        if let Some(transport) = &state.transport {
            let _ = transport.call_method0(py, intern!(py, "resume_reading"));
        } else {
            state.watch(self.wire.get(), self.token);
        }
    }

    /// End of a turn: sends what waits, and ends what is to end.
    pub(crate) fn settle(slf: &Bound<'_, Self>) {
        let (py, line) = (slf.py(), slf.get());
        let lost = {
            let mut state = line.state.lock();
            if state.flags.running {
                return;
            }
            if state.flags.eof && !state.stopped() {
                state.flags.closing = true;
                state.flags.dropping = true;
            }
            if state.socket.is_some() && (!state.output.is_empty() || state.flags.shut) {
                state.send(line.wire.get(), line.token);
            }
            state.flags.broken || (state.flags.closing && state.output.is_empty() && state.socket.is_some())
        };
        line.write(py);
        if lost {
            Self::lose(slf);
        }
    }

    /// Hands what waits to the transport, if there is one. It may call back at once, so no lock is held.
    fn write(&self, py: Python<'_>) {
        let (transport, octets) = {
            let mut state = self.state.lock();
            match &state.transport {
                Some(transport) if !state.output.is_empty() => (transport.clone_ref(py), std::mem::take(&mut state.output)),
                _ => return,
            }
        };
        let _ = transport.call_method1(py, intern!(py, "write"), (PyBytes::new(py, &octets),));
    }

    /// The connection is gone: tells the session, once.
    fn lose(slf: &Bound<'_, Self>) {
        let py = slf.py();
        slf.get().wire.get().lines.lock().remove(&slf.get().token);
        let (transport, counted) = {
            let mut state = slf.get().state.lock();
            state.flags.broken = true;
            state.socket = None;
            let counted = std::mem::take(&mut state.dialog.admitted).then(|| state.dialog.client.clone());
            (state.transport.take(), counted)
        };
        if let Some(client) = counted {
            slf.get().wire.get().connections.get().give_back(&client);
        }
        if let Some(transport) = transport {
            let _ = transport.call_method0(py, intern!(py, "abort"));
        }
        let session = slf.get().session.lock().take();
        if let Some(session) = session
            && let Err(error) = session.call_method1(py, intern!(py, "connection_lost"), (py.None(),))
        {
            error.write_unraisable(py, Some(session.bind(py)));
        }
        slf.get().state.lock().forget();
    }
}

#[pymethods]
impl Line {
    #[getter]
    fn active(&self) -> f64 {
        self.state.lock().active
    }

    #[getter]
    fn started(&self) -> f64 {
        self.state.lock().started
    }

    #[getter]
    fn committing(&self) -> bool {
        self.state.lock().flags.committing
    }

    #[setter]
    fn set_committing(&self, committing: bool) {
        self.state.lock().flags.committing = committing;
    }

    fn hand_back(&self, helo: &str, extended: bool, messages: u64) {
        let mut state = self.state.lock();
        if state.transport.is_none() {
            state.dialog.resume(helo, extended, messages);
        }
    }

    /// Octets kept because the session waits.
    #[getter]
    fn kept(&self) -> usize {
        self.state.lock().input.len()
    }

    #[getter]
    fn in_data(&self) -> bool {
        self.state.lock().in_message()
    }

    #[getter]
    fn blocked(&self) -> bool {
        self.state.lock().flags.blocked
    }

    #[getter]
    fn dropping(&self) -> bool {
        self.state.lock().ended()
    }

    fn send(&self, octets: &[u8]) {
        let mut state = self.state.lock();
        if !state.ended() {
            state.output.extend_from_slice(octets);
        }
    }

    fn flush(slf: &Bound<'_, Self>) {
        Self::settle(slf);
    }

    fn hold(&self) {
        self.state.lock().flags.held = true;
    }

    fn release(&self) {
        let now = *self.wire.get().now.lock();
        let mut state = self.state.lock();
        state.flags.held = false;
        state.flags.wanted = false;
        state.active = now;
    }

    fn want_line(&self) {
        self.state.lock().flags.wanted = true;
    }

    fn next_turn(slf: &Bound<'_, Self>) {
        slf.get().state.lock().flags.turn_over = false;
        Self::advance(slf);
    }

    fn go_on(slf: &Bound<'_, Self>) {
        Self::advance(slf);
    }

    #[pyo3(signature = (incoming, taken = 0))]
    fn take_data(&self, incoming: Py<Incoming>, taken: u64) {
        self.state.lock().begin_data(Sink::Data(incoming), taken);
    }

    fn take_by(&self, sink: Option<Py<PyAny>>) {
        let old = std::mem::replace(&mut self.state.lock().sink, sink.map_or(Sink::Commands, Sink::Python));
        drop(old);
    }

    fn close(slf: &Bound<'_, Self>) {
        {
            let mut state = slf.get().state.lock();
            state.flags.dropping = true;
            state.flags.closing = true;
        }
        Self::end(slf);
    }

    fn end_output(slf: &Bound<'_, Self>) {
        {
            let mut state = slf.get().state.lock();
            state.input = Vec::new();
            state.flags.dropping = true;
            state.flags.closing |= state.flags.eof;
            state.flags.shut = !state.flags.closing;
            slf.get().resume(slf.py(), &mut state);
        }
        Self::end(slf);
    }

    fn abort(slf: &Bound<'_, Self>) {
        {
            let mut state = slf.get().state.lock();
            state.flags.broken = true;
            state.output = Vec::new();
            if let Some(socket) = &state.socket {
                socket.reset_on_close();
            }
        }
        Self::settle(slf);
    }

    fn detach(&self) -> Option<RawFd> {
        let wire = self.wire.get();
        let socket = {
            let mut state = self.state.lock();
            state.send(wire, self.token);
            state.flags.discard = state.flags.running;
            state.input = Vec::new();
            state.socket.take()?
        };
        wire.lines.lock().remove(&self.token);
        let _ = wire.poller.remove(socket.fd());
        Some(socket.into_fd())
    }

    fn attach(&self, session: Py<PyAny>, transport: Py<PyAny>) {
        *self.session.lock() = Some(session);
        self.state.lock().transport = Some(transport);
    }

    fn feed(slf: &Bound<'_, Self>, data: &[u8]) {
        Self::take(slf, data);
    }

    fn block(slf: &Bound<'_, Self>, blocked: bool) {
        slf.get().state.lock().flags.blocked = blocked;
        if !blocked {
            Self::advance(slf);
        }
    }

    fn lost(&self) {
        self.wire.get().lines.lock().remove(&self.token);
        let session = self.session.lock().take();
        let transport = {
            let mut state = self.state.lock();
            state.flags.broken = true;
            state.socket = None;
            state.forget();
            state.transport.take()
        };
        drop((session, transport));
    }
}

impl Line {
    /// Carries out an end that was asked for: at once under TLS, where the transport sees to what waits.
    fn end(slf: &Bound<'_, Self>) {
        let (py, line) = (slf.py(), slf.get());
        line.write(py);
        let transport = line.state.lock().transport.as_ref().map(|transport| transport.clone_ref(py));
        match transport {
            Some(transport) => drop(transport.call_method0(py, intern!(py, "close"))),
            None => Self::settle(slf),
        }
    }
}
