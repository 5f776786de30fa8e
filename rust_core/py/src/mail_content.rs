//! `MailContent` for Python: a received message to look into before its commit, in a thread. Reads it from the log once, without the
//! interpreter lock; parts are decoded when a scanner asks for them. And `mark`, which changes the message as it was judged.
//!
//! Only the inspection itself runs at low priority, in a thread of its own that takes no lock: one that yields to others must not hold
//! what they wait for, be it the interpreter's lock or the log's.

use std::sync::OnceLock;
use std::{io, panic, thread};

use gatepost_mime::transfer::{self, Method};
use gatepost_queue as queue;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::{InvalidError, from_queue};
use crate::scan::{Inspection, inspect_mail};

/// Octets of the stack of a thread that inspects: containers within containers go deep.
const STACK: usize = 8 << 20;
/// How much the inspection yields to others: on Linux niceness is a thread's own.
const NICENESS: i32 = 10;

/// Adds the class.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<MailContent>()
}

/// A message on its way in.
#[pyclass(module = "gatepost._core", frozen)]
pub struct MailContent {
    content: queue::Content,
    octets: OnceLock<Vec<u8>>,
}

impl MailContent {
    /// Nothing is read yet.
    pub fn new(content: queue::Content) -> Self {
        Self { content, octets: OnceLock::new() }
    }

    fn octets(&self) -> Result<&[u8], queue::QueueError> {
        if let Some(octets) = self.octets.get() {
            return Ok(octets);
        }
        let octets = self.content.read()?;
        Ok(self.octets.get_or_init(|| octets))
    }
}

#[pymethods]
impl MailContent {
    #[getter]
    fn size(&self) -> u64 {
        self.content.size()
    }

    #[pyo3(signature = (*, max_bytes, max_entries, max_depth, max_ratio, memory_bytes, milliseconds))]
    #[allow(clippy::too_many_arguments)]
    fn inspect(
        &self,
        py: Python<'_>,
        max_bytes: u64,
        max_entries: u32,
        max_depth: u32,
        max_ratio: u64,
        memory_bytes: usize,
        milliseconds: u64,
    ) -> PyResult<Inspection> {
        let limits = (max_bytes, max_entries, max_depth, max_ratio, memory_bytes, milliseconds);
        py.detach(|| self.octets().map(|octets| yielding(|| inspect_mail(octets, limits)))).map_err(|e| from_queue(&e))
    }

    fn read<'py>(&self, py: Python<'py>, start: usize, length: usize) -> PyResult<Bound<'py, PyBytes>> {
        let octets = py.detach(|| self.octets()).map_err(|e| from_queue(&e))?;
        let start = start.min(octets.len());
        Ok(PyBytes::new(py, &octets[start..start.saturating_add(length).min(octets.len())]))
    }

    fn part<'py>(&self, py: Python<'py>, body: usize, end: usize, coding: &str) -> PyResult<Bound<'py, PyBytes>> {
        let method = Method::ALL.into_iter().find(|method| method.label() == coding);
        let method = method.ok_or_else(|| InvalidError::new_err(format!("no coding is called {coding:?}")))?;
        let decode = || Ok(transfer::decode(method, self.octets()?.get(body..end).unwrap_or_default(), usize::MAX).0);
        let decoded = py.detach(decode).map_err(|e: queue::QueueError| from_queue(&e))?;
        Ok(PyBytes::new(py, &decoded))
    }
}

/// Does it in a thread of low priority, or here if there is none to be had. A panic there is a panic here.
fn yielding<T: Send>(work: impl Fn() -> T + Sync) -> T {
    let nice = || {
        // SAFETY: plain system calls on the calling thread. One that cannot yield works as it is.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, libc::gettid().cast_unsigned(), NICENESS) };
        work()
    };
    let done: io::Result<thread::Result<T>> = thread::scope(|scope| {
        let thread = thread::Builder::new().name("inspect".to_owned()).stack_size(STACK).spawn_scoped(scope, nice)?;
        Ok(thread.join())
    });
    match done {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => panic::resume_unwind(panic),
        Err(_) => work(),
    }
}

/// Puts `front` before a message, cuts its fields named `forged`, and carries out other edits, whose ranges count without the prefix.
pub fn mark(incoming: &mut queue::Incoming, front: &[u8], forged: &[u8], edits: Vec<(u64, u64, Vec<u8>)>) -> Result<(), queue::QueueError> {
    let prefix = incoming.prefix() as u64;
    let cuts = queue::fields_named(incoming.header(), forged);
    let mut all: Vec<queue::Edit> = Vec::with_capacity(edits.len() + cuts.len() + 1);
    if !front.is_empty() {
        all.push(queue::Edit { range: 0..0, with: front.to_vec() });
    }
    let edits = edits.into_iter().map(|(from, to, with)| queue::Edit { range: prefix + from..prefix + to, with });
    all.extend(edits);
    // A cut that another edit covers is done with it.
    let cuts = cuts.into_iter().map(|cut| queue::Edit { range: prefix + cut.start as u64..prefix + cut.end as u64, with: Vec::new() });
    let cuts: Vec<queue::Edit> = cuts.filter(|cut| !all.iter().any(|other| overlap(cut, other))).collect();
    all.extend(cuts);
    if all.is_empty() { Ok(()) } else { incoming.edit(all) }
}

fn overlap(one: &queue::Edit, other: &queue::Edit) -> bool {
    one.range.start < other.range.end && other.range.start < one.range.end
}
