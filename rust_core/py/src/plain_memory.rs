//! What plain mail needs to know (see `plain`): the terms that follow from the settings, and what the server said of clients, their
//! names, senders and recipients. Bounded; what follows from the settings is forgotten with them, routes with the rule set.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use gatepost_queue as queue;
use parking_lot::Mutex;
use pyo3::intern;
use pyo3::prelude::*;

use crate::condition::Condition;
use crate::spool::{RecipientArg, recipient_spec};

/// Arguments remembered of each kind; beyond it all are forgotten.
const MAX_REMEMBERED: usize = 4096;

/// An answer of `plain_recipient`.
type Planned = (Py<PyAny>, Py<PyAny>, String, bool, Vec<RecipientArg>, u64, Option<Vec<u8>>, bool, u64);

/// What is known of a client: it has no limit of connections, it is trusted, and what may concern it (see [`Terms::at_connect`]).
pub type Standing = (bool, bool, u64);

/// Under which terms plain mail is taken: what follows from the server's settings.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
#[allow(clippy::struct_excessive_bools)]
pub struct Terms {
    pub greeting: Vec<u8>,
    pub helo_reply: Vec<u8>,
    pub ehlo_reply: Vec<u8>,
    pub hostname: String,
    pub listener: String,
    pub allow_bare: bool,
    pub max_message_bytes: u64,
    pub max_hops: usize,
    pub max_recipients: usize,
    pub max_planned: usize,
    pub max_messages: u64,
    pub max_connections: usize,
    pub max_connections_per_client: usize,
    /// Name of the field that tells of inspection: copies from outside are removed.
    pub scan_field: Vec<u8>,
    /// What has to be decided message by message is a set of bits, and so are the things that each client, sender and recipient may be
    /// concerned by: mail is plain as long as no bit is in all of them. Which bits are looked at when a client connects, at MAIL and at RCPT.
    pub at_connect: u64,
    pub at_mail: u64,
    pub at_rcpt: u64,
    /// Likewise, but policies, which are first asked whether they hold (see `plain_stages`); at data conditions are asked before them.
    pub at_helo: u64,
    pub asked_at_mail: u64,
    pub asked_at_rcpt: u64,
    pub at_data: u64,
    pub conditions: Vec<(u64, Py<Condition>)>,
    /// The name a client gives itself may concern something.
    pub asks_helo: bool,
    /// What is taken is counted for conditions that ask for a rate.
    pub counts: bool,
    /// What is asked of the rules is noted (see `asked`).
    pub records: bool,
}

/// What a MAIL argument means.
pub struct Sender {
    /// Python's form of it.
    pub parsed: Py<PyAny>,
    pub reverse_path: String,
    pub body: String,
    /// It has parameters, which need EHLO.
    pub extended: bool,
    pub concerns: u64,
}

/// What a RCPT argument means, and where it is routed.
pub struct Recipient {
    /// Python's forms of both.
    pub parsed: Py<PyAny>,
    pub plan: Py<PyAny>,
    pub address: String,
    pub extended: bool,
    pub specs: Vec<queue::RecipientSpec>,
    pub rule_version: u64,
    /// The field put before a message that is only text; None: no message is looked into.
    pub field: Option<Vec<u8>>,
    /// Even a message that is only text is the session's affair.
    pub judged: bool,
    pub concerns: u64,
}

/// What is remembered, and the counts of what was done without Python.
#[derive(Default)]
pub struct Plain {
    terms: Mutex<Option<Arc<Terms>>>,
    pub receiving: AtomicBool,
    pub stopping: AtomicBool,
    pub connected: AtomicU64,
    pub accepted: AtomicU64,
    settings: Mutex<Option<Py<PyAny>>>,
    clients: Mutex<HashMap<String, Standing>>,
    names: Mutex<HashMap<String, u64>>,
    senders: Mutex<HashMap<Vec<u8>, Arc<Sender>>>,
    routes: Mutex<Routes>,
}

#[derive(Default)]
struct Routes {
    rule_set: Option<Py<PyAny>>,
    recipients: HashMap<(bool, Vec<u8>), Arc<Recipient>>,
}

