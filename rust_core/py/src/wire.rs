//! `Wire` for Python: the listening sockets of one server, the lines of its sessions, and the epoll set that holds both.
//!
//! Everything runs in the event loop's thread. A line is in the table for as long as it has a socket. When a connection cannot be
//! accepted (no descriptors left, say) the listeners rest until they are told to go on, and `turn` raises.

#![allow(clippy::needless_pass_by_value)]

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use gatepost_wire::{Interest, Peer, Poller, Socket, accept};
use parking_lot::Mutex;
use pyo3::exceptions::PyOSError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::asked::{Asked, Row};
use crate::connections::Connections;
use crate::line::Line;
use crate::plain;
use crate::plain_memory::{Plain, Terms};
use crate::spool::Spool;

/// Octets read at once. Of messages under way all lines together get so many a round, but each its share at least, so that the commands
/// of others come soon.
const SCRATCH: usize = 256 * 1024;
const SHARE: usize = 64 * 1024;
/// Looks at what is ready in one turn: while one batch is worked off the next comes up, and another way through the event loop costs more.
const ROUNDS: usize = 2;
/// Connections taken from one listener before the others get their turn.
const ACCEPTS_PER_TURN: usize = 64;

/// Adds the classes.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Wire>()?;
    m.add_class::<Line>()?;
    m.add_class::<Connections>()?;
    m.add("LINE_LIMIT", gatepost_wire::LINE_LIMIT)
}

pub struct Command {
    pub method: Py<PyAny>,
    /// Octets its line may have, with CR LF.
    pub limit: usize,
}

/// The sockets of one server.
#[pyclass(module = "gatepost._core", frozen)]
pub struct Wire {
    pub(crate) poller: Poller,
    pub(crate) spool: Py<Spool>,
    pub(crate) connections: Py<Connections>,
    pub(crate) plain: Plain,
    pub(crate) asked: Asked,
    /// Messages that were taken, likewise.
    pub(crate) taken: Asked,
    pub(crate) commands: HashMap<Vec<u8>, Command>,
    /// The server, which makes sessions and decides.
    pub(crate) host: Py<PyAny>,
    pub(crate) lines: Mutex<HashMap<u64, Py<Line>>>,
    listeners: Mutex<HashMap<u64, RawFd>>,
    pub(crate) next: AtomicU64,
    pub(crate) scratch: Mutex<Vec<u8>>,
    pub(crate) allow_bare: AtomicBool,
    pub(crate) now: Mutex<f64>,
}

impl Wire {
    /// Works off what is ready now, messages under way behind all else. False when nothing was.
    fn round(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let wire = slf.get();
        let mut failure = Ok(());
        let mut messages = Vec::new();
        let events = wire.poller.take()?;
        for ready in &events {
            let listener = wire.listeners.lock().get(&ready.token).copied();
            if let Some(fd) = listener {
                failure = failure.and(Self::accept_some(slf, ready.token, fd));
                continue;
            }
            let line = wire.lines.lock().get(&ready.token).map(|line| line.clone_ref(slf.py()));
            match line {
                Some(line) if line.get().state.lock().in_message() => messages.push((line, *ready)),
                Some(line) => Line::on_ready(line.bind(slf.py()), *ready, SCRATCH),
                None => {}
            }
        }
        let share = (SCRATCH / messages.len().max(1)).max(SHARE);
        for (line, ready) in &messages {
            Line::on_ready(line.bind(slf.py()), *ready, share);
        }
        failure.map(|()| !events.is_empty())
    }

    fn accept_some(slf: &Bound<'_, Self>, token: u64, listener: RawFd) -> PyResult<()> {
        let wire = slf.get();
        for _ in 0..ACCEPTS_PER_TURN {
            match accept(listener) {
                Ok((socket, peer)) => {
                    if let Err(error) = Self::begin(slf, socket, peer) {
                        error.write_unraisable(slf.py(), None);
                    }
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(()),
                    Some(libc::ECONNABORTED | libc::EINTR) => {}
                    _ => {
                        wire.poller.change(listener, token, Interest::default())?;
                        return Err(PyOSError::new_err(error.to_string()));
                    }
                },
            }
        }
        Ok(())
    }

