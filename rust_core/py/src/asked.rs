//! What plain mail asked of the rules since it was last looked at, counted, for rehearsals (`queue/recorded.py`).
//!
//! Written by `plain` at RCPT, emptied by the server's recorder every few seconds. Bounded: beyond [`MAX_ASKED`] what is new is left out. A
//! sender and a recipient are known by the remembered answers (see `plain_memory`), which are kept as long as they are named here.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::plain_memory::{Recipient, Sender};

const MAX_ASKED: usize = 20_000;

/// Sender, recipient, trusted, client, HELO, times.
pub type Row = (String, String, bool, String, String, u64);

struct Asking {
    sender: Arc<Sender>,
    recipient: Arc<Recipient>,
    helo: String,
    times: u64,
}

/// By client, trusted, and the places of sender and recipient, which are kept.
type Key = (String, bool, usize, usize);

#[derive(Default)]
pub struct Asked(Mutex<HashMap<Key, Asking>>);

impl Asked {
    pub fn note(&self, client: &str, helo: &str, trusted: bool, sender: &Arc<Sender>, recipient: &Arc<Recipient>) {
        let key = (client.to_owned(), trusted, Arc::as_ptr(sender) as usize, Arc::as_ptr(recipient) as usize);
        let mut known = self.0.lock();
        if let Some(asking) = known.get_mut(&key) {
            asking.times += 1;
        } else if known.len() < MAX_ASKED {
            let asking = Asking { sender: Arc::clone(sender), recipient: Arc::clone(recipient), helo: helo.to_owned(), times: 1 };
            known.insert(key, asking);
        }
    }

    pub fn take(&self) -> Vec<Row> {
        let taken = std::mem::take(&mut *self.0.lock());
        let rows = taken.into_iter().map(|((client, trusted, _, _), one)| {
            (one.sender.reverse_path.clone(), one.recipient.address.clone(), trusted, client, one.helo, one.times)
        });
        rows.collect()
    }
}
