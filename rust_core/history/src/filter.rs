//! What is searched for. Everything given must hold; what can be looked up as terms narrows the candidates, all of it is checked on the row.

use gatepost_queue::{MessageId, State};

use crate::glob::{self, Glob, is_glob};
use crate::header::identifier;
use crate::record::Message;
use crate::state::View;
use crate::terms::{Field, domain, event_hosts, hash, origin_hosts, original, words};

/// Conditions; empty texts ask nothing.
///
/// `sender` and `recipient` are an address, a domain (without '@', or `*@domain`), or a glob with `*` and `?`; case is ignored; sender `<>` is the
/// null reverse-path. A glob is looked for in the addresses that occur, each of them once per file. `subject`: words that must all occur. `host`:
/// client address, HELO name or host that answered, exactly.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Least and greatest id.
    pub ids: Option<(MessageId, MessageId)>,
    /// Reverse-path.
    pub sender: String,
    /// Any recipient, original or final.
    pub recipient: String,
    /// Words.
    pub subject: String,
    /// Message-ID field, with or without angle brackets.
    pub header_id: String,
    /// Client or remote host.
    pub host: String,
    /// State that a recipient must have.
    pub outcome: Option<State>,
    /// Whether a pending recipient must be held.
    pub held: Option<bool>,
    /// Accepted at this time or later, by its id. Unix microseconds.
    pub since_us: u64,
    /// Accepted at this time or earlier.
    pub until_us: u64,
}

impl Default for Filter {
    fn default() -> Self {
        let text = String::new;
        Self {
            ids: None,
            sender: text(),
            recipient: text(),
            subject: text(),
            header_id: text(),
            host: text(),
            outcome: None,
            held: None,
            since_us: 0,
            until_us: u64::MAX,
        }
    }
}

impl Filter {
    /// The terms that every fitting row has.
    pub fn terms(&self) -> Vec<u32> {
        let mut terms = Vec::new();
        terms.extend(address_term(Field::Sender, Field::SenderDomain, &self.sender));
        terms.extend(address_term(Field::Recipient, Field::RecipientDomain, &self.recipient));
        if !self.header_id.is_empty() {
            terms.push(hash(Field::HeaderId, &identifier(&self.header_id).to_lowercase()));
        }
        if !self.host.is_empty() {
            terms.push(hash(Field::Host, &self.host.to_lowercase()));
        }
        words(&self.subject, &mut |word| terms.push(hash(Field::Word, word)));
        if let Some(state) = self.outcome.filter(|state| *state != State::Pending) {
            terms.push(hash(Field::Outcome, &state.name().to_lowercase()));
        }
        terms
    }

    /// The globs for which addresses that fit must be looked for.
    pub fn globs(&self) -> Vec<(Field, Glob)> {
        let fields = [(Field::Sender, Field::SenderDomain, &self.sender), (Field::Recipient, Field::RecipientDomain, &self.recipient)];
        let unknown = fields.into_iter().filter(|(whole, part, text)| is_glob(text) && address_term(*whole, *part, text).is_none());
        unknown.map(|(whole, _, text)| (whole, Glob::new(&text.to_lowercase()))).collect()
    }

    /// Whether a message with its recipients in these states fits.
    pub fn fits(&self, m: &Message, views: &[View]) -> bool {
        (self.sender.is_empty() || self.sender_fits(&m.sender))
            && (self.recipient.is_empty() || self.recipient_fits(m, views))
            && (self.header_id.is_empty() || m.header_id.to_lowercase() == identifier(&self.header_id).to_lowercase())
            && (self.host.is_empty() || self.host_fits(m))
            && self.subject_fits(&m.subject)
            && self.outcome.is_none_or(|state| views.iter().any(|v| v.state == state))
            && self.held.is_none_or(|held| views.iter().any(|v| v.state == State::Pending && v.held == held))
    }

    fn sender_fits(&self, sender: &str) -> bool {
        if self.sender == "<>" { sender.is_empty() } else { address_fits(&self.sender, sender) }
    }

    fn recipient_fits(&self, m: &Message, views: &[View]) -> bool {
        let rerouted = views.iter().filter_map(|v| v.rerouted.as_ref().map(|(address, _)| address.as_str()));
        let accepted = m.recipients.iter().flat_map(|r| [r.address.as_str(), original(&r.original)]);
        accepted.chain(rerouted).any(|address| !address.is_empty() && address_fits(&self.recipient, address))
    }

    fn host_fits(&self, m: &Message) -> bool {
        let wanted = self.host.to_lowercase();
        origin_hosts(&m.meta).chain(m.events.iter().flat_map(event_hosts)).any(|host| host.to_lowercase() == wanted)
    }

    fn subject_fits(&self, subject: &str) -> bool {
        let mut has = Vec::new();
        let mut fits = true;
        words(&self.subject, &mut |wanted| {
            if has.is_empty() {
                words(subject, &mut |word| has.push(word.to_owned()));
            }
            fits &= has.iter().any(|word| word == wanted);
        });
        fits
    }
}

fn address_term(whole: Field, part: Field, wanted: &str) -> Option<u32> {
    let wanted = wanted.to_lowercase();
    match wanted.as_str() {
        "" => None,
        "<>" => Some(hash(whole, "")),
        text if !is_glob(text) && text.contains('@') => Some(hash(whole, text)),
        text if !is_glob(text) => Some(hash(part, text)),
        text => text.strip_prefix("*@").filter(|d| !d.is_empty() && !is_glob(d)).map(|d| hash(part, d)),
    }
}

fn address_fits(wanted: &str, address: &str) -> bool {
    let (wanted, address) = (wanted.to_lowercase(), address.to_lowercase());
    if is_glob(&wanted) {
        return glob::fits(wanted.as_bytes(), address.as_bytes());
    }
    if wanted.contains('@') { address == wanted } else { domain(&address) == wanted }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_fit_exactly_by_domain_or_by_glob() {
        assert!(address_fits("A@B.example", "a@b.EXAMPLE") && !address_fits("a@b", "aa@b"));
        assert!(address_fits("b.example", "x@b.example") && !address_fits("b.example", "x@c.b.example"));
        assert!(address_fits("*@b", "x@b") && address_fits("a*c@?", "abcc@d") && !address_fits("a*c@?", "abc@dd"));
    }

    #[test]
    fn a_whole_domain_is_a_term_and_other_globs_are_not() {
        let by = |wanted: &str| address_term(Field::Sender, Field::SenderDomain, wanted);
        assert_eq!(by("*@Example.org"), Some(hash(Field::SenderDomain, "example.org")));
        assert_eq!((by("*@*.org"), by("jo*"), by("jo*@example.org")), (None, None, None));
        assert_eq!(by("<>"), Some(hash(Field::Sender, "")));
        let filter = Filter { sender: "*@a".into(), recipient: "jo*@a".into(), ..Filter::default() };
        assert_eq!(filter.globs().iter().map(|(field, _)| *field).collect::<Vec<_>>(), [Field::Recipient]);
    }
}
