//! `Incoming`, `Spool` and `Reader` for Python: converts arguments and results, releases the interpreter lock, decides nothing.

// Arguments are extracted into owned values; a reference would only be to that value.
#![allow(clippy::needless_pass_by_value)]

use std::path::PathBuf;
use std::sync::Arc;

use gatepost_queue as queue;
use parking_lot::Mutex;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::errors::{InvalidError, from_log, from_queue};
use crate::filter::FilterArg;
use crate::mail_content::{MailContent, mark};
use crate::plain::Commits;

/// Pieces shorter than this are fed without releasing the interpreter lock, which would cost more than the work.
const RELEASE_FROM: usize = 4096;

pub type RecipientArg = (String, String, String, u8, Vec<u8>, u64, bool);
type WayArg = (PyId, u16, String, String, Vec<u8>, bool);
type ChangeArg = (PyId, i32, u8, u64, Vec<u8>);
/// A job as Python sees it.
pub type Job<'py> = (Bound<'py, PyBytes>, u64, u64, String, Bound<'py, PyBytes>, Vec<JobRecipient<'py>>);
pub type JobRecipient<'py> = (u16, String, String, u8, Bound<'py, PyBytes>, u16);
type RecipientState<'py> = (String, String, String, u8, Bound<'py, PyBytes>, &'static str, bool, u64, u16, Bound<'py, PyBytes>);
type Summary<'py> = (Bound<'py, PyBytes>, u64, u64, String, Bound<'py, PyBytes>, bool, Vec<RecipientState<'py>>);
/// Id and reverse-path of messages.
type Accepted<'py> = Vec<(Bound<'py, PyBytes>, String)>;
type Tickets = Vec<(u64, Option<Py<PyAny>>)>;
type CauseKey = (&'static str, String, u16, String, String);
type Cause<'py> = (CauseKey, (u64, u64, u64, u64), (Bound<'py, PyBytes>, String, Bound<'py, PyBytes>));
type HistoryEntry<'py> = (u64, u8, i32, Bound<'py, PyBytes>);

/// Adds the classes, constants and helpers of the spool.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    use queue::kind;
    m.add_class::<Incoming>()?;
    m.add_class::<Spool>()?;
    m.add_class::<Reader>()?;
    m.add_function(wrap_pyfunction!(new_message_id, m)?)?;
    m.add("K_ACCEPTED", kind::ACCEPTED)?;
    m.add("K_DELIVERED", kind::DELIVERED)?;
    m.add("K_DEFERRED", kind::DEFERRED)?;
    m.add("K_FAILED", kind::FAILED)?;
    m.add("K_EXPIRED", kind::EXPIRED)?;
    m.add("K_REMOVED", kind::REMOVED)?;
    m.add("K_HELD", kind::HELD)?;
    m.add("K_RELEASED", kind::RELEASED)?;
    m.add("K_RETRY", kind::RETRY)?;
    m.add("K_NOTE", kind::NOTE)?;
    m.add("K_REROUTED", kind::REROUTED)?;
    m.add("K_RESTORED", kind::RESTORED)?;
    m.add("K_PURGED", kind::PURGED)
}

/// `UUIDv7`, monotonic within the process.
#[pyfunction]
fn new_message_id(py: Python<'_>) -> Bound<'_, PyBytes> {
    PyBytes::new(py, &queue::new_message_id())
}

/// A 16-octet id out of a bytes object.
#[derive(Clone, Copy)]
pub struct PyId(pub [u8; 16]);

impl<'a, 'py> FromPyObject<'a, 'py> for PyId {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let bytes: &[u8] = object.extract()?;
        bytes.try_into().map(Self).map_err(|_| PyValueError::new_err("an id has 16 octets"))
    }
}

/// Ids one behind the other in a bytes object.
struct PackedIds<'a>(&'a [queue::MessageId]);

impl<'a, 'py> FromPyObject<'a, 'py> for PackedIds<'a> {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let octets: &'a [u8] = object.extract()?;
        match octets.as_chunks() {
            (ids, []) => Ok(Self(ids)),
            _ => Err(PyValueError::new_err("ids have 16 octets each")),
        }
    }
}

