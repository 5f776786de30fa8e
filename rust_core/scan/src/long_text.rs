//! Text and nothing else, at length: the quick look ([`crate::is_plain`]) at a message that does not stay in memory, taken while it comes in.
//!
//! Called by the binding crate with all octets in order, a whole buffer first. It says yes only where [`crate::inspect`] would find a single text without flag,
//! sign or defect; what might begin a file within a text is a no, without a look whether a file follows. tests/plain.rs holds the two together.

use memchr::{memchr, memchr_iter, memmem};

use crate::filling::Filling;
use crate::loose::{FIELD, escapes};
use crate::plain::{is_all_text, shown, single_text};

/// Longer messages are inspected.
const MESSAGE_MAX: u64 = 16 << 20;
/// Octets of the body that the first piece has to show: marks of file formats are within them.
const BODY_MIN: usize = 64 << 10;
/// Octets of a piece that are looked at again with the next: more than any mark that could lie across the border has.
const OVERLAP: usize = 64;
/// Octets whose escapes of quoted-printable are counted together; a twelfth is too many.
const ESCAPES_OF: usize = 512;
/// Octets of which it is found out together whether base64 has them.
const BLOCK: usize = 4096;
/// What files within text begin with (`gatepost_mime::uuencode`), and PGP messages; "begin" counts at the beginning of a line, or as "=ybegin".
const MARKS: [&[u8]; 2] = [b"(This file must be converted with BinHex", b"-----BEGIN PGP MESSAGE"];

/// The look so far.
#[derive(Debug)]
pub struct LongText {
    /// Octets before the message, which are ours.
    prefix: usize,
    taken: u64,
    tail: Vec<u8>,
    text: bool,
    /// All of it may yet be base64 but for its being one letter; `None`: it is not.
    filling: Option<Filling>,
}

impl LongText {
    /// For a message that begins behind so many octets of the first piece.
    pub fn new(prefix: usize) -> Self {
        Self { prefix, taken: 0, tail: Vec::new(), text: true, filling: None }
    }

    /// The next octets. False from the first doubt on. Lines have to end in CR LF, which the caller sees to.
    pub fn take(&mut self, piece: &[u8]) -> bool {
        let first = self.taken == 0;
        self.taken += piece.len() as u64;
        self.text = self.text && self.taken <= MESSAGE_MAX && if first { self.begins(piece) } else { self.goes_on(piece) };
        // A short piece does not push all of the former one out.
        let gone = self.tail.len().saturating_sub(OVERLAP.saturating_sub(piece.len()));
        self.tail.drain(..gone);
        self.tail.extend_from_slice(&piece[piece.len().saturating_sub(OVERLAP)..]);
        self.text
    }

    fn begins(&mut self, piece: &[u8]) -> bool {
        let body = piece.get(self.prefix..).and_then(single_text).unwrap_or_default();
        let text = body.trim_ascii_start();
        let header = piece.get(self.prefix..piece.len() - body.len()).unwrap_or_default();
        self.filling = Some(Filling::new(text));
        body.len() >= BODY_MIN
            && memchr(0, header).is_none()
            && !text.is_empty()
            && self.is_not_encoded(text)
            && shown(body, "text/plain")
            && !has_mark(body)
    }

    fn goes_on(&mut self, piece: &[u8]) -> bool {
        let border = [&self.tail, &piece[..piece.len().min(OVERLAP)]].concat();
        is_all_text(piece) && self.is_not_encoded(piece) && !has_mark(piece) && !has_mark(&border)
    }

    /// Neither base64 as a whole nor full of escapes, for all that is known yet.
    fn is_not_encoded(&mut self, piece: &[u8]) -> bool {
        if self.filling.is_some() && !piece.chunks(BLOCK).all(is_coded) {
            self.filling = None;
        }
        self.filling.as_mut().is_none_or(|filling| filling.take(piece))
            && !piece.chunks(ESCAPES_OF).any(|chunk| escapes(chunk) * 12 >= chunk.len().max(ESCAPES_OF / 8))
    }
}

/// Is it of the octets of base64, blanks between them included? Without branches, so that the loop becomes vector code.
fn is_coded(block: &[u8]) -> bool {
    let others = block.iter().fold(0u8, |others, &octet| {
        let letter = u8::from((octet | 0x20).wrapping_sub(b'a') < 26);
        let digit = u8::from(octet.wrapping_sub(b'0') < 10);
        let sign = u8::from(octet == b'+') | u8::from(octet == b'/') | u8::from(octet == b'=');
        let line = u8::from(octet == b'\r') | u8::from(octet == b'\n');
        let blank = u8::from(octet == b' ') | u8::from(octet == b'\t') | u8::from(octet == b'\x0c');
        others | ((letter | digit | sign | line | blank) ^ 1)
    });
    others == 0
}

/// A file may begin in it, or a part with a field of its own. At the very beginning nothing counts: it was seen with what comes before it.
fn has_mark(text: &[u8]) -> bool {
    let at_line_start = |at: usize| at > 0 && matches!(text[at - 1], b'\n' | b'\r') || text[..at].ends_with(b"=y");
    let is_field = |end: usize| text.get(end + 1..end + 1 + FIELD.len()).is_some_and(|name| name.eq_ignore_ascii_case(FIELD));
    memmem::find_iter(text, b"begin").any(at_line_start)
        || memchr_iter(b'\n', text).any(is_field)
        || MARKS.iter().any(|mark| memmem::find(text, mark).is_some())
}

#[cfg(test)]
mod tests {
    use super::is_coded;

    #[test]
    fn the_octets_of_base64_are_letters_digits_three_signs_and_blanks() {
        for octet in 0..=255u8 {
            let named = octet.is_ascii_alphanumeric() || octet.is_ascii_whitespace() || b"+/=".contains(&octet);
            assert_eq!(is_coded(&[b'x', octet, b'y']), named, "{octet}");
        }
    }
}
