//! `History` for Python: converts arguments and results, releases the interpreter lock, decides nothing.

// Arguments are extracted into owned values; a reference would only be to that value.
#![allow(clippy::needless_pass_by_value)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gatepost_history::{
    ALL, Filter, Follower, Found, HistoryError, Message, Options, Page, Paging, Scope, Shelf, View, by_id, expire, left_us, search,
};
use gatepost_queue::{State, kind, reroute_json};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::errors::{CoreError, DamagedError, FormatVersionError, InvalidError, from_queue};
use crate::spool::{PyId, Spool};

type TraceRecipient<'py> = (String, String, String, &'static str, bool, u64, u16, u64, Bound<'py, PyBytes>);
type TraceEvent<'py> = (u64, u8, i32, Bound<'py, PyBytes>);
type Trace<'py> = (
    Bound<'py, PyBytes>,
    u64,
    u64,
    String,
    Bound<'py, PyBytes>,
    (String, String, u64),
    Vec<TraceRecipient<'py>>,
    Vec<TraceRecipient<'py>>,
    Vec<TraceEvent<'py>>,
);
type TracePage<'py> = (Vec<Trace<'py>>, Option<Bound<'py, PyBytes>>, Vec<String>, Vec<(u64, u64)>);

/// Adds the class.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<History>()
}

/// The history of one partition.
#[pyclass(module = "gatepost._core", frozen)]
struct History {
    shelf: Arc<Shelf>,
    follower: Option<Follower>,
    options: Options,
}

#[pymethods]
impl History {
    #[new]
    #[pyo3(signature = (directory, spool, *, age_seconds, max_bytes))]
    fn new(py: Python<'_>, directory: PathBuf, spool: Option<&Spool>, age_seconds: u64, max_bytes: u64) -> PyResult<Self> {
        let options = Options { age_seconds, max_octets: max_bytes };
        let tail = spool.map(|spool| spool.core().tail());
        let made = py.detach(|| {
            let follower = tail.map(|tail| Follower::start(&directory, tail, options)).transpose()?;
            let shelf = match &follower {
                Some(follower) => Arc::clone(follower.shelf()),
                None => Arc::new(Shelf::open(&directory)),
            };
            Ok(Self { shelf, follower, options })
        });
        made.map_err(|e| from_history(&e))
    }

    fn catch_up(&self, py: Python<'_>, milliseconds: u64) -> bool {
        py.detach(|| self.follower.as_ref().is_none_or(|f| f.catch_up(Duration::from_millis(milliseconds))))
    }

    #[pyo3(signature = (wanted, *, at = None, later = None, passed = false, after = None, limit = 100, ascending = false, milliseconds = 1000))]
    #[allow(clippy::too_many_arguments)]
    fn search<'py>(
        &self,
        py: Python<'py>,
        wanted: &Bound<'py, PyDict>,
        at: Option<u64>,
        later: Option<u64>,
        passed: bool,
        after: Option<PyId>,
        limit: usize,
        ascending: bool,
        milliseconds: u64,
    ) -> PyResult<TracePage<'py>> {
        let filter = filter(wanted)?;
        let scope = match (at, later) {
            (Some(from), Some(to)) => Scope::Between { from, to, passed },
            (Some(at), None) => Scope::At(at),
            _ => Scope::All,
        };
        let deadline = Instant::now() + Duration::from_millis(milliseconds);
        let paging = Paging { after: after.map(|id| id.0), limit: limit.max(1), ascending, deadline };
        Ok(page(py, py.detach(|| search(&self.shelf, &filter, scope, paging))))
    }

    fn find<'py>(&self, py: Python<'py>, low: PyId, high: PyId, limit: usize) -> TracePage<'py> {
        page(py, py.detach(|| by_id(&self.shelf, low.0, high.0, limit)))
    }

    fn expire(&self, py: Python<'_>) {
        py.detach(|| expire(&self.shelf, self.options));
    }

    fn take_notices(&self) -> Vec<String> {
        self.shelf.take_notices()
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let figures = py.detach(|| self.follower.as_ref().map(Follower::figures).unwrap_or_default());
        let dict = PyDict::new(py);
        dict.set_item("messages", figures.messages)?;
        dict.set_item("records", figures.records)?;
        dict.set_item("cpu_us", figures.cpu_us)?;
        dict.set_item("bytes", self.shelf.octets())?;
        dict.set_item("files", self.shelf.files().len())?;
        Ok(dict)
    }

    fn close(&self, py: Python<'_>, milliseconds: u64) -> bool {
        py.detach(|| self.follower.as_ref().is_none_or(|f| f.close(Duration::from_millis(milliseconds))))
    }
}