/// Calls `f` with the octets of a bytes-like object; without the interpreter lock when there are many. The caller must not change a bytearray
/// or memoryview meanwhile (the buffer is exported, so it cannot be resized).
pub fn with_octets<T: Send>(py: Python<'_>, data: &Bound<'_, PyAny>, f: impl FnOnce(&[u8]) -> T + Send) -> PyResult<T> {
    let call = |octets: &[u8]| if octets.len() < RELEASE_FROM { f(octets) } else { py.detach(|| f(octets)) };
    if let Ok(bytes) = data.cast::<PyBytes>() {
        return Ok(call(bytes.as_bytes()));
    }
    let buffer = PyBuffer::<u8>::get(data)?;
    if !buffer.is_c_contiguous() {
        return Err(PyValueError::new_err("the buffer is not contiguous"));
    }
    // SAFETY: the buffer is contiguous and exported for the whole call; see above for its contents.
    let octets = unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), buffer.len_bytes()) };
    let octets = if buffer.len_bytes() == 0 { &[] } else { octets };
    Ok(call(octets))
}

/// One message being received.
#[pyclass(module = "gatepost._core", frozen)]
pub struct Incoming {
    pub(crate) inner: Mutex<queue::Incoming>,
}

#[pymethods]
impl Incoming {
    #[getter]
    fn message_id<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.lock().id())
    }

    #[getter]
    fn size(&self) -> u64 {
        self.inner.lock().size()
    }

    #[getter]
    fn done(&self) -> bool {
        self.inner.lock().done()
    }

    #[getter]
    fn defect(&self) -> Option<&'static str> {
        self.inner.lock().defect().map(queue::Defect::name)
    }

    #[pyo3(signature = (data, start = 0))]
    fn feed(&self, py: Python<'_>, data: &Bound<'_, PyAny>, start: usize) -> PyResult<usize> {
        with_octets(py, data, |octets| self.inner.lock().feed(octets.get(start..).unwrap_or(&[])))
    }

    fn feed_raw(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        with_octets(py, data, |octets| self.inner.lock().feed_raw(octets))
    }

    fn finish(&self, py: Python<'_>) {
        py.detach(|| self.inner.lock().finish());
    }

    fn verdict(&self) -> (Option<&'static str>, usize, bool, String) {
        let inner = self.inner.lock();
        let defect = inner.defect().map(queue::Defect::name).or(inner.long_header().then_some("long-header"));
        (defect, inner.received(), inner.bare(), queue::format_id(&inner.id()))
    }

    fn header<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.inner.lock().header())
    }

    fn values<'py>(&self, py: Python<'py>, name: &str) -> Option<Vec<Bound<'py, PyBytes>>> {
        let found = gatepost_wire::values(self.inner.lock().header(), name)?;
        name.is_ascii().then(|| found.iter().map(|value| PyBytes::new(py, value)).collect())
    }

    fn abort(&self, py: Python<'_>) {
        py.detach(|| self.inner.lock().abort());
    }

    #[getter]
    fn plain(&self) -> bool {
        self.inner.lock().in_memory().is_some_and(gatepost_scan::is_plain)
    }

    #[getter]
    fn total(&self) -> u64 {
        self.inner.lock().total()
    }

    fn content(&self) -> MailContent {
        MailContent::new(self.inner.lock().content())
    }

    #[pyo3(signature = (front, forged, edits = Vec::new()))]
    fn edit(&self, py: Python<'_>, front: &[u8], forged: &[u8], edits: Vec<(u64, u64, Vec<u8>)>) -> PyResult<()> {
        py.detach(|| mark(&mut self.inner.lock(), front, forged, edits)).map_err(|e| from_queue(&e))
    }
}

/// One partition.
#[pyclass(module = "gatepost._core", frozen)]
pub struct Spool {
    inner: Arc<queue::Spool>,
    pub(crate) commits: Commits,
}

impl Spool {
    /// The partition itself, for mailbox delivery.
    pub fn core(&self) -> Arc<queue::Spool> {
        Arc::clone(&self.inner)
    }
}

