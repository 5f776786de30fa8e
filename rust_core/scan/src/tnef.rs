//! TNEF, the `winmail.dat` of Outlook: attachments with their long names and contents (MS-OXTNEF).

use crate::budget::Stop;
use crate::bytes::{Cursor, text, utf16le};
use crate::report::Defect;
use crate::walk::Walker;

const REND_DATA: u32 = 0x0006_9002;
const TITLE: u32 = 0x0001_8010;
const DATA: u32 = 0x0006_800f;
const PROPERTIES: u32 = 0x0006_9005;
/// Values of one property.
const VALUES_MAX: u32 = 4_096;

#[derive(Default)]
struct Attachment<'a> {
    title: String,
    long_name: String,
    data: Option<&'a [u8]>,
    object: Option<&'a [u8]>,
}

/// Open a TNEF stream.
pub fn read(walker: &mut Walker, id: u32, data: &[u8]) -> Result<(), Stop> {
    let mut cursor = Cursor::new(data);
    let mut open: Option<Attachment<'_>> = None;
    cursor.take(6);
    while let Some((attribute, body)) = record(&mut cursor) {
        walker.budget.tick()?;
        if attribute == REND_DATA {
            close(walker, id, open.take())?;
        }
        let attachment = open.get_or_insert_default();
        match attribute {
            TITLE => attachment.title = text(body),
            DATA => attachment.data = Some(body),
            PROPERTIES => properties(body, attachment),
            _ => {}
        }
    }
    if !cursor.rest().is_empty() {
        walker.entry(id).defect(Defect::Truncated);
    }
    close(walker, id, open)
}

/// Level, attribute, length, octets, checksum.
fn record<'a>(cursor: &mut Cursor<'a>) -> Option<(u32, &'a [u8])> {
    let mut ahead = cursor.clone();
    ahead.take(1)?;
    let attribute = ahead.u32()?;
    let length = ahead.u32()? as usize;
    let body = ahead.take(length)?;
    ahead.take(2)?;
    *cursor = ahead;
    Some((attribute, body))
}

fn close(walker: &mut Walker, id: u32, attachment: Option<Attachment<'_>>) -> Result<(), Stop> {
    let Some(attachment) = attachment else { return Ok(()) };
    let name = if attachment.long_name.is_empty() { &attachment.title } else { &attachment.long_name };
    if let Some(data) = attachment.data {
        walker.child(id, name, data)?;
    }
    if let Some(object) = attachment.object {
        // An embedded message is TNEF again, behind the id of its interface.
        walker.child(id, name, object.get(16..).unwrap_or(&[]))?;
    }
    Ok(())
}

/// The long name and an embedded object among the MAPI properties. What cannot be read ends the list.
fn properties<'a>(body: &'a [u8], attachment: &mut Attachment<'a>) {
    let mut cursor = Cursor::new(body);
    let Some(count) = cursor.u32() else { return };
    for _ in 0..count.min(VALUES_MAX) {
        let Some((tag, value)) = property(&mut cursor) else { return };
        match tag {
            0x3707_001e => attachment.long_name = text(value),
            0x3707_001f => attachment.long_name = utf16le(value),
            0x3701_000d => attachment.object = Some(value),
            _ => {}
        }
    }
}

/// Tag and last value of the next property.
fn property<'a>(cursor: &mut Cursor<'a>) -> Option<(u32, &'a [u8])> {
    let tag = cursor.u32()?;
    if tag >> 16 >= 0x8000 {
        cursor.take(16)?;
        if cursor.u32()? == 0 {
            cursor.take(4)?;
        } else {
            let length = cursor.u32()? as usize;
            cursor.take(length.checked_next_multiple_of(4)?)?;
        }
    }
    let kind = tag & 0x0fff;
    let fixed = match kind {
        1 => Some(0),
        2 | 3 | 4 | 0x0a | 0x0b => Some(4),
        5 | 6 | 7 | 0x14 | 0x40 => Some(8),
        0x48 => Some(16),
        _ => None,
    };
    let many = tag & 0x1000 != 0 || fixed.is_none();
    let count = if many { cursor.u32()?.min(VALUES_MAX) } else { 1 };
    let mut value: &[u8] = &[];
    for _ in 0..count {
        value = if let Some(length) = fixed {
            cursor.take(length)?
        } else {
            let length = cursor.u32()? as usize;
            &cursor.take(length.checked_next_multiple_of(4)?)?[..length]
        };
    }
    Some((tag, value))
}
