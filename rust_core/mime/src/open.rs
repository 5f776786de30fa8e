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
}

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
        Self { part, boundary: None, multipart: false, closed: false, newlines: 0 }
    }

    /// `text` is the line behind its two dashes.
    pub fn fit(&mut self, text: &[u8], dialect: &Dialect) -> Option<Fit> {
        if self.boundary.is_none() && self.multipart && !text.trim_ascii().is_empty() {
            self.boundary = Some(text.trim_ascii().to_vec());
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
