//! `NativeFilter` (native/shapes.py): a dict whose missing keys ask for nothing. Converts, decides nothing.

use gatepost_queue::{Filter, State};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::InvalidError;

/// A filter out of its dict. An unknown key or state is an `InvalidError`: ignoring it would match more than was asked for.
pub struct FilterArg(pub Filter);

impl<'a, 'py> FromPyObject<'a, 'py> for FilterArg {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let mut filter = Filter::default();
        for (key, value) in object.cast::<PyDict>()?.iter() {
            let key: String = key.extract()?;
            match key.as_str() {
                "sender" => filter.sender = value.extract()?,
                "recipient" => filter.recipient = value.extract()?,
                "domain" => filter.domain = value.extract()?,
                "destination" => filter.destination = value.extract()?,
                "state" => filter.state = state(&value.extract::<String>()?)?,
                "held" => filter.held = value.extract()?,
                "min_size" => filter.size.0 = value.extract()?,
                "max_size" => filter.size.1 = value.extract()?,
                "received_from" => filter.received.0 = value.extract()?,
                "received_to" => filter.received.1 = value.extract()?,
                "reply" => filter.reply = value.extract()?,
                "id_prefix" => filter.id_prefix = value.extract()?,
                other => return Err(InvalidError::new_err(format!("a filter has no {other:?}"))),
            }
        }
        Ok(Self(filter))
    }
}

fn state(name: &str) -> PyResult<Option<State>> {
    let all = [State::Pending, State::Delivered, State::Failed, State::Expired, State::Removed];
    let found = all.into_iter().find(|state| state.name().eq_ignore_ascii_case(name));
    if found.is_none() && !name.is_empty() {
        return Err(InvalidError::new_err(format!("no recipient state is called {name:?}")));
    }
    Ok(found)
}
