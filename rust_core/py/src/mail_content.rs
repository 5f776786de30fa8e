//! `MailContent` for Python: a received message to look into before its commit, in a thread. Reads it from the log once, without the
//! interpreter lock; parts are decoded when a scanner asks for them.

use std::sync::OnceLock;

use gatepost_mime::transfer::{self, Method};
use gatepost_queue as queue;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::{InvalidError, from_queue};
use crate::scan::{Inspection, inspect_mail};

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
        py.detach(|| self.octets().map(|octets| inspect_mail(octets, limits))).map_err(|e| from_queue(&e))
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
