//! RTF objects, Word's `ActiveMime`, and shortcuts (.lnk, .url).

use crate::budget::Stop;
use crate::bytes::{Cursor, Words, clamp, le16, le32, text, utf16le};
use crate::ole;
use crate::report::{Defect, Flags};
use crate::unpack;
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
        let (class, body) = object(&octets).unwrap_or_default();
        let file = ole::packed(body).filter(|_| class.eq_ignore_ascii_case("package"));
        match file {
            Some((name, file)) => walker.child(id, &name, file)?,
            None if body.is_empty() => walker.child(id, "object", &octets)?,
            None => walker.child(id, "object", body)?,
        };
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

/// An OLE 1 object (MS-OLEDS 2.2.5): version, kind, class, topic, item, size, content. Its class and content.
fn object(octets: &[u8]) -> Option<(String, &[u8])> {
    let mut cursor = Cursor::new(octets);
    cursor.take(8)?;
    let length = cursor.u32()? as usize;
    let class = text(cursor.take(length)?.split(|&octet| octet == 0).next()?);
    for _ in 0..2 {
        let length = cursor.u32()? as usize;
        cursor.take(length)?;
    }
    let size = cursor.u32()?;
    let body = clamp(cursor.rest(), 0, u64::from(size));
    (!body.is_empty()).then_some((class, body))
}

/// Places of a header that may begin the stream of an `ActiveMime` file, and how far behind its mark.
const WRAPPED: std::ops::Range<usize> = 12..256;

/// `editdata.mso`, which documents saved as a web page or as XML carry their macros in: a header, and a compound file in zlib.
pub fn active_mime(walker: &mut Walker, id: u32, data: &[u8]) -> Result<(), Stop> {
    let is_zlib = |at: &usize| data.get(*at) == Some(&0x78) && be16(data, *at).is_some_and(|head| head.is_multiple_of(31));
    for at in WRAPPED.filter(is_zlib) {
        let output = unpack::deflate(&mut walker.budget, &data[at..], true)?;
        if output.total > 0 {
            let child = walker.enter(id, "editdata")?;
            return walker.unpacked(child, &output, None);
        }
    }
    walker.entry(id).defect(Defect::Damaged);
    Ok(())
}

fn be16(data: &[u8], at: usize) -> Option<u16> {
    le16(data, at).map(u16::swap_bytes)
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
        strings.push(if width == 2 { utf16le(octets) } else { text(octets) });
        at = at.saturating_add(2 + octets.len());
    }
    strings
}

fn url(data: &[u8]) -> Vec<String> {
    let head = String::from_utf8_lossy(clamp(data, 0, 8 << 10)).into_owned();
    head.lines().filter(|line| line.to_ascii_lowercase().starts_with("url=")).map(|line| line[4..].to_owned()).collect()
}
