//! Byte layout of segments and records (docs/formats.md shows the same as tables). All integers are little-endian.
//!
//! A segment file `NNNNNNNN.seg` begins with [`SEGMENT_HEADER`] octets: two equal copies of a 64-octet header, so that
//! one damaged copy does not cost the segment. Records follow, each aligned to 8 octets:
//! `length u32 | crc32c u32 | kind u8 | check u24 | payload`. The checksum also covers a random salt of the segment and the
//! record's own offset: octets inside a message, or left from an earlier use of the file, can never pass for a record.
//! `check` (24 bits over the same without the payload) lets a scan reject a place in nanoseconds.

use std::fmt;

/// Octets before the first record of a segment.
pub const SEGMENT_HEADER: u32 = 128;
/// Octets before the payload of a record.
pub const RECORD_HEADER: u32 = 12;
/// Newest segment layout this program reads, and the one it writes.
pub const FORMAT_VERSION: u32 = 1;
/// Kind of the record that begins every batch (0 is no kind, so that zeroes are no record): all before it in its segment was synced before it was written.
pub const KIND_MARK: u8 = 0xff;

const MAGIC: &[u8; 8] = b"GPSTLOG\n";
const HEADER_COPY: usize = 64;
const ALIGN: u32 = 8;

/// Where a record is: segment number and byte offset in it. Orders as the log does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Loc {
    /// Segment number, from 1.
    pub segment: u32,
    /// Offset of the record's header.
    pub offset: u32,
}

impl Loc {
    /// No place: packs to 0.
    pub const NONE: Self = Self { segment: 0, offset: 0 };

    /// As one integer that orders alike.
    pub const fn pack(self) -> u64 {
        (self.segment as u64) << 32 | self.offset as u64
    }

    /// Inverse of [`Loc::pack`].
    pub const fn unpack(value: u64) -> Self {
        Self { segment: (value >> 32) as u32, offset: value as u32 }
    }

    /// True for [`Loc::NONE`].
    pub const fn is_none(self) -> bool {
        self.segment == 0
    }
}

impl fmt::Display for Loc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", segment_name(self.segment), self.offset)
    }
}

/// File name of a segment.
pub fn segment_name(number: u32) -> String {
    format!("{number:08}.seg")
}

/// Inverse of [`segment_name`]; None for other names.
pub fn parse_segment_name(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".seg")?;
    if digits.len() < 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|n| *n > 0)
}

/// What a segment's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub version: u32,
    pub number: u32,
    pub salt: u32,
    pub app: [u8; 4],
}

/// Why a header could not be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    Damaged(&'static str),
    Version(u32),
}

impl SegmentHeader {
    /// Both copies.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER as usize] {
        let mut copy = [0u8; HEADER_COPY];
        copy[..8].copy_from_slice(MAGIC);
        copy[8..12].copy_from_slice(&self.version.to_le_bytes());
        copy[12..16].copy_from_slice(&self.number.to_le_bytes());
        copy[16..20].copy_from_slice(&self.salt.to_le_bytes());
        copy[20..24].copy_from_slice(&self.app);
        let crc = crc32c::crc32c(&copy[..60]);
        copy[60..].copy_from_slice(&crc.to_le_bytes());
        let mut out = [0u8; SEGMENT_HEADER as usize];
        out[..HEADER_COPY].copy_from_slice(&copy);
        out[HEADER_COPY..].copy_from_slice(&copy);
        out
    }

    /// From either copy. `number` is what the file name says.
    pub fn decode(data: &[u8], number: u32) -> Result<Self, HeaderFault> {
        let mut fault = HeaderFault::Damaged("segment header too short");
        for copy in data.chunks_exact(HEADER_COPY).take(2) {
            match Self::decode_copy(copy, number) {
                Ok(header) => return Ok(header),
                Err(found) => fault = found,
            }
        }
        Err(fault)
    }

    fn decode_copy(copy: &[u8], number: u32) -> Result<Self, HeaderFault> {
        if &copy[..8] != MAGIC || crc32c::crc32c(&copy[..60]) != u32_at(copy, 60) {
            return Err(HeaderFault::Damaged("segment header damaged"));
        }
        let header = Self {
            version: u32_at(copy, 8),
            number: u32_at(copy, 12),
            salt: u32_at(copy, 16),
            app: [copy[20], copy[21], copy[22], copy[23]],
        };
        if header.version == 0 || header.version > FORMAT_VERSION {
            return Err(HeaderFault::Version(header.version));
        }
        if header.number != number {
            return Err(HeaderFault::Damaged("segment header names another segment"));
        }
        Ok(header)
    }
}

