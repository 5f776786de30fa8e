//! Stage policies at the end of data of plain mail (see `plain`): whether one may hold.
//!
//! Conditions that can be answered from size and header are answered here; of the others the server is asked, once for all of them. If one
//! holds, or none can say, the message goes to the session, which asks all of them anew: there is one place where a policy is carried out.

use pyo3::intern;
use pyo3::prelude::*;

use crate::line::Line;
use crate::spool::Incoming;

/// Whether one of the policies behind these bits may hold for a message that was received.
pub fn may_hold(slf: &Bound<'_, Line>, incoming: &Py<Incoming>, bits: u64) -> PyResult<bool> {
    let (py, line) = (slf.py(), slf.get());
    let (open, client, name, trusted, sender, recipient) = {
        let inner = incoming.get().inner.lock();
        let dialog = &line.state.lock().dialog;
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
        (open, dialog.client.clone(), dialog.helo.clone(), dialog.trusted, mail.sender.clone(), recipient.clone())
    };
    let about = (open, client, name, trusted, &sender.reverse_path, &recipient.address, recipient.field.is_some(), incoming);
    line.wire.get().host.bind(py).call_method1(intern!(py, "may_hold"), about)?.extract()
}
