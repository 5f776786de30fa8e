//! What one line of a receiving server is about: its socket or transport, what waits to be read and written, and why it does not run.

use std::io;

use gatepost_wire::{Cutter, Interest, Socket};
use pyo3::prelude::*;

use crate::plain::Dialog;
use crate::spool::Incoming;
use crate::wire::Wire;

/// Octets of a message between looks at how much the spool has not synced yet.
pub const DRAIN_EVERY: u64 = 262_144;

/// Octets of a message that a client may send ahead.
const EXPECTED: i32 = 1 << 20;

/// Everything that changes in the life of a line.
#[derive(Default)]
pub struct State {
    pub socket: Option<Socket>,
    pub transport: Option<Py<PyAny>>,
    pub interest: Interest,
    pub input: Vec<u8>,
    pub output: Vec<u8>,
    pub cutter: Cutter,
    pub sink: Sink,
    /// Octets of the message so far, and at how many the spool is looked at next.
    pub taken: u64,
    pub next_drain: u64,
    pub active: f64,
    /// When the connection began, by the same clock.
    pub started: f64,
    pub dialog: Box<Dialog>,
    pub flags: Flags,
}

/// Why a line does not simply run.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools)]
pub struct Flags {
    /// An operation runs; no command may.
    pub held: bool,
    /// That operation wants one line all the same.
    pub wanted: bool,
    /// A message is being committed.
    pub committing: bool,
    /// The client does not read its replies.
    pub blocked: bool,
    /// Others have their turn.
    pub turn_over: bool,
    /// Input is being worked off just now.
    pub running: bool,
    /// Reading is suspended.
    pub paused: bool,
    /// The client has sent all it will.
    pub eof: bool,
    /// Input is dropped, and nothing more is sent than what waits.
    pub dropping: bool,
    /// What is behind the command that runs is dropped.
    pub discard: bool,
    /// Our side ends its output when everything is sent.
    pub shut: bool,
    /// The connection ends when everything is sent.
    pub closing: bool,
    /// The client may send more ahead: asked for at its first message.
    pub ahead: bool,
    /// The connection is no more.
    pub broken: bool,
}

/// Where input goes.
#[derive(Default)]
pub enum Sink {
    #[default]
    Commands,
    Data(Py<Incoming>),
    Python(Py<PyAny>),
}

impl State {
    pub fn stopped(&self) -> bool {
        let f = &self.flags;
        (f.held && !f.wanted) || f.blocked || f.turn_over || f.dropping || f.broken
    }

    pub fn ended(&self) -> bool {
        self.flags.dropping || self.flags.broken
    }

    /// Input is a message's.
    pub fn in_message(&self) -> bool {
        !matches!(self.sink, Sink::Commands)
    }

    /// From now on input is a message's, of which `taken` octets were read before.
    pub fn begin_data(&mut self, sink: Sink, taken: u64) {
        self.sink = sink;
        self.taken = taken;
        self.next_drain = taken + DRAIN_EVERY;
        if !self.flags.ahead
            && let Some(socket) = &self.socket
        {
            self.flags.ahead = true;
            socket.expect(EXPECTED);
        }
    }

    /// Reads what the socket has; None when there is none.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Option<io::Result<usize>> {
        Some(self.socket.as_ref()?.receive(buffer))
    }

    /// Watches the socket for what is needed now.
    pub fn watch(&mut self, wire: &Wire, token: u64) {
        let Some(socket) = &self.socket else { return };
        let wanted = Interest { read: !self.flags.paused && !self.flags.eof, write: self.flags.blocked };
        if wanted != self.interest && wire.poller.change(socket.fd(), token, wanted).is_ok() {
            self.interest = wanted;
        }
    }

    /// Sends what waits and there is room for.
    pub fn send(&mut self, wire: &Wire, token: u64) {
        let Some(socket) = &self.socket else { return };
        let mut sent = 0;
        while sent < self.output.len() && !self.flags.broken {
            match socket.send(&self.output[sent..], self.flags.closing) {
                Ok(n) => sent += n,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => self.flags.broken = true,
            }
        }
        self.output.drain(..sent);
        let blocked = !self.output.is_empty();
        if !blocked {
            self.output = Vec::new();
            if std::mem::take(&mut self.flags.shut) {
                socket.end_output();
            }
        }
        if blocked != self.flags.blocked {
            self.flags.blocked = blocked;
            self.watch(wire, token);
        }
    }

    /// Lets go of everything that takes memory.
    pub fn forget(&mut self) {
        self.input = Vec::new();
        self.output = Vec::new();
        self.sink = Sink::Commands;
        self.dialog.mail = None;
    }
}

/// What the input begins with, decided under the lock and carried out without it.
pub enum Step {
    Stop,
    Flood,
    Bad(usize, &'static str),
    Answer(usize, usize),
    Run(usize, usize),
    Data(Py<Incoming>),
    Python(Py<PyAny>),
}
