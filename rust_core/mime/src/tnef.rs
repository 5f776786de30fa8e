//! TNEF (winmail.dat, MS-OXTNEF): the files in it as ranges, with every name they carry. Nothing is copied but names; each length is
//! checked before it is believed, and what breaks off ends the list.

use std::ops::Range;

use crate::decode;

const SIGNATURE: u32 = 0x223e_9f78;
const REND_DATA: u32 = 0x0006_9002;
const TITLE: u32 = 0x0001_8010;
const DATA: u32 = 0x0006_800f;
const PROPERTIES: u32 = 0x0006_9005;
/// Ids of the properties with a name: long file name, file name, display name.
const NAMES: [u32; 3] = [0x3707, 0x3704, 0x3001];
const MIME_TAG: u32 = 0x370e;
const OBJECT: u32 = 0x3701;
/// Files and values of a property that are looked at.
const COUNT_MAX: usize = 4_096;

/// A file in a TNEF stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// Names, the long one first.
    pub names: Vec<String>,
    /// The type it says it has.
    pub mime_type: Option<String>,
    /// Its octets in the stream.
    pub range: Range<usize>,
    /// An embedded message: `range` is TNEF again.
    pub embedded: bool,
}

/// What a stream holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Files in order.
    pub files: Vec<File>,
    /// It breaks off or lies about a length; more may have been meant.
    pub broken: bool,
}

/// True when the octets begin as TNEF does.
pub fn is_tnef(data: &[u8]) -> bool {
    u32_at(data, 0) == Some(SIGNATURE)
}

/// Files of a TNEF stream; `None` when it is none.
pub fn attachments(data: &[u8]) -> Option<Contents> {
    if !is_tnef(data) {
        return None;
    }
    let mut contents = Contents::default();
    let mut open: Option<Pending> = None;
    let mut at = 6;
    while contents.files.len() < COUNT_MAX {
        let Some((attribute, body)) = record(data, at) else { break };
        at = body.end + 2;
        if attribute == REND_DATA {
            close(&mut contents, open.take());
        }
        let file = open.get_or_insert_default();
        match attribute {
            TITLE => file.names.push(string(&data[body])),
            DATA => file.data = Some(body),
            PROPERTIES => contents.broken |= properties(data, body, file).is_none(),
            _ => {}
        }
    }
    contents.broken |= at < data.len();
    close(&mut contents, open);
    Some(contents)
}

#[derive(Default)]
struct Pending {
    names: Vec<String>,
    mime_type: Option<String>,
    data: Option<Range<usize>>,
    object: Option<Range<usize>>,
}

fn close(contents: &mut Contents, file: Option<Pending>) {
    let Some(file) = file else { return };
    let mut names: Vec<String> = file.names;
    names.retain(|n| !n.is_empty());
    names.reverse();
    names.dedup();
    // Readers show one of the two, and not all the same.
    for (range, embedded) in [(file.object, true), (file.data, false)] {
        if let Some(range) = range {
            contents.files.push(File { names: names.clone(), mime_type: file.mime_type.clone(), range, embedded });
        }
    }
}

/// Level, attribute, length, octets, checksum.
fn record(data: &[u8], at: usize) -> Option<(u32, Range<usize>)> {
    let attribute = u32_at(data, at.checked_add(1)?)?;
    let start = at + 9;
    let end = start.checked_add(u32_at(data, at + 5)? as usize)?;
    (end.checked_add(2)? <= data.len()).then_some((attribute, start..end))
}

