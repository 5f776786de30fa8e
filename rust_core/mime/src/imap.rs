//! ENVELOPE, BODY and BODYSTRUCTURE as IMAP data (RFC 3501 7.4.2, RFC 9051 7.5.2), rendered from an [`Index`] alone.

use crate::address::{self, Entry};
use crate::field;
use crate::{Index, Kind, Part};

/// Longest string that is sent quoted; longer ones become literals.
const QUOTED_MAX: usize = 1_000;

/// Append an IMAP string: quoted when it may be, else a literal. `utf8` allows UTF-8 in quoted strings (RFC 9051 4.3).
pub fn string(out: &mut Vec<u8>, text: &[u8], utf8: bool) {
    let plain = |b: &u8| !matches!(b, 0 | b'\r' | b'\n') && (*b < 0x80 || utf8);
    if text.len() <= QUOTED_MAX && text.iter().all(plain) && (!utf8 || std::str::from_utf8(text).is_ok()) {
        out.push(b'"');
        for &byte in text {
            if matches!(byte, b'"' | b'\\') {
                out.push(b'\\');
            }
            out.push(byte);
        }
        out.push(b'"');
        return;
    }
    let cleaned: Vec<u8> = text.iter().copied().filter(|&b| b != 0).collect();
    out.extend_from_slice(format!("{{{}}}\r\n", cleaned.len()).as_bytes());
    out.extend_from_slice(&cleaned);
}

fn nstring(out: &mut Vec<u8>, text: Option<&[u8]>, utf8: bool) {
    match text {
        Some(text) => string(out, text, utf8),
        None => out.extend_from_slice(b"NIL"),
    }
}

/// Append the ENVELOPE of a message part (0 or the child of a [`Kind::Message`]).
pub fn envelope(out: &mut Vec<u8>, index: &Index, part: u32, utf8: bool) {
    let text = |name: &str| index.first(part, name);
    out.push(b'(');
    nstring(out, text("date").as_deref(), utf8);
    out.push(b' ');
    nstring(out, text("subject").as_deref(), utf8);
    let from = address_list(index, part, "from");
    // RFC 3501 7.4.2: absent or empty Sender and Reply-To default to From.
    let or_from = |list: Vec<Entry>| if list.is_empty() { from.clone() } else { list };
    let sender = or_from(address_list(index, part, "sender"));
    let reply_to = or_from(address_list(index, part, "reply-to"));
    let others = ["to", "cc", "bcc"].map(|name| address_list(index, part, name));
    for list in [&from, &sender, &reply_to].into_iter().chain(&others) {
        out.push(b' ');
        addresses(out, list, utf8);
    }
    for name in ["in-reply-to", "message-id"] {
        out.push(b' ');
        nstring(out, text(name).as_deref(), utf8);
    }
    out.push(b')');
}

fn address_list(index: &Index, part: u32, name: &str) -> Vec<Entry> {
    index.all(part, name).flat_map(|value| address::parse(&value)).collect()
}

fn addresses(out: &mut Vec<u8>, list: &[Entry], utf8: bool) {
    if list.is_empty() {
        out.extend_from_slice(b"NIL");
        return;
    }
    out.push(b'(');
    for entry in list {
        match entry {
            Entry::GroupStart(name) => {
                out.extend_from_slice(b"(NIL NIL ");
                string(out, name, utf8);
                out.extend_from_slice(b" NIL)");
            }
            Entry::GroupEnd => out.extend_from_slice(b"(NIL NIL NIL NIL)"),
            Entry::Address(a) => {
                out.push(b'(');
                nstring(out, a.name.as_deref(), utf8);
                out.push(b' ');
                nstring(out, a.route.as_deref(), utf8);
                out.push(b' ');
                // NIL here would mean group syntax, so a missing half is an empty string.
                string(out, &a.local, utf8);
                out.push(b' ');
                string(out, &a.domain, utf8);
                out.push(b')');
            }
        }
    }
    out.push(b')');
}

/// Append BODYSTRUCTURE (`extended`) or BODY of a part.
pub fn body_structure(out: &mut Vec<u8>, index: &Index, part: u32, extended: bool, utf8: bool) {
    let this = &index.parts[part as usize];
    out.push(b'(');
    if this.kind == Kind::Multipart {
        multipart(out, index, this, extended, utf8);
    } else {
        single(out, index, part, extended, utf8);
    }
    if extended {
        extension(out, index, part, utf8);
    }
    out.push(b')');
}

