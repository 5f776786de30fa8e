//! Records: a text is its length and its octets (UTF-8), a length and any other number a LEB128 varint.
//!
//! ```text
//! rule     domain kind host tls username password_ref text policy settings (texts) | port | flags | revision
//! handler  pattern kind targets text policy options (texts)
//! mailbox  address id volume (texts) | enabled
//! ```
//!
//! The texts are what the directory's columns hold. Reading never panics: what lies outside of the records reads as empty.

pub(crate) const RULE_TEXTS: usize = 9;
pub(crate) const RULE_NUMBERS: usize = 3;
pub(crate) const HANDLER_TEXTS: usize = 6;

/// A domain rule, as the tables hold it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rule<'a> {
    /// Domain, kind, host, TLS policy, user name, name of the password, text, attachment policy, settings (JSON).
    pub texts: [&'a str; RULE_TEXTS],
    /// Of the host.
    pub port: u64,
    /// 1: implicit TLS; 2: LMTP; 4: takes mail of untrusted senders.
    pub flags: u64,
    /// The directory's revision when it or a handler of it last changed.
    pub revision: u64,
}

/// An address handler, as the tables hold it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Handler<'a> {
    /// Pattern, kind, targets (one a line), text, attachment policy, options (JSON).
    pub texts: [&'a str; HANDLER_TEXTS],
}

/// A user's store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mailbox<'a> {
    /// Stored form.
    pub address: &'a str,
    /// 16 octets.
    pub id: &'a [u8],
    /// Name of the volume.
    pub volume: &'a str,
    /// Takes mail.
    pub enabled: bool,
}

/// Appends a text.
pub(crate) fn put(out: &mut Vec<u8>, text: &[u8]) {
    put_number(out, text.len() as u64);
    out.extend_from_slice(text);
}

/// Appends a number.
pub(crate) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads a record from its beginning.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    /// The record at an offset; what lies outside is empty.
    pub(crate) fn at(octets: &'a [u8], offset: u64) -> Self {
        Self(usize::try_from(offset).ok().and_then(|at| octets.get(at..)).unwrap_or_default())
    }

    /// The octets of a record of so many texts and numbers.
    pub(crate) fn whole(mut self, texts: usize, numbers: usize) -> &'a [u8] {
        let all = self.0;
        for _ in 0..texts {
            self.octets();
        }
        for _ in 0..numbers {
            self.number();
        }
        &all[..all.len() - self.0.len()]
    }

    pub(crate) fn number(&mut self) -> u64 {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let Some((&octet, rest)) = self.0.split_first() else { return 0 };
            self.0 = rest;
            number |= u64::from(octet & 0x7f) << shift;
            if octet < 0x80 {
                break;
            }
        }
        number
    }

    pub(crate) fn octets(&mut self) -> &'a [u8] {
        let length = usize::try_from(self.number()).unwrap_or(usize::MAX);
        let Some((text, rest)) = self.0.split_at_checked(length) else { return &[] };
        self.0 = rest;
        text
    }

    fn text(&mut self) -> &'a str {
        std::str::from_utf8(self.octets()).unwrap_or_default()
    }

    pub(crate) fn rule(&mut self) -> Rule<'a> {
        Rule { texts: std::array::from_fn(|_| self.text()), port: self.number(), flags: self.number(), revision: self.number() }
    }

    pub(crate) fn handler(&mut self) -> Handler<'a> {
        Handler { texts: std::array::from_fn(|_| self.text()) }
    }

    pub(crate) fn mailbox(&mut self) -> Mailbox<'a> {
        Mailbox { address: self.text(), id: self.octets(), volume: self.text(), enabled: self.number() != 0 }
    }
}

/// Which of a rule's handlers a pattern belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    Exact,
    Prefix,
    Suffix,
    Regex,
    Any,
}

impl Class {
    pub(crate) fn of(pattern: &[u8]) -> Self {
        match pattern {
            b"*" => Self::Any,
            [b'/', _, .., b'/'] => Self::Regex,
            [.., b'*'] => Self::Prefix,
            [b'*', ..] => Self::Suffix,
            _ => Self::Exact,
        }
    }

    /// What handlers of the class are ordered by. A suffix is compared from its end.
    pub(crate) fn key(self, pattern: &[u8]) -> &[u8] {
        match self {
            Self::Prefix => &pattern[..pattern.len().saturating_sub(1)],
            Self::Suffix => pattern.get(1..).unwrap_or_default(),
            _ => pattern,
        }
    }

    /// The order of two keys.
    pub(crate) fn compare(self, one: &[u8], other: &[u8]) -> std::cmp::Ordering {
        if self == Self::Suffix { one.iter().rev().cmp(other.iter().rev()) } else { one.cmp(other) }
    }
}