fn properties(data: &[u8], body: Range<usize>, file: &mut Pending) -> Option<()> {
    let data = &data[..body.end];
    let mut at = body.start;
    let count = take_u32(data, &mut at)?;
    for _ in 0..count.min(COUNT_MAX as u32) {
        let tag = take_u32(data, &mut at)?;
        let value = property(data, tag, &mut at)?;
        let (id, kind) = (tag >> 16, tag & 0x0fff);
        match id {
            _ if NAMES.contains(&id) => file.names.push(typed(&data[value], kind)),
            MIME_TAG => file.mime_type = Some(typed(&data[value], kind).to_ascii_lowercase()),
            // An object begins with the id of its interface.
            OBJECT if kind == 0x0d && value.len() > 16 => file.object = Some(value.start + 16..value.end),
            OBJECT if kind == 0x0102 => file.data = file.data.take().or(Some(value)),
            _ => {}
        }
    }
    Some(())
}

/// The last value of a property; `at` moves behind all of them.
fn property(data: &[u8], tag: u32, at: &mut usize) -> Option<Range<usize>> {
    if tag >> 16 >= 0x8000 {
        skip(data, at, 16)?;
        if take_u32(data, at)? == 0 {
            skip(data, at, 4)?;
        } else {
            let length = take_u32(data, at)? as usize;
            skip(data, at, length.checked_next_multiple_of(4)?)?;
        }
    }
    let fixed = match tag & 0x0fff {
        1 => Some(0),
        2 | 3 | 4 | 0x0a | 0x0b => Some(4),
        5 | 6 | 7 | 0x14 | 0x40 => Some(8),
        0x48 => Some(16),
        _ => None,
    };
    let many = tag & 0x1000 != 0 || fixed.is_none();
    let count = if many { take_u32(data, at)? } else { 1 };
    let mut value = *at..*at;
    for _ in 0..count.min(COUNT_MAX as u32) {
        let length = if let Some(length) = fixed { length } else { take_u32(data, at)? as usize };
        value = *at..at.checked_add(length)?;
        let padded = if fixed.is_some() { length } else { length.checked_next_multiple_of(4)? };
        skip(data, at, padded)?;
    }
    Some(value)
}

fn skip(data: &[u8], at: &mut usize, count: usize) -> Option<()> {
    let end = at.checked_add(count)?;
    (end <= data.len()).then(|| *at = end)
}

fn take_u32(data: &[u8], at: &mut usize) -> Option<u32> {
    let number = u32_at(data, *at)?;
    *at += 4;
    Some(number)
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

fn string(octets: &[u8]) -> String {
    decode::guess(octets.split(|&b| b == 0).next().unwrap_or_default())
}

fn typed(octets: &[u8], kind: u32) -> String {
    if kind != 0x1f {
        return string(octets);
    }
    let units = octets.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).take_while(|&u| u != 0);
    char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(tag: u32, body: &[u8]) -> Vec<u8> {
        [&[2u8][..], &tag.to_le_bytes(), &(body.len() as u32).to_le_bytes(), body, &[0, 0]].concat()
    }

    fn sample() -> Vec<u8> {
        let long: Vec<u8> = "lang.exe\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut properties = [1u32, 0x3707_001f, 1, long.len() as u32].map(u32::to_le_bytes).concat();
        properties.extend_from_slice(&long);
        properties.resize(properties.len().next_multiple_of(4), 0);
        let head = [&SIGNATURE.to_le_bytes()[..], &[1, 0]].concat();
        [head, attribute(REND_DATA, b""), attribute(TITLE, b"LANG~1.TXT\0"), attribute(DATA, b"body"), attribute(PROPERTIES, &properties)]
            .concat()
    }

    #[test]
    fn files_have_all_their_names_and_their_place() {
        let data = sample();
        let contents = attachments(&data).unwrap();
        assert!(!contents.broken);
        assert_eq!(contents.files[0].names, ["lang.exe", "LANG~1.TXT"]);
        assert_eq!(&data[contents.files[0].range.clone()], b"body");
    }

    #[test]
    fn whatever_is_cut_off_is_told_and_nothing_panics() {
        let data = sample();
        for end in 6..data.len() {
            assert!(attachments(&data[..end]).unwrap().broken || end == 6 || data[..end].len() < data.len());
        }
        assert_eq!(attachments(b"PK"), None);
    }
}
