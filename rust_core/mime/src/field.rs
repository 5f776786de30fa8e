//! Structured header fields: unfolding, tokens, Content-Type and Content-Disposition (RFC 2045 5.1, RFC 2183).
//!
//! Lenient and linear: comments are skipped, what makes no sense is passed over, parameters beyond a cap are dropped.
//! Values stay raw: RFC 2047 words and RFC 2231 parameter sections are not decoded here, IMAP shows them as they are.

use std::borrow::Cow;

/// Parameters kept per field.
pub(crate) const PARAMETERS_MAX: usize = 64;

/// A parsed Content-Type; type and subtype in the spelling of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentType {
    /// Top-level type.
    pub kind: Cow<'static, str>,
    /// Subtype.
    pub subtype: Cow<'static, str>,
    /// Attribute and value, quoting removed.
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
    /// False when the defaults of RFC 2045 5.2 stand in for a missing or unusable field.
    pub given: bool,
}

/// A parsed Content-Disposition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disposition {
    /// "attachment", "inline" …
    pub kind: Vec<u8>,
    /// Attribute and value, quoting removed.
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
}

impl ContentType {
    /// A default type without parameters.
    pub fn new(kind: &'static str, subtype: &'static str) -> Self {
        Self { kind: kind.into(), subtype: subtype.into(), parameters: Vec::new(), given: false }
    }

    /// `type/subtype` in lower case.
    pub fn name(&self) -> String {
        let mut name = String::with_capacity(self.kind.len() + 1 + self.subtype.len());
        name.push_str(&self.kind);
        name.push('/');
        name.push_str(&self.subtype);
        name.make_ascii_lowercase();
        name
    }

    /// First parameter of that name.
    pub fn parameter(&self, name: &str) -> Option<&[u8]> {
        let found = self.parameters.iter().find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()))?;
        Some(&found.1)
    }

    /// `multipart/*`
    pub fn is_multipart(&self) -> bool {
        self.kind.eq_ignore_ascii_case("multipart")
    }

    /// `text/*`
    pub fn is_text(&self) -> bool {
        self.kind.eq_ignore_ascii_case("text")
    }

    /// `message/rfc822` or `message/global` (RFC 6532)
    pub fn is_message(&self) -> bool {
        self.kind.eq_ignore_ascii_case("message")
            && (self.subtype.eq_ignore_ascii_case("rfc822") || self.subtype.eq_ignore_ascii_case("global"))
    }
}

/// A raw field value without line ends and outer white space (RFC 5322 2.2.3). NUL is dropped: no IMAP string may carry it.
pub fn unfold(raw: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr3(b'\r', b'\n', 0, raw).is_none() {
        return Cow::Borrowed(raw.trim_ascii());
    }
    let kept: Vec<u8> = raw.iter().copied().filter(|b| !matches!(b, b'\r' | b'\n' | 0)).collect();
    Cow::Owned(kept.trim_ascii().to_vec())
}

/// First token of a value, e.g. of Content-Transfer-Encoding; "" when there is none.
pub fn token(value: &[u8]) -> Cow<'static, str> {
    let mut scanner = Scanner::new(value);
    scanner.skip_space();
    word(scanner.token())
}

/// A token as text. Nearly all mail has the same few, which need no memory of their own.
fn word(token: &[u8]) -> Cow<'static, str> {
    const KNOWN: [&str; 20] = [
        "text",
        "plain",
        "html",
        "multipart",
        "mixed",
        "alternative",
        "related",
        "application",
        "pdf",
        "octet-stream",
        "image",
        "png",
        "jpeg",
        "message",
        "rfc822",
        "base64",
        "quoted-printable",
        "7bit",
        "8bit",
        "binary",
    ];
    match KNOWN.iter().find(|known| known.as_bytes() == token) {
        Some(known) => Cow::Borrowed(*known),
        None => Cow::Owned(String::from_utf8_lossy(token).into_owned()),
    }
}

/// Parse a Content-Type value. `None` when there is no `type/subtype` in it.
pub fn content_type(value: &[u8]) -> Option<ContentType> {
    let mut scanner = Scanner::new(value);
    scanner.skip_space();
    let kind = scanner.token();
    scanner.skip_space();
    if kind.is_empty() || !scanner.take(b'/') {
        return None;
    }
    scanner.skip_space();
    let subtype = scanner.token();
    if subtype.is_empty() {
        return None;
    }
    Some(ContentType { kind: word(kind), subtype: word(subtype), parameters: scanner.parameters(), given: true })
}

/// The disposition type of a Content-Disposition value, in lower case.
pub(crate) fn disposition_kind(value: &[u8]) -> Option<String> {
    let mut scanner = Scanner::new(value);
    scanner.skip_space();
    let kind = scanner.token();
    (!kind.is_empty()).then(|| String::from_utf8_lossy(kind).to_ascii_lowercase())
}