fn from_history(error: &HistoryError) -> PyErr {
    match error {
        HistoryError::Queue(error) => from_queue(error),
        HistoryError::Damaged(_) => DamagedError::new_err(error.to_string()),
        HistoryError::Version { .. } => FormatVersionError::new_err(error.to_string()),
        HistoryError::Storage(_) => CoreError::new_err(error.to_string()),
    }
}

fn filter(wanted: &Bound<'_, PyDict>) -> PyResult<Filter> {
    let mut filter = Filter::default();
    for (key, value) in wanted {
        match key.extract::<String>()?.as_str() {
            "sender" => filter.sender = value.extract()?,
            "recipient" => filter.recipient = value.extract()?,
            "subject" => filter.subject = value.extract()?,
            "header_id" => filter.header_id = value.extract()?,
            "host" => filter.host = value.extract()?,
            "outcome" => filter.outcome = Some(state(&value.extract::<String>()?)?),
            "held" => filter.held = Some(value.extract()?),
            "since" => filter.since_us = value.extract()?,
            "until" => filter.until_us = value.extract()?,
            other => return Err(InvalidError::new_err(format!("unknown condition {other}"))),
        }
    }
    Ok(filter)
}

fn state(name: &str) -> PyResult<State> {
    let all = [State::Pending, State::Delivered, State::Failed, State::Expired, State::Removed];
    all.into_iter().find(|s| s.name() == name).ok_or_else(|| InvalidError::new_err(format!("no outcome {name}")))
}

fn page(py: Python<'_>, page: Page) -> TracePage<'_> {
    let next = page.next.map(|id| PyBytes::new(py, &id));
    let gaps = page.gaps.iter().map(|gap| (gap.from_us, gap.to_us)).collect();
    (page.found.into_iter().map(|found| trace(py, found)).collect(), next, page.warnings, gaps)
}

fn trace(py: Python<'_>, found: Found) -> Trace<'_> {
    let ended = left_us(&found).unwrap_or(0);
    let m = found.message;
    let (now, later) = (recipients(py, &m, found.views), recipients(py, &m, found.later));
    let events = m.events.iter().map(|e| {
        let detail = if e.kind == kind::REROUTED { reroute_json(&e.detail) } else { e.detail.clone() };
        (e.time_us, e.kind, if e.recipient == ALL { -1 } else { i32::from(e.recipient) }, PyBytes::new(py, &detail))
    });
    let events = events.collect();
    let (id, meta) = (PyBytes::new(py, &m.id), PyBytes::new(py, &m.meta));
    (id, m.size, m.received_us, m.sender, meta, (m.subject, m.header_id, ended), now, later, events)
}

fn recipients<'py>(py: Python<'py>, m: &Message, views: Vec<View>) -> Vec<TraceRecipient<'py>> {
    let one = |(v, r): (View, &gatepost_history::Recipient)| {
        let detail = v.last.and_then(|n| m.events.get(n)).map_or(&[][..], |e| &e.detail);
        let (address, destination) = v.rerouted.unwrap_or_else(|| (r.address.clone(), r.destination.clone()));
        (address, r.original.clone(), destination, v.state.name(), v.held, v.next_us, v.attempts, v.ended_us, PyBytes::new(py, detail))
    };
    views.into_iter().zip(&m.recipients).map(one).collect()
}
