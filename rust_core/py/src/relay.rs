//! `Relay` for Python: converts and registers only.

use gatepost_delivery::{Fate, LeftJob, Peer, Relay as CoreRelay, Reply, State};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::spool::{Job, Spool, job};

type Step<'py> = (Bound<'py, PyBytes>, u8, u32);
type ReplyTuple = (u16, String, Vec<String>);
type LeftTuple<'py> = (Job<'py>, u64, &'static str, String, Option<ReplyTuple>);

/// Adds the class and its constants.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Relay>()?;
    m.add("R_GOING", State::Going as u8)?;
    m.add("R_DRY", State::Dry as u8)?;
    m.add("R_STOPPED", State::Stopped as u8)?;
    m.add("R_BROKEN", State::Broken as u8)
}

/// Messages in a row over one SMTP session.
#[pyclass(frozen, module = "gatepost._core")]
struct Relay {
    inner: Mutex<CoreRelay>,
}

impl Relay {
    fn step<'py>(&self, py: Python<'py>, work: impl FnOnce(&mut CoreRelay) -> State + Send) -> Step<'py> {
        let (out, state, delivered) = py.detach(|| {
            let mut relay = self.inner.lock();
            let state = work(&mut relay);
            (relay.out(), state, relay.delivered())
        });
        (PyBytes::new(py, &out), state as u8, delivered)
    }
}

#[pymethods]
impl Relay {
    #[new]
    #[pyo3(signature = (spool, destination, host, *, tls = String::new(), size = false, size_limit = 0, eight_bit = false, dsn = false))]
    #[allow(clippy::too_many_arguments, clippy::fn_params_excessive_bools)]
    fn new(spool: &Spool, destination: String, host: String, tls: String, size: bool, size_limit: u64, eight_bit: bool, dsn: bool) -> Self {
        let peer = Peer { destination, host, tls, size, size_limit, eight_bit, dsn };
        Self { inner: Mutex::new(CoreRelay::new(spool.core(), peer)) }
    }

    fn begin<'py>(&self, py: Python<'py>, budget: u32, reset: bool) -> Step<'py> {
        self.step(py, |relay| relay.begin(budget, reset))
    }

    fn feed<'py>(&self, py: Python<'py>, data: &[u8], more: bool) -> Step<'py> {
        self.step(py, |relay| relay.feed(data, more))
    }

    #[getter]
    fn fault(&self) -> String {
        self.inner.lock().fault().to_owned()
    }

    #[getter]
    fn needs_reset(&self) -> bool {
        self.inner.lock().needs_reset()
    }

    #[getter]
    fn sending(&self) -> bool {
        self.inner.lock().sending()
    }

    fn left<'py>(&self, py: Python<'py>) -> Vec<LeftTuple<'py>> {
        self.inner.lock().left().into_iter().map(|one| left_tuple(py, one)).collect()
    }
}

fn left_tuple(py: Python<'_>, left: LeftJob) -> LeftTuple<'_> {
    let (fate, text, reply) = match left.fate {
        Fate::Untried => ("untried", String::new(), None),
        Fate::Begun => ("begun", String::new(), None),
        Fate::Sent => ("sent", String::new(), None),
        Fate::Unreadable(error) => ("unreadable", error, None),
        Fate::Refused(command, Reply { code, enhanced, lines }) => ("refused", command.to_owned(), Some((code, enhanced, lines))),
    };
    (job(py, left.job), left.started_us, fate, text, reply)
}