fn multipart(out: &mut Vec<u8>, index: &Index, this: &Part, extended: bool, utf8: bool) {
    for &child in &this.children {
        body_structure(out, index, child, extended, utf8);
    }
    if this.children.is_empty() {
        // The grammar wants at least one body part, so an empty multipart shows an empty one.
        out.extend_from_slice(b"(\"text\" \"plain\" NIL NIL NIL \"7bit\" 0 0");
        out.extend_from_slice(if extended { b" NIL NIL NIL NIL)" } else { b")" });
    }
    out.push(b' ');
    string(out, this.content_type.subtype.as_bytes(), utf8);
    if extended {
        out.push(b' ');
        parameters(out, &this.content_type.parameters, utf8);
    }
}

/// body-type-1part up to, and without, the extension data.
fn single(out: &mut Vec<u8>, index: &Index, part: u32, extended: bool, utf8: bool) {
    let this = &index.parts[part as usize];
    let shown = &this.content_type;
    // A multipart without a usable boundary is opaque; as "multipart" it would break the grammar.
    let opaque = shown.is_multipart();
    let (kind, subtype) = if opaque { ("text", "plain") } else { (&*shown.kind, &*shown.subtype) };
    string(out, kind.as_bytes(), utf8);
    out.push(b' ');
    string(out, subtype.as_bytes(), utf8);
    out.push(b' ');
    if shown.given || this.kind == Kind::Message {
        parameters(out, &shown.parameters, utf8);
    } else {
        out.extend_from_slice(b"(\"charset\" \"us-ascii\")");
    }
    for name in ["content-id", "content-description"] {
        out.push(b' ');
        nstring(out, index.first(part, name).as_deref(), utf8);
    }
    out.push(b' ');
    string(out, this.encoding.as_bytes(), utf8);
    out.extend_from_slice(format!(" {}", this.body.len()).as_bytes());
    if shown.is_message() {
        nested(out, index, this, extended, utf8);
    }
    if shown.is_message() || shown.is_text() || opaque {
        out.extend_from_slice(format!(" {}", this.lines).as_bytes());
    }
}

/// Envelope and structure of the message inside; of an encoded one, which cannot be looked into, the empty ones.
fn nested(out: &mut Vec<u8>, index: &Index, this: &Part, extended: bool, utf8: bool) {
    out.push(b' ');
    if let Some(&child) = this.children.first() {
        envelope(out, index, child, utf8);
        out.push(b' ');
        body_structure(out, index, child, extended, utf8);
    } else {
        out.extend_from_slice(b"(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL) (\"text\" \"plain\" NIL NIL NIL \"7bit\" 0 0");
        out.extend_from_slice(if extended { b" NIL NIL NIL NIL)" } else { b")" });
    }
}

/// Extension data: MD5 (single parts only), disposition, language, location.
fn extension(out: &mut Vec<u8>, index: &Index, part: u32, utf8: bool) {
    if index.parts[part as usize].kind != Kind::Multipart {
        out.push(b' ');
        nstring(out, index.first(part, "content-md5").as_deref(), utf8);
    }
    out.push(b' ');
    match index.disposition(part) {
        Some(disposition) => {
            out.push(b'(');
            string(out, &disposition.kind, utf8);
            out.push(b' ');
            parameters(out, &disposition.parameters, utf8);
            out.push(b')');
        }
        None => out.extend_from_slice(b"NIL"),
    }
    out.push(b' ');
    languages(out, &index.first(part, "content-language").map(|v| field::tokens(&v)).unwrap_or_default(), utf8);
    out.push(b' ');
    nstring(out, index.first(part, "content-location").as_deref(), utf8);
}

fn languages(out: &mut Vec<u8>, list: &[Vec<u8>], utf8: bool) {
    match list {
        [] => out.extend_from_slice(b"NIL"),
        [one] => string(out, one, utf8),
        many => {
            for (n, tag) in many.iter().enumerate() {
                out.push(if n == 0 { b'(' } else { b' ' });
                string(out, tag, utf8);
            }
            out.push(b')');
        }
    }
}

fn parameters(out: &mut Vec<u8>, list: &[(Vec<u8>, Vec<u8>)], utf8: bool) {
    if list.is_empty() {
        out.extend_from_slice(b"NIL");
        return;
    }
    for (n, (name, value)) in list.iter().enumerate() {
        out.push(if n == 0 { b'(' } else { b' ' });
        string(out, name, utf8);
        out.push(b' ');
        string(out, value, utf8);
    }
    out.push(b')');
}
