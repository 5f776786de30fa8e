//! `MimeMessage` for Python: converts results, releases the interpreter lock for what grows with the message, decides nothing.

// Arguments are extracted into owned values; a reference would only be to that value.
#![allow(clippy::needless_pass_by_value)]

use std::sync::OnceLock;

use gatepost_mime::names::NameSource;
use gatepost_mime::section::{Located, Section};
use gatepost_mime::{Analysis, Kind, Limits, Prepared, analyse, imap, transfer, views};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

use crate::errors::InvalidError;

/// Work on fewer octets than this costs less than giving the lock away.
const WORTH_DETACHING: usize = 32 << 10;

type Part = (Option<u32>, &'static str, (usize, usize, usize), (u32, u32), String, String, Vec<u32>);
type Field<'py> = (Bound<'py, PyBytes>, usize, usize, usize, usize);
type Reading<'a> = (u16, &'a str, Vec<(usize, usize, usize)>);
type Name<'a> = (&'a str, &'static str, &'static str);
type Leaf<'a> = (
    Vec<u16>,
    (usize, usize, usize, usize),
    Option<usize>,
    Vec<Name<'a>>,
    Vec<&'a str>,
    Option<&'a str>,
    Option<String>,
    Vec<(&'static str, &'static str)>,
    u32,
);

/// Adds the class and the function.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<MimeMessage>()?;
    m.add_function(wrap_pyfunction!(mime_decode, m)?)
}

/// A message and all readings of it.
#[pyclass(module = "gatepost._core", frozen)]
struct MimeMessage {
    data: PyBackedBytes,
    analysis: Analysis,
    attachments: OnceLock<Vec<views::Attachment>>,
}

impl MimeMessage {
    fn leaf(&self, number: usize) -> PyResult<&gatepost_mime::Leaf> {
        self.analysis.leaves.get(number).ok_or_else(|| InvalidError::new_err(format!("no leaf {number}")))
    }

    fn attachments_of(&self, limit: usize) -> &[views::Attachment] {
        self.attachments.get_or_init(|| views::attachments(&self.analysis, &self.data, limit))
    }

    fn part_number(&self, part: u32) -> PyResult<u32> {
        let known = (part as usize) < self.analysis.index.parts.len();
        known.then_some(part).ok_or_else(|| InvalidError::new_err(format!("no part {part}")))
    }
}

/// Do the work without the lock when it is worth it.
fn detached<T: Send>(py: Python<'_>, octets: usize, work: impl FnOnce() -> T + Send) -> T {
    if octets < WORTH_DETACHING { work() } else { py.detach(work) }
}

#[pymethods]
impl MimeMessage {
    #[new]
    fn new(py: Python<'_>, data: PyBackedBytes) -> Self {
        let analysis = detached(py, data.len(), || analyse(&data, &Limits::default()));
        Self { data, analysis, attachments: OnceLock::new() }
    }

