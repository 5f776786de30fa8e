//! File names of a part: every name that some reader shows, likeliest first. Sources are Content-Disposition `filename` and Content-Type
//! `name`, each plain (RFC 2045, raw 8-bit, RFC 2047 words although RFC 2047 5 forbids them) and extended (RFC 2231).

use crate::alternate;
use crate::content::{accepted, has_signs, mentions, value};
use crate::decode;
use crate::defect::DefectKind;
use crate::dialect::{Choice, Dialect};
use crate::extended::Extended;
use crate::field::{self, PARAMETERS_MAX};
use crate::index::{Field, FieldId, Index};

/// Names kept per part.
const NAMES_MAX: usize = 16;
/// Characters kept of a name.
const NAME_CHARS: usize = 1_000;
/// Characters kept of the end of one that is longer.
const NAME_END: usize = 100;

/// Where a name comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameSource {
    /// Content-Disposition
    Disposition,
    /// Content-Type
    Type,
    /// uuencode's `begin` line
    Uuencode,
    /// A TNEF property
    Tnef,
}

/// One name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// Decoded.
    pub text: String,
    /// Where it stands.
    pub source: NameSource,
    /// What a reader does differently who shows this name; empty for the first.
    pub how: &'static str,
}

/// All names of a part and what is wrong with them.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub list: Vec<Name>,
    pub defects: Vec<(usize, DefectKind)>,
    /// Readers would not agree.
    pub conflict: bool,
}

/// Every name of a part, likeliest first, as the standard reads the message.
pub fn of(index: &Index, part: u32) -> Vec<String> {
    names(index, part, &Dialect::default()).list.into_iter().map(|name| name.text).collect()
}

pub(crate) fn names(index: &Index, part: u32, dialect: &Dialect) -> Names {
    let mut names = Names::default();
    let mut fields: Vec<(&Field, &str, NameSource)> = Vec::new();
    fields.extend(accepted(index, part, FieldId::Disposition, dialect).map(|f| (f, "filename", NameSource::Disposition)));
    if fields.len() > 1 {
        names.defects.push((fields[1].0.offset, DefectKind::RepeatedDisposition));
    }
    fields.extend(accepted(index, part, FieldId::Type, dialect).map(|f| (f, "name", NameSource::Type)));
    for &(field, parameter, source) in &fields {
        names.add_field(index, field, parameter, source, dialect);
    }
    // Some look for the other field's parameter in this one as well.
    for &(field, _, source) in fields.iter().filter(|(_, parameter, _)| *parameter == "filename") {
        let value = value(index, field, dialect);
        if mentions(&value, b"name") > mentions(&value, b"filename") {
            names.add_field(index, field, "name", source, dialect);
        }
    }
    names.conflict = names.list.iter().any(|n| !n.how.is_empty());
    if names.conflict {
        let offset = fields.first().map_or(0, |(f, ..)| f.offset);
        names.defects.push((offset, DefectKind::ConflictingNames));
    }
    names
}

impl Names {
    fn add_field(&mut self, index: &Index, field: &Field, parameter: &str, source: NameSource, dialect: &Dialect) {
        let value = value(index, field, dialect);
        if !has_signs(&value) && mentions(&value, parameter.as_bytes()) == 0 {
            return;
        }
        let parsed = match source {
            NameSource::Type => field::content_type(&value).map(|t| t.parameters),
            _ => field::disposition(&value).map(|d| d.parameters),
        };
        let parsed = parsed.unwrap_or_default();
        if parsed.len() >= PARAMETERS_MAX {
            self.defects.push((field.offset, DefectKind::TooManyParameters));
        }
        self.add_parameters(&parsed, parameter, source, field.offset);
        if is_odd(&value, &parsed, parameter) {
            for (choice, option) in [(Choice::Value, 1), (Choice::Value, 2), (Choice::Value, 3), (Choice::Comment, 1), (Choice::Comment, 2)]
            {
                let pieces = alternate::parse(&value, &Dialect::default().with(choice, option));
                let found = pieces.parameters.iter().filter(|(n, _)| n.eq_ignore_ascii_case(parameter.as_bytes()));
                found.for_each(|(_, v)| self.add_plain(v, source, choice.options()[usize::from(option)]));
            }
            for found in alternate::anywhere(&value, parameter.as_bytes()) {
                self.add_plain(&found, source, "a name is looked for anywhere");
            }
        }
    }

    fn add_parameters(&mut self, parameters: &[(Vec<u8>, Vec<u8>)], parameter: &str, source: NameSource, offset: usize) {
        let before = self.list.len();
        if parameters.iter().any(|(n, _)| n.contains(&b'*'))
            && let Some(extended) = Extended::find(parameters, parameter)
        {
            self.add(&extended.text(), source, other_field(before));
            if extended.odd {
                self.defects.push((offset, DefectKind::OddExtended));
                self.add(&extended.to_text(&extended.as_they_come), source, "RFC 2231 sections join as they come");
                self.add(&extended.to_text(&extended.by_number), source, "RFC 2231 sections join across gaps");
            }
            if let Some(whole) = &extended.decoded_whole {
                self.add(&extended.to_text(whole), source, "RFC 2231 sections join before they are decoded");
            }
        }
        let plain = parameters.iter().filter(|(n, _)| n.eq_ignore_ascii_case(parameter.as_bytes()));
        for (n, (_, value)) in plain.enumerate() {
            let how = match (n, self.list.len() > before) {
                (0, false) => other_field(before),
                (0, true) => "RFC 2231 parameters are unknown",
                _ => "another of repeated parameters counts",
            };
            if n == 1 {
                self.defects.push((offset, DefectKind::RepeatedParameter));
            }
            if has_word(value) {
                self.defects.push((offset, DefectKind::EncodedWord));
            }
            if !value.is_ascii() {
                self.defects.push((offset, DefectKind::EightBitHeader));
            }
            self.add_plain(value, source, how);
        }
    }

