//! Digests of DKIM's canonical forms for Python: converts, decides nothing.

// Arguments are extracted into owned values; a reference would only be to that value.
#![allow(clippy::needless_pass_by_value)]

use gatepost_dkim::{Body, header};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

/// Adds class and function.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<DkimBody>()?;
    m.add_function(wrap_pyfunction!(dkim_header, m)?)
}

#[pyfunction]
fn dkim_header(py: Python<'_>, fields: Vec<PyBackedBytes>, relaxed: bool) -> Bound<'_, PyBytes> {
    PyBytes::new(py, &py.detach(|| header(&fields, relaxed)))
}

/// A body on its way through several canonical forms at once.
#[pyclass(module = "gatepost._core", frozen)]
pub struct DkimBody {
    forms: Mutex<Vec<Body>>,
}

#[pymethods]
impl DkimBody {
    #[new]
    fn new(forms: Vec<(bool, Option<u64>)>) -> Self {
        Self { forms: Mutex::new(forms.into_iter().map(|(relaxed, limit)| Body::new(relaxed, limit)).collect()) }
    }

    fn take(&self, py: Python<'_>, octets: PyBackedBytes) {
        py.detach(|| self.forms.lock().iter_mut().for_each(|form| form.take(&octets)));
    }

    fn finish<'py>(&self, py: Python<'py>) -> Vec<(Bound<'py, PyBytes>, u64)> {
        let forms = std::mem::take(&mut *self.forms.lock());
        forms.into_iter().map(Body::finish).map(|(hash, length)| (PyBytes::new(py, &hash), length)).collect()
    }
}
