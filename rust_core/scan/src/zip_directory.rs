//! The headers of a zip: end records, central directory, local headers. Numbers are taken as hints; places are clamped to the file.

use crate::bytes::{Cursor, clamp, le16, le32, le64, text};

/// Length of an end record without its comment.
const END: usize = 22;
const CENTRAL: usize = 46;
const LOCAL: usize = 30;
/// A comment is at most that long; as much is looked through for the end record.
const TAIL: usize = 65_535 + END;

/// Where the central directory is.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Its place in the file.
    pub directory: usize,
    /// Its octets.
    pub size: usize,
    /// What must be added to offsets in it, when something stands before the archive.
    pub shift: i64,
    /// Behind the end record and its comment.
    pub after: usize,
}

/// The end record that most readers take: the last one. `None` when there is none that fits.
pub fn find_end(data: &[u8]) -> Option<End> {
    let from = data.len().saturating_sub(TAIL);
    let places = memchr::memmem::rfind_iter(&data[from..], b"PK\x05\x06").map(|place| from + place);
    places.take(16).find_map(|place| end_at(data, place))
}

fn end_at(data: &[u8], place: usize) -> Option<End> {
    let mut size = u64::from(le32(data, place + 12)?);
    let mut offset = u64::from(le32(data, place + 16)?);
    let comment = usize::from(le16(data, place + 20)?);
    let mut stop = place as u64;
    if size == 0xffff_ffff || offset == 0xffff_ffff || le16(data, place + 10)? == 0xffff {
        // zip64: the locator stands before the end record, the record it names before the locator.
        let locator = place.checked_sub(20)?;
        if data.get(locator..locator + 4) == Some(b"PK\x06\x07") {
            let near = locator.checked_sub(56);
            let record =
                near.filter(|at| data[*at..].starts_with(b"PK\x06\x06")).or_else(|| usize::try_from(le64(data, locator + 8)?).ok())?;
            if data.get(record..record.checked_add(4)?) == Some(b"PK\x06\x06") {
                (size, offset, stop) = (le64(data, record + 40)?, le64(data, record + 48)?, record as u64);
            }
        }
    }
    let is_there = |at: u64| size == 0 || clamp(data, at, 4) == b"PK\x01\x02";
    let directory = stop.checked_sub(size).filter(|at| is_there(*at)).or(Some(offset).filter(|at| is_there(*at)))?;
    let shift = i64::try_from(directory).ok()? - i64::try_from(offset).ok()?;
    Some(End { directory: directory as usize, size: usize::try_from(size).ok()?, shift, after: place + END + comment })
}

/// A header of an entry, central or local.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// General purpose bits.
    pub bits: u16,
    /// Compression.
    pub method: u16,
    /// Compressed octets, as declared.
    pub packed: u64,
    /// Octets, as declared.
    pub size: u64,
    /// The name as it stands.
    pub raw_name: Vec<u8>,
    /// The name of the Unicode extra field, which some readers prefer.
    pub other_name: Option<String>,
    /// Place of the local header (central), or of the data (local).
    pub place: u64,
    /// The compression within `WinZip`'s AES.
    pub aes: bool,
}

impl Header {
    /// The name as text.
    pub fn name(&self) -> String {
        text(&self.raw_name)
    }

    /// Needs a password.
    pub fn is_encrypted(&self) -> bool {
        self.bits & 1 != 0 || self.bits & 0x40 != 0 || self.aes
    }

    /// Sizes stand behind the data (bit 3).
    pub fn sizes_follow(&self) -> bool {
        self.bits & 8 != 0
    }
}

/// The next header of the central directory.
pub fn central(cursor: &mut Cursor<'_>) -> Option<Header> {
    let fixed = cursor.take(CENTRAL)?;
    if !fixed.starts_with(b"PK\x01\x02") {
        return None;
    }
    let length = |at| le16(fixed, at).map(usize::from);
    let mut header = Header {
        bits: le16(fixed, 8)?,
        method: le16(fixed, 10)?,
        packed: u64::from(le32(fixed, 20)?),
        size: u64::from(le32(fixed, 24)?),
        place: u64::from(le32(fixed, 42)?),
        ..Header::default()
    };
    header.raw_name = cursor.take(length(28)?)?.to_vec();
    let extra = cursor.take(length(30)?)?;
    cursor.take(length(32)?)?;
    extras(&mut header, extra, true);
    Some(header)
}

/// The local header at a place.
pub fn local(data: &[u8], at: u64) -> Option<Header> {
    let fixed = clamp(data, at, LOCAL as u64);
    if fixed.len() < LOCAL || !fixed.starts_with(b"PK\x03\x04") {
        return None;
    }
    let (name, extra) = (u64::from(le16(fixed, 26)?), u64::from(le16(fixed, 28)?));
    let behind = at + LOCAL as u64;
    let mut header = Header {
        bits: le16(fixed, 6)?,
        method: le16(fixed, 8)?,
        packed: u64::from(le32(fixed, 18)?),
        size: u64::from(le32(fixed, 22)?),
        raw_name: clamp(data, behind, name).to_vec(),
        ..Header::default()
    };
    extras(&mut header, clamp(data, behind + name, extra), false);
    header.place = behind + name + extra;
    Some(header)
}

/// zip64 sizes (0x0001), Unicode path (0x7075), AES (0x9901).
fn extras(header: &mut Header, extra: &[u8], is_central: bool) {
    let mut cursor = Cursor::new(extra);
    while let (Some(id), Some(length)) = (cursor.u16(), cursor.u16()) {
        let Some(body) = cursor.take(usize::from(length)) else { return };
        let mut fields = Cursor::new(body);
        match id {
            1 => {
                for value in [&mut header.size, &mut header.packed] {
                    if *value == 0xffff_ffff {
                        *value = fields.u64().unwrap_or(*value);
                    }
                }
                if is_central && header.place == 0xffff_ffff {
                    header.place = fields.u64().unwrap_or(header.place);
                }
            }
            0x7075 if body.len() > 5 => header.other_name = Some(text(&body[5..])),
            0x9901 if body.len() >= 7 => {
                header.aes = true;
                header.method = le16(body, 5).unwrap_or(header.method);
            }
            _ => {}
        }
    }
}