fn keep<K: std::hash::Hash + Eq, V>(memory: &mut HashMap<K, V>, key: K, value: V) {
    if memory.len() >= MAX_REMEMBERED {
        memory.clear();
    }
    memory.insert(key, value);
}

impl Plain {
    /// New terms, or none: then everything is Python's. `settings` is the object they were made from.
    pub fn agree(&self, terms: Option<Terms>, settings: Option<Py<PyAny>>) {
        *self.terms.lock() = terms.map(Arc::new);
        *self.settings.lock() = settings;
        self.clients.lock().clear();
        self.names.lock().clear();
        self.senders.lock().clear();
        let old = std::mem::take(&mut *self.routes.lock());
        drop(old);
    }

    pub fn terms(&self) -> Option<Arc<Terms>> {
        self.terms.lock().clone()
    }

    /// Looks the settings up anew; the server renews the terms when they have changed.
    pub fn look_at_settings(&self, host: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = host.py();
        let settings = host.call_method0(intern!(py, "current_settings"))?;
        let same = self.settings.lock().as_ref().is_some_and(|known| known.is(&settings));
        if same { Ok(()) } else { host.call_method1(intern!(py, "use"), (settings,)).map(drop) }
    }

    pub fn standing(&self, host: &Bound<'_, PyAny>, client: &str) -> PyResult<Standing> {
        if let Some(known) = self.clients.lock().get(client) {
            return Ok(*known);
        }
        let found = host.call_method1(intern!(host.py(), "standing"), (client,))?.extract()?;
        keep(&mut self.clients.lock(), client.to_owned(), found);
        Ok(found)
    }

    /// What may concern a client that calls itself so.
    pub fn name(&self, host: &Bound<'_, PyAny>, terms: &Terms, name: &str) -> PyResult<u64> {
        if !terms.asks_helo {
            return Ok(u64::MAX);
        }
        if let Some(known) = self.names.lock().get(name) {
            return Ok(*known);
        }
        let found = host.call_method1(intern!(host.py(), "concerned_name"), (name,))?.extract()?;
        keep(&mut self.names.lock(), name.to_owned(), found);
        Ok(found)
    }

    pub fn sender(&self, host: &Bound<'_, PyAny>, argument: &[u8]) -> PyResult<Option<Arc<Sender>>> {
        if let Some(known) = self.senders.lock().get(argument) {
            return Ok(Some(Arc::clone(known)));
        }
        let Ok(text) = std::str::from_utf8(argument) else { return Ok(None) };
        let found: Option<(Py<PyAny>, String, String, bool, u64)> =
            host.call_method1(intern!(host.py(), "plain_sender"), (text,))?.extract()?;
        Ok(found.map(|(parsed, reverse_path, body, extended, concerns)| {
            let sender = Arc::new(Sender { parsed, reverse_path, body, extended, concerns });
            keep(&mut self.senders.lock(), argument.to_vec(), Arc::clone(&sender));
            sender
        }))
    }

    pub fn recipient(&self, host: &Bound<'_, PyAny>, argument: &[u8], trusted: bool) -> PyResult<Option<Arc<Recipient>>> {
        let py = host.py();
        let rule_set = host.call_method0(intern!(py, "rule_set"))?;
        let key = (trusted, argument.to_vec());
        let old = {
            let mut routes = self.routes.lock();
            if routes.rule_set.as_ref().is_some_and(|known| known.is(&rule_set)) {
                if let Some(known) = routes.recipients.get(&key) {
                    return Ok(Some(Arc::clone(known)));
                }
                None
            } else {
                Some(std::mem::replace(&mut *routes, Routes { rule_set: Some(rule_set.clone().unbind()), recipients: HashMap::new() }))
            }
        };
        drop(old);
        let Ok(text) = std::str::from_utf8(argument) else { return Ok(None) };
        let found: Option<Planned> = host.call_method1(intern!(py, "plain_recipient"), (rule_set, text, trusted))?.extract()?;
        Ok(found.map(|(parsed, plan, address, extended, specs, rule_version, field, judged, concerns)| {
            let specs = specs.into_iter().map(recipient_spec).collect();
            let recipient = Arc::new(Recipient { parsed, plan, address, extended, specs, rule_version, field, judged, concerns });
            keep(&mut self.routes.lock().recipients, key, Arc::clone(&recipient));
            recipient
        }))
    }
}