/// Parse a Content-Disposition value.
pub fn disposition(value: &[u8]) -> Option<Disposition> {
    let mut scanner = Scanner::new(value);
    scanner.skip_space();
    let kind = scanner.token().to_vec();
    (!kind.is_empty()).then(|| Disposition { kind, parameters: scanner.parameters() })
}

/// Comma-separated tokens (Content-Language, RFC 3282).
pub fn tokens(value: &[u8]) -> Vec<Vec<u8>> {
    let parts = value.split(|&b| b == b',').take(PARAMETERS_MAX);
    parts.map(|p| token(p).into_owned().into_bytes()).filter(|t| !t.is_empty()).collect()
}

/// Octets that no token holds (RFC 2045 5.1).
const TOKEN_END: [bool; 256] = token_end();

const fn token_end() -> [bool; 256] {
    let mut table = [false; 256];
    let mut n = 0;
    while n <= b' ' as usize {
        table[n] = true;
        n += 1;
    }
    table[0x7f] = true;
    let specials = b"()<>@,;:\\\"/[]?=";
    n = 0;
    while n < specials.len() {
        table[specials[n] as usize] = true;
        n += 1;
    }
    table
}

/// Walks a structured value once.
pub(crate) struct Scanner<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0 }
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.data.get(self.at).copied()
    }

    pub(crate) fn bump(&mut self) {
        self.at += 1;
    }

    pub(crate) fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// White space and comments.
    pub(crate) fn skip_space(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => self.at += 1,
                b'(' => drop(self.comment()),
                _ => return,
            }
        }
    }

    /// The comment at the read position, outer parentheses and quoting removed (RFC 5322 3.2.2).
    pub(crate) fn comment(&mut self) -> Vec<u8> {
        let mut text = Vec::new();
        let mut depth = 0usize;
        while let Some(byte) = self.peek() {
            self.at += 1;
            match byte {
                b'(' => {
                    depth += 1;
                    if depth == 1 {
                        continue;
                    }
                }
                b')' => {
                    depth -= 1;
                    if depth == 0 {
                        break;
                    }
                }
                b'\\' => {
                    text.extend(self.peek());
                    self.at += 1;
                    continue;
                }
                _ => {}
            }
            text.push(byte);
        }
        self.at = self.at.min(self.data.len());
        text
    }

    /// The quoted string at the read position, quoting removed; an unterminated one ends with the value.
    pub(crate) fn quoted(&mut self) -> Vec<u8> {
        let mut text = Vec::new();
        self.at += 1;
        while let Some(byte) = self.peek() {
            self.at += 1;
            match byte {
                b'"' => break,
                b'\\' => {
                    text.extend(self.peek());
                    self.at += 1;
                }
                _ => text.push(byte),
            }
        }
        self.at = self.at.min(self.data.len());
        text
    }

    /// Octets up to the next one for which `stop` holds.
    pub(crate) fn until(&mut self, stop: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = &self.data[self.at.min(self.data.len())..];
        let len = rest.iter().position(|&b| stop(b)).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    fn token(&mut self) -> &'a [u8] {
        self.until(|b| TOKEN_END[usize::from(b)])
    }

    /// The rest as `; name=value` pairs.
    fn parameters(&mut self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        while found.len() < PARAMETERS_MAX {
            self.until(|b| b == b';' || b == b'(');
            if self.peek() == Some(b'(') {
                self.comment();
                continue;
            }
            if !self.take(b';') {
                break;
            }
            self.skip_space();
            let name = self.token();
            self.skip_space();
            if name.is_empty() || !self.take(b'=') {
                continue;
            }
            self.skip_space();
            let value = self.value();
            found.push((name.to_vec(), value));
        }
        found
    }

    fn value(&mut self) -> Vec<u8> {
        if self.peek() == Some(b'"') {
            return self.quoted();
        }
        // Values with characters that would need quoting are common; take all up to the next parameter.
        let raw = self.until(|b| matches!(b, b';' | b' ' | b'\t' | b'('));
        raw.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_quotes_are_removed_from_parameters() {
        let parsed = content_type(b"Text/(c)Plain (x;y=z); charset=\"a\\\"b\" ; name = q.txt").unwrap();
        assert_eq!((&*parsed.kind, &*parsed.subtype), ("Text", "Plain"));
        assert_eq!(parsed.parameter("charset"), Some(&b"a\"b"[..]));
        assert_eq!(parsed.parameter("NAME"), Some(&b"q.txt"[..]));
    }

    #[test]
    fn a_type_without_subtype_is_no_type() {
        assert_eq!(content_type(b"text"), None);
        assert_eq!(content_type(b""), None);
    }

    #[test]
    fn unterminated_comment_and_quote_end_with_the_value() {
        assert!(content_type(b"text/plain; name=\"abc\\").is_some());
        assert!(content_type(b"text/plain; ((((").is_some());
    }
}
