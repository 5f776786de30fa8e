//! S/MIME (RFC 8551) and what else is CMS (RFC 5652): told as encrypted, or its signed or compressed content is opened. BER, as far as
//! writers use it: long and indefinite lengths, octet strings in pieces.
//!
//! Called by the walk. What does not read well has the defect `damaged`. Depths are bounded, and no octet is looked at more often than that.

use crate::budget::Stop;
use crate::report::{Defect, Flags};
use crate::unpack;
use crate::walk::Walker;

/// Values within values.
const DEPTH_MAX: u32 = 24;
/// id-signedData, id-envelopedData … (RFC 5652): one octet more says which.
const PKCS7: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x07";
/// id-ct of S/MIME: authEnvelopedData (RFC 5083) is 23, compressedData (RFC 3274) 9.
const SMIME: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x01";
const OID: u8 = 0x06;
const OCTETS: u8 = 0x04;
const OCTETS_IN_PIECES: u8 = 0x24;
const SEQUENCE: u8 = 0x30;
const EXPLICIT_0: u8 = 0xa0;

/// What a `ContentInfo` holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Data,
    Signed,
    Encrypted,
    Compressed,
}

fn content_of(oid: &[u8]) -> Option<Content> {
    match (oid.strip_prefix(PKCS7), oid.strip_prefix(SMIME)) {
        (Some([1]), _) => Some(Content::Data),
        (Some([2 | 5]), _) => Some(Content::Signed),
        (Some([3 | 4 | 6]), _) | (_, Some([23])) => Some(Content::Encrypted),
        (_, Some([9])) => Some(Content::Compressed),
        _ => None,
    }
}

/// Whether octets begin as a `ContentInfo` does.
pub fn is_cms(data: &[u8]) -> bool {
    data.first() == Some(&SEQUENCE) && info(data).is_some()
}

/// Open a `ContentInfo`.
pub fn read(walker: &mut Walker, id: u32, data: &[u8]) -> Result<(), Stop> {
    let Some((content, inner)) = info(data) else {
        walker.entry(id).defect(Defect::Damaged);
        return Ok(());
    };
    if content == Content::Encrypted {
        let entry = walker.entry(id);
        entry.flags.set(Flags::ENCRYPTED);
        entry.sign("smime:encrypted");
        return Ok(());
    }
    let found = if content == Content::Data { octets(inner) } else { encapsulated(inner) };
    // A signature beside what is signed has no content.
    let Some(found) = found else { return Ok(()) };
    walker.budget.spend(found.len(), data.len() as u64, found.len() as u64)?;
    let mail = ["message/rfc822".to_owned()];
    if content == Content::Compressed {
        let output = unpack::deflate(&mut walker.budget, &found, true)?;
        let child = walker.stored_as(id, &[], &mail, &output.data)?;
        if !output.sound || !output.is_whole() {
            walker.entry(child).defect(if output.sound { Defect::TooLarge } else { Defect::Damaged });
        }
        return Ok(());
    }
    walker.stored_as(id, &[], &mail, &found).map(drop)
}

/// `SEQUENCE { OID, [0] content }`: which, and what is in the brackets.
fn info(data: &[u8]) -> Option<(Content, &[u8])> {
    let mut outer = Values(value(data, 0)?.content);
    let oid = outer.next().filter(|v| v.tag == OID)?;
    let content = content_of(oid.content)?;
    Some((content, outer.next().filter(|v| v.tag == EXPLICIT_0).map_or(&[], |v| v.content)))
}

/// The content within `SignedData`, `DigestedData`, `CompressedData`: the first SEQUENCE of an OID and a `[0]`.
fn encapsulated(data: &[u8]) -> Option<Vec<u8>> {
    let body = value(data, 0)?.content;
    let content = Values(body).take(8).filter(|v| v.tag == SEQUENCE).find_map(|v| {
        let mut inner = Values(v.content);
        inner.next().filter(|v| v.tag == OID)?;
        inner.next().filter(|v| v.tag == EXPLICIT_0)
    })?;
    octets(content.content)
}

/// An octet string, its pieces joined. PKCS #7 has other values there, too: they are taken as they are.
fn octets(data: &[u8]) -> Option<Vec<u8>> {
    let found = value(data, 0)?;
    let mut out = Vec::new();
    match found.tag {
        OCTETS | OCTETS_IN_PIECES => join(&found, &mut out, 0),
        _ => out.extend_from_slice(found.content),
    }
    Some(out)
}

fn join(found: &Value<'_>, out: &mut Vec<u8>, depth: u32) {
    match found.tag {
        OCTETS => out.extend_from_slice(found.content),
        OCTETS_IN_PIECES if depth < DEPTH_MAX => Values(found.content).for_each(|piece| join(&piece, out, depth + 1)),
        _ => {}
    }
}

/// One BER value. The content of an indefinite one goes to the end of what there is; [`Values`] stops at its end mark.
struct Value<'a> {
    tag: u8,
    content: &'a [u8],
    rest: &'a [u8],
}

fn value(data: &[u8], depth: u32) -> Option<Value<'_>> {
    let (&tag, rest) = data.split_first()?;
    let (&first, rest) = rest.split_first()?;
    if tag & 0x1f == 0x1f || depth > DEPTH_MAX {
        return None;
    }
    if first == 0x80 {
        return Some(Value { tag, content: rest, rest: behind(rest, depth) });
    }
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        let octets = rest.get(..count).filter(|octets| octets.len() <= 4)?;
        (octets.iter().fold(0, |length, &octet| length << 8 | usize::from(octet)), &rest[count..])
    };
    // What was cut off is not there; the beginning still is.
    let (content, rest) = rest.split_at(length.min(rest.len()));
    Some(Value { tag, content, rest })
}

/// What follows the end mark of an indefinite value.
fn behind(mut data: &[u8], depth: u32) -> &[u8] {
    loop {
        match data {
            [0, 0, rest @ ..] => return rest,
            _ => match value(data, depth + 1) {
                Some(found) => data = found.rest,
                None => return &[],
            },
        }
    }
}

/// Values behind each other, up to the end or the end mark.
struct Values<'a>(&'a [u8]);

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        let found = value(self.0, 0).filter(|found| found.tag != 0)?;
        self.0 = found.rest;
        Some(found)
    }
}
