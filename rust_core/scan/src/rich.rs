//! RTF objects, and shortcuts (.lnk, .url).

use crate::budget::Stop;
use crate::bytes::{Words, clamp, le16, le32, utf16le};
use crate::report::Flags;
use crate::walk::Walker;

/// Objects of one document.
const OBJECTS_MAX: usize = 256;

/// Hex data of objects becomes entries, however it is broken up.
pub fn rtf(walker: &mut Walker, id: u32, data: &[u8]) -> Result<(), Stop> {
    let signs = [("\\objupdate", "rtf:objupdate"), ("\\objautlink", "rtf:link"), ("\\*\\template", "rtf:template")];
    let words = Words::find(data, signs.map(|(word, _)| word));
    for (word, sign) in signs {
        if words.has(word) {
            let entry = walker.entry(id);
            entry.flags.set(Flags::LAUNCH);
            entry.sign(sign);
        }
    }
    let mut from = 0;
    for _ in 0..OBJECTS_MAX {
        let Some(at) = memchr::memmem::find(&data[from..], b"objdata").map(|at| from + at + 7) else { break };
        let (octets, used) = hex(&data[at..]);
        from = at + used;
        walker.entry(id).flags.set(Flags::EMBEDS);
        walker.child(id, "object", object(&octets))?;
    }
    walker.budget.tick()
}

/// Hex digits up to the end of the group. Readers pass over groups and control words between them, and whatever is no digit.
fn hex(text: &[u8]) -> (Vec<u8>, usize) {
    let mut octets = Vec::new();
    let (mut high, mut inner, mut at) = (None, 0usize, 0);
    while let Some(&octet) = text.get(at) {
        at += 1;
        match octet {
            b'{' => inner += 1,
            b'}' if inner == 0 => break,
            b'}' => inner -= 1,
            b'\\' => at += text[at..].iter().position(|octet| !octet.is_ascii_alphanumeric() && *octet != b'-').unwrap_or(0).min(40),
            _ if inner > 0 => {}
            _ => match ((octet as char).to_digit(16), high) {
                (Some(low), Some(first)) => {
                    octets.push((first << 4 | low) as u8);
                    high = None;
                }
                (Some(first), None) => high = Some(first),
                (None, _) => {}
            },
        }
    }
    (octets, at)
}

/// An OLE 1 object: version, kind, class, topic, item, size, content. What is not one is taken whole.
fn object(octets: &[u8]) -> &[u8] {
    let mut cursor = crate::bytes::Cursor::new(octets);
    let parsed = (|| {
        cursor.take(8)?;
        for _ in 0..3 {
            let length = cursor.u32()? as usize;
            cursor.take(length)?;
        }
        let size = cursor.u32()?;
        Some(clamp(cursor.rest(), 0, u64::from(size)))
    })();
    parsed.filter(|body| !body.is_empty()).unwrap_or(octets)
}

/// What a shortcut starts, as far as its strings tell (MS-SHLLINK).
pub fn shortcut(walker: &mut Walker, id: u32, data: &[u8]) -> Result<(), Stop> {
    let target = if data.starts_with(b"L\0\0\0") { link_strings(data) } else { url(data) };
    let entry = walker.entry(id);
    entry.flags.set(Flags::LAUNCH);
    target.iter().filter(|text| !text.is_empty()).for_each(|text| entry.sign(format!("link:{text}")));
    walker.budget.tick()
}

fn link_strings(data: &[u8]) -> Vec<String> {
    let Some(flags) = le32(data, 20) else { return Vec::new() };
    let mut at = 76usize;
    if flags & 1 != 0 {
        at += 2 + usize::from(le16(data, at).unwrap_or(0));
    }
    if flags & 2 != 0 {
        at = at.saturating_add(le32(data, at).unwrap_or(0) as usize);
    }
    let mut strings = Vec::new();
    let width = if flags & 0x80 != 0 { 2 } else { 1 };
    for bit in [4, 8, 16, 32, 64] {
        let Some(length) = le16(data, at).filter(|_| flags & bit != 0) else { continue };
        let octets = clamp(data, at as u64 + 2, u64::from(length) * width);
        strings.push(if width == 2 { utf16le(octets) } else { crate::bytes::text(octets) });
        at = at.saturating_add(2 + octets.len());
    }
    strings
}

fn url(data: &[u8]) -> Vec<String> {
    let head = String::from_utf8_lossy(clamp(data, 0, 8 << 10)).into_owned();
    head.lines().filter(|line| line.to_ascii_lowercase().starts_with("url=")).map(|line| line[4..].to_owned()).collect()
}
