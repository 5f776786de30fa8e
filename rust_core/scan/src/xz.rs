//! The xz container: streams of blocks of LZMA2. Read here and not by the decoder's crate, so that a dictionary size is a request, not an allocation.
//!
//! Checks and the index are passed over, not verified: damage shows in the LZMA2 data. Filters before LZMA2 (BCJ, delta) are named unsupported.

use crate::budget::{Budget, Stop};
use crate::bytes::{Cursor, clamp, le32};
use crate::unpack::{Output, Sink, lzma2_dictionary, lzma2_into};

const MAGIC: &[u8] = b"\xfd7zXZ\0";
/// Octets of a check by its id (xz format 2.1.1.2).
const CHECKS: [usize; 16] = [0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64];

/// All streams of a file.
pub fn read(budget: &mut Budget, input: &[u8]) -> Result<Output, Stop> {
    let mut sink = Sink::new(budget, input.len());
    let mut at = 0;
    let mut sound = false;
    while input.get(at..at + 12).is_some_and(|header| header.starts_with(MAGIC)) {
        let check = CHECKS[usize::from(input[at + 7] & 15)];
        let (end, ended) = stream(&mut sink, input, at + 12, check)?;
        (at, sound) = (end, ended);
        if !ended {
            break;
        }
        while input.get(at) == Some(&0) {
            at += 1;
        }
    }
    Ok(sink.done(at, sound))
}

/// Blocks up to the index; where the stream ends.
fn stream(sink: &mut Sink<'_>, input: &[u8], mut at: usize, check: usize) -> Result<(usize, bool), Stop> {
    loop {
        sink.tick()?;
        let Some(&size) = input.get(at) else { return Ok((at, false)) };
        if size == 0 {
            return Ok(index_end(input, at).map_or((at, false), |end| (end, true)));
        }
        let length = (usize::from(size) + 1) * 4;
        let Some(dictionary) = input.get(at..at + length).and_then(block_dictionary) else { return Ok((at, false)) };
        let body = at + length;
        let (used, sound) = lzma2_into(sink, &input[body..], dictionary)?;
        if !sound {
            return Ok((body + used, false));
        }
        at = body + used.next_multiple_of(4) + check;
    }
}

/// The dictionary of a block whose only filter is LZMA2.
fn block_dictionary(header: &[u8]) -> Option<u64> {
    let mut cursor = Cursor::new(header);
    cursor.u8()?;
    let flags = cursor.u8()?;
    if flags & 0x40 != 0 {
        number(&mut cursor)?;
    }
    if flags & 0x80 != 0 {
        number(&mut cursor)?;
    }
    if flags & 3 != 0 || number(&mut cursor)? != 0x21 || number(&mut cursor)? != 1 {
        return None;
    }
    lzma2_dictionary(cursor.u8()?)
}

/// Seven bits an octet, lowest first.
fn number(cursor: &mut Cursor<'_>) -> Option<u64> {
    let mut value = 0;
    for shift in 0..9 {
        let octet = cursor.u8()?;
        value |= u64::from(octet & 0x7f) << (shift * 7);
        if octet & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Behind index and footer. The footer says how long the index is; it is looked for, as the index is not read.
fn index_end(input: &[u8], at: usize) -> Option<usize> {
    let footer = memchr::memmem::find_iter(&input[at..], b"YZ").map(|found| at + found).find(|&found| {
        let backward = found.checked_sub(6).and_then(|place| le32(input, place)).map_or(0, |words| (u64::from(words) + 1) * 4);
        found >= at + 10 && backward == (found - 10 - at) as u64 && !clamp(input, found as u64, 2).is_empty()
    })?;
    Some(footer + 2)
}
