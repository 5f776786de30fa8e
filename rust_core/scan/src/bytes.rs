//! Reading integers out of untrusted octets: every access may fail, none panics.

/// Little-endian 16 bits at `at`.
pub fn le16(data: &[u8], at: usize) -> Option<u16> {
    let octets = data.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(octets.try_into().ok()?))
}

/// Little-endian 32 bits at `at`.
pub fn le32(data: &[u8], at: usize) -> Option<u32> {
    let octets = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(octets.try_into().ok()?))
}

/// Little-endian 64 bits at `at`.
pub fn le64(data: &[u8], at: usize) -> Option<u64> {
    let octets = data.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(octets.try_into().ok()?))
}

/// Big-endian 32 bits at `at`.
pub fn be32(data: &[u8], at: usize) -> Option<u32> {
    let octets = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(octets.try_into().ok()?))
}

/// `length` octets from `at`, fewer where the data ends.
pub fn clamp(data: &[u8], at: u64, length: u64) -> &[u8] {
    let all = data.len() as u64;
    let start = at.min(all);
    let end = at.saturating_add(length).min(all);
    &data[start as usize..end as usize]
}

/// UTF-16LE to text, up to the first NUL.
pub fn utf16le(octets: &[u8]) -> String {
    let units = octets.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    char::decode_utf16(units.take_while(|&unit| unit != 0)).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// Octets up to the first NUL as text: UTF-8 if it is, else Latin-1.
pub fn text(octets: &[u8]) -> String {
    let end = memchr::memchr(0, octets).unwrap_or(octets.len());
    match std::str::from_utf8(&octets[..end]) {
        Ok(text) => text.to_owned(),
        Err(_) => octets[..end].iter().map(|&octet| octet as char).collect(),
    }
}

/// Whether `needle` (lower case) is in `haystack`, which must be in lower case.
pub fn has(haystack: &[u8], needle: &str) -> bool {
    memchr::memmem::find(haystack, needle.as_bytes()).is_some()
}

/// Words that stand in a text, looked for in pieces, so that no lower-case copy of it is made.
#[derive(Clone, Debug)]
pub struct Words(Vec<&'static str>);

impl Words {
    const PIECE: usize = 256 << 10;
    /// Pieces overlap by more than any word is long.
    const OVERLAP: usize = 128;

    /// Those of `wanted` (lower case) that are in `text`, upper case and the zeros of UTF-16 ignored.
    pub fn find(text: &[u8], wanted: impl IntoIterator<Item = &'static str>) -> Self {
        let mut missing: Vec<&'static str> = wanted.into_iter().collect();
        let mut found = Vec::new();
        let mut lower = Vec::with_capacity(Self::PIECE.min(text.len()));
        let mut at = 0;
        while at < text.len() {
            let end = (at + Self::PIECE).min(text.len());
            lower.clear();
            lower.extend(text[at..end].iter().filter(|octet| **octet != 0).map(u8::to_ascii_lowercase));
            missing.retain(|word| {
                let is_there = has(&lower, word);
                if is_there {
                    found.push(*word);
                }
                !is_there
            });
            at = if end == text.len() { end } else { end - Self::OVERLAP };
        }
        Self(found)
    }

    /// Whether the text has that word.
    pub fn has(&self, word: &str) -> bool {
        self.0.contains(&word)
    }

    /// Whether the text has one of them.
    pub fn any(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.has(word))
    }
}

/// A place in octets that moves forward and never beyond their end.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// At the start of `data`.
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0 }
    }

    /// Where it is.
    pub fn at(&self) -> usize {
        self.at
    }

    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        &self.data[self.at..]
    }

    /// The next `length` octets.
    pub fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let octets = self.data.get(self.at..end)?;
        self.at = end;
        Some(octets)
    }

    /// The next octet.
    pub fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|octets| octets[0])
    }

    /// The next 16 bits, little-endian.
    pub fn u16(&mut self) -> Option<u16> {
        le16(self.take(2)?, 0)
    }

    /// The next 32 bits, little-endian.
    pub fn u32(&mut self) -> Option<u32> {
        le32(self.take(4)?, 0)
    }

    /// The next 64 bits, little-endian.
    pub fn u64(&mut self) -> Option<u64> {
        le64(self.take(8)?, 0)
    }

    /// Octets up to a NUL, which is passed over.
    pub fn until_nul(&mut self) -> Option<&'a [u8]> {
        let length = memchr::memchr(0, self.rest())?;
        let octets = self.take(length)?;
        self.at += 1;
        Some(octets)
    }
}
