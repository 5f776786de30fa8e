//! Text and nothing else, at length: the quick look ([`crate::is_plain`]) at a message that does not stay in memory, taken while it comes in.
//!
//! Called by the binding crate with all octets in order, a whole buffer first. It says yes only where [`crate::inspect`] would find a single text without flag,
//! sign or defect; what might begin a file within a text is a no, without a look whether a file follows. tests/plain.rs holds the two together.

use memchr::{memchr, memchr_iter, memmem};

use crate::filling::Filling;
use crate::loose::{FIELD, escapes};
use crate::plain::{is_odd, shown, single_text};
use crate::wide;

/// Longer messages are inspected.
const MESSAGE_MAX: u64 = 16 << 20;
/// Octets of the body that the first piece has to show: marks of file formats are within them.
const BODY_MIN: usize = 64 << 10;
/// Octets of a piece that are looked at again with the next: more than any mark that could lie across the border has.
const OVERLAP: usize = 64;
/// Octets that are looked at together. A twelfth of escapes of quoted-printable among them is too many.
const BLOCK: usize = 512;
/// Octets of which it is found out together whether base64 has them.
const CODED_OF: usize = 4096;
/// What files within text begin with (`gatepost_mime::uuencode`), and PGP messages; "begin" counts at the beginning of a line, or as "=ybegin".
const MARKS: [&[u8]; 3] = [b"(This file must be converted with BinHex", b"-----BEGIN PGP MESSAGE", b"=ybegin"];
/// Octets of a mark before the two that give it away.
const MARK_BEFORE: usize = 4;
/// What [`doubts`] tells, bit by bit: an octet that text has not, a `=`, what may be the first two octets of a mark.
const ODD: u8 = 1;
const EQUALS: u8 = 2;
const MARK: u8 = 4;

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
        let (start, rest) = if self.taken == 0 { piece.split_at(self.start_of(piece)) } else { (piece, &[][..]) };
        self.next(start) && (rest.is_empty() || self.next(rest))
    }

    /// Octets of the first piece with the header and what has to be seen of the body.
    fn start_of(&self, piece: &[u8]) -> usize {
        let header = piece.get(self.prefix..).and_then(|message| memmem::find(message, b"\r\n\r\n")).unwrap_or(piece.len());
        piece.len().min(self.prefix + header + BODY_MIN + b"\r\n\r\n".len())
    }

    fn next(&mut self, piece: &[u8]) -> bool {
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
            && self.is_not_base64(text)
            && shown(body, "text/plain")
            && is_text_without_marks(body)
    }

    fn goes_on(&mut self, piece: &[u8]) -> bool {
        let border = [&self.tail, &piece[..piece.len().min(OVERLAP)]].concat();
        is_text_without_marks(piece) && self.is_not_base64(piece) && is_text_without_marks(&border)
    }

    /// Not base64 as a whole, for all that is known yet.
    fn is_not_base64(&mut self, piece: &[u8]) -> bool {
        if self.filling.as_mut().is_some_and(|filling| !filling.take(piece)) {
            if piece.chunks(CODED_OF).all(is_coded) {
                return false;
            }
            self.filling = None;
        }
        true
    }
}

/// No octet that text has not, no escapes of quoted-printable close together, and nothing that a file begins with.
fn is_text_without_marks(text: &[u8]) -> bool {
    (0..text.len()).step_by(BLOCK).all(|at| {
        let end = text.len().min(at + BLOCK);
        let seen = wide::pairs(&text[at..text.len().min(end + 1)], doubts);
        seen & ODD == 0
            && (seen & EQUALS == 0 || escapes(&text[at..end]) * 12 < (end - at).max(BLOCK / 8))
            && (seen & MARK == 0 || !has_mark(&text[at.saturating_sub(MARK_BEFORE)..text.len().min(end + OVERLAP)]))
    })
}

/// What is to be looked at more closely where these two octets follow each other.
fn doubts(a: u8, b: u8) -> u8 {
    let line = u8::from(a == b'\n') & (u8::from(b == b'b') | u8::from(b | 0x20 == b'c'));
    let within =
        u8::from(a == b'=') & u8::from(b == b'y') | u8::from(a == b'(') & u8::from(b == b'T') | u8::from(a == b'-') & u8::from(b == b'B');
    (ODD * is_odd(a)) | (EQUALS * u8::from(a == b'=')) | (MARK * (line | within))
}

/// Is it of the octets of base64, blanks between them included?
fn is_coded(block: &[u8]) -> bool {
    let others = wide::any(block, |octet| {
        let letter = u8::from((octet | 0x20).wrapping_sub(b'a') < 26);
        let digit = u8::from(octet.wrapping_sub(b'0') < 10);
        let sign = u8::from(octet == b'+') | u8::from(octet == b'/') | u8::from(octet == b'=');
        let line = u8::from(octet == b'\r') | u8::from(octet == b'\n');
        let blank = u8::from(octet == b' ') | u8::from(octet == b'\t') | u8::from(octet == b'\x0c');
        (letter | digit | sign | line | blank) ^ 1
    });
    others == 0
}

/// A file may begin in it, or a part with a field of its own. At the very beginning nothing counts: it was seen with what comes before it.
fn has_mark(text: &[u8]) -> bool {
    let begins = |line: &[u8]| match line.first() {
        Some(b'b') => line.starts_with(b"begin"),
        Some(b'c' | b'C') => line.get(..FIELD.len()).is_some_and(|name| name.eq_ignore_ascii_case(FIELD)),
        _ => false,
    };
    memchr_iter(b'\n', text).any(|end| begins(&text[end + 1..])) || MARKS.iter().any(|mark| memmem::find(text, mark).is_some())
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
