//! What no part shows and somebody still takes a file out of: parts whose fields stand within a text or outside of all parts, base64 and
//! quoted-printable whose field is missing or unknown, files in calendars and cards.
//!
//! Called by `mail` for each content and for what lies between parts, and by `plain` to know what to leave to the inspection. No mail
//! program reads a message so, hence nothing here makes it ambiguous: what is found is looked at, and a sign tells. Linear.

use std::ops::Range;

use gatepost_mime::transfer::{self, Method};
use memchr::{memchr, memchr_iter};

use crate::budget::Stop;
use crate::filling::is_filling;
use crate::report::Defect;
use crate::walk::Walker;

pub(crate) const FIELD: &[u8] = b"content-transfer-encoding";
/// Parts looked at in one text.
const PARTS_MAX: usize = 200;
/// Octets of a header block in a text, before and behind the field.
const BLOCK_MAX: usize = 16 << 10;
/// Fewer octets of base64 are a word.
const BARE_MIN: usize = 32;
/// Encodings around each other that are undone.
const BARE_DEPTH: u32 = 4;
/// Escapes of a text in quoted-printable at the least; half of it are such.
const ESCAPES_MIN: usize = 16;

/// Look for parts and files in a text, or in what lies between parts.
pub fn look(walker: &mut Walker, id: u32, text: &[u8]) -> Result<(), Stop> {
    let mut found = 0;
    let mut from = 0;
    while let Some(part) = next_part(text, from) {
        from = part.end;
        found += 1;
        if found > PARTS_MAX {
            walker.entry(id).defect(Defect::TooLarge);
            break;
        }
        walker.entry(id).sign("mime:part-in-text");
        walker.stored_as(id, &[], &["message/rfc822".to_owned()], &text[part])?;
    }
    if is_card(text) { properties(walker, id, text) } else { Ok(()) }
}

/// Undo an encoding that no field tells of: the whole content is base64, or mostly escapes of quoted-printable.
pub fn bare(walker: &mut Walker, id: u32, content: &[u8]) -> Result<(), Stop> {
    bare_in(walker, id, content, 0)
}

fn bare_in(walker: &mut Walker, id: u32, content: &[u8], depth: u32) -> Result<(), Stop> {
    let Some(method) = coding(content) else { return Ok(()) };
    if depth == BARE_DEPTH {
        walker.entry(id).defect(Defect::Unsupported);
        return Ok(());
    }
    let (octets, _) = transfer::decode(method, content, usize::MAX);
    walker.budget.spend(octets.len(), content.len() as u64, octets.len() as u64)?;
    walker.entry(id).sign("mime:encoded-without-field");
    walker.budget.hold(octets.len());
    let child = walker.child(id, "", &octets);
    let looked = child.and_then(|child| bare_in(walker, child, &octets, depth + 1));
    walker.budget.release(octets.len());
    looked
}

/// Something of the above may be in a text.
pub fn suspicious(text: &[u8]) -> bool {
    next_part(text, 0).is_some() || coding(text).is_some() || is_card(text)
}

/// The encoding of a whole content that looks like nothing else.
fn coding(content: &[u8]) -> Option<Method> {
    let text = content.trim_ascii();
    if text.len() < BARE_MIN {
        return None;
    }
    if is_base64(text) {
        return Some(Method::Base64);
    }
    blocks(text, 4_096).any(is_escaped).then_some(Method::QuotedPrintable)
}

/// Pieces of at least so many octets, the last one of less than twice as many.
fn blocks(text: &[u8], size: usize) -> impl Iterator<Item = &[u8]> {
    let whole = (text.len() / size).max(1);
    (0..whole).map(move |n| &text[n * size..if n + 1 == whole { text.len() } else { (n + 1) * size }])
}

/// Mostly escapes of quoted-printable.
fn is_escaped(block: &[u8]) -> bool {
    let escapes = escapes(block);
    escapes >= ESCAPES_MIN && escapes * 6 >= block.len() && block.is_ascii()
}

