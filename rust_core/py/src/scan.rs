//! `inspect` for Python: what is inside an attachment or a message. Runs without the interpreter lock; entries are converted one at a time,
//! so that a report of many thousands never keeps the lock for long.

use std::time::Duration;

use gatepost_scan::{Limits, Name, Report, inspect as look, is_blocked_extension, matches_glob};
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

type PyEntry<'py> = (
    Option<u32>,
    u32,
    String,
    String,
    &'static str,
    &'static str,
    &'static str,
    u64,
    Vec<&'static str>,
    Vec<String>,
    Vec<&'static str>,
    Option<Bound<'py, PyBytes>>,
);

/// Adds class and functions.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Inspection>()?;
    m.add_function(wrap_pyfunction!(inspect, m)?)?;
    m.add_function(wrap_pyfunction!(panic_on, m)?)?;
    m.add_function(wrap_pyfunction!(analyse_name, m)?)?;
    m.add_function(wrap_pyfunction!(name_matches, m)?)?;
    m.add_function(wrap_pyfunction!(blocked_extension, m)?)
}

/// The report of one inspection.
#[pyclass(module = "gatepost._core", frozen)]
pub struct Inspection {
    report: Report,
}

#[pymethods]
impl Inspection {
    #[getter]
    fn verdict(&self) -> &'static str {
        self.report.verdict.as_str()
    }

    #[getter]
    fn stop(&self) -> Option<&'static str> {
        self.report.stop.map(gatepost_scan::Stop::as_str)
    }

    #[getter]
    fn produced(&self) -> u64 {
        self.report.produced
    }

    #[getter]
    fn flags(&self) -> Vec<&'static str> {
        self.report.flags().names().collect()
    }

    fn __len__(&self) -> usize {
        self.report.entries.len()
    }

    fn entry<'py>(&self, py: Python<'py>, number: usize) -> PyResult<PyEntry<'py>> {
        let entry = self.report.entries.get(number).ok_or_else(|| PyIndexError::new_err("no such entry"))?;
        let (kind, mime, class) = entry.kind.map_or(("", "", ""), |kind| (kind.name, kind.mime, kind.class.as_str()));
        Ok((
            entry.parent,
            entry.depth,
            entry.name.clone(),
            entry.declared.clone(),
            kind,
            mime,
            class,
            entry.size,
            entry.flags.names().collect(),
            entry.signs.clone(),
            entry.defects.iter().map(|defect| defect.as_str()).collect(),
            entry.sha256.as_ref().map(|digest| PyBytes::new(py, digest)),
        ))
    }

    fn place(&self, number: usize) -> PyResult<Option<(usize, usize, usize, &'static str)>> {
        let entry = self.report.entries.get(number).ok_or_else(|| PyIndexError::new_err("no such entry"))?;
        Ok(entry.place.map(|place| (place.header, place.body, place.end, place.coding.label())))
    }
}

#[pyfunction]
#[pyo3(signature = (data, name = "", declared = "", *, max_bytes, max_entries, max_depth, max_ratio, memory_bytes, milliseconds))]
#[allow(clippy::too_many_arguments)]
fn inspect(
    py: Python<'_>,
    data: &[u8],
    name: &str,
    declared: &str,
    max_bytes: u64,
    max_entries: u32,
    max_depth: u32,
    max_ratio: u64,
    memory_bytes: usize,
    milliseconds: u64,
) -> Inspection {
    let limits = limits((max_bytes, max_entries, max_depth, max_ratio, memory_bytes, milliseconds));
    Inspection { report: py.detach(|| look(data, name, declared, limits)) }
}

/// Octets, entries, depth, ratio, memory, milliseconds.
pub type LimitArgs = (u64, u32, u32, u64, usize, u64);

fn limits((bytes, entries, depth, ratio, memory, milliseconds): LimitArgs) -> Limits {
    Limits { bytes, entries, depth, ratio, memory, time: Duration::from_millis(milliseconds), ..Limits::default() }
}

/// A message, inspected.
pub fn inspect_mail(message: &[u8], args: LimitArgs) -> Inspection {
    Inspection { report: look(message, "", "message/rfc822", limits(args)) }
}

#[pyfunction]
fn panic_on(mark: &[u8]) {
    gatepost_scan::panic_on(mark);
}

#[pyfunction]
fn analyse_name(name: &str) -> (String, String, Vec<&'static str>) {
    let name = Name::of(name);
    (name.folded, name.extension, name.odd)
}

#[pyfunction]
fn name_matches(glob: &str, name: &str) -> bool {
    matches_glob(glob, &Name::of(name).folded)
}

#[pyfunction]
fn blocked_extension(extension: &str) -> bool {
    is_blocked_extension(extension)
}