#[pymethods]
impl Spool {
    #[new]
    #[pyo3(signature = (directory, *, segment_bytes = 67_108_864, min_free_bytes = 0, resume_free_bytes = 0, tailed = false, background = false))]
    fn new(
        py: Python<'_>,
        directory: PathBuf,
        segment_bytes: u32,
        min_free_bytes: u64,
        resume_free_bytes: u64,
        tailed: bool,
        background: bool,
    ) -> PyResult<Self> {
        let options = queue::Options { segment_bytes, min_free_bytes, resume_free_bytes, ..queue::Options::new(*b"SPOL") };
        let open = || match (background, tailed) {
            (true, _) => queue::Spool::begin(&directory, options, tailed),
            (false, true) => queue::Spool::open_tailed(&directory, options),
            (false, false) => queue::Spool::open(&directory, options),
        };
        let spool = py.detach(open).map_err(|e| from_queue(&e))?;
        Ok(Self { inner: Arc::new(spool), commits: Commits::default() })
    }

    #[getter]
    fn event_fd(&self) -> i32 {
        self.inner.event_fd()
    }

    #[getter]
    fn recovery<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let o = self.inner.opening();
        let dict = PyDict::new(py);
        dict.set_item("messages", o.messages)?;
        dict.set_item("records", o.records)?;
        dict.set_item("torn_bytes", o.torn_bytes)?;
        dict.set_item("damaged", o.damaged.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        dict.set_item("seconds", o.seconds)?;
        dict.set_item("checkpoint", u8::from(o.checkpoint))?;
        Ok(dict)
    }

    #[getter]
    fn recovered(&self) -> bool {
        self.inner.recovered()
    }

    fn when_recovered(&self, ticket: u64) {
        self.inner.when_recovered(ticket);
    }

    #[getter]
    fn fatal(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.inner.fatal().map(|e| from_log(&e).into_value(py).into_any())
    }

    #[pyo3(signature = (lead, tail, max_bytes, allow_bare = false))]
    fn begin(&self, lead: &[u8], tail: &[u8], max_bytes: u64, allow_bare: bool) -> Incoming {
        let id = queue::new_message_id();
        let prefix = [lead, queue::format_id(&id).as_bytes(), tail].concat();
        Incoming { inner: Mutex::new(self.inner.receive(id, &prefix, max_bytes, allow_bare)) }
    }

    #[pyo3(signature = (*, prefix, max_bytes, allow_bare = false, message_id = None))]
    fn receive(&self, prefix: &[u8], max_bytes: u64, allow_bare: bool, message_id: Option<PyId>) -> Incoming {
        let id = message_id.map_or_else(queue::new_message_id, |id| id.0);
        Incoming { inner: Mutex::new(self.inner.receive(id, prefix, max_bytes, allow_bare)) }
    }

    fn pending_bytes(&self) -> u64 {
        self.inner.pending_bytes()
    }

    fn congested(&self) -> bool {
        self.inner.congested()
    }

    fn low_space(&self) -> bool {
        self.inner.low_space()
    }

    fn commit(
        &self,
        py: Python<'_>,
        ticket: u64,
        incoming: &Incoming,
        reverse_path: String,
        recipients: Vec<RecipientArg>,
        meta: Vec<u8>,
    ) -> PyResult<()> {
        let recipients = recipients.into_iter().map(recipient_spec).collect();
        py.detach(|| self.inner.commit(ticket, &mut incoming.inner.lock(), reverse_path, recipients, meta)).map_err(|e| from_queue(&e))
    }

    fn change(&self, py: Python<'_>, ticket: u64, changes: Vec<ChangeArg>) -> PyResult<usize> {
        let changes = changes.into_iter().map(change).collect::<PyResult<Vec<_>>>()?;
        Ok(py.detach(|| self.inner.change(ticket, &changes)))
    }

    #[allow(clippy::too_many_arguments)]
    fn reroute(
        &self,
        py: Python<'_>,
        ticket: u64,
        message_id: PyId,
        recipient_index: u16,
        address: &str,
        destination: &str,
        route: &[u8],
        note: &[u8],
    ) -> PyResult<()> {
        py.detach(|| self.inner.reroute(ticket, &message_id.0, recipient_index, address, destination, route, note))
            .map_err(|e| from_queue(&e))
    }

    fn reroute_all(&self, py: Python<'_>, ticket: u64, ways: Vec<WayArg>, note: &[u8]) -> PyResult<usize> {
        let ways: Vec<queue::Way> = ways.into_iter().map(way).collect();
        py.detach(|| self.inner.reroute_all(ticket, &ways, note)).map_err(|e| from_queue(&e))
    }

