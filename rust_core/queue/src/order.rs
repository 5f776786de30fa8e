//! Slots of messages in the order of their ids: where an id is, and who comes next.
//!
//! A sorted list in chunks. It holds slots only, four octets a message; ids are read out of the messages themselves. Ids come in ascending almost always, so
//! chunks fill up; finding, taking out and putting in cost two binary searches and a move within one chunk.

use crate::id::MessageId;
use crate::message::Message;

/// Most slots in a chunk.
const CHUNK: usize = 512;

#[derive(Debug, Default)]
pub(crate) struct Order {
    chunks: Vec<Vec<u32>>,
    /// Not above any id of the chunk, above all of the one before.
    firsts: Vec<MessageId>,
    len: usize,
}

impl Order {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn find(&self, messages: &[Message], id: &MessageId) -> Option<u32> {
        let chunk = self.chunks.get(self.chunk(id))?;
        let at = chunk.binary_search_by(|slot| messages[*slot as usize].id.cmp(id)).ok()?;
        Some(chunk[at])
    }

    /// The chunk that has the id if any has.
    fn chunk(&self, id: &MessageId) -> usize {
        self.firsts.partition_point(|first| first <= id).saturating_sub(1)
    }

    /// Puts a slot in whose message has an id that is not there.
    pub fn insert(&mut self, messages: &[Message], slot: u32) {
        let id = &messages[slot as usize].id;
        self.len += 1;
        let mut n = self.chunk(id);
        if self.chunks.is_empty() {
            self.chunks.push(Vec::new());
            self.firsts.push(*id);
        }
        self.firsts[n] = self.firsts[n].min(*id);
        let mut at = self.place(messages, n, id);
        if self.chunks[n].len() >= CHUNK {
            // At the very end a chunk stays full, elsewhere it is halved.
            let keep = if at == CHUNK { CHUNK } else { CHUNK / 2 };
            let rest = self.chunks[n].split_off(keep);
            self.chunks[n].shrink_to_fit();
            self.firsts.insert(n + 1, rest.first().map_or(*id, |slot| messages[*slot as usize].id));
            self.chunks.insert(n + 1, rest);
            if at >= keep && *id >= self.firsts[n + 1] {
                (n, at) = (n + 1, at - keep);
            }
        }
        self.chunks[n].insert(at, slot);
    }

    fn place(&self, messages: &[Message], chunk: usize, id: &MessageId) -> usize {
        self.chunks[chunk].partition_point(|slot| messages[*slot as usize].id < *id)
    }

    /// Takes the message's slot out, if it is there.
    pub fn remove(&mut self, messages: &[Message], id: &MessageId) {
        let n = self.chunk(id);
        let Some(chunk) = self.chunks.get_mut(n) else { return };
        let Ok(at) = chunk.binary_search_by(|slot| messages[*slot as usize].id.cmp(id)) else { return };
        chunk.remove(at);
        self.len -= 1;
        if chunk.is_empty() {
            self.chunks.remove(n);
            self.firsts.remove(n);
        } else if chunk.len() * 4 < chunk.capacity() {
            chunk.shrink_to(chunk.len() * 2);
        }
    }

    /// Slots of messages with an id above `after` and not below `low`, in order.
    pub fn from<'a>(&'a self, messages: &'a [Message], after: Option<&MessageId>, low: &MessageId) -> impl Iterator<Item = u32> + 'a {
        let after = after.filter(|after| *after >= low).copied();
        let first = after.unwrap_or(*low);
        let n = self.chunk(&first);
        let below = move |id: &MessageId| after.map_or(*id < first, |after| *id <= after);
        let skip = self.chunks.get(n).map_or(0, |chunk| chunk.partition_point(|slot| below(&messages[*slot as usize].id)));
        self.chunks.iter().skip(n).flatten().skip(skip).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::collections::btree_map::Entry;

    use gatepost_log::Loc;
    use proptest::prelude::*;

    use super::*;
    use crate::message::Recipients;

    fn message(id: u16) -> Message {
        let mut long = [0; 16];
        long[..2].copy_from_slice(&id.to_be_bytes());
        Message {
            id: long,
            accepted: Loc::NONE,
            head: Loc::NONE,
            size: 0,
            others: 0,
            delay: 0,
            hidden: false,
            recipients: Recipients::new(Vec::new()),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_is_a_map_sorted_by_id(
            steps in prop::collection::vec((any::<u16>(), 0u8..5), 0..3000),
            ascending in 0u16..4000,
            from in any::<u16>(),
            low in any::<u16>(),
        ) {
            let (mut messages, mut order, mut map) = (Vec::new(), Order::default(), BTreeMap::new());
            for (id, what) in (0..ascending).map(|n| (n * 3, 0)).chain(steps) {
                let m = message(id);
                if what == 0 {
                    order.remove(&messages, &m.id);
                    map.remove(&m.id);
                } else if let Entry::Vacant(free) = map.entry(m.id) {
                    free.insert(messages.len() as u32);
                    messages.push(m);
                    order.insert(&messages, messages.len() as u32 - 1);
                }
            }
            prop_assert_eq!(order.len(), map.len());
            let (after, low) = (message(from).id, message(low).id);
            let expected: Vec<u32> = map.iter().filter(|(id, _)| **id > after && **id >= low).map(|(_, slot)| *slot).collect();
            prop_assert_eq!(order.from(&messages, Some(&after), &low).collect::<Vec<_>>(), expected);
            let all: Vec<u32> = map.values().copied().collect();
            prop_assert_eq!(order.from(&messages, None, &[0; 16]).collect::<Vec<_>>(), all);
            for (id, slot) in &map {
                prop_assert_eq!(order.find(&messages, id), Some(*slot));
            }
            prop_assert_eq!(order.find(&messages, &[7; 16]), map.get(&[7; 16]).copied());
        }
    }
}
