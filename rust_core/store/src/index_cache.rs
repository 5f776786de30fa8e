//! The MIME structures of the last large messages: clients ask for a message part by part, and each question needs its structure.

use std::sync::Arc;

use gatepost_mime::Index;
use parking_lot::Mutex;

use crate::content::{Content, Place};
use crate::error::Result;

/// Structures kept.
const KEPT: usize = 32;
/// Smaller messages are parsed faster than looked up.
const WORTH_IT: u64 = 64 << 10;

/// Least recently used first.
#[derive(Default)]
pub struct IndexCache(Mutex<Vec<(Place, Arc<Index>)>>);

impl IndexCache {
    /// The full structure of a message.
    pub fn get(&self, place: &Place, content: &mut Content) -> Result<Arc<Index>> {
        if place.octets < WORTH_IT {
            return Ok(Arc::new(content.index(false)?));
        }
        if let Some(found) = self.find(place) {
            return Ok(found);
        }
        let index = Arc::new(content.index(false)?);
        let mut kept = self.0.lock();
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push((place.clone(), Arc::clone(&index)));
        Ok(index)
    }

    fn find(&self, place: &Place) -> Option<Arc<Index>> {
        let mut kept = self.0.lock();
        let at = kept.iter().position(|(p, _)| p == place)?;
        let entry = kept.remove(at);
        let found = Arc::clone(&entry.1);
        kept.push(entry);
        Some(found)
    }
}
