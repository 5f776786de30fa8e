//! `BinHex` 4.0 (RFC 1741 appendix A) within text. Called by `uuencode::find`; damaged files give what is there, checksums are not looked at.

use memchr::memchr;
use memchr::memmem::Finder;

use crate::decode;
use crate::uuencode::{Coding, File};

/// Octets decoded at most: runs may make a file a hundred times longer than its text.
const DECODED_MAX: usize = 64 << 20;
const MARK: &[u8] = b"(This file must be converted with BinHex";
const DIGITS: &[u8; 64] = b"!\"#$%&'()*+,-012345689@ABCDEFGHIJKLMNPQRSTUVXYZ[`abcdefhijklmpqr";
const RUN: u8 = 0x90;

/// The data fork.
pub(crate) struct Decoded {
    pub name: Vec<u8>,
    pub data: Vec<u8>,
    /// There is more than is decoded.
    pub cut: bool,
}

/// Add at most `most` files; false when there is none.
pub(crate) fn find(text: &[u8], most: usize, found: &mut Vec<File>) -> bool {
    let finder = Finder::new(MARK);
    let (mut from, mut count) = (0, 0);
    while let Some(begin) = finder.find(&text[from..]).map(|n| n + from) {
        from = begin + MARK.len();
        let Some(open) = memchr(b':', &text[from..]).map(|n| n + from + 1) else { break };
        let end = memchr(b':', &text[open..]).map(|n| n + open);
        let body = open..end.unwrap_or(text.len());
        from = body.end;
        // The name alone is wanted here.
        let head = &text[open..body.end.min(open + 400)];
        if let Some(file) = decode(head) {
            found.push(File { name: decode::guess(&file.name), begin, body, ended: end.is_some(), coding: Coding::BinHex });
            count += 1;
        }
        if count == most {
            break;
        }
    }
    count > 0
}

/// What stands between the colons.
pub(crate) fn decode(body: &[u8]) -> Option<Decoded> {
    let packed = six_bits(body);
    let mut out = Vec::new();
    let mut cut = false;
    let mut rest = packed.iter();
    while let Some(&byte) = rest.next() {
        match (byte, if byte == RUN { rest.next() } else { None }) {
            (RUN, Some(0)) => out.push(RUN),
            (RUN, Some(&times)) => {
                let last = out.last().copied().unwrap_or(0);
                out.resize(out.len() + usize::from(times) - 1, last);
            }
            (RUN, None) => {}
            _ => out.push(byte),
        }
        if out.len() > DECODED_MAX {
            cut = true;
            break;
        }
    }
    let length = usize::from(*out.first()?);
    // Name, version, type, creator, flags, length of the data, length of the resources, checksum.
    let (name, head) = out.get(1..)?.split_at_checked(length)?;
    let size = u32::from_be_bytes(head.get(11..15)?.try_into().ok()?) as usize;
    let data = head.get(21..).unwrap_or_default();
    Some(Decoded { name: name.to_vec(), data: data[..data.len().min(size)].to_vec(), cut })
}

fn six_bits(body: &[u8]) -> Vec<u8> {
    let mut table = [64u8; 256];
    for (value, &digit) in DIGITS.iter().enumerate() {
        table[usize::from(digit)] = value as u8;
    }
    let mut out = Vec::with_capacity(body.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0u32);
    for value in body.iter().map(|&b| table[usize::from(b)]).filter(|&v| v < 64) {
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_binhex_is_found_with_its_name_and_runs_are_undone() {
        // Name "a.b", data "AAAAAZ" as a run of five.
        let packed = b"\x03a.b\0APPLMSWD\0\0\0\0\0\x06\0\0\0\0\0\0A\x90\x05Z\0\0";
        let mut text = b"hello\n(This file must be converted with BinHex 4.0)\n\n:".to_vec();
        for group in packed.chunks(3) {
            let bits = group.iter().fold(0u32, |bits, &b| bits << 8 | u32::from(b)) << (8 * (3 - group.len()));
            (0..=group.len()).for_each(|n| text.push(DIGITS[(bits >> (18 - 6 * n) & 63) as usize]));
        }
        text.extend_from_slice(b":\n");
        let mut files = Vec::new();
        assert!(find(&text, 9, &mut files));
        assert_eq!((files[0].name.as_str(), files[0].ended, files[0].content(&text).0), ("a.b", true, b"AAAAAZ".to_vec()));
    }
}
