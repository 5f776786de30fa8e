//! RAR 4 and 5: names, sizes and encryption of entries; contents of stored ones. Compressed contents are named unsupported.

use crate::budget::Stop;
use crate::bytes::{Cursor, clamp, le16, le32, text};
use crate::report::{Defect, Flags};
use crate::walk::Walker;

const MARK4: &[u8] = b"Rar!\x1a\x07\0";
const MARK5: &[u8] = b"Rar!\x1a\x07\x01\0";

/// Open an archive that starts at the start of `data`.
pub fn read(walker: &mut Walker, id: u32, data: &[u8]) -> Result<(), Stop> {
    let sound = if data.starts_with(MARK5) {
        read5(walker, id, &data[MARK5.len()..])?
    } else {
        read4(walker, id, data.get(MARK4.len()..).unwrap_or(&[]))?
    };
    if !sound {
        walker.entry(id).defect(Defect::Truncated);
    }
    Ok(())
}

struct Found<'a> {
    name: String,
    size: u64,
    encrypted: bool,
    stored: bool,
    content: &'a [u8],
}

fn entry(walker: &mut Walker, id: u32, found: &Found<'_>) -> Result<(), Stop> {
    if found.stored && !found.encrypted {
        let child = walker.child(id, &found.name, found.content)?;
        if found.content.len() as u64 != found.size {
            walker.entry(child).defect(Defect::SizeDiffers);
        }
        return Ok(());
    }
    let child = walker.enter(id, &found.name)?;
    let entry = walker.entry(child);
    entry.size = found.size;
    if found.encrypted {
        entry.flags.set(Flags::ENCRYPTED);
    } else {
        entry.defect(Defect::Unsupported);
    }
    Ok(())
}

fn closed(walker: &mut Walker, id: u32) {
    let entry = walker.entry(id);
    entry.flags.set(Flags::ENCRYPTED);
    entry.sign("rar:names-encrypted");
}

/// Blocks of the old format; `false` when they end without an end.
fn read4(walker: &mut Walker, id: u32, data: &[u8]) -> Result<bool, Stop> {
    let mut at = 0u64;
    loop {
        walker.budget.tick()?;
        let block = clamp(data, at, u64::MAX);
        if block.is_empty() {
            return Ok(true);
        }
        let (Some(&kind), Some(flags), Some(size)) = (block.get(2), le16(block, 3), le16(block, 5)) else { return Ok(false) };
        let packed = if flags & 0x8000 != 0 || kind == 0x74 { u64::from(le32(block, 7).unwrap_or(0)) } else { 0 };
        let mut body = packed;
        match kind {
            0x73 if flags & 0x80 != 0 => {
                closed(walker, id);
                return Ok(true);
            }
            0x74 => match file4(block, flags, usize::from(size)) {
                Some((found, length)) => {
                    body = length;
                    entry(walker, id, &found)?;
                }
                None => return Ok(false),
            },
            0x7b => return Ok(true),
            0x72..=0x7a => {}
            _ => return Ok(false),
        }
        if size < 7 {
            return Ok(false);
        }
        at = at.saturating_add(u64::from(size)).saturating_add(body);
    }
}

fn file4(block: &[u8], flags: u16, header: usize) -> Option<(Found<'_>, u64)> {
    let mut cursor = Cursor::new(block.get(..header)?);
    cursor.take(7)?;
    let (mut packed, mut size) = (u64::from(cursor.u32()?), u64::from(cursor.u32()?));
    cursor.take(10)?;
    let method = cursor.u8()?;
    let name_length = cursor.u16()?;
    cursor.take(4)?;
    if flags & 0x100 != 0 {
        packed |= u64::from(cursor.u32()?) << 32;
        size |= u64::from(cursor.u32()?) << 32;
    }
    // With 0x200 the name is plain up to a NUL, then an encoding of its Unicode form.
    let name = text(cursor.take(usize::from(name_length))?);
    let content = clamp(block, header as u64, packed);
    Some((Found { name, size, encrypted: flags & 4 != 0, stored: method == 0x30, content }, packed))
}

/// Seven bits an octet, lowest first.
fn number(cursor: &mut Cursor<'_>) -> Option<u64> {
    let mut value = 0u64;
    for shift in 0..10 {
        let octet = cursor.u8()?;
        value |= u64::from(octet & 0x7f).checked_shl(shift * 7).unwrap_or(0);
        if octet & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn read5(walker: &mut Walker, id: u32, data: &[u8]) -> Result<bool, Stop> {
    let mut at = 0u64;
    loop {
        walker.budget.tick()?;
        let rest = clamp(data, at, u64::MAX);
        if rest.is_empty() {
            return Ok(true);
        }
        let Some(block) = block5(rest) else { return Ok(false) };
        match block.kind {
            4 => {
                closed(walker, id);
                return Ok(true);
            }
            5 => return Ok(true),
            2 => match file5(&block) {
                Some(found) => entry(walker, id, &found)?,
                None => return Ok(false),
            },
            _ => {}
        }
        at = at.saturating_add(block.length).saturating_add(block.data.len() as u64);
    }
}

struct Block<'a> {
    kind: u64,
    /// Behind type, flags and sizes.
    fields: &'a [u8],
    extra: &'a [u8],
    /// Octets of the whole header.
    length: u64,
    data: &'a [u8],
}

fn block5(rest: &[u8]) -> Option<Block<'_>> {
    let mut cursor = Cursor::new(rest);
    cursor.take(4)?;
    let size = usize::try_from(number(&mut cursor)?).ok()?;
    let start = cursor.at();
    let header = cursor.take(size)?;
    let mut fields = Cursor::new(header);
    let (kind, flags) = (number(&mut fields)?, number(&mut fields)?);
    let extra = if flags & 1 != 0 { usize::try_from(number(&mut fields)?).ok()? } else { 0 };
    let data = if flags & 2 != 0 { number(&mut fields)? } else { 0 };
    let body = fields.rest();
    let (fields, extra) = body.split_at_checked(body.len().checked_sub(extra)?)?;
    let length = (start + size) as u64;
    Some(Block { kind, fields, extra, length, data: clamp(rest, length, data) })
}

fn file5<'a>(block: &Block<'a>) -> Option<Found<'a>> {
    let mut fields = Cursor::new(block.fields);
    let flags = number(&mut fields)?;
    let size = number(&mut fields)?;
    number(&mut fields)?;
    for flag in [2, 4] {
        if flags & flag != 0 {
            fields.take(4)?;
        }
    }
    let compression = number(&mut fields)?;
    number(&mut fields)?;
    let name_length = usize::try_from(number(&mut fields)?).ok()?;
    let name = text(fields.take(name_length)?);
    Some(Found { name, size, encrypted: has_record(block.extra, 1), stored: (compression >> 7) % 8 == 0, content: block.data })
}

/// Whether the extra area has a record of that type.
fn has_record(extra: &[u8], wanted: u64) -> bool {
    let mut cursor = Cursor::new(extra);
    while let Some(size) = number(&mut cursor) {
        let Some(body) = usize::try_from(size).ok().and_then(|size| cursor.take(size)) else { return false };
        if number(&mut Cursor::new(body)) == Some(wanted) {
            return true;
        }
    }
    false
}