    fn add_plain(&mut self, value: &[u8], source: NameSource, how: &'static str) {
        if has_word(value) {
            self.add(&decode::header_text(value), source, how);
        } else {
            self.add(&decode::guess(value), source, how);
        }
    }

    fn add(&mut self, text: &str, source: NameSource, how: &'static str) {
        let text = shortened(text.trim());
        if text.is_empty() || self.list.iter().any(|n| n.text == text) {
            return;
        }
        let how = if self.list.is_empty() { "" } else { how };
        // Of too many the last one is kept, which counts for some.
        self.list.truncate(NAMES_MAX - 1);
        self.list.push(Name { text, source, how });
    }
}

/// A name that is too long loses its middle: the end says what it is.
fn shortened(text: &str) -> String {
    let count = if text.len() > NAME_CHARS { text.chars().count() } else { 0 };
    if count <= NAME_CHARS {
        return text.to_owned();
    }
    text.chars().take(NAME_CHARS - NAME_END).chain(text.chars().skip(count - NAME_END)).collect()
}

/// The beginning of an encoded word (RFC 2047 2) is in it.
fn has_word(value: &[u8]) -> bool {
    memchr::memchr_iter(b'?', value).any(|at| at > 0 && value[at - 1] == b'=')
}

const fn other_field(before: usize) -> &'static str {
    if before == 0 { "" } else { "another field gives the name" }
}

/// True when another cut of the value may give another name.
fn is_odd(value: &[u8], parsed: &[(Vec<u8>, Vec<u8>)], parameter: &str) -> bool {
    let plain = parsed.iter().filter(|(n, _)| n.eq_ignore_ascii_case(parameter.as_bytes())).count();
    let quotes = memchr::memchr_iter(b'"', value).count();
    let after_quote =
        value.windows(2).any(|w| w[0] == b'"' && !matches!(w[1], b';' | b' ' | b'\t' | b'"') && !w[1].is_ascii_alphanumeric());
    (mentions(value, parameter.as_bytes()) > plain.min(1) && attributes(value, parameter) > plain)
        || !quotes.is_multiple_of(2)
        || after_quote
        || value.iter().any(|b| matches!(b, b'\\' | b'(' | b'\''))
        || (!is_regular(value, parsed) && unquoted_space(value, parsed))
}

/// Nothing but `; token=token` and `; token="text"`, all of them parsed: no other cut gives other values.
fn is_regular(value: &[u8], parsed: &[(Vec<u8>, Vec<u8>)]) -> bool {
    let mut count = 0;
    let plain = value.split(|&b| b == b';').skip(1).all(|piece| {
        count += 1;
        let piece = piece.trim_ascii();
        let Some(at) = memchr::memchr(b'=', piece) else { return false };
        let (name, text) = (&piece[..at], &piece[at + 1..]);
        let quoted = text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\""));
        let clean = match quoted {
            Some(inner) => memchr::memchr2(b'"', b'\\', inner).is_none(),
            None => !text.is_empty() && !text.iter().any(|b| matches!(b, b' ' | b'\t' | b'"' | b'(' | b'\\')),
        };
        clean && !name.iter().any(u8::is_ascii_whitespace)
    });
    let regular = plain && count == parsed.len();
    debug_assert!(!regular || !unquoted_space(value, parsed), "{}", String::from_utf8_lossy(value));
    regular
}

/// How often the parameter stands in the value with "=" behind it.
fn attributes(value: &[u8], parameter: &str) -> usize {
    let lower = value.to_ascii_lowercase();
    let is_attribute = |at: &usize| lower[at + parameter.len()..].trim_ascii_start().starts_with(b"=");
    memchr::memmem::find_iter(&lower, parameter.as_bytes()).filter(is_attribute).count()
}

/// A value without quotes that goes on after a space, or with quotes in its middle.
fn unquoted_space(value: &[u8], parsed: &[(Vec<u8>, Vec<u8>)]) -> bool {
    let pieces = alternate::parse(value, &Dialect::default().with(Choice::Value, 1));
    pieces.parameters.iter().zip(parsed).any(|((_, whole), (_, cut))| whole.len() > cut.len()) || pieces.parameters.len() > parsed.len()
}

/// Types of a part in lower case, the one that counts first: every Content-Type field's.
pub(crate) fn types(index: &Index, part: u32, dialect: &Dialect) -> Vec<String> {
    let own = &index.parts[part as usize].content_type;
    let mut list = vec![own.name()];
    let mut fields = accepted(index, part, FieldId::Type, dialect).take(NAMES_MAX).peekable();
    let first = fields.next_if(|_| own.given && dialect.is_baseline());
    if first.is_some() && fields.peek().is_none() {
        // The one field there is says what it said before.
        return list;
    }
    for field in first.into_iter().chain(fields) {
        if let Some(parsed) = field::content_type(&value(index, field, dialect)) {
            let text = parsed.name();
            if !list.contains(&text) {
                list.push(text);
            }
        }
    }
    list
}