    /// Counts in the order of `_core.pyi`.
    fn undo<'py>(&self, py: Python<'py>, ticket: u64, operation: &str, ids: PackedIds<'_>, note: &[u8]) -> PyResult<Bound<'py, PyDict>> {
        let ids = ids.0;
        let u = py.detach(|| self.inner.undo(ticket, operation, ids, note));
        let dict = PyDict::new(py);
        dict.set_item("undone", u.undone)?;
        dict.set_item("partly", u.partly)?;
        dict.set_item("finished", u.finished)?;
        dict.set_item("changed", u.changed)?;
        dict.set_item("untouched", u.untouched)?;
        dict.set_item("already", u.already)?;
        dict.set_item("unreadable", u.unreadable)?;
        dict.set_item("recipients", u.recipients)?;
        Ok(dict)
    }

    fn touched(&self, py: Python<'_>, operation: &str, ids: PackedIds<'_>) -> u64 {
        let ids = ids.0;
        py.detach(|| self.inner.touched(operation, ids))
    }

    fn purge(&self, py: Python<'_>, now_us: u64, max: usize) -> (u64, usize) {
        py.detach(|| self.inner.purge(now_us, max))
    }

    fn sync(&self, py: Python<'_>, ticket: u64) {
        py.detach(|| self.inner.sync(ticket));
    }

