//! `BODY[section]` (RFC 3501 6.4.5): parse the section text, find its bytes. Answers are ranges of the message where possible.

use std::ops::Range;

use crate::{Index, Kind};

/// What of a part is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Empty section text: the whole message, or the body of a part.
    Content,
    /// `HEADER`
    Header,
    /// `HEADER.FIELDS (…)`, names as given.
    HeaderFields(Vec<String>),
    /// `HEADER.FIELDS.NOT (…)`
    HeaderFieldsNot(Vec<String>),
    /// `TEXT`
    Text,
    /// `MIME`
    Mime,
}

/// A parsed section specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Part numbers from the outside in.
    pub path: Vec<u32>,
    /// The section text behind them.
    pub what: What,
}

/// Where a section's octets come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Located {
    /// A piece of the message.
    Range(Range<usize>),
    /// Made up from header fields: raw fields and the delimiting blank line.
    Bytes(Vec<u8>),
}

/// Numbers of a section path that are looked at.
const PATH_MAX: usize = 64;

impl Section {
    /// Parse the text between the brackets. `None` when it is not a section specification.
    pub fn parse(text: &str) -> Option<Self> {
        let mut path = Vec::new();
        let mut rest = text;
        while rest.starts_with(|c: char| c.is_ascii_digit()) && path.len() < PATH_MAX {
            let (number, tail) = rest.split_once('.').unwrap_or((rest, ""));
            let number: u32 = number.parse().ok().filter(|&n| n > 0)?;
            path.push(number);
            if tail.is_empty() && rest.ends_with('.') {
                return None;
            }
            rest = tail;
        }
        let what = what(rest)?;
        (what != What::Mime || !path.is_empty()).then_some(Self { path, what })
    }

    /// Find the octets of this section; `None` when the message has no such part.
    pub fn locate(&self, index: &Index) -> Option<Located> {
        let part = self.part(index)?;
        let this = &index.parts[part as usize];
        match &self.what {
            What::Content if self.path.is_empty() => return Some(Located::Range(0..index.size)),
            What::Content => return Some(Located::Range(this.body.clone())),
            What::Mime => return Some(Located::Range(this.header.clone())),
            _ => {}
        }
        // HEADER and TEXT are of a message: this one, or the one inside a message/rfc822 part.
        let message = if self.path.is_empty() { 0 } else { nested(index, part)? };
        let inner = &index.parts[message as usize];
        Some(match &self.what {
            What::Text => Located::Range(inner.body.clone()),
            What::HeaderFields(names) => Located::Bytes(fields(index, message, names, true)),
            What::HeaderFieldsNot(names) => Located::Bytes(fields(index, message, names, false)),
            _ => Located::Range(inner.header.clone()),
        })
    }

    /// The part that the path names.
    pub fn part(&self, index: &Index) -> Option<u32> {
        // `holder` is what the next number counts in: a message or a multipart.
        let mut path = self.path.iter();
        let Some(&first) = path.next() else {
            return Some(0);
        };
        let mut part = numbered(index, 0, first)?;
        for &number in path {
            part = match index.parts[part as usize].kind {
                Kind::Multipart => child(index, part, number)?,
                Kind::Message => numbered(index, nested(index, part)?, number)?,
                Kind::Leaf => return None,
            };
        }
        Some(part)
    }
}

/// Part `number` of a message: a body part, or the message's own body as part 1 when it is not multipart.
fn numbered(index: &Index, message: u32, number: u32) -> Option<u32> {
    if index.parts[message as usize].kind == Kind::Multipart {
        return child(index, message, number);
    }
    (number == 1).then_some(message)
}

fn child(index: &Index, part: u32, number: u32) -> Option<u32> {
    index.parts[part as usize].children.get(number as usize - 1).copied()
}

fn nested(index: &Index, part: u32) -> Option<u32> {
    let this = &index.parts[part as usize];
    if this.kind == Kind::Message { this.children.first().copied() } else { None }
}

fn fields(index: &Index, part: u32, names: &[String], wanted: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for field in index.fields(part) {
        let name = index.bytes(&field.name);
        if names.iter().any(|n| name.eq_ignore_ascii_case(n.as_bytes())) == wanted {
            let raw = index.bytes(&field.whole);
            out.extend_from_slice(raw);
            if !raw.ends_with(b"\n") {
                out.extend_from_slice(b"\r\n");
            }
        }
    }
    out.extend_from_slice(b"\r\n");
    out
}

fn what(text: &str) -> Option<What> {
    let upper = text.to_ascii_uppercase();
    match upper.as_str() {
        "" => return Some(What::Content),
        "HEADER" => return Some(What::Header),
        "TEXT" => return Some(What::Text),
        "MIME" => return Some(What::Mime),
        _ => {}
    }
    let (keyword, list) = text.split_once('(')?;
    let names = list.strip_suffix(')')?;
    let names: Vec<String> = names.split_ascii_whitespace().map(|n| n.trim_matches('"').to_owned()).collect();
    match keyword.trim_end().to_ascii_uppercase().as_str() {
        "HEADER.FIELDS" if !names.is_empty() => Some(What::HeaderFields(names)),
        "HEADER.FIELDS.NOT" if !names.is_empty() => Some(What::HeaderFieldsNot(names)),
        _ => None,
    }
}