    fn begin(slf: &Bound<'_, Self>, socket: Socket, (host, port): Peer) -> PyResult<()> {
        let (py, wire) = (slf.py(), slf.get());
        let line = Bound::new(py, Line::new(slf))?;
        let interest = Interest { read: true, write: false };
        wire.poller.add(socket.fd(), line.get().token, interest)?;
        {
            let mut state = line.get().state.lock();
            state.socket = Some(socket);
            state.interest = interest;
            state.flags.running = true;
            // Also for a session the server opens itself: it may hand the line back, and rules ask who is there.
            state.dialog.client.clone_from(&host);
            state.dialog.port = port;
        }
        if !plain::admit(slf, line.get(), &host, port)? {
            let session = wire.host.bind(py).call_method1(intern!(py, "open_session"), (&line, host, port))?;
            *line.get().session.lock() = Some(session.unbind());
        }
        wire.lines.lock().insert(line.get().token, line.clone().unbind());
        line.get().state.lock().flags.running = false;
        Line::settle(&line);
        Ok(())
    }
}

#[pymethods]
impl Wire {
    #[new]
    fn new(host: Py<PyAny>, commands: &Bound<'_, PyDict>, spool: Py<Spool>, connections: Py<Connections>) -> PyResult<Self> {
        let mut table = HashMap::new();
        for (verb, entry) in commands {
            let (method, limit) = entry.extract()?;
            table.insert(verb.extract::<Vec<u8>>()?, Command { method, limit });
        }
        Ok(Self {
            poller: Poller::new()?,
            spool,
            connections,
            plain: Plain::default(),
            asked: Asked::default(),
            taken: Asked::default(),
            commands: table,
            host,
            lines: Mutex::default(),
            listeners: Mutex::default(),
            next: AtomicU64::new(1),
            scratch: Mutex::new(vec![0; SCRATCH]),
            allow_bare: AtomicBool::new(false),
            now: Mutex::new(0.0),
        })
    }

    #[getter]
    fn fd(&self) -> RawFd {
        self.poller.fd()
    }

    /// Connections without a session, all connections taken without one, and messages accepted without one.
    #[getter]
    fn plain(&self) -> (usize, u64, u64) {
        let without = self.lines.lock().values().filter(|line| line.get().session.lock().is_none()).count();
        (without, self.plain.connected.load(Ordering::Relaxed), self.plain.accepted.load(Ordering::Relaxed))
    }

    fn configure(&self, allow_bare: bool) {
        self.allow_bare.store(allow_bare, Ordering::Relaxed);
    }

    fn agree(&self, terms: Option<Terms>, settings: Option<Py<PyAny>>) {
        self.plain.agree(terms, settings);
    }

    fn take_asked(&self) -> Vec<Row> {
        self.asked.take()
    }

    fn take_taken(&self) -> Vec<Row> {
        self.taken.take()
    }

    fn receive(&self, receiving: bool) {
        self.plain.receiving.store(receiving, Ordering::Relaxed);
    }

    /// Makes sessions of the connections that have none: of all, or of those that are overdue.
    #[pyo3(signature = (limits = None))]
    fn wake(slf: &Bound<'_, Self>, limits: Option<(f64, f64, f64)>) -> PyResult<()> {
        let now = *slf.get().now.lock();
        let lines: Vec<_> = {
            let lines = slf.get().lines.lock();
            let without = lines.values().filter(|line| line.get().session.lock().is_none());
            without
                .filter(|line| limits.is_none_or(|limits| line.get().overdue(now, limits)))
                .map(|line| line.clone_ref(slf.py()))
                .collect()
        };
        lines.iter().try_for_each(|line| Line::session(line.bind(slf.py())).map(drop))
    }

    fn set_now(&self, now: f64) {
        *self.now.lock() = now;
        self.spool.get().commits.pace.look(Instant::now());
    }

    fn listen(&self, fd: RawFd) -> PyResult<()> {
        self.plain.stopping.store(false, Ordering::Relaxed);
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        self.poller.add(fd, token, Interest { read: true, write: false })?;
        self.listeners.lock().insert(token, fd);
        Ok(())
    }

    fn accept_again(&self) -> PyResult<()> {
        for (token, fd) in &*self.listeners.lock() {
            self.poller.change(*fd, *token, Interest { read: true, write: false })?;
        }
        Ok(())
    }

    fn stop_listening(&self) {
        self.plain.stopping.store(true, Ordering::Relaxed);
        self.plain.agree(None, None);
        for (_, fd) in self.listeners.lock().drain() {
            let _ = self.poller.remove(fd);
        }
    }

    fn line(slf: &Bound<'_, Self>) -> Line {
        Line::new(slf)
    }

    fn turn(slf: &Bound<'_, Self>) -> PyResult<()> {
        let spool = slf.get().spool.get().core();
        spool.cork();
        let mut done = Ok(true);
        for _ in 0..ROUNDS {
            done = Self::round(slf);
            if !matches!(done, Ok(true)) {
                break;
            }
        }
        spool.uncork();
        done.map(drop)
    }
}
