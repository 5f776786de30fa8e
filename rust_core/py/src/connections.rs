//! Open connections of one worker, in all and per client address; shared by its SMTP and LMTP servers and their wires.

#![allow(clippy::needless_pass_by_value)]

use std::collections::HashMap;

use parking_lot::Mutex;
use pyo3::prelude::*;

/// May one more connection be taken?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Admitted,
    TooMany,
    TooManyFromClient,
}

#[derive(Default)]
struct Counts {
    total: usize,
    by_client: HashMap<String, usize>,
}

/// The counts.
#[pyclass(module = "gatepost._core", frozen)]
#[derive(Default)]
pub struct Connections {
    counts: Mutex<Counts>,
}

impl Connections {
    /// Counts one more if there is room.
    pub fn take(&self, client: &str, max_total: usize, max_per_client: usize) -> Verdict {
        let mut counts = self.counts.lock();
        if counts.total >= max_total {
            return Verdict::TooMany;
        }
        if counts.by_client.get(client).is_some_and(|count| *count >= max_per_client) || max_per_client == 0 {
            return Verdict::TooManyFromClient;
        }
        if let Some(count) = counts.by_client.get_mut(client) {
            *count += 1;
        } else {
            counts.by_client.insert(client.to_owned(), 1);
        }
        counts.total += 1;
        Verdict::Admitted
    }

    /// One connection of `client` is gone.
    pub fn give_back(&self, client: &str) {
        let mut counts = self.counts.lock();
        let Some(count) = counts.by_client.get_mut(client) else { return };
        *count -= 1;
        if *count == 0 {
            counts.by_client.remove(client);
        }
        counts.total -= 1;
    }
}

#[pymethods]
impl Connections {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    #[getter]
    fn total(&self) -> usize {
        self.counts.lock().total
    }

    #[getter]
    fn clients(&self) -> usize {
        self.counts.lock().by_client.len()
    }

    fn of_client(&self, client: &str) -> usize {
        self.counts.lock().by_client.get(client).copied().unwrap_or(0)
    }

    fn admit(&self, client: &str, max_total: usize, max_per_client: Option<usize>) -> &'static str {
        match self.take(client, max_total, max_per_client.unwrap_or(usize::MAX)) {
            Verdict::Admitted => "",
            Verdict::TooMany => "total",
            Verdict::TooManyFromClient => "client",
        }
    }

    fn release(&self, client: &str) {
        self.give_back(client);
    }
}
