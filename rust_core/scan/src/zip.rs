//! zip, and what is made of it (OOXML, ODF, jar): the directory's entries, and every local header the directory does not list.
//!
//! Readers differ in which of several headers they believe, so an entry is opened by its central header, and once more by its local one
//! where that names another method or length. Overlapping entries are opened as often as they are named; the budget ends that.

use std::ops::Range;

use crate::budget::Stop;
use crate::bytes::{Cursor, clamp, le16, le32};
use crate::office;
use crate::report::{Defect, Flags};
use crate::unpack::{self, Output};
use crate::walk::Walker;
use crate::zip_directory::{Header, central, find_end, local};

/// Open a zip, wherever in `data` it begins.
pub fn read(walker: &mut Walker, id: u32, data: &[u8]) -> Result<(), Stop> {
    let first_child = walker.entries.len();
    let mut used = Vec::new();
    match find_end(data) {
        Some(end) => {
            let shift = end.shift;
            if shift > 0 || !data.starts_with(b"PK") {
                walker.entry(id).defect(Defect::Prepended);
            }
            if end.after < data.len() {
                walker.entry(id).defect(Defect::Trailing);
            }
            let mut cursor = Cursor::new(clamp(data, end.directory as u64, end.size as u64));
            while let Some(header) = central(&mut cursor) {
                let at = header.place.saturating_add_signed(shift);
                used.push(listed(walker, id, data, &header, at)?);
            }
            if !cursor.rest().is_empty() {
                walker.entry(id).defect(Defect::Damaged);
            }
            used.push(end.directory as u64..end.after as u64);
        }
        None => walker.entry(id).defect(Defect::Truncated),
    }
    overlaps(walker, id, &mut used);
    unlisted(walker, id, data, &used)?;
    office::refine(walker, id, first_child);
    Ok(())
}

/// An entry of the central directory; the octets it takes.
fn listed(walker: &mut Walker, id: u32, data: &[u8], header: &Header, at: u64) -> Result<Range<u64>, Stop> {
    let name = header.name();
    let there = local(data, at);
    if name.ends_with('/') && header.packed == 0 && there.as_ref().is_none_or(|local| local.packed == 0) {
        walker.budget.tick()?;
        return Ok(at..there.map_or(at, |local| local.place));
    }
    let child = walker.enter(id, &name)?;
    if let Some(other) = header.other_name.as_ref().filter(|other| **other != name) {
        walker.entry(child).defect(Defect::NamesDiffer);
        walker.alias(child, other);
    }
    let Some(there) = there else {
        let entry = walker.entry(child);
        entry.size = header.size;
        entry.defect(Defect::Truncated);
        return Ok(at..at);
    };
    if there.raw_name != header.raw_name {
        walker.entry(child).defect(Defect::NamesDiffer);
        walker.alias(child, &there.name());
    }
    let body = clamp(data, there.place, header.packed);
    open(walker, child, header, body)?;
    let differs = there.method != header.method || !there.sizes_follow() && there.packed != header.packed;
    if differs && !there.is_encrypted() {
        let other = walker.enter(id, &there.name())?;
        walker.entry(other).defect(Defect::NamesDiffer);
        open(walker, other, &there, clamp(data, there.place, there.packed))?;
    }
    Ok(at..there.place.saturating_add(header.packed))
}

fn open(walker: &mut Walker, id: u32, header: &Header, body: &[u8]) -> Result<(), Stop> {
    if header.is_encrypted() {
        let entry = walker.entry(id);
        entry.flags.set(Flags::ENCRYPTED);
        entry.size = header.size;
        return Ok(());
    }
    let declared = Some(header.size).filter(|_| !(header.sizes_follow() && header.size == 0));
    if header.method == 0 {
        unpack::stored(&mut walker.budget, body)?;
        if declared.is_some_and(|size| size != body.len() as u64) {
            walker.entry(id).defect(Defect::SizeDiffers);
        }
        return walker.look(id, body);
    }
    if let Some(output) = decode(walker, header, body)? {
        return walker.unpacked(id, &output, declared);
    }
    let entry = walker.entry(id);
    entry.size = header.size;
    entry.defect(Defect::Unsupported);
    Ok(())
}

/// By compression method (APPNOTE 4.4.5).
fn decode(walker: &mut Walker, header: &Header, body: &[u8]) -> Result<Option<Output>, Stop> {
    let budget = &mut walker.budget;
    Ok(Some(match header.method {
        8 => unpack::deflate(budget, body, false)?,
        9 => unpack::deflate64(budget, body)?,
        12 => unpack::bzip2(budget, body)?,
        14 => match (le16(body, 2), body.get(4), le32(body, 5)) {
            // Version, length of properties, properties; bit 1 says that an end mark follows instead of a known size.
            (Some(5), Some(&properties), Some(dictionary)) => {
                let size = if header.bits & 2 != 0 { u64::MAX } else { header.size };
                unpack::lzma(budget, &body[9..], properties, dictionary, size)?
            }
            _ => return Ok(None),
        },
        20 | 93 => unpack::zstd(budget, body)?,
        95 => crate::xz::read(budget, body)?,
        _ => return Ok(None),
    }))
}

/// Entries that share octets.
fn overlaps(walker: &mut Walker, id: u32, used: &mut [Range<u64>]) {
    used.sort_by_key(|range| (range.start, range.end));
    if used.windows(2).any(|pair| pair[1].start < pair[0].end && pair[1].start < pair[1].end) {
        walker.entry(id).defect(Defect::Overlap);
    }
}

/// Local headers in octets that no listed entry takes: a reader that streams sees them.
fn unlisted(walker: &mut Walker, id: u32, data: &[u8], used: &[Range<u64>]) -> Result<(), Stop> {
    let mut taken = 0;
    let mut behind = 0u64;
    for at in memchr::memmem::find_iter(data, b"PK\x03\x04").map(|at| at as u64) {
        while used.get(taken).is_some_and(|range| range.start <= at) {
            behind = behind.max(used[taken].end);
            taken += 1;
        }
        if at < behind || used.binary_search_by_key(&at, |range| range.start).is_ok() {
            continue;
        }
        let Some(header) = local(data, at).filter(|header| !header.raw_name.is_empty() && header.method < 100) else { continue };
        let child = walker.enter(id, &header.name())?;
        walker.entry(child).defect(Defect::Unlisted);
        let length = if header.sizes_follow() && header.packed == 0 { until_next(data, header.place) } else { header.packed };
        open(walker, child, &header, clamp(data, header.place, length))?;
        behind = behind.max(header.place.saturating_add(length));
    }
    Ok(())
}

/// Octets up to the next mark of a zip.
fn until_next(data: &[u8], from: u64) -> u64 {
    let rest = clamp(data, from, u64::MAX);
    let marks = memchr::memmem::find_iter(rest, b"PK")
        .find(|&at| matches!(rest.get(at + 2..at + 4), Some(b"\x03\x04" | b"\x01\x02" | b"\x07\x08")));
    marks.unwrap_or(rest.len()) as u64
}