    fn completions<'py>(&self, py: Python<'py>) -> (Tickets, Vec<String>, Accepted<'py>) {
        let (tickets, ready) = self.inner.completions();
        let (mut rest, mut accepted) = (Vec::new(), Vec::new());
        self.inner.cork();
        for (ticket, error) in &tickets {
            let error = error.as_ref().map(|e| from_log(e).into_value(py).into_any());
            if Commits::owns(*ticket) {
                let settled = self.commits.settle(py, *ticket, error.as_ref().map(|e| e.clone_ref(py)));
                accepted.extend(settled.map(|(id, reverse_path)| (PyBytes::new(py, &id), reverse_path)));
            }
            // A failure concerns the partition, too, whoever waited.
            if !Commits::owns(*ticket) || error.is_some() {
                rest.push((*ticket, error));
            }
        }
        self.inner.uncork();
        (rest, ready, accepted)
    }

    fn advance(&self, now_us: u64) -> u64 {
        self.inner.advance(now_us)
    }

    #[pyo3(signature = (destination, max_jobs, max_bytes = 0))]
    fn take<'py>(&self, py: Python<'py>, destination: &str, max_jobs: usize, max_bytes: u64) -> Vec<Job<'py>> {
        let jobs = py.detach(|| self.inner.take(destination, max_jobs, max_bytes));
        jobs.into_iter().map(|j| job(py, j)).collect()
    }

    fn wait_for<'py>(
        &self,
        py: Python<'py>,
        destination: &str,
        times: (u64, u64),
        ages: (u64, u64),
        detail: &[u8],
        max_jobs: usize,
    ) -> (bool, Vec<Job<'py>>) {
        let ((now_us, until_us), (expire_us, notice_us)) = (times, ages);
        let how = queue::BackOff { now_us, until_us, expire_us, notice_us };
        let (more, jobs) = py.detach(|| self.inner.wait_for(destination, &how, detail, max_jobs));
        (more, jobs.into_iter().map(|j| job(py, j)).collect())
    }

    fn done_waiting(&self, py: Python<'_>, destination: &str) {
        py.detach(|| self.inner.done_waiting(destination));
    }

    fn give_back(&self, message_id: PyId, recipient_indexes: Vec<u16>) {
        self.inner.give_back(&message_id.0, &recipient_indexes);
    }

    fn get<'py>(&self, py: Python<'py>, message_id: PyId) -> PyResult<Summary<'py>> {
        py.detach(|| self.inner.get(&message_id.0)).map(|found| summary(py, found)).map_err(|e| from_queue(&e))
    }

    #[pyo3(signature = (filter, after, limit))]
    fn list<'py>(
        &self,
        py: Python<'py>,
        filter: FilterArg,
        after: Option<PyId>,
        limit: usize,
    ) -> PyResult<(Vec<Summary<'py>>, Option<Bound<'py, PyBytes>>)> {
        let (found, next) = py.detach(|| self.inner.list(&filter.0, after.map(|id| id.0), limit)).map_err(|e| from_queue(&e))?;
        Ok((found.into_iter().map(|one| summary(py, one)).collect(), next.map(|id| PyBytes::new(py, &id))))
    }

    fn count(&self, py: Python<'_>, filter: FilterArg) -> PyResult<(u64, u64)> {
        py.detach(|| self.inner.count(&filter.0)).map_err(|e| from_queue(&e))
    }

    fn select<'py>(&self, py: Python<'py>, filter: FilterArg, limit: usize) -> PyResult<Bound<'py, PyBytes>> {
        let ids = py.detach(|| self.inner.select(&filter.0, limit)).map_err(|e| from_queue(&e))?;
        Ok(PyBytes::new(py, ids.as_flattened()))
    }

    fn change_all(&self, py: Python<'_>, ticket: u64, ids: PackedIds<'_>, kind: u8, next_us: u64, detail: &[u8]) -> usize {
        let ids = ids.0;
        py.detach(|| self.inner.change_all(ticket, ids, kind, next_us, detail))
    }

    fn changeable<'py>(&self, py: Python<'py>, ids: PackedIds<'_>, kind: u8) -> Bound<'py, PyBytes> {
        let ids = ids.0;
        PyBytes::new(py, py.detach(|| self.inner.changeable(ids, kind)).as_flattened())
    }

    fn measure(&self, py: Python<'_>, ids: PackedIds<'_>) -> (u64, u64, u64, u64, u64) {
        let ids = ids.0;
        let m = py.detach(|| self.inner.measure(ids));
        (m.messages, m.recipients, m.held, m.in_flight, m.octets)
    }

    fn causes<'py>(&self, py: Python<'py>, limit: usize) -> PyResult<(Vec<Cause<'py>>, u64, u64)> {
        let (groups, recipients, messages) = py.detach(|| self.inner.causes(limit)).map_err(|e| from_queue(&e))?;
        let row = |g: queue::Group| {
            let c = g.cause;
            let cause = (c.class, c.enhanced, c.code, c.host, c.text);
            let counts = (g.recipients, g.held, g.messages, g.next_us);
            (cause, counts, (PyBytes::new(py, &g.oldest), g.address, PyBytes::new(py, &g.detail)))
        };
        Ok((groups.into_iter().map(row).collect(), recipients, messages))
    }

    fn destinations_of(&self, py: Python<'_>, ids: PackedIds<'_>) -> Vec<String> {
        let ids = ids.0;
        py.detach(|| self.inner.destinations_of(ids))
    }

    fn history<'py>(&self, py: Python<'py>, message_id: PyId) -> PyResult<Vec<HistoryEntry<'py>>> {
        let entries = py.detach(|| self.inner.history(&message_id.0)).map_err(|e| from_queue(&e))?;
        let line = |e: queue::HistoryEntry| (e.time_us, e.kind, e.recipient.map_or(-1, i32::from), PyBytes::new(py, &e.detail));
        Ok(entries.into_iter().map(line).collect())
    }

    #[pyo3(signature = (after, limit))]
    fn list_ids<'py>(&self, py: Python<'py>, after: Option<PyId>, limit: usize) -> PyResult<Bound<'py, PyList>> {
        let ids = py.detach(|| self.inner.ids(after.map(|id| id.0).as_ref(), limit));
        PyList::new(py, ids.iter().map(|id| PyBytes::new(py, id)))
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let s = self.inner.stats();
        let dict = PyDict::new(py);
        dict.set_item("messages", s.messages)?;
        dict.set_item("recipients", s.recipients)?;
        dict.set_item("held", s.held)?;
        dict.set_item("in_flight", s.in_flight)?;
        dict.set_item("bytes", s.octets)?;
        dict.set_item("removed", s.removed)?;
        dict.set_item("removed_bytes", s.removed_octets)?;
        dict.set_item("loading", u8::from(!self.inner.recovered()))?;
        dict.set_item("segments", s.log.segments)?;
        dict.set_item("disk_bytes", s.log.disk_bytes)?;
        dict.set_item("free_bytes", s.log.free_bytes)?;
        dict.set_item("appended_records", s.log.appended)?;
        dict.set_item("syncs", s.log.syncs)?;
        Ok(dict)
    }

    fn ready(&self, destination: &str) -> u32 {
        self.inner.ready(destination)
    }

    fn destinations(&self) -> Vec<(String, u32, u32, u32)> {
        self.inner.destinations()
    }

    fn open(&self, py: Python<'_>, message_id: PyId) -> PyResult<Reader> {
        let reader = py.detach(|| self.inner.read(&message_id.0)).map_err(|e| from_queue(&e))?;
        Ok(Reader { inner: Mutex::new(reader) })
    }

    fn checkpoint(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.inner.checkpoint()).map_err(|e| from_queue(&e))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.inner.close()).map_err(|e| from_queue(&e))
    }
}

