//! `gatepost._core`: registers the spool, store, MIME, DKIM, scan and rule index classes for Python. Converts and registers only.
use pyo3::prelude::*;

mod asked;
mod condition;
mod connections;
mod dkim;
mod errors;
mod filter;
mod history;
mod line;
mod line_state;
mod mail_content;
mod mime;
mod plain;
mod plain_memory;
mod plain_stages;
mod query;
mod relay;
mod rules;
mod scan;
mod spool;
mod store;
mod wire;

#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    errors::register(m)?;
    condition::register(m)?;
    dkim::register(m)?;
    history::register(m)?;
    mail_content::register(m)?;
    mime::register(m)?;
    spool::register(m)?;
    relay::register(m)?;
    rules::register(m)?;
    scan::register(m)?;
    store::register(m)?;
    wire::register(m)
}