/// `=` with two digits behind it.
pub(crate) fn escapes(text: &[u8]) -> usize {
    let escape = |&at: &usize| matches!(text.get(at + 1..at + 3), Some([a, b]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    memchr_iter(b'=', text).filter(escape).count()
}

/// Digits and line ends, and padding, if any, at the end only.
fn is_base64(text: &[u8]) -> bool {
    let digits = text.strip_suffix(b"=").map_or(text, |text| text.strip_suffix(b"=").unwrap_or(text));
    let mut count = 0;
    if is_filling(digits) {
        return false;
    }
    for &octet in digits {
        match octet {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => count += 1,
            b'\r' | b'\n' => {}
            _ => return false,
        }
    }
    count % 4 != 1 && count >= BARE_MIN
}

/// The next part in a text: its header block, which says that it is encoded, and its body up to a line of two dashes.
fn next_part(text: &[u8], from: usize) -> Option<Range<usize>> {
    let mut line = from;
    while line < text.len() {
        let end = line_end(text, line);
        if says_encoded(&text[line..end])
            && let Some(body) = block_end(text, end)
        {
            let start = block_start(text, line, from);
            return Some(start..body_end(text, body));
        }
        line = end;
    }
    None
}

fn says_encoded(line: &[u8]) -> bool {
    let named = line.get(..FIELD.len()).is_some_and(|name| name.eq_ignore_ascii_case(FIELD));
    named && {
        let value = line[FIELD.len()..].to_ascii_lowercase();
        ["64", "quoted", "uu"].iter().any(|word| crate::bytes::has(&value, word))
    }
}

/// Where the block of fields begins that the line at `line` is in.
fn block_start(text: &[u8], line: usize, least: usize) -> usize {
    let mut start = line;
    while start > least && line - start < BLOCK_MAX {
        let before = memchr::memrchr(b'\n', &text[least..start - 1]).map_or(least, |at| least + at + 1);
        let above = &text[before..start];
        let field = matches!(above.first(), Some(b' ' | b'\t')) || memchr(b':', above).is_some();
        if above.trim_ascii().is_empty() || above.starts_with(b"--") || !field {
            break;
        }
        start = before;
    }
    start
}

/// Where the body begins: behind the first empty line.
fn block_end(text: &[u8], from: usize) -> Option<usize> {
    let mut line = from;
    while line < text.len() && line - from < BLOCK_MAX {
        let end = line_end(text, line);
        if text[line..end].trim_ascii().is_empty() {
            return Some(end);
        }
        line = end;
    }
    None
}

fn body_end(text: &[u8], body: usize) -> usize {
    let mut line = body;
    while line < text.len() {
        let end = line_end(text, line);
        if text[line..].starts_with(b"--") || says_encoded(&text[line..end]) {
            return block_start(text, line, body);
        }
        line = end;
    }
    text.len()
}

fn line_end(text: &[u8], at: usize) -> usize {
    memchr(b'\n', &text[at..]).map_or(text.len(), |n| at + n + 1)
}

/// A calendar (RFC 5545) or card (RFC 6350), which may carry files.
fn is_card(text: &[u8]) -> bool {
    text.trim_ascii_start().get(..7).is_some_and(|start| start.eq_ignore_ascii_case(b"BEGIN:V"))
}

/// Values in base64 (RFC 5545 3.8.1.1, RFC 2426 2.4.1).
fn properties(walker: &mut Walker, id: u32, text: &[u8]) -> Result<(), Stop> {
    let mut line = 0;
    while line < text.len() {
        let mut end = line_end(text, line);
        while matches!(text.get(end), Some(b' ' | b'\t')) {
            end = line_end(text, end);
        }
        let property: Vec<u8> = unfolded(&text[line..end]);
        line = end;
        let Some(colon) = memchr(b':', &property) else { continue };
        let (head, value) = (&property[..colon], &property[colon + 1..]);
        let lower = head.to_ascii_lowercase();
        let value = if [";encoding=b", ";encoding=\"b"].iter().any(|word| crate::bytes::has(&lower, word)) {
            value
        } else if let Some(value) = data_uri(value) {
            value
        } else {
            continue;
        };
        let (octets, _) = transfer::decode(Method::Base64, value, usize::MAX);
        walker.budget.spend(octets.len(), value.len() as u64, octets.len() as u64)?;
        walker.child(id, &file_name(head), &octets)?;
    }
    Ok(())
}

/// What stands behind `;base64,` in a `data:` URI (RFC 2397); cards write a backslash before the comma.
fn data_uri(value: &[u8]) -> Option<&[u8]> {
    let lower = value.get(..value.len().min(1_024))?.to_ascii_lowercase();
    let at = memchr::memmem::find(&lower, b";base64").filter(|_| lower.trim_ascii_start().starts_with(b"data:"))?;
    let rest = &value[at + 7..];
    Some(&rest[memchr(b',', rest)? + 1..])
}

fn unfolded(lines: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(lines.len());
    for line in lines.split(|&octet| octet == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        out.extend_from_slice(line.strip_prefix(b" ").or_else(|| line.strip_prefix(b"\t")).unwrap_or(line));
    }
    out
}

/// The value of a parameter like FILENAME, X-FILENAME, X-APPLE-FILENAME.
fn file_name(head: &[u8]) -> String {
    let piece = head.split(|&octet| octet == b';').find_map(|piece| {
        let equals = memchr(b'=', piece)?;
        piece[..equals].to_ascii_lowercase().ends_with(b"filename").then(|| &piece[equals + 1..])
    });
    crate::bytes::text(piece.unwrap_or_default()).trim_matches('"').to_owned()
}
