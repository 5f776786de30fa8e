//! Substring search in decoded text (IMAP SEARCH): case-insensitive, over a body that is fed in chunks.

use crate::decode::{Decoder, Encoding, charset, header_text};
use crate::{Index, Part};

/// Decoded octets looked at in one go.
const WINDOW: usize = 256 << 10;

/// A text to look for, folded once.
#[derive(Clone, Debug)]
pub struct Needle {
    folded: String,
}

impl Needle {
    /// Fold `text` for case-insensitive comparison.
    pub fn new(text: &str) -> Self {
        Self { folded: fold(text) }
    }

    /// True when `text` contains the needle.
    pub fn is_in(&self, text: &str) -> bool {
        self.folded.is_empty() || memchr::memmem::find(fold(text).as_bytes(), self.folded.as_bytes()).is_some()
    }

    /// True when a field of that name in `part` contains the needle after decoding (RFC 3501 6.4.4 HEADER; "" = field exists).
    pub fn is_in_field(&self, index: &Index, part: u32, name: &str) -> bool {
        index.all(part, name).any(|value| self.is_in(&header_text(&value)))
    }

    /// True when any field of `part`, name included, contains the needle.
    pub fn is_in_header(&self, index: &Index, part: u32) -> bool {
        index.fields(part).iter().any(|field| {
            let value = crate::field::unfold(index.bytes(&field.value));
            let name = String::from_utf8_lossy(index.bytes(&field.name));
            self.is_in(&format!("{name}: {}", header_text(&value)))
        })
    }
}

fn fold(text: &str) -> String {
    if text.is_ascii() { text.to_ascii_lowercase() } else { text.to_lowercase() }
}

/// Looks for a needle in one text part.
pub struct BodySearch<'a> {
    needle: &'a Needle,
    decoder: Decoder,
    charset: Option<Vec<u8>>,
    window: Vec<u8>,
    found: bool,
}

impl<'a> BodySearch<'a> {
    /// For the body of `part`; `None` when its encoding is unknown.
    pub fn new(needle: &'a Needle, part: &Part) -> Option<Self> {
        Some(Self {
            needle,
            decoder: Decoder::new(Encoding::from_name(&part.encoding)?),
            charset: part.content_type.parameter("charset").map(<[u8]>::to_vec),
            window: Vec::new(),
            found: false,
        })
    }

    /// Look at the next octets of the raw body; true as soon as the needle was seen.
    pub fn feed(&mut self, data: &[u8]) -> bool {
        for piece in data.chunks(WINDOW) {
            self.decoder.feed(piece, &mut self.window);
            if !self.found && self.window.len() >= WINDOW {
                self.look();
                // Keep the last lines, so that a match across the cut is seen and the charset decoder starts at a line.
                let keep = (self.needle.folded.len() * 4 + 1_000).min(self.window.len());
                let cut = self.window.len() - keep;
                let cut = memchr::memrchr(b'\n', &self.window[..cut]).map_or(cut, |at| at + 1);
                self.window.drain(..cut);
            }
        }
        self.found
    }

    /// The body ends here.
    pub fn finish(mut self) -> bool {
        self.decoder.finish(&mut self.window);
        self.look();
        self.found
    }

    fn look(&mut self) {
        self.found = self.found || self.needle.is_in(&charset(self.charset.as_deref(), &self.window));
    }
}
