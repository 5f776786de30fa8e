//! What operators do in the histories of the spool: changes of many messages at once, their undo, reroutes, the end of graces.
//!
//! The model of an undo is strict where it can be: a message that nothing has happened to since the operation is exactly as before it.

use gatepost_queue::{MessageId, kind};

use crate::model::{Change, Message, Recipient, UNKNOWN};
use crate::spool_history::{LATER, Run};

/// Operations kept to be undone.
const KEPT: usize = 4;

/// A change of many messages.
pub(crate) struct Operation {
    number: u64,
    kind: u8,
}

/// The last operation on a message.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    operation: u64,
    before: Vec<Recipient>,
}

fn change(recipient: Option<u16>, kind: u8, next_us: u64) -> Change {
    Change { recipient, kind, next_us, destination: String::new(), address: String::new() }
}

impl Run<'_> {
    /// One change for some of the messages, perhaps of some that are gone.
    pub fn bulk(&mut self) -> Result<(), String> {
        let kinds = [kind::HELD, kind::HELD, kind::RELEASED, kind::RELEASED, kind::REMOVED, kind::REMOVED, kind::RETRY, kind::REMOVED];
        let kind = kinds[self.rng.index(kinds.len())];
        let next_us = if kind == kind::REMOVED && self.rng.chance(30) { 0 } else { LATER + self.rng.below(3) };
        let share = 20 + self.rng.below(80);
        let visible: Vec<usize> = self.visible().into_iter().filter(|_| self.rng.chance(share)).collect();
        let number = self.next();
        let mut ids: Vec<MessageId> = visible.iter().map(|n| self.messages[*n].id).collect();
        ids.extend(self.gone.iter().filter(|id| !self.doubtful.contains(*id)).take(2));
        let mut expected = 0;
        for n in &visible {
            let before = self.messages[*n].now.clone().unwrap_or_default();
            if self.carry_out(*n, change(None, kind, next_us)) {
                expected += 1;
                // A removal without a grace is not undone.
                self.messages[*n].mark = (next_us != 0).then_some(Mark { operation: number, before });
            }
        }
        let detail = format!("{{\"by\":\"ann\",\"op\":\"{number}\"}}");
        let done = self.spool().change_all(number, &ids, kind, next_us, detail.as_bytes());
        self.diary.note(|| format!("operation {number}: kind {kind} for {} messages, {done} changed", ids.len()));
        self.promise(number);
        if done != expected {
            return Err(format!("{done} of {} messages were changed, not {expected}", ids.len()));
        }
        self.operations.push(Operation { number, kind });
        if self.operations.len() > KEPT {
            self.operations.remove(0);
        }
        Ok(())
    }

    /// Takes an operation back, for those of its messages that nothing happened to since.
    pub fn undo(&mut self) -> Result<(), String> {
        // What was not written, or cannot be read now, is not undone.
        if self.operations.is_empty() || self.spool().owed() > 0 || self.chaos.excuses(&self.disk) {
            return Ok(());
        }
        let n = self.rng.index(self.operations.len());
        let operation = self.operations.swap_remove(n);
        let as_it_left = |m: &Message| m.mark.as_ref().is_some_and(|mark| mark.operation == operation.number);
        let untouched: Vec<usize> = self.visible().into_iter().filter(|n| as_it_left(&self.messages[*n])).collect();
        let ids: Vec<MessageId> = untouched.iter().map(|n| self.messages[*n].id).collect();
        let number = self.next();
        let mut expected = 0;
        for n in untouched {
            let Some(mark) = self.messages[n].mark.take() else { continue };
            expected += 1;
            for (r, before) in mark.before.iter().enumerate() {
                self.step_back(n, r as u16, before, operation.kind);
            }
        }
        let note = format!("{{\"by\":\"ann\",\"op\":\"{number}\",\"undo\":\"{}\"}}", operation.number);
        let undone = self.spool().undo(number, &operation.number.to_string(), &ids, note.as_bytes());
        self.diary.note(|| format!("operation {} undone, ticket {number}: {undone:?}", operation.number));
        self.promise(number);
        if undone.undone == expected { Ok(()) } else { Err(format!("{undone:?}, expected {expected}")) }
    }

    fn step_back(&mut self, n: usize, recipient: u16, before: &Recipient, kind: u8) {
        let Some(now) = self.messages[n].now.as_ref().and_then(|list| list.get(usize::from(recipient))).cloned() else { return };
        if now.grace && !before.grace && kind == kind::REMOVED {
            self.carry_out(n, change(Some(recipient), kind::RESTORED, before.next_us.unwrap_or(UNKNOWN)));
        }
        if now.held != before.held && now.pending() {
            let back = if before.held { kind::HELD } else { kind::RELEASED };
            self.carry_out(n, change(Some(recipient), back, 0));
        }
    }

    /// A new way for one recipient.
    pub fn reroute(&mut self) -> Result<(), String> {
        let visible = self.visible();
        let Some(n) = self.rng.pick(&visible).copied() else { return Ok(()) };
        let (recipient, destination) = (self.rng.below(3) as u16, format!("d{}", self.rng.below(5)));
        let address = format!("new{}@x", self.rng.below(100));
        let change = Change { recipient: Some(recipient), kind: kind::REROUTED, next_us: 0, destination, address };
        let (ticket, id) = (self.next(), self.messages[n].id);
        let result = self.spool().reroute(ticket, &id, recipient, &change.address, &change.destination, b"route", b"{}");
        self.diary.note(|| format!("reroute {} {recipient}, ticket {ticket}: {result:?}", self.messages[n].number));
        if self.carry_out(n, change) != result.is_ok() {
            return Err(format!("a reroute gave {result:?}"));
        }
        if result.is_ok() {
            self.promise(ticket);
        }
        Ok(())
    }

    /// All graces end.
    pub fn purge(&mut self) {
        self.spool().purge(u64::MAX, 1_000);
        self.diary.note(|| "purge".into());
        for n in self.visible_or_damaged() {
            for r in 0..4 {
                self.carry_out(n, change(Some(r), kind::PURGED, 0));
            }
        }
    }
}
