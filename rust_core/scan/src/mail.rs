//! Messages: every part is decoded and looked at; a message inside a message is one level further down.

use gatepost_mime::decode::{decode, header_text};
use gatepost_mime::{Index, Kind, index};

use crate::budget::Stop;
use crate::bytes::text;
use crate::report::Defect;
use crate::walk::Walker;

/// Files in one text by uuencode.
const UU_MAX: usize = 100;
/// Sections of one parameter (RFC 2231 3).
const SECTIONS_MAX: usize = 64;

/// Open a message.
pub fn read(walker: &mut Walker, id: u32, data: &[u8]) -> Result<(), Stop> {
    let index = index(data);
    if index.truncated {
        walker.entry(id).defect(Defect::TooLarge);
    }
    // The entry that parts below a part belong to.
    let mut owner = vec![id; index.parts.len()];
    for number in 0..index.parts.len() as u32 {
        let part = &index.parts[number as usize];
        let above = part.parent.map_or(id, |parent| owner[parent as usize]);
        owner[number as usize] = above;
        match part.kind {
            Kind::Multipart => {}
            Kind::Message => {
                let child = named(walker, above, &index, number)?;
                let size = part.body.len() as u64;
                let entry = walker.entry(child);
                (entry.size, entry.kind) = (size, Some(crate::kind::MAIL));
                "message/rfc822".clone_into(&mut entry.declared);
                owner[number as usize] = child;
            }
            Kind::Leaf => leaf(walker, above, &index, number, data)?,
        }
    }
    Ok(())
}

/// A new entry under the part's first name; the others are noted, and count.
fn named(walker: &mut Walker, above: u32, index: &Index, number: u32) -> Result<u32, Stop> {
    let names = names(index, number);
    let child = walker.enter(above, names.first().map_or("", String::as_str))?;
    names.iter().skip(1).for_each(|name| walker.alias(child, name));
    Ok(child)
}

fn leaf(walker: &mut Walker, above: u32, index: &Index, number: u32, data: &[u8]) -> Result<(), Stop> {
    let part = &index.parts[number as usize];
    let declared = format!("{}/{}", part.content_type.kind, part.content_type.subtype).to_ascii_lowercase();
    let child = named(walker, above, index, number)?;
    walker.entry(child).declared.clone_from(&declared);
    let raw = &data[part.body.clone()];
    let decoded = match part.encoding.as_str() {
        "7bit" | "8bit" | "binary" => None,
        encoding => decode(encoding, raw),
    };
    if decoded.is_none() && !matches!(part.encoding.as_str(), "7bit" | "8bit" | "binary") {
        walker.entry(child).defect(Defect::Unsupported);
    }
    let content = decoded.as_deref().unwrap_or(raw);
    walker.budget.spend(content.len(), raw.len() as u64, content.len() as u64)?;
    walker.look(child, content)?;
    if declared.starts_with("text/") || declared.is_empty() || declared == "application/octet-stream" {
        uuencoded(walker, child, content)?;
    }
    Ok(())
}

/// Every name the part has: of Content-Disposition, then of Content-Type. Clients differ in which they take.
fn names(index: &Index, number: u32) -> Vec<String> {
    let part = &index.parts[number as usize];
    let disposition = index.disposition(number);
    let mut found: Vec<String> = disposition.iter().filter_map(|given| parameter(&given.parameters, "filename")).collect();
    found.extend(parameter(&part.content_type.parameters, "name").filter(|name| !found.contains(name)));
    found
}

/// A parameter's value, RFC 2231 sections joined and decoded, RFC 2047 words decoded (which is wrong but common).
fn parameter(parameters: &[(Vec<u8>, Vec<u8>)], wanted: &str) -> Option<String> {
    let named =
        |name: &str| parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value.as_slice());
    if let Some(value) = named(&format!("{wanted}*")) {
        return Some(extended(value));
    }
    let mut joined = Vec::new();
    for section in 0..SECTIONS_MAX {
        if let Some(value) = named(&format!("{wanted}*{section}*")) {
            joined.extend(if section == 0 { extended(value).into_bytes() } else { percent(value) });
        } else if let Some(value) = named(&format!("{wanted}*{section}")) {
            joined.extend_from_slice(value);
        } else {
            break;
        }
    }
    if joined.is_empty() { named(wanted).map(header_text) } else { Some(text(&joined)) }
}

/// `charset'language'octets`
fn extended(value: &[u8]) -> String {
    let mut parts = value.splitn(3, |octet| *octet == b'\'');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(charset), Some(_), Some(octets)) => gatepost_mime::decode::charset(Some(charset), &percent(octets)),
        _ => text(&percent(value)),
    }
}

fn percent(value: &[u8]) -> Vec<u8> {
    let digit = |at: usize| value.get(at).and_then(|octet| (*octet as char).to_digit(16));
    let mut out = Vec::with_capacity(value.len());
    let mut at = 0;
    while at < value.len() {
        match (value[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                at += 3;
            }
            (octet, ..) => {
                out.push(octet);
                at += 1;
            }
        }
    }
    out
}

/// Files in a text between `begin MODE NAME` and `end`.
fn uuencoded(walker: &mut Walker, id: u32, content: &[u8]) -> Result<(), Stop> {
    let mut from = 0;
    for _ in 0..UU_MAX {
        let Some((start, name)) = begin(&content[from..]) else { return Ok(()) };
        let (octets, used) = uudecode(&content[from + start..]);
        from += start + used;
        walker.budget.spend(octets.len(), used as u64, octets.len() as u64)?;
        walker.child(id, &name, &octets)?;
    }
    Ok(())
}

/// The first `begin` line: where the lines of the file start, and its name.
fn begin(content: &[u8]) -> Option<(usize, String)> {
    for at in memchr::memmem::find_iter(content, b"begin ") {
        let line_end = memchr::memchr(b'\n', &content[at..]).map(|length| at + length)?;
        let line = content[at + 6..line_end].trim_ascii();
        let mode = line.iter().take_while(|octet| matches!(octet, b'0'..=b'7')).count();
        if (at == 0 || content[at - 1] == b'\n') && (3..=4).contains(&mode) && line.get(mode) == Some(&b' ') {
            return Some((line_end + 1, text(line[mode..].trim_ascii())));
        }
    }
    None
}

fn uudecode(content: &[u8]) -> (Vec<u8>, usize) {
    let mut out = Vec::new();
    let mut used = 0;
    for line in content.split_inclusive(|octet| *octet == b'\n') {
        used += line.len();
        let line = line.trim_ascii_end();
        let Some((&length, digits)) = line.split_first() else { break };
        if line == b"end" || !(b' '..=b'`').contains(&length) {
            break;
        }
        let start = out.len();
        for group in digits.chunks(4) {
            let bits = (0..4).fold(0u32, |bits, at| bits << 6 | u32::from(group.get(at).map_or(0, |octet| octet.wrapping_sub(32) & 63)));
            out.extend_from_slice(&bits.to_be_bytes()[1..]);
        }
        out.truncate(start + usize::from(length.wrapping_sub(32) & 63));
    }
    (out, used)
}
