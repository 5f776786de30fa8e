//! `RuleIndex` for Python: converts arguments and results, decides nothing.

// Arguments are extracted into owned values; a reference would only be to that value.
#![allow(clippy::needless_pass_by_value)]

use std::path::PathBuf;

use gatepost_rules::{Handler, Header, Index, Mailbox, Rule, RulesError, build};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::errors::{CoreError, DamagedError, DiskFullError, FormatVersionError};

type HandlerRow<'py> = Bound<'py, PyTuple>;
type MailboxRow<'py> = (String, Bound<'py, PyBytes>, String, bool);
type Outline<'py> = (u64, u32, u8, &'py str, Bound<'py, PyBytes>, Option<HandlerRow<'py>>);
type RuleRow<'py> = (u64, u32, u8, Bound<'py, PyTuple>, u64, u64, u64);

/// Adds class and function.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<RuleIndex>()?;
    m.add_function(wrap_pyfunction!(build_rule_index, m)?)
}

#[pyfunction]
fn build_rule_index(py: Python<'_>, directory: PathBuf, target: PathBuf) -> PyResult<(u64, u64)> {
    let built = py.detach(|| build(&directory, &target)).map_err(|error| raised(&error))?;
    Ok((built.header.version, built.octets))
}

/// A mapped index.
#[pyclass(module = "gatepost._core", frozen)]
struct RuleIndex {
    index: Index,
}

#[pymethods]
impl RuleIndex {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let index = py.detach(|| Index::open(&path)).map_err(|error| raised(&error))?;
        Ok(Self { index })
    }

    fn fits(&self, identity: &str) -> bool {
        self.header().fits(identity)
    }

    #[getter]
    fn version(&self) -> u64 {
        self.header().version
    }

    #[getter]
    fn stamp(&self) -> u64 {
        self.header().stamp
    }

    #[getter]
    fn rule_count(&self) -> u64 {
        self.header().rules
    }

    #[getter]
    fn handler_count(&self) -> u64 {
        self.header().handlers
    }

    #[getter]
    fn mailbox_count(&self) -> u64 {
        self.header().mailboxes
    }

    fn find_rule(&self, domain: &str) -> Option<u64> {
        self.index.find_rule(domain)
    }

    fn next_of_kind(&self, kind: &str, start: u64) -> Option<&str> {
        self.index.next_of_kind(kind, start)
    }

    fn ask<'py>(&'py self, py: Python<'py>, domain: &str, local: &str) -> PyResult<Option<Outline<'py>>> {
        let Some(place) = self.index.rule_for(domain) else { return Ok(None) };
        let (domain, body) = self.index.outline(place);
        let handler = self.index.exact(place, local).map(|one| handler_row(py, &one)).transpose()?;
        let count = self.index.counts(place).iter().sum();
        Ok(Some((place, count, self.index.patterns(place), domain, PyBytes::new(py, body), handler)))
    }

    fn rule<'py>(&self, py: Python<'py>, domain: &str) -> PyResult<Option<RuleRow<'py>>> {
        self.index.find_rule(domain).map(|place| self.row(py, place)).transpose()
    }

    fn rules<'py>(&self, py: Python<'py>, start: u64, limit: u64) -> PyResult<Vec<RuleRow<'py>>> {
        window(start, limit, self.header().rules).map(|place| self.row(py, place)).collect()
    }

    fn exact<'py>(&self, py: Python<'py>, rule: u64, local: &str) -> PyResult<Option<HandlerRow<'py>>> {
        self.checked(rule).and_then(|rule| self.index.exact(rule, local)).map(|one| handler_row(py, &one)).transpose()
    }

    fn named<'py>(&self, py: Python<'py>, rule: u64, pattern: &str) -> PyResult<Option<HandlerRow<'py>>> {
        self.checked(rule).and_then(|rule| self.index.named(rule, pattern)).map(|one| handler_row(py, &one)).transpose()
    }

    fn fitting<'py>(&self, py: Python<'py>, rule: u64, local: &str) -> PyResult<Vec<HandlerRow<'py>>> {
        let Some(rule) = self.checked(rule) else { return Ok(Vec::new()) };
        self.index.fitting(rule, local).iter().map(|one| handler_row(py, one)).collect()
    }

    fn expressions<'py>(&self, py: Python<'py>, rule: u64) -> PyResult<Vec<HandlerRow<'py>>> {
        let Some(rule) = self.checked(rule) else { return Ok(Vec::new()) };
        self.index.expressions(rule).map(|one| handler_row(py, &one)).collect()
    }

    fn handlers<'py>(&self, py: Python<'py>, rule: u64, start: u64, limit: u64) -> PyResult<Vec<HandlerRow<'py>>> {
        let Some(rule) = self.checked(rule) else { return Ok(Vec::new()) };
        self.index.handlers(rule, start, limit).map(|one| handler_row(py, &one)).collect()
    }

    fn mailbox<'py>(&self, py: Python<'py>, address: &str) -> Option<MailboxRow<'py>> {
        self.index.mailbox(address).map(|one| mailbox_row(py, &one))
    }

    fn mailboxes<'py>(&self, py: Python<'py>, start: u64, limit: u64) -> Vec<MailboxRow<'py>> {
        window(start, limit, self.header().mailboxes).map(|place| mailbox_row(py, &self.index.mailbox_at(place))).collect()
    }

    fn first_mailbox(&self, domain: &str) -> u64 {
        self.index.first_mailbox(domain)
    }

    fn postmasters<'py>(&self, py: Python<'py>, start: u64, limit: u64) -> Vec<MailboxRow<'py>> {
        window(start, limit, self.header().postmasters).map(|place| mailbox_row(py, &self.index.postmaster_at(place))).collect()
    }
}

impl RuleIndex {
    fn header(&self) -> &Header {
        self.index.header()
    }

    fn checked(&self, rule: u64) -> Option<u64> {
        (rule < self.header().rules).then_some(rule)
    }

    fn row<'py>(&self, py: Python<'py>, place: u64) -> PyResult<RuleRow<'py>> {
        let Rule { texts, port, flags, revision } = self.index.rule(place);
        let counts = self.index.counts(place);
        Ok((place, counts.iter().sum(), self.index.patterns(place), PyTuple::new(py, texts)?, port, flags, revision))
    }
}

fn window(start: u64, limit: u64, count: u64) -> std::ops::Range<u64> {
    start.min(count)..start.saturating_add(limit).min(count)
}

fn handler_row<'py>(py: Python<'py>, one: &Handler<'_>) -> PyResult<HandlerRow<'py>> {
    PyTuple::new(py, one.texts)
}

fn mailbox_row<'py>(py: Python<'py>, one: &Mailbox<'_>) -> MailboxRow<'py> {
    (one.address.to_owned(), PyBytes::new(py, one.id), one.volume.to_owned(), one.enabled)
}

fn raised(error: &RulesError) -> PyErr {
    let text = error.to_string();
    match error {
        RulesError::Damaged { .. } => DamagedError::new_err(text),
        RulesError::Version { .. } => FormatVersionError::new_err(text),
        RulesError::DiskFull { .. } => DiskFullError::new_err(text),
        RulesError::Io { .. } | RulesError::Sqlite(_) => CoreError::new_err(text),
    }
}
