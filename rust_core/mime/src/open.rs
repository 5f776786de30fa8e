//! An open part of the pass, and whether a line is its delimiter.

use crate::dialect::{Choice, Dialect};

/// A part whose end has not come yet.
pub(crate) struct Open {
    pub part: u32,
    pub boundary: Option<Vec<u8>>,
    /// It is a multipart; without boundary the first line of two dashes gives it one.
    pub multipart: bool,
    /// Its close-delimiter came.
    pub closed: bool,
    /// Line ends seen when the body began.
    pub newlines: u32,
    /// The boundary's first octets as [`key`] has them, and which of the four they are.
    key: (u32, u32),
}

/// The first four octets of a line behind its dashes, in no case. Most lines are told apart from most boundaries by them.
pub(crate) fn key(text: &[u8]) -> u32 {
    let first = match *text {
        [a, b, c, d, ..] => [a, b, c, d],
        [a, b, c] => [a, b, c, 0],
        [a, b] => [a, b, 0, 0],
        [a] => [a, 0, 0, 0],
        [] => [0; 4],
    };
    u32::from_le_bytes(first) | CASE
}

/// The bit in which upper and lower case differ.
const CASE: u32 = 0x2020_2020;

/// How a line of two dashes fits a multipart. `true`: as its close-delimiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    Delimiter(bool),
    /// With white space behind it (RFC 2046 5.1.1 transport padding).
    Spaced(bool),
    /// It would, were it not closed.
    Closed,
    /// It begins so.
    Prefix,
    /// But for the case.
    Case,
}

impl Open {
    pub fn new(part: u32) -> Self {
        Self { part, boundary: None, multipart: false, closed: false, newlines: 0, key: (0, 0) }
    }

    /// This is its boundary from now on.
    pub fn expect(&mut self, boundary: Option<Vec<u8>>) {
        let first = boundary.as_deref().unwrap_or_default();
        let mask = if first.len() < 4 { (1 << (first.len() * 8)) - 1 } else { u32::MAX };
        self.key = (key(first) & mask, mask);
        self.boundary = boundary;
    }

    /// A line with this [`key`] may fit. Without a boundary every line does.
    pub fn may_fit(&self, key: u32) -> bool {
        key & self.key.1 == self.key.0
    }

    /// `text` is the line behind its two dashes.
    pub fn fit(&mut self, text: &[u8], dialect: &Dialect) -> Option<Fit> {
        if self.boundary.is_none() && self.multipart && !text.trim_ascii().is_empty() {
            self.expect(Some(text.trim_ascii().to_vec()));
        }
        let boundary = self.boundary.as_deref()?;
        let how = dialect.get(Choice::Match);
        let head = text.get(..boundary.len())?;
        let exact = head == boundary;
        if !exact && !head.eq_ignore_ascii_case(boundary) {
            return None;
        }
        let fit = if exact || how == 2 { tail(&text[boundary.len()..], matches!(how, 1 | 4)) } else { Fit::Case };
        let counts = matches!(fit, Fit::Delimiter(_) | Fit::Spaced(_));
        if self.closed && counts {
            return Some(if dialect.get(Choice::AfterClose) == 1 { fit } else { Fit::Closed });
        }
        Some(fit)
    }
}

fn tail(rest: &[u8], prefix: bool) -> Fit {
    match rest {
        b"" => return Fit::Delimiter(false),
        b"--" => return Fit::Delimiter(true),
        _ => {}
    }
    match rest.trim_ascii_end() {
        b"" => Fit::Spaced(false),
        b"--" => Fit::Spaced(true),
        _ if prefix => Fit::Delimiter(rest.starts_with(b"--")),
        _ => Fit::Prefix,
    }
}
