//! Stage policies on the way of plain mail (see `plain`): whether one that may concern it holds now.
//!
//! Bits say which policies cannot be ruled out by what was said of client, name, sender and recipient alone. Conditions at data that can be
//! answered from size and header are answered here; of the others the server is asked, once a stage for all of them. If one holds, or cannot say,
//! the session is to see the command or message, and asks all of them anew: there is one place where a policy is carried out.

use pyo3::intern;
use pyo3::prelude::*;

use crate::line::Line;
use crate::plain_memory::Recipient;
use crate::spool::Incoming;

/// What is known at a stage.
pub struct Question<'a> {
    pub stage: &'static str,
    pub bits: u64,
    pub name: &'a str,
    pub trusted: bool,
    pub sender: Option<&'a str>,
    pub recipient: Option<&'a Recipient>,
    pub incoming: Option<&'a Py<Incoming>>,
}

/// Whether one of the policies of a stage behind some bits may hold.
pub fn may_hold(slf: &Bound<'_, Line>, asked: &Question<'_>) -> PyResult<bool> {
    if asked.bits == 0 {
        return Ok(false);
    }
    let (py, line) = (slf.py(), slf.get());
    let (client, messages) = {
        let dialog = &line.state.lock().dialog;
        (dialog.client.clone(), dialog.messages)
    };
    let recipient = asked.recipient.map(|one| (one.address.as_str(), one.plan.clone_ref(py), one.field.is_some()));
    let about = (asked.stage, asked.bits, (client, asked.name, asked.trusted, messages), asked.sender, recipient, asked.incoming);
    line.wire.get().host.bind(py).call_method1(intern!(py, "may_hold"), about)?.extract()
}

/// Likewise, for a message that was received.
pub fn may_hold_at_data(slf: &Bound<'_, Line>, incoming: &Py<Incoming>, bits: u64) -> PyResult<bool> {
    let (open, name, trusted, sender, recipient) = {
        let inner = incoming.get().inner.lock();
        let dialog = &slf.get().state.lock().dialog;
        let Some(mail) = &dialog.mail else { return Ok(true) };
        let [recipient] = mail.recipients.as_slice() else { return Ok(true) };
        let mut open = 0;
        for (bit, condition) in mail.terms.conditions.iter().filter(|(bit, _)| bits & bit != 0) {
            match condition.get().0.holds(inner.size(), inner.header()) {
                Some(true) => return Ok(true),
                Some(false) => {}
                None => open |= bit,
            }
        }
        if open == 0 {
            return Ok(false);
        }
        (open, dialog.helo.clone(), dialog.trusted, mail.sender.clone(), recipient.clone())
    };
    let sender = Some(sender.reverse_path.as_str());
    let question =
        Question { stage: "data", bits: open, name: &name, trusted, sender, recipient: Some(&recipient), incoming: Some(incoming) };
    may_hold(slf, &question)
}