/// A record header that passed its own check.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordHeader {
    pub length: u32,
    pub crc: u32,
    pub kind: u8,
    seed: u32,
}

/// The checksum state after everything but the payload.
fn seed(salt: u32, offset: u32, length: u32, kind: u8) -> u32 {
    let mut bytes = [0u8; 13];
    bytes[..4].copy_from_slice(&salt.to_le_bytes());
    bytes[4..8].copy_from_slice(&offset.to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12] = kind;
    crc32c::crc32c(&bytes)
}

impl RecordHeader {
    /// Header octets for a payload made of `parts`.
    pub fn encode(salt: u32, offset: u32, kind: u8, length: u32, parts: &[&[u8]]) -> [u8; RECORD_HEADER as usize] {
        let seed = seed(salt, offset, length, kind);
        let crc = parts.iter().fold(seed, |crc, part| crc32c::crc32c_append(crc, part));
        let mut out = [0u8; RECORD_HEADER as usize];
        out[..4].copy_from_slice(&length.to_le_bytes());
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out[8] = kind;
        out[9..].copy_from_slice(&seed.to_le_bytes()[1..]);
        out
    }

    /// The header at `offset`, if these octets are one.
    pub fn decode(data: &[u8], salt: u32, offset: u32) -> Option<Self> {
        let data = data.get(..RECORD_HEADER as usize)?;
        let (length, kind) = (u32_at(data, 0), data[8]);
        if kind == 0 {
            return None;
        }
        let seed = seed(salt, offset, length, kind);
        (data[9..] == seed.to_le_bytes()[1..]).then(|| Self { length, crc: u32_at(data, 4), kind, seed })
    }

    /// True when the payload is what was written.
    pub fn verify(&self, payload: &[u8]) -> bool {
        crc32c::crc32c_append(self.seed, payload) == self.crc
    }
}

/// Octets a record of `payload` octets takes in the file.
pub(crate) const fn record_size(payload: u32) -> u32 {
    (RECORD_HEADER + payload).next_multiple_of(ALIGN)
}

/// The next place at or after `offset` where a record can begin.
pub(crate) const fn align(offset: u32) -> u32 {
    offset.next_multiple_of(ALIGN)
}

fn u32_at(data: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_packs_into_an_integer_that_orders_alike() {
        let a = Loc { segment: 1, offset: u32::MAX };
        let b = Loc { segment: 2, offset: 0 };
        assert!(a < b && a.pack() < b.pack());
        assert_eq!(Loc::unpack(a.pack()), a);
        assert!(Loc::unpack(0).is_none());
    }

    #[test]
    fn one_damaged_header_copy_is_survived_and_two_are_not() {
        let header = SegmentHeader { version: 1, number: 7, salt: 99, app: *b"TEST" };
        let mut bytes = header.encode();
        bytes[17] ^= 1;
        assert_eq!(SegmentHeader::decode(&bytes, 7), Ok(header));
        bytes[64 + 17] ^= 1;
        assert!(matches!(SegmentHeader::decode(&bytes, 7), Err(HeaderFault::Damaged(_))));
    }

    #[test]
    fn a_newer_version_is_its_own_fault() {
        let header = SegmentHeader { version: FORMAT_VERSION + 1, number: 7, salt: 99, app: *b"TEST" };
        assert_eq!(SegmentHeader::decode(&header.encode(), 7), Err(HeaderFault::Version(FORMAT_VERSION + 1)));
    }

    #[test]
    fn a_record_is_valid_only_at_its_own_offset_and_salt() {
        let header = RecordHeader::encode(5, 128, 3, 4, &[b"ab", b"cd"]);
        let read = RecordHeader::decode(&header, 5, 128).unwrap();
        assert!(read.verify(b"abcd") && !read.verify(b"abce"));
        assert!(RecordHeader::decode(&header, 5, 136).is_none());
        assert!(RecordHeader::decode(&header, 6, 128).is_none());
        assert!(RecordHeader::decode(&[0; 12], 5, 128).is_none());
    }

    #[test]
    fn names_of_segments_parse_back() {
        assert_eq!(parse_segment_name(&segment_name(12)), Some(12));
        assert_eq!(parse_segment_name("123456789.seg"), Some(123_456_789));
        assert_eq!(parse_segment_name("spare-1"), None);
        assert_eq!(parse_segment_name("00000000.seg"), None);
    }
}
