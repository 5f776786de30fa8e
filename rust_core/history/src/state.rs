//! What the recipients of a message are at a moment: its events played forward. The rules are those of the queue's own table of
//! transitions; an event that does not apply to a recipient leaves it as it is.

use gatepost_queue::{State, kind, reroute_detail};

use crate::record::{ALL, Event, Message};

/// One recipient at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// State.
    pub state: State,
    /// Held (pending recipients only).
    pub held: bool,
    /// When it is due, Unix microseconds.
    pub next_us: u64,
    /// Finished attempts.
    pub attempts: u16,
    /// Index of the event of its last attempt or end.
    pub last: Option<usize>,
    /// When its state became final, Unix microseconds; 0 while it is pending.
    pub ended_us: u64,
    /// Address and destination of a reroute.
    pub rerouted: Option<(String, String)>,
    /// Removed, and the removal can still be undone.
    grace: bool,
    held_before: bool,
}

impl View {
    fn apply(&mut self, e: &Event, number: usize) {
        let pending = self.state == State::Pending;
        match e.kind {
            kind::DELIVERED | kind::FAILED if pending || self.grace => {
                self.attempts = self.attempts.saturating_add(1);
                self.end(if e.kind == kind::DELIVERED { State::Delivered } else { State::Failed }, e, number);
            }
            kind::EXPIRED if pending => self.end(State::Expired, e, number),
            kind::REMOVED if pending => {
                self.held_before = self.held;
                self.end(State::Removed, e, number);
                self.grace = e.next_us > 0;
            }
            kind::RESTORED if self.grace => {
                (self.state, self.grace, self.ended_us) = (State::Pending, false, 0);
                (self.held, self.next_us) = (self.held_before, e.next_us);
            }
            kind::PURGED => self.grace = false,
            kind::DEFERRED if pending => {
                (self.next_us, self.last) = (e.next_us, Some(number));
                self.attempts = self.attempts.saturating_add(1);
            }
            kind::HELD if pending => self.held = true,
            kind::RELEASED if pending => self.held = false,
            kind::RETRY if pending => self.next_us = e.next_us,
            kind::REROUTED if pending => {
                self.next_us = e.next_us;
                self.rerouted = reroute_detail(&e.detail).map(|(address, destination, _)| (address, destination));
            }
            _ => {}
        }
    }

    fn end(&mut self, state: State, e: &Event, number: usize) {
        (self.state, self.held, self.grace) = (state, false, false);
        (self.ended_us, self.last) = (e.time_us.max(1), Some(number));
    }
}

/// The recipients as they were at `at` (Unix microseconds, inclusive); None: after all that is known.
pub fn views(message: &Message, at: Option<u64>) -> Vec<View> {
    let first = |r: &crate::record::Recipient| {
        let ended = r.destination.is_empty();
        View {
            state: if ended { State::Delivered } else { State::Pending },
            held: r.held && !ended,
            next_us: r.next_us,
            attempts: 0,
            last: None,
            ended_us: if ended { message.received_us.max(1) } else { 0 },
            rerouted: None,
            grace: false,
            held_before: false,
        }
    };
    let mut views: Vec<View> = message.recipients.iter().map(first).collect();
    for (number, event) in message.events.iter().enumerate() {
        if at.is_some_and(|at| event.time_us > at) {
            continue;
        }
        if event.recipient == ALL {
            views.iter_mut().for_each(|view| view.apply(event, number));
        } else if let Some(view) = views.get_mut(usize::from(event.recipient)) {
            view.apply(event, number);
        }
    }
    views
}

/// When the message left the queue: its last recipient's end. None while one is pending.
pub fn ended_us(views: &[View]) -> Option<u64> {
    if views.iter().any(|v| v.state == State::Pending) {
        return None;
    }
    Some(views.iter().map(|v| v.ended_us).max().unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Recipient;

    fn message(events: &[(u64, u16, u8, u64)]) -> Message {
        let recipient =
            |n: u8| Recipient { address: format!("r{n}@d"), original: String::new(), destination: "d".into(), held: n == 1, next_us: 0 };
        let event = |(time_us, recipient, kind, next_us): &(u64, u16, u8, u64)| Event {
            time_us: *time_us,
            next_us: *next_us,
            recipient: *recipient,
            kind: *kind,
            finished: false,
            detail: Vec::new(),
        };
        Message {
            id: [0; 16],
            received_us: 1,
            size: 1,
            sender: String::new(),
            meta: Vec::new(),
            subject: String::new(),
            header_id: String::new(),
            recipients: vec![recipient(0), recipient(1)],
            events: events.iter().map(event).collect(),
        }
    }

    #[test]
    fn the_state_at_a_moment_knows_nothing_of_what_came_later() {
        let m =
            message(&[(10, 0, kind::DEFERRED, 50), (20, 0, kind::DELIVERED, 0), (30, ALL, kind::RELEASED, 0), (40, 1, kind::FAILED, 0)]);
        let at = |t| views(&m, Some(t));
        assert_eq!((at(9)[0].state, at(9)[0].attempts, at(9)[1].held), (State::Pending, 0, true));
        assert_eq!((at(10)[0].attempts, at(10)[0].next_us), (1, 50));
        assert_eq!((at(25)[0].state, ended_us(&at(25))), (State::Delivered, None));
        assert!(!at(30)[1].held);
        assert_eq!(ended_us(&views(&m, None)), Some(40));
    }

    #[test]
    fn a_removal_can_be_undone_until_it_is_purged() {
        let m =
            message(&[(10, ALL, kind::REMOVED, 900), (20, 1, kind::RESTORED, 33), (30, ALL, kind::PURGED, 0), (40, 0, kind::RESTORED, 1)]);
        assert_eq!(ended_us(&views(&m, Some(15))), Some(10));
        let last = views(&m, None);
        assert_eq!((last[0].state, last[1].state, last[1].held, last[1].next_us), (State::Removed, State::Pending, true, 33));
    }
}
