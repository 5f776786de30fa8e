//! Header lines: is it a field, and which one does MIME see in its name?

use crate::index::FieldId;

/// A header line taken apart. Offsets count from its first octet.
pub(crate) struct HeaderLine {
    /// Length of the name; 0 when the line is no field.
    pub name_len: usize,
    /// Where the value begins.
    pub value: usize,
    pub id: FieldId,
    /// See [`crate::Field::foreign`].
    pub foreign: u8,
}

/// Take a header line apart; `colon` is where its first one is.
pub(crate) fn take_apart(text: &[u8], colon: Option<usize>) -> HeaderLine {
    let Some(colon) = colon else {
        let (id, value) = without_colon(text);
        return HeaderLine { name_len: 0, value, id, foreign: 2 };
    };
    let name = text[..colon].trim_ascii_end();
    let mut line = HeaderLine { name_len: name.len(), value: colon + 1, id: by_name(name), foreign: 0 };
    if line.id != FieldId::Other {
        line.foreign = u8::from(name.len() < colon);
    } else if !name.iter().all(|&b| b.is_ascii_alphanumeric() || b == b'-') {
        line.id = by_name(&letters(name));
        line.foreign = 2;
    }
    line
}

/// True when the line can be a field (RFC 5322 2.2) or an mbox separator before it.
pub(crate) fn is_field(text: &[u8], colon: Option<usize>) -> bool {
    colon.is_some_and(|colon| colon > 0 && text[..colon].trim_ascii_end().iter().all(|b| (33..=126).contains(b)))
}

fn by_name(name: &[u8]) -> FieldId {
    match name.len() {
        12 if name.eq_ignore_ascii_case(b"content-type") => FieldId::Type,
        25 if name.eq_ignore_ascii_case(b"content-transfer-encoding") => FieldId::Encoding,
        19 if name.eq_ignore_ascii_case(b"content-disposition") => FieldId::Disposition,
        _ => FieldId::Other,
    }
}

/// The letters and hyphens of a name, comments left out; at most as many as matter.
fn letters(name: &[u8]) -> Vec<u8> {
    let mut depth = 0usize;
    let mut out = Vec::new();
    for &byte in name.iter().take(200) {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            _ if depth == 0 && (byte.is_ascii_alphabetic() || byte == b'-') => out.push(byte),
            _ => {}
        }
    }
    out
}

fn without_colon(text: &[u8]) -> (FieldId, usize) {
    let start = text.iter().take_while(|b| !b.is_ascii_alphabetic()).count();
    if start > 8 || !text.get(start..start + 8).is_some_and(|t| t.eq_ignore_ascii_case(b"content-")) {
        return (FieldId::Other, 0);
    }
    let rest = &text[start..];
    let end = rest.iter().position(|&b| !b.is_ascii_alphabetic() && b != b'-').unwrap_or(rest.len());
    match by_name(&rest[..end]) {
        FieldId::Other => (FieldId::Other, 0),
        id => (id, start + end),
    }
}