    #[getter]
    fn data(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.data.clone_ref(py).into_pyobject(py)?.into_any().unbind())
    }

    #[getter]
    fn ambiguous(&self) -> bool {
        self.analysis.ambiguous
    }

    #[getter]
    fn incomplete(&self) -> bool {
        self.analysis.incomplete
    }

    fn parts(&self) -> Vec<Part> {
        let parts = self.analysis.index.parts.iter();
        parts
            .map(|p| {
                let kind = match p.kind {
                    Kind::Leaf => "leaf",
                    Kind::Multipart => "multipart",
                    Kind::Message => "message",
                };
                let content_type = format!("{}/{}", p.content_type.kind, p.content_type.subtype).to_ascii_lowercase();
                let places = (p.header.start, p.body.start, p.body.end);
                (p.parent, kind, places, (p.header_lines, p.lines), content_type, p.encoding.to_string(), p.children.clone())
            })
            .collect()
    }

    fn fields<'py>(&self, py: Python<'py>, part: u32) -> PyResult<Vec<Field<'py>>> {
        let index = &self.analysis.index;
        let fields = index.fields(self.part_number(part)?).iter();
        Ok(fields
            .map(|f| {
                let (place, value) = (f.place(), f.value_place());
                (PyBytes::new(py, index.bytes(&f.name)), place.start, value.start, value.end, place.end)
            })
            .collect())
    }

    fn defects(&self) -> Vec<(&'static str, usize)> {
        self.analysis.defects.iter().map(|d| (d.kind.name(), d.offset)).collect()
    }

    fn readings(&self) -> Vec<Reading<'_>> {
        let readings = self.analysis.readings.iter();
        readings.map(|r| (r.id, r.label.as_str(), r.leaves.iter().map(|s| (s.leaf, s.name, s.decoding)).collect())).collect()
    }

    fn leaves(&self) -> Vec<Leaf<'_>> {
        self.analysis.leaves.iter().map(leaf).collect()
    }

    fn decode<'py>(&self, py: Python<'py>, leaf: usize, decoding: usize, limit: usize) -> PyResult<(Bound<'py, PyBytes>, bool)> {
        let found = self.leaf(leaf)?;
        let decoding = *found.decodings.get(decoding).ok_or_else(|| InvalidError::new_err(format!("no decoding {decoding}")))?;
        let source = self.analysis.source(&self.data, found);
        if let Some(prepared) = found.prepare(source, decoding, limit) {
            return Ok((octets_of(py, &prepared)?, false));
        }
        let (octets, cut) = detached(py, found.body.len(), || found.decode(source, decoding, limit));
        Ok((PyBytes::new(py, &octets), cut))
    }

    fn text(&self, py: Python<'_>, limit: usize) -> Option<String> {
        detached(py, self.data.len(), || views::text(&self.analysis, &self.data, limit))
    }

    fn html(&self, py: Python<'_>, limit: usize) -> Option<String> {
        detached(py, self.data.len(), || views::html(&self.analysis, &self.data, limit))
    }

    fn contents<'py>(&self, py: Python<'py>, limit: usize) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let found = detached(py, self.data.len(), || views::contents(&self.analysis, &self.data, limit));
        let one = |content| match content {
            views::Content::Text(text) => Ok(text.into_pyobject(py)?.into_any()),
            views::Content::Octets(octets) => Ok(PyBytes::new(py, &octets).into_any()),
            views::Content::Prepared(prepared) => octets_of(py, &prepared).map(Bound::into_any),
        };
        found.into_iter().map(one).collect()
    }

    fn preview(&self, py: Python<'_>, characters: usize) -> String {
        detached(py, self.data.len(), || views::preview(&self.analysis, &self.data, characters))
    }

    fn attachments(&self, py: Python<'_>, limit: usize) -> Vec<(Vec<String>, String, &'static str, usize)> {
        let found = detached(py, self.data.len(), || self.attachments_of(limit));
        found.iter().map(|a| (a.names.clone(), a.content_type.clone(), source(a.source), a.leaf)).collect()
    }

    fn attachment<'py>(&self, py: Python<'py>, number: usize, limit: usize) -> PyResult<(Bound<'py, PyBytes>, bool)> {
        let content = detached(py, self.data.len(), || {
            let attachment = self.attachments_of(limit).get(number)?;
            Some(views::content(&self.analysis, &self.data, attachment, limit))
        });
        let (octets, cut) = content.ok_or_else(|| InvalidError::new_err(format!("no attachment {number}")))?;
        Ok((PyBytes::new(py, &octets), cut))
    }

    fn envelope<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let mut out = Vec::new();
        imap::envelope(&mut out, &self.analysis.index, 0, false);
        PyBytes::new(py, &out)
    }

    fn body_structure<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let mut out = Vec::new();
        imap::body_structure(&mut out, &self.analysis.index, 0, true, false);
        PyBytes::new(py, &out)
    }

    fn section<'py>(&self, py: Python<'py>, text: &str) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let section = Section::parse(text).ok_or_else(|| InvalidError::new_err(format!("{text:?} is no section")))?;
        Ok(section.locate(&self.analysis.index).map(|located| match located {
            Located::Range(range) => PyBytes::new(py, self.data.get(range).unwrap_or_default()),
            Located::Bytes(bytes) => PyBytes::new(py, &bytes),
        }))
    }
}

/// Decoded to where Python keeps them.
fn octets_of<'py>(py: Python<'py>, prepared: &Prepared<'_>) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, prepared.len(), |out| {
        detached(py, out.len(), || prepared.write(out));
        Ok(())
    })
}

fn leaf(leaf: &gatepost_mime::Leaf) -> Leaf<'_> {
    (
        leaf.readings.clone(),
        (leaf.header.start, leaf.header.end, leaf.body.start, leaf.body.end),
        leaf.inside,
        leaf.names.iter().map(|n| (n.text.as_str(), source(n.source), n.how)).collect(),
        leaf.types.iter().map(String::as_str).collect(),
        leaf.disposition.as_deref(),
        leaf.charset.as_ref().map(|c| String::from_utf8_lossy(c).into_owned()),
        leaf.decodings.iter().map(|d| (d.method.label(), d.how)).collect(),
        leaf.depth,
    )
}

fn source(source: NameSource) -> &'static str {
    match source {
        NameSource::Disposition => "disposition",
        NameSource::Type => "type",
        NameSource::Uuencode => "uuencode",
        NameSource::Tnef => "tnef",
    }
}

/// Decode a body by the name of its encoding; an unknown one is an `InvalidError`.
#[pyfunction]
fn mime_decode<'py>(py: Python<'py>, encoding: &str, data: PyBackedBytes) -> PyResult<Bound<'py, PyBytes>> {
    let method = transfer::Method::by_name(&encoding.to_ascii_lowercase());
    let method = method.ok_or_else(|| InvalidError::new_err(format!("no encoding is called {encoding:?}")))?;
    let octets = detached(py, data.len(), || transfer::decode(method, &data, usize::MAX).0);
    Ok(PyBytes::new(py, &octets))
}
