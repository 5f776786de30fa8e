//! The comparisons of the spool's histories: what an opening found with what a crash may leave, what the spool says now with what the model says.

use gatepost_queue::{Filter, MessageId, QueueError, State, kind};

use crate::decay;
use crate::model::{Fate, Message, Recipient};
use crate::spool_history::{Run, body};

impl Run<'_> {
    /// What an opening found is what a crash may leave.
    pub fn recovered(&mut self) -> Result<(), String> {
        self.hear()?;
        self.loading = false;
        let (damaged, checkpoint) = (self.spool().opening().damaged.clone(), self.spool().opening().checkpoint);
        self.diary.note(|| format!("open: checkpoint {checkpoint}, {} damaged places", damaged.len()));
        self.strangers()?;
        // What a checkpoint knew and the log did not is written now; until then another crash may bring the older state.
        let owed = self.spool().owed() > 0;
        for mut m in std::mem::take(&mut self.messages) {
            if !std::mem::take(&mut m.hidden) {
                self.messages.push(m);
                continue;
            }
            let seen = self.spool().get(&m.id).ok().map(|summary| summary.recipients);
            let fits = |list: &[Recipient]| {
                seen.as_ref().is_some_and(|seen| seen.len() == list.len() && list.iter().zip(seen).all(|(a, b)| a.matches(b)))
            };
            let possible = m.possible();
            let purged = self.purged(&m.id);
            // Two of them may look the same; the journal tells which it is, unless some of it is owed.
            let entries = self.spool().history(&m.id).map_or(0, |journal| journal.len() - 1);
            let grace = |list: &[Recipient]| list.iter().filter(|r| r.grace).count();
            let in_grace = |list: &[Recipient]| list.iter().zip(&purged).all(|(r, purged)| !r.grace || !purged);
            let fitting = possible.iter().filter(|(_, whole)| whole.as_ref().map_or(seen.is_none(), |list| fits(list) && in_grace(list)));
            let found = fitting.max_by_key(|(kept, whole)| (m.entries + kept == entries, whole.as_ref().map_or(0, |list| grace(list))));
            // The last change may be gone, and the operation with it.
            if found.is_none_or(|(kept, _)| *kept < m.steps.len()) {
                m.mark = None;
            }
            match found {
                _ if m.damaged => {
                    self.readable(&m, true)?;
                    self.messages.push(m);
                }
                None => return Err(format!("{} is {seen:?}, none of {possible:?}", m.number)),
                Some((kept, whole)) if owed && !m.steps.is_empty() && m.fate == Fate::Sure => {
                    m.steps.truncate(*kept);
                    m.now = whole.as_ref().map(|list| list.iter().zip(seen.iter().flatten()).map(|(known, r)| known.seen(r)).collect());
                    self.messages.push(m);
                }
                Some((_, None)) => drop(self.gone.insert(m.id)),
                Some((_, Some(list))) => {
                    self.readable(&m, false)?;
                    m.base = list.iter().zip(seen.iter().flatten()).map(|(known, r)| known.seen(r)).collect();
                    (m.fate, m.entries, m.now, m.steps) = (Fate::Sure, entries, Some(m.base.clone()), Vec::new());
                    self.messages.push(m);
                }
            }
        }
        decay::check(self, &damaged, checkpoint)
    }

    /// For which recipients a removal is final by now, as far as the journal tells: `get` does not.
    fn purged(&self, id: &MessageId) -> [bool; 4] {
        let mut places = [State::Pending; 4];
        for entry in self.spool().history(id).unwrap_or_default() {
            let all = entry.recipient.is_none();
            for (_, place) in places.iter_mut().enumerate().filter(|(n, _)| all || entry.recipient == Some(*n as u16)) {
                *place = match (entry.kind, *place) {
                    // Stands for being in grace.
                    (kind::REMOVED, State::Pending) => State::Removed,
                    (kind::RESTORED, State::Removed) => State::Pending,
                    (kind::PURGED, State::Removed) | (kind::EXPIRED | kind::DELIVERED | kind::FAILED, State::Pending) => State::Expired,
                    (kind::DELIVERED | kind::FAILED, State::Removed) if !all => State::Expired,
                    (_, same) => same,
                };
            }
        }
        places.map(|place| place == State::Expired)
    }

    /// Nothing is there that was never committed, or that is gone.
    fn strangers(&self) -> Result<(), String> {
        for id in self.spool().ids(None, usize::MAX) {
            if !self.messages.iter().any(|m| m.id == id) && !self.doubtful.contains(&id) {
                let what = if self.gone.contains(&id) { "came back" } else { "was never committed" };
                return Err(format!("message {} {what}", u128::from_be_bytes(id) >> 80));
            }
        }
        Ok(())
    }

    /// Its octets are what was committed.
    fn readable(&self, m: &Message, damaged: bool) -> Result<(), String> {
        let expected = body(m.number, m.length);
        let mut out = vec![0; expected.len() + 1];
        match self.spool().read(&m.id).and_then(|mut reader| reader.read(&mut out)) {
            Ok(n) if out[..n] == expected => Ok(()),
            Err(_) if damaged || self.chaos.excuses(&self.disk) => Ok(()),
            Ok(n) => Err(format!("{} reads back otherwise, {n} octets of {}", m.number, expected.len())),
            Err(error) => Err(format!("{} cannot be read: {error}", m.number)),
        }
    }

    /// What the spool says now is what the model says.
    pub fn compare(&mut self) -> Result<(), String> {
        self.strangers()?;
        for m in self.messages.iter().filter(|m| !m.damaged && !m.hidden) {
            match (&m.now, self.spool().get(&m.id)) {
                (None, Err(QueueError::NotFound(_))) => {}
                (Some(list), Ok(summary)) if list.iter().zip(&summary.recipients).all(|(a, b)| a.matches(b)) => self.readable(m, false)?,
                (_, Ok(_)) if self.chaos.excuses(&self.disk) => {}
                (now, seen) => return Err(format!("{} is {seen:?}, not {now:?}", m.number)),
            }
        }
        self.counted()
    }

    /// What is counted by sender and by recipient, out of briefs or the log, is what the model has.
    fn counted(&self) -> Result<(), String> {
        let certain = self.doubtful.is_empty() && !self.messages.iter().any(|m| m.damaged || m.hidden);
        if !certain || self.chaos.excuses(&self.disk) {
            return Ok(());
        }
        let lists: Vec<&Vec<Recipient>> =
            self.messages.iter().filter_map(|m| m.now.as_ref()).filter(|list| list.iter().any(Recipient::pending)).collect();
        let by_sender = Filter { sender: "FROM@?".into(), ..Filter::default() };
        let by_recipient = Filter { recipient: "r1@*".into(), ..Filter::default() };
        let named = lists.iter().filter(|list| list.iter().any(|r| r.address == "r1@x")).count();
        for (filter, expected) in [(by_sender, lists.len()), (by_recipient, named)] {
            let counted = self.spool().count(&filter).map(|(messages, _)| messages);
            if counted != Ok(expected as u64) && !self.chaos.excuses(&self.disk) {
                return Err(format!("{filter:?} gives {counted:?}, not {expected}"));
            }
        }
        Ok(())
    }
}