fn way((id, recipient, address, destination, route, held): WayArg) -> queue::Way {
    queue::Way { id: id.0, recipient, address, destination, route, held }
}

pub fn recipient_spec((address, original, destination, notify, route, next_us, held): RecipientArg) -> queue::RecipientSpec {
    queue::RecipientSpec { address, original, destination, notify, route, next_us, held }
}

fn change((id, recipient, kind, next_us, detail): ChangeArg) -> PyResult<queue::Change> {
    let recipient = match recipient {
        -1 => None,
        n => Some(u16::try_from(n).map_err(|_| InvalidError::new_err("no such recipient index"))?),
    };
    Ok(queue::Change { id: id.0, recipient, kind, next_us, detail })
}

/// Converts a job.
pub fn job(py: Python<'_>, job: queue::Job) -> Job<'_> {
    let recipients = job.recipients.into_iter().map(|r| (r.index, r.address, r.original, r.notify, PyBytes::new(py, &r.route), r.attempts));
    (PyBytes::new(py, &job.id), job.size, job.received_us, job.reverse_path, PyBytes::new(py, &job.meta), recipients.collect())
}

fn summary(py: Python<'_>, summary: queue::Summary) -> Summary<'_> {
    let e = summary.envelope;
    let recipients = summary.recipients.into_iter().map(|r| recipient_state(py, r)).collect();
    (PyBytes::new(py, &e.id), e.size, e.received_us, e.reverse_path, PyBytes::new(py, &e.meta), summary.in_flight, recipients)
}

fn recipient_state(py: Python<'_>, r: queue::RecipientState) -> RecipientState<'_> {
    let (route, detail) = (PyBytes::new(py, &r.route), PyBytes::new(py, &r.last_detail));
    (r.address, r.original, r.destination, r.notify, route, r.state.name(), r.held, r.next_us, r.attempts, detail)
}

/// Octets of a committed message.
#[pyclass(module = "gatepost._core", frozen)]
pub struct Reader {
    inner: Mutex<queue::Reader>,
}

#[pymethods]
impl Reader {
    fn edited(&self, edits: Vec<(u64, u64, Vec<u8>)>) -> PyResult<Self> {
        let edits = edits.into_iter().map(|(from, to, with)| queue::Edit { range: from..to, with }).collect();
        let reader = self.inner.lock().edited(edits).map_err(|e| from_queue(&e))?;
        Ok(Self { inner: Mutex::new(reader) })
    }

    #[getter]
    fn size(&self) -> u64 {
        self.inner.lock().size()
    }

    #[pyo3(signature = (n = 65536))]
    fn read<'py>(&self, py: Python<'py>, n: usize) -> PyResult<Bound<'py, PyBytes>> {
        let read = || {
            let mut reader = self.inner.lock();
            let mut out = vec![0; n.min(usize::try_from(reader.size()).unwrap_or(n))];
            let got = reader.read(&mut out)?;
            out.truncate(got);
            Ok(out)
        };
        py.detach(read).map(|out| PyBytes::new(py, &out)).map_err(|e| from_queue(&e))
    }

    #[pyo3(signature = (n = 65536))]
    fn read_dotted<'py>(&self, py: Python<'py>, n: usize) -> PyResult<Bound<'py, PyBytes>> {
        let read = || {
            let mut out = Vec::new();
            self.inner.lock().read_dotted(n.max(1), &mut out).map(|()| out)
        };
        py.detach(read).map(|out| PyBytes::new(py, &out)).map_err(|e| from_queue(&e))
    }

    #[pyo3(signature = (limit = 65536))]
    fn header<'py>(&self, py: Python<'py>, limit: usize) -> PyResult<Bound<'py, PyBytes>> {
        let header = py.detach(|| self.inner.lock().header(limit)).map_err(|e| from_queue(&e))?;
        Ok(PyBytes::new(py, &header))
    }
}
