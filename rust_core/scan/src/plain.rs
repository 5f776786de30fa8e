//! Text and nothing else: a quick look at a small message, so that most mail costs next to nothing.
//!
//! [`is_plain`] is asked in the event loop before [`crate::inspect`] is thought of. It says yes only where that would find a single text or a
//! multipart of texts, without flag, sign or defect, and one reading; any doubt is a no. tests/plain.rs holds the two together.

use gatepost_mime::transfer::{self, Method};
use gatepost_mime::uuencode;
use memchr::{memchr, memchr_iter, memmem};

use crate::budget::Limits;
use crate::kind;
use crate::loose;
use crate::report::{Flags, Verdict};
use crate::wide;

/// Larger messages are not looked at in place.
pub const PLAIN_MAX: usize = 64 << 10;
/// Multiparts within multiparts.
const DEPTH_MAX: u32 = 3;

/// Whether a message is small and only text.
pub fn is_plain(message: &[u8]) -> bool {
    message.len() <= PLAIN_MAX && has_clean_lines(message) && part(message, 0)
}

/// CRLF ends every line, and there is neither a CR nor an LF besides, nor an octet 0.
fn has_clean_lines(message: &[u8]) -> bool {
    let lines = memchr_iter(b'\n', message).count();
    memchr(0, message).is_none()
        && memchr_iter(b'\r', message).try_fold(0, |pairs, at| (message.get(at + 1) == Some(&b'\n')).then_some(pairs + 1)) == Some(lines)
}

/// The body of a message whose header says that it is one text without a coding; None for any other, and while the header has not ended.
pub(crate) fn single_text(start: &[u8]) -> Option<&[u8]> {
    let end = memmem::find(start, b"\r\n\r\n").filter(|at| *at > 0 && !start.starts_with(b"\r\n"))?;
    let header = header(&start[..end + 2])?;
    let named = header.content_type.is_none_or(|found| found.name == "text/plain");
    (named && header.method == Method::Identity).then(|| &start[end + 4..])
}

/// What a part's header says that matters here.
struct Header<'a> {
    content_type: Option<Type<'a>>,
    method: Method,
}

/// A Content-Type without anything that readers could differ about.
struct Type<'a> {
    name: String,
    boundary: Option<&'a [u8]>,
}

fn part(octets: &[u8], depth: u32) -> bool {
    let (end, body) = match octets {
        // Behind an empty line some readers still take fields.
        [b'\r', b'\n', rest @ ..] if depth > 0 => match rest.trim_ascii_start().get(..7) {
            Some(start) if start.eq_ignore_ascii_case(b"content") => return false,
            _ => (0, 2),
        },
        [b'\r', b'\n', ..] => return false,
        _ => match memmem::find(octets, b"\r\n\r\n") {
            Some(at) if at > 0 => (at + 2, at + 4),
            _ => return false,
        },
    };
    let Some(header) = header(&octets[..end]) else { return false };
    let body = &octets[body..];
    match header.content_type {
        None => text(body, header.method, "text/plain"),
        Some(Type { name, .. }) if matches!(name.as_str(), "text/plain" | "text/html") => text(body, header.method, &name),
        Some(Type { name, boundary: Some(boundary) })
            if matches!(name.as_str(), "multipart/alternative" | "multipart/mixed" | "multipart/related") =>
        {
            header.method == Method::Identity && depth < DEPTH_MAX && multipart(body, boundary, depth)
        }
        Some(_) => false,
    }
}

/// The header block with the end of its last line.
fn header(block: &[u8]) -> Option<Header<'_>> {
    let mut header = Header { content_type: None, method: Method::Identity };
    let mut seen = 0u8;
    let mut at = 0;
    while at < block.len() {
        let mut end = at + memchr(b'\n', &block[at..])? + 1;
        while matches!(block.get(end), Some(b' ' | b'\t')) {
            let next = end + memchr(b'\n', &block[end..])? + 1;
            if block[end..next].trim_ascii().is_empty() {
                return None;
            }
            end = next;
        }
        let field = &block[at..end];
        at = end;
        let colon = memchr(b':', field)?;
        let name = &field[..colon];
        if name.is_empty() || !name.iter().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.')) {
            return None;
        }
        if !name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case(b"content")) {
            continue;
        }
        let value = field[colon + 1..].trim_ascii();
        let which = match name.to_ascii_lowercase().as_slice() {
            b"content-type" => {
                header.content_type = Some(content_type(value)?);
                1
            }
            b"content-transfer-encoding" => {
                header.method = encoding(value)?;
                2
            }
            b"content-disposition" if value.eq_ignore_ascii_case(b"inline") => 4,
            b"content-language" | b"content-id" | b"content-length" => continue,
            _ => return None,
        };
        if seen & which != 0 {
            return None;
        }
        seen |= which;
    }
    Some(header)
}

fn encoding(value: &[u8]) -> Option<Method> {
    match value.to_ascii_lowercase().as_slice() {
        b"7bit" | b"8bit" => Some(Method::Identity),
        b"quoted-printable" => Some(Method::QuotedPrintable),
        b"base64" => Some(Method::Base64),
        _ => None,
    }
}

