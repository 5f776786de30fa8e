//! The header of a 7z archive: folders (chains of coders), the sizes of the streams in them, and the names. Counts are bounded by octets.

use crate::bytes::{Cursor, utf16le};

/// Coders of one folder, more than any real one has.
const CODERS_MAX: u64 = 32;
/// Entries of any table: each takes at least a bit of the header, and there must be an end.
const COUNT_MAX: u64 = 1 << 17;

/// One step of a folder's chain.
#[derive(Clone, Debug)]
pub struct Coder {
    /// The codec's id.
    pub id: Vec<u8>,
    /// Its properties.
    pub properties: Vec<u8>,
    /// In- and outgoing streams.
    pub streams: (u64, u64),
}

/// Files compressed together.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    /// In the order of the header.
    pub coders: Vec<Coder>,
    /// Packed streams it takes.
    pub packed: u64,
    /// Size of each coder's output.
    pub sizes: Vec<u64>,
    /// Sizes of the files in it.
    pub files: Vec<u64>,
    /// Has a digest of its own, so that its one file has none.
    pub digest: bool,
}

/// Everything of a header.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    /// Where the packed streams begin, behind the first 32 octets.
    pub at: u64,
    /// Their sizes.
    pub packed: Vec<u64>,
    /// The folders.
    pub folders: Vec<Folder>,
}

/// A file's name, and whether it has content.
#[derive(Clone, Debug)]
pub struct File {
    /// The path.
    pub name: String,
    /// Takes one of the folders' files.
    pub has_stream: bool,
}

/// What a header is.
#[derive(Debug)]
pub enum Parsed {
    /// The header is compressed itself: unpack the first folder and parse again.
    Encoded(Streams),
    /// Folders and files.
    Plain(Streams, Vec<File>),
}

/// Parse a header.
pub fn parse(data: &[u8]) -> Option<Parsed> {
    let mut cursor = Cursor::new(data);
    match cursor.u8()? {
        0x17 => streams(&mut cursor).map(Parsed::Encoded),
        0x01 => {
            let mut found = Streams::default();
            let mut files = Vec::new();
            loop {
                match cursor.u8()? {
                    0 => return Some(Parsed::Plain(found, files)),
                    2 => properties(&mut cursor)?,
                    4 => found = streams(&mut cursor)?,
                    5 => files = names(&mut cursor)?,
                    _ => return None,
                }
            }
        }
        _ => None,
    }
}

/// A number: the ones leading the first octet tell how many octets follow.
pub fn number(cursor: &mut Cursor<'_>) -> Option<u64> {
    let first = cursor.u8()?;
    let more = first.leading_ones();
    let low = cursor.take(more as usize)?.iter().rev().fold(0u64, |value, &octet| value << 8 | u64::from(octet));
    let high = if more >= 7 { 0 } else { u64::from(first & (0x7f >> more)) };
    Some(low | high << (8 * more.min(7)))
}

fn count(cursor: &mut Cursor<'_>) -> Option<u64> {
    number(cursor).filter(|count| *count <= COUNT_MAX)
}

fn properties(cursor: &mut Cursor<'_>) -> Option<()> {
    while cursor.u8()? != 0 {
        let length = number(cursor)?;
        cursor.take(usize::try_from(length).ok()?)?;
    }
    Some(())
}

fn streams(cursor: &mut Cursor<'_>) -> Option<Streams> {
    let mut found = Streams::default();
    loop {
        match cursor.u8()? {
            0 => break,
            6 => {
                found.at = number(cursor)?;
                found.packed = packed_sizes(cursor)?;
            }
            7 => found.folders = folders(cursor)?,
            8 => substreams(cursor, &mut found.folders)?,
            _ => return None,
        }
    }
    for folder in &mut found.folders {
        if folder.files.is_empty() {
            folder.files = folder.sizes.last().copied().into_iter().collect();
        }
    }
    Some(found)
}

fn packed_sizes(cursor: &mut Cursor<'_>) -> Option<Vec<u64>> {
    let many = count(cursor)?;
    let mut sizes = Vec::new();
    loop {
        match cursor.u8()? {
            0 => return Some(sizes),
            9 => sizes = (0..many).map(|_| number(cursor)).collect::<Option<_>>()?,
            10 => drop(digests(cursor, many)?),
            _ => return None,
        }
    }
}

/// Bits, or one octet that says that all are set.
fn bits(cursor: &mut Cursor<'_>, many: u64) -> Option<Vec<bool>> {
    let octets = cursor.take(usize::try_from(many.div_ceil(8)).ok()?)?;
    Some((0..many as usize).map(|at| octets[at / 8] & (0x80 >> (at % 8)) != 0).collect())
}

/// Which of the streams have a digest; the digests themselves are passed over.
fn digests(cursor: &mut Cursor<'_>, many: u64) -> Option<Vec<bool>> {
    let defined = if cursor.u8()? != 0 { vec![true; many as usize] } else { bits(cursor, many)? };
    cursor.take(defined.iter().filter(|bit| **bit).count().checked_mul(4)?)?;
    Some(defined)
}

