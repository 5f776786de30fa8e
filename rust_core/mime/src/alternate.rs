//! Content-Type and Content-Disposition values as readers read them that do not keep to RFC 2045 5.1: other ideas of comments, quotes
//! and separators, one option each of a [`Dialect`]. The baseline's parser is in `field`. Linear; parameters are capped.

use crate::decode;
use crate::dialect::{Choice, Dialect};
use crate::field::{ContentType, PARAMETERS_MAX};

/// A value cut into its first piece and its parameters.
pub(crate) struct Pieces {
    /// What stands before the first semicolon.
    pub head: Vec<u8>,
    /// Names and values.
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Parse a Content-Type value as `dialect` does.
pub(crate) fn content_type(value: &[u8], dialect: &Dialect) -> Option<ContentType> {
    let pieces = parse(value, dialect);
    let slash = memchr::memchr(b'/', &pieces.head)?;
    let (kind, subtype) = (word(&pieces.head[..slash]), word(&pieces.head[slash + 1..]));
    if kind.is_empty() || subtype.is_empty() {
        return None;
    }
    Some(ContentType { kind: kind.into(), subtype: subtype.into(), parameters: pieces.parameters, given: true })
}

/// Cut a value as `dialect` does.
pub(crate) fn parse(value: &[u8], dialect: &Dialect) -> Pieces {
    let decoded;
    let value = if dialect.get(Choice::Words) == 1 {
        decoded = decode::header_text(value).into_bytes();
        &decoded
    } else {
        value
    };
    let text = match dialect.get(Choice::Comment) {
        0 => without_comments(value, true),
        1 => without_comments(value, false),
        _ => value.to_vec(),
    };
    let how = dialect.get(Choice::Value);
    let mut segments = segments(&text, how == 3).into_iter();
    let head = segments.next().unwrap_or_default().trim_ascii().to_vec();
    let parameters = segments.filter_map(|segment| parameter(segment, how)).take(PARAMETERS_MAX).collect();
    Pieces { head, parameters }
}

/// Every `name=…` in the text wherever it stands, quoted or up to white space or semicolon.
pub(crate) fn anywhere(text: &[u8], name: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut at = 0;
    while found.len() < PARAMETERS_MAX {
        let Some(equals) = memchr::memchr(b'=', &text[at..]).map(|n| n + at) else { break };
        let before = text[at..equals].trim_ascii_end();
        at = equals + 1;
        if before.len() < name.len() || !before[before.len() - name.len()..].eq_ignore_ascii_case(name) {
            continue;
        }
        let rest = text[at..].trim_ascii_start();
        let (rest, stop): (&[u8], fn(u8) -> bool) = match rest.first() {
            Some(b'"') => (&rest[1..], |b| b == b'"'),
            _ => (rest, |b| b == b';' || b.is_ascii_whitespace()),
        };
        let end = rest.iter().position(|&b| stop(b)).unwrap_or(rest.len());
        found.push(rest[..end].to_vec());
    }
    found
}

/// True when a backslash stands before this octet; keeps the state for the next.
fn escaped_before(escaped: &mut bool, byte: u8) -> bool {
    let before = *escaped;
    *escaped = byte == b'\\' && !before;
    before
}

fn word(text: &[u8]) -> String {
    let text = text.trim_ascii();
    let end = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
    String::from_utf8_lossy(&text[..end]).into_owned()
}

/// The text without comments; `apart` leaves a space in their place. Within quotes a parenthesis is no comment.
pub(crate) fn without_comments(value: &[u8], apart: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for &byte in value {
        let plain = escaped_before(&mut escaped, byte);
        match byte {
            _ if plain => {}
            b'"' if depth == 0 => quoted = !quoted,
            b'(' if !quoted => {
                depth += 1;
                if depth == 1 && apart {
                    out.push(b' ');
                }
            }
            b')' if !quoted && depth > 0 => {
                depth -= 1;
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            out.push(byte);
        }
    }
    out
}

/// Pieces between semicolons; quotes protect a semicolon unless `blind`.
fn segments(text: &[u8], blind: bool) -> Vec<&[u8]> {
    let mut found = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (at, &byte) in text.iter().enumerate() {
        let plain = escaped_before(&mut escaped, byte);
        if byte == b'"' && !plain {
            quoted = !quoted;
        } else if byte == b';' && (blind || !quoted) {
            found.push(&text[start..at]);
            start = at + 1;
            if found.len() > PARAMETERS_MAX {
                return found;
            }
        }
    }
    found.push(&text[start..]);
    found
}

fn parameter(segment: &[u8], how: u8) -> Option<(Vec<u8>, Vec<u8>)> {
    let equals = memchr::memchr(b'=', segment)?;
    let name = segment[..equals].trim_ascii().to_vec();
    let raw = segment[equals + 1..].trim_ascii();
    if name.is_empty() {
        return None;
    }
    let value = match how {
        1 | 3 => stripped(raw).to_vec(),
        2 => joined(raw),
        _ => standard(raw),
    };
    Some((name, value))
}

/// All of it; quotes are cut off when they are its ends.
fn stripped(raw: &[u8]) -> &[u8] {
    let inner = raw.strip_prefix(b"\"").unwrap_or(raw);
    let inner = inner.strip_suffix(b"\"").unwrap_or(inner);
    inner.strip_prefix(b"'").and_then(|i| i.strip_suffix(b"'")).unwrap_or(inner)
}

/// Quotes vanish wherever they stand, escapes are undone.
fn joined(raw: &[u8]) -> Vec<u8> {
    let mut escaped = false;
    raw.iter()
        .copied()
        .filter(|&b| {
            let plain = escaped_before(&mut escaped, b);
            plain || !matches!(b, b'"' | b'\\')
        })
        .collect()
}

/// A quoted string, or all up to white space.
fn standard(raw: &[u8]) -> Vec<u8> {
    let Some(inner) = raw.strip_prefix(b"\"") else {
        let end = raw.iter().position(u8::is_ascii_whitespace).unwrap_or(raw.len());
        return raw[..end].to_vec();
    };
    let (mut out, mut escaped) = (Vec::new(), false);
    for &byte in inner {
        let plain = escaped_before(&mut escaped, byte);
        match byte {
            b'"' if !plain => break,
            b'\\' if !plain => {}
            _ => out.push(byte),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boundary(value: &str, choice: Choice, option: u8) -> Option<String> {
        let read = content_type(value.as_bytes(), &Dialect::default().with(choice, option))?;
        read.parameter("boundary").map(|b| String::from_utf8_lossy(b).into_owned())
    }

    #[test]
    fn each_option_cuts_the_value_its_own_way() {
        let value = "multipart/mixed; boundary=a(x)b";
        assert_eq!(boundary(value, Choice::Comment, 0).as_deref(), Some("a"));
        assert_eq!(boundary(value, Choice::Comment, 1).as_deref(), Some("ab"));
        assert_eq!(boundary(value, Choice::Comment, 2).as_deref(), Some("a(x)b"));
        let value = "multipart/mixed; boundary=\"a\"b\\c";
        assert_eq!(boundary(value, Choice::Value, 0).as_deref(), Some("a"));
        assert_eq!(boundary(value, Choice::Value, 2).as_deref(), Some("abc"));
        let value = "multipart/mixed; x=\"y; boundary=b\"";
        assert_eq!(boundary(value, Choice::Value, 0), None);
        assert_eq!(boundary(value, Choice::Value, 3).as_deref(), Some("b"));
        assert_eq!(anywhere(b"x (boundary = \"q r\") BOUNDARY=z;", b"boundary"), [b"q r".to_vec(), b"z".to_vec()]);
    }
}