/// `type/subtype; name=value…` of the plainest octets; only parameters that have no say in what the parts are, and the boundary.
fn content_type(value: &[u8]) -> Option<Type<'_>> {
    let mut pieces = value.split(|octet| *octet == b';');
    let name = pieces.next()?.trim_ascii();
    if !name.iter().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'/' | b'-' | b'+' | b'.')) {
        return None;
    }
    let mut found = Type { name: String::from_utf8(name.to_ascii_lowercase()).ok()?, boundary: None };
    let mut seen = 0u8;
    for piece in pieces {
        let piece = piece.trim_ascii();
        if piece.is_empty() {
            continue;
        }
        let equals = memchr(b'=', piece)?;
        let value = unquoted(&piece[equals + 1..])?;
        let which = match piece[..equals].to_ascii_lowercase().as_slice() {
            b"charset" => 1,
            b"format" => 2,
            b"delsp" => 4,
            b"type" => 8,
            b"boundary" if (1..=70).contains(&value.len()) && !value.contains(&b' ') => {
                found.boundary = Some(value);
                16
            }
            _ => return None,
        };
        if seen & which != 0 {
            return None;
        }
        seen |= which;
    }
    (found.boundary.is_none() || found.name.starts_with("multipart/")).then_some(found)
}

fn unquoted(value: &[u8]) -> Option<&[u8]> {
    let inner = match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    };
    let plain = |octet: &u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.' | b'=' | b'+' | b'/' | b':' | b' ');
    (!inner.is_empty() && inner.iter().all(plain) && (inner.len() < value.len() || !inner.contains(&b' '))).then_some(inner)
}

/// Parts between delimiter lines that are nothing but that; no other line looks like one.
fn multipart(body: &[u8], boundary: &[u8], depth: u32) -> bool {
    let mut starts = None;
    let mut closed = false;
    let mut parts = 0;
    let (mut first, mut last) = (body.len(), body.len());
    let mut at = 0;
    while at < body.len() {
        let end = memchr(b'\n', &body[at..]).map_or(body.len(), |n| at + n + 1);
        let line = &body[at..end];
        if let Some(dashed) = line.strip_prefix(b"--") {
            let head = dashed.get(..boundary.len());
            if head == Some(boundary) {
                let close = match &dashed[boundary.len()..] {
                    b"\r\n" => false,
                    b"--\r\n" | b"--" => true,
                    _ => return false,
                };
                if closed || starts.is_some_and(|start: usize| !part(&body[start..at.saturating_sub(2).max(start)], depth + 1)) {
                    return false;
                }
                parts += 1;
                closed = close;
                first = first.min(at);
                last = end;
                starts = Some(end);
            } else if closed
                || starts.is_none()
                || head.is_some_and(|head| head.eq_ignore_ascii_case(boundary))
                || boundary.starts_with(line.trim_ascii_end())
            {
                return false;
            }
        }
        at = end;
    }
    // Some readers take a delimiter in the middle of a line.
    let marks = memmem::find_iter(body, &[b"--", boundary].concat()).count();
    closed && parts > 1 && marks == parts && !holds_file(&body[..first]) && !holds_file(&body[last..])
}

/// Text outside of all parts that may hold one.
fn holds_file(text: &[u8]) -> bool {
    loose::suspicious(text) || !uuencode::find(text).is_empty()
}

fn text(body: &[u8], method: Method, declared: &str) -> bool {
    if method == Method::Identity {
        return shown(body, declared);
    }
    let (others, defects) = method.others(body);
    others.is_empty() && defects.is_empty() && shown(&transfer::decode(method, body, PLAIN_MAX).0, declared)
}

pub(crate) fn shown(content: &[u8], declared: &str) -> bool {
    if content.is_empty() {
        return true;
    }
    // The end of a zip has octets that are none of text.
    if !is_all_text(content)
        || !uuencode::find(content).is_empty()
        || crate::mail::is_pgp(content)
        || loose::suspicious(content)
        || kind::by_mark(content).is_some()
    {
        return false;
    }
    if declared == "text/html" {
        let report = crate::inspect(content, "", declared, Limits::default());
        return report.entries.len() == 1
            && report.verdict == Verdict::Complete
            && report.entries[0].flags == Flags::default()
            && report.entries[0].signs.is_empty()
            && report.entries[0].defects.is_empty();
    }
    !matches!(content.trim_ascii_start().first(), Some(b'<' | b'[')) && !content.starts_with(b"\xef\xbb\xbf")
}

/// No octet that text has not.
fn is_all_text(content: &[u8]) -> bool {
    content.chunks(2048).all(|block| wide::any(block, is_odd) == 0)
        && !content.starts_with(b"\xff\xfe")
        && !content.starts_with(b"\xfe\xff")
}

/// 1 for an octet that text has not.
#[inline]
pub(crate) fn is_odd(octet: u8) -> u8 {
    u8::from(octet < 32) & u8::from(octet != b'\t') & u8::from(octet != b'\n') & u8::from(octet != b'\r')
}