fn folders(cursor: &mut Cursor<'_>) -> Option<Vec<Folder>> {
    if cursor.u8()? != 0x0b {
        return None;
    }
    let many = count(cursor)?;
    if cursor.u8()? != 0 {
        return None;
    }
    let mut found: Vec<Folder> = (0..many).map(|_| folder(cursor)).collect::<Option<_>>()?;
    loop {
        match cursor.u8()? {
            0 => return Some(found),
            0x0c => {
                for folder in &mut found {
                    let outs: u64 = folder.coders.iter().map(|coder| coder.streams.1).sum();
                    folder.sizes = (0..outs).map(|_| number(cursor)).collect::<Option<_>>()?;
                }
            }
            0x0a => {
                let defined = digests(cursor, many)?;
                found.iter_mut().zip(defined).for_each(|(folder, defined)| folder.digest = defined);
            }
            _ => return None,
        }
    }
}

fn folder(cursor: &mut Cursor<'_>) -> Option<Folder> {
    let many = number(cursor).filter(|many| (1..=CODERS_MAX).contains(many))?;
    let coders: Vec<Coder> = (0..many).map(|_| coder(cursor)).collect::<Option<_>>()?;
    let ins: u64 = coders.iter().map(|coder| coder.streams.0).sum();
    let outs: u64 = coders.iter().map(|coder| coder.streams.1).sum();
    let pairs = outs.checked_sub(1)?;
    for _ in 0..pairs {
        number(cursor)?;
        number(cursor)?;
    }
    let packed = ins.checked_sub(pairs).filter(|packed| *packed >= 1)?;
    if packed > 1 {
        for _ in 0..packed {
            number(cursor)?;
        }
    }
    Some(Folder { coders, packed, ..Folder::default() })
}

fn coder(cursor: &mut Cursor<'_>) -> Option<Coder> {
    let flags = cursor.u8()?;
    let id = cursor.take(usize::from(flags & 15))?.to_vec();
    let streams = if flags & 0x10 != 0 { (number(cursor)?, number(cursor)?) } else { (1, 1) };
    if streams.0 > CODERS_MAX || streams.1 > CODERS_MAX || flags & 0xc0 != 0 {
        return None;
    }
    let length = if flags & 0x20 != 0 { number(cursor)? } else { 0 };
    let properties = cursor.take(usize::try_from(length).ok()?)?.to_vec();
    Some(Coder { id, properties, streams })
}

fn substreams(cursor: &mut Cursor<'_>, folders: &mut [Folder]) -> Option<()> {
    let mut counts = vec![1; folders.len()];
    let mut kind = cursor.u8()?;
    if kind == 0x0d {
        counts = folders.iter().map(|_| count(cursor)).collect::<Option<_>>()?;
        kind = cursor.u8()?;
    }
    // All sizes but the last stand there; the last is what is left. Without them there is one file a folder at most.
    let listed = kind == 9;
    for (folder, &many) in folders.iter_mut().zip(&counts) {
        let mut left = folder.sizes.last().copied().unwrap_or(0);
        for at in 0..many {
            let size = if at + 1 == many {
                left
            } else if listed {
                number(cursor)?
            } else {
                return None;
            };
            left = left.saturating_sub(size);
            folder.files.push(size);
        }
    }
    if listed {
        kind = cursor.u8()?;
    }
    if kind == 0x0a {
        let own = folders.iter().zip(&counts).filter(|(folder, many)| !(folder.digest && **many == 1));
        let many = own.fold(0u64, |sum, (_, many)| sum.saturating_add(*many));
        digests(cursor, Some(many).filter(|many| *many <= COUNT_MAX)?)?;
        kind = cursor.u8()?;
    }
    (kind == 0).then_some(())
}

fn names(cursor: &mut Cursor<'_>) -> Option<Vec<File>> {
    let many = count(cursor)?;
    let mut empty = vec![false; many as usize];
    let mut names = Vec::new();
    loop {
        let kind = cursor.u8()?;
        if kind == 0 {
            break;
        }
        let length = number(cursor)?;
        let body = cursor.take(usize::try_from(length).ok()?)?;
        match kind {
            0x0e => empty = bits(&mut Cursor::new(body), many)?,
            0x11 => names = split_names(body.get(1..)?, many as usize),
            _ => {}
        }
    }
    names.resize(many as usize, String::new());
    Some(names.into_iter().zip(empty).map(|(name, empty)| File { name, has_stream: !empty }).collect())
}

fn split_names(octets: &[u8], most: usize) -> Vec<String> {
    let mut names = Vec::new();
    let mut start = 0;
    for (at, pair) in octets.chunks_exact(2).enumerate() {
        if pair == [0, 0] && names.len() < most {
            names.push(utf16le(&octets[start..at * 2]));
            start = at * 2 + 2;
        }
    }
    names
}
