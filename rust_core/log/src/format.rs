//! Byte layout of segments and records (docs/formats.md shows the same as tables). All integers are little-endian.
//!
//! A segment file `NNNNNNNN.seg` begins with [`SEGMENT_HEADER`] octets: two equal copies of a 64-octet header, so that
//! one damaged copy does not cost the segment. Records follow, each aligned to 8 octets:
//! `length u32 | crc32c u32 | kind u8 | check u24 | payload`. The checksum also covers a random salt of the segment and the
//! record's own offset: octets inside a message, or left from an earlier use of the file, can never pass for a record.
//! `check` (24 bits over the same without the payload) lets a scan reject a place in nanoseconds.
//!
//! Files are used again for new segments, so behind the end of the newest one there may be records of a former life. For a record at its own
//! place the checksum is a bijection of the salt: another salt never accepts it. Octets that somebody arranged to pass under some salt are
//! kept out by the batch marks, which carry the segment's 64-bit nonce since version 2: behind the last mark nothing is taken for synced.

use std::fmt;

/// Octets before the first record of a segment.
pub const SEGMENT_HEADER: u32 = 128;
/// Octets before the payload of a record.
pub const RECORD_HEADER: u32 = 12;
/// Newest segment layout this program reads, and the one it writes.
pub const FORMAT_VERSION: u32 = 2;
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
    pub identity: Identity,
    pub app: [u8; 4],
}

/// What tells the records of one segment from those of every other, and from those of former lives of its file. Random, new for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Goes into every record's checksum.
    pub salt: u32,
    /// Payload of the batch marks; 0 in version 1, where they are empty.
    pub nonce: u64,
}

impl Identity {
    /// Values nobody outside can foresee, so that message octets cannot be made to look like records. The salt differs from `former`.
    pub fn new(former: Option<u32>) -> Self {
        use std::hash::{BuildHasher, Hasher, RandomState};
        let random = |n: u8| {
            let mut hasher = RandomState::new().build_hasher();
            hasher.write_u8(n);
            hasher.finish()
        };
        let salt = std::iter::repeat_with(|| random(0) as u32).find(|salt| *salt != 0 && Some(*salt) != former);
        Self { salt: salt.unwrap_or(1), nonce: random(1).max(1) }
    }

    /// Is this the payload of a batch mark?
    pub fn is_mark(&self, payload: &[u8]) -> bool {
        if self.nonce == 0 { payload.is_empty() } else { payload == self.nonce.to_le_bytes() }
    }
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
        copy[16..20].copy_from_slice(&self.identity.salt.to_le_bytes());
        copy[20..24].copy_from_slice(&self.app);
        copy[24..32].copy_from_slice(&self.identity.nonce.to_le_bytes());
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
            identity: Identity { salt: u32_at(copy, 16), nonce: u64::from(u32_at(copy, 28)) << 32 | u64::from(u32_at(copy, 24)) },
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

/// Octets of a batch mark.
pub(crate) const MARK_SIZE: u32 = record_size(8);

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

    const IDENTITY: Identity = Identity { salt: 99, nonce: 7 };

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
        let header = SegmentHeader { version: 1, number: 7, identity: IDENTITY, app: *b"TEST" };
        let mut bytes = header.encode();
        bytes[17] ^= 1;
        assert_eq!(SegmentHeader::decode(&bytes, 7), Ok(header));
        bytes[64 + 17] ^= 1;
        assert!(matches!(SegmentHeader::decode(&bytes, 7), Err(HeaderFault::Damaged(_))));
    }

    #[test]
    fn a_newer_version_is_its_own_fault() {
        let header = SegmentHeader { version: FORMAT_VERSION + 1, number: 7, identity: IDENTITY, app: *b"TEST" };
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
    fn no_other_salt_accepts_a_record_at_its_own_place() {
        let header = RecordHeader::encode(5, 128, 3, 4, &[b"abcd"]);
        let accepts = |salt: u32| RecordHeader::decode(&header, salt, 128).is_some_and(|h| h.verify(b"abcd"));
        assert!(accepts(5));
        assert!(
            (0..200_000)
                .map(|n: u32| n.wrapping_mul(2_654_435_761))
                .chain((0..32).map(|bit| 5 ^ 1 << bit))
                .filter(|s| *s != 5)
                .all(|s| !accepts(s))
        );
    }

    #[test]
    fn a_mark_of_another_life_is_none() {
        let identity = Identity::new(None);
        assert!(identity.is_mark(&identity.nonce.to_le_bytes()) && !identity.is_mark(&[]) && !identity.is_mark(&[0; 8]));
        assert!(Identity { salt: 1, nonce: 0 }.is_mark(&[]));
        assert_ne!(Identity::new(Some(identity.salt)).salt, identity.salt);
    }

    #[test]
    fn names_of_segments_parse_back() {
        assert_eq!(parse_segment_name(&segment_name(12)), Some(12));
        assert_eq!(parse_segment_name("123456789.seg"), Some(123_456_789));
        assert_eq!(parse_segment_name("spare-1"), None);
        assert_eq!(parse_segment_name("00000000.seg"), None);
    }
}
