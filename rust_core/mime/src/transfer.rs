//! Transfer decoding as readers do it: the standard's way, and the other ways when the encoded octets leave the standard. Streams; a
//! body is never held twice. Errors do not exist: every octet is read one way or the other.

use std::io::{self, Read};

use crate::decode::{Decoder, Encoding};
use crate::defect::DefectKind;
use crate::uuencode;

/// A way to decode a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// 7bit, 8bit, binary, or unknown: the octets themselves.
    Identity,
    /// Foreign octets are skipped; what follows padding is decoded as well.
    Base64,
    /// Ends at the first padding.
    Base64ToPadding,
    /// Ends at the first octet that is not base64.
    Base64ToInvalid,
    /// Padding is skipped like any foreign octet.
    Base64Through,
    /// Lines with foreign octets are skipped as a whole.
    Base64Lines,
    /// Each line is decoded by itself; what is left of a group at its end is lost.
    Base64ByLine,
    /// `-` and `_` are digits.
    Base64Url,
    /// A broken escape stands for itself.
    QuotedPrintable,
    /// The `=` of a broken escape vanishes.
    QuotedPrintableDrop1,
    /// `=` and the octet behind it vanish.
    QuotedPrintableDrop2,
    /// `=` and two octets vanish.
    QuotedPrintableDrop3,
    /// uuencode, with or without its `begin` line.
    Uuencode,
}

impl Method {
    /// Every one.
    pub const ALL: [Self; 13] = [
        Self::Identity,
        Self::Base64,
        Self::Base64ToPadding,
        Self::Base64ToInvalid,
        Self::Base64Through,
        Self::Base64Lines,
        Self::Base64ByLine,
        Self::Base64Url,
        Self::QuotedPrintable,
        Self::QuotedPrintableDrop1,
        Self::QuotedPrintableDrop2,
        Self::QuotedPrintableDrop3,
        Self::Uuencode,
    ];

    /// For people; empty when it is the standard's way of the declared encoding.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Identity => "the body is not encoded",
            Self::Base64 => "base64",
            Self::Base64ToPadding => "base64 ends at its padding",
            Self::Base64ToInvalid => "base64 ends at a foreign octet",
            Self::Base64Through => "base64 padding within is skipped",
            Self::Base64Lines => "base64 lines with foreign octets are skipped",
            Self::Base64ByLine => "base64 is decoded line by line",
            Self::Base64Url => "base64 digits are - and _",
            Self::QuotedPrintable => "quoted-printable",
            Self::QuotedPrintableDrop1 => "a broken escape loses its =",
            Self::QuotedPrintableDrop2 => "a broken escape vanishes with one octet",
            Self::QuotedPrintableDrop3 => "a broken escape vanishes with two octets",
            Self::Uuencode => "uuencode",
        }
    }

    /// By the name of the encoding in lower case; `None` when no reader knows it.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "x-uuencode" | "uuencode" | "x-uue" | "uue" | "x-uu" => Some(Self::Uuencode),
            _ => Encoding::from_name(name).map(|encoding| match encoding {
                Encoding::Identity => Self::Identity,
                Encoding::Base64 => Self::Base64,
                Encoding::QuotedPrintable => Self::QuotedPrintable,
            }),
        }
    }

    /// The encoding whose standard way this is.
    const fn standard(self) -> Option<Encoding> {
        match self {
            Self::Identity => Some(Encoding::Identity),
            Self::Base64 => Some(Encoding::Base64),
            Self::QuotedPrintable => Some(Encoding::QuotedPrintable),
            _ => None,
        }
    }

    /// Other ways that real readers take with this body, and the defects that make them differ (offset from the body's start).
    pub fn others(self, body: &[u8]) -> (Vec<Self>, Vec<(usize, DefectKind)>) {
        match self {
            Self::Base64 => base64_doubts(body),
            Self::QuotedPrintable => quoted_printable_doubts(body),
            // Nothing of uuencode in it: who cannot decode shows what there is.
            Self::Uuencode if memchr::memmem::find(body, b"begin").is_none() => (vec![Self::Identity], Vec::new()),
            _ => (Vec::new(), Vec::new()),
        }
    }
}

/// Decodes a body as it is read. Bounded memory; the caller puts its budget on the output.
pub struct BodyReader<'a> {
    method: Method,
    rest: &'a [u8],
    decoder: Option<Decoder>,
    ready: Vec<u8>,
    at: usize,
}

/// Encoded octets decoded in one go.
const STEP: usize = 48 << 10;

impl<'a> BodyReader<'a> {
    /// A reader at the start of `body`.
    pub fn new(method: Method, body: &'a [u8]) -> Self {
        let (rest, decoder) = match method {
            Method::Base64ToPadding => (&body[..padding_end(body)], Some(Encoding::Base64)),
            Method::Base64ToInvalid => (&body[..body.iter().position(|&b| !is_base64(b)).unwrap_or(body.len())], Some(Encoding::Base64)),
            Method::Base64 | Method::Base64Through | Method::Base64Lines | Method::Base64ByLine | Method::Base64Url => {
                (body, Some(Encoding::Base64))
            }
            Method::QuotedPrintable | Method::QuotedPrintableDrop1 | Method::QuotedPrintableDrop2 | Method::QuotedPrintableDrop3 => {
                (body, Some(Encoding::QuotedPrintable))
            }
            Method::Identity | Method::Uuencode => (body, None),
        };
        Self { method, rest, decoder: decoder.map(Decoder::new), ready: Vec::new(), at: 0 }
    }

    /// The next decoded octets, at most about 48 KiB; empty at the end.
    pub fn step(&mut self) -> &[u8] {
        self.fill();
        let from = std::mem::replace(&mut self.at, self.ready.len());
        &self.ready[from..]
    }

    fn fill(&mut self) {
        if self.at < self.ready.len() {
            return;
        }
        self.ready.clear();
        self.at = 0;
        while self.ready.is_empty() && !(self.rest.is_empty() && self.decoder.is_none()) {
            let cut = self.cut();
            let (piece, rest) = self.rest.split_at(cut);
            self.rest = rest;
            let Some(decoder) = self.decoder.as_mut() else {
                match self.method {
                    Method::Uuencode => uuencode::decode(piece, &mut self.ready),
                    _ => self.ready.extend_from_slice(piece),
                }
                continue;
            };
            if piece.is_empty() {
                decoder.finish(&mut self.ready);
                self.decoder = None;
            } else {
                feed(decoder, self.method, piece, &mut self.ready);
            }
        }
    }

    /// Where the next piece ends: at a line end for the methods that look at lines.
    fn cut(&self) -> usize {
        if self.rest.len() <= STEP {
            return self.rest.len();
        }
        let by_line = matches!(self.method, Method::Uuencode | Method::Base64Lines | Method::Base64ByLine)
            || matches!(self.method, Method::QuotedPrintableDrop1 | Method::QuotedPrintableDrop2 | Method::QuotedPrintableDrop3);
        if by_line { memchr::memrchr(b'\n', &self.rest[..STEP]).map_or(STEP, |n| n + 1) } else { STEP }
    }
}

impl Read for BodyReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.fill();
        let ready = &self.ready[self.at..];
        let count = ready.len().min(out.len());
        out[..count].copy_from_slice(&ready[..count]);
        self.at += count;
        Ok(count)
    }
}

/// Octets that are reserved before anything is decoded.
const AHEAD: usize = 1 << 20;

/// All of a body, up to `max` octets; true when there is more.
pub fn decode(method: Method, body: &[u8], max: usize) -> (Vec<u8>, bool) {
    // What is decoded is no longer than what was encoded: the limit cannot be met, and one pass writes where the octets stay.
    if let Some(encoding) = method.standard().filter(|_| body.len() <= max) {
        let mut decoder = Decoder::new(encoding);
        let mut out = Vec::with_capacity(if encoding == Encoding::Base64 { body.len() / 4 * 3 + 3 } else { body.len() });
        decoder.feed(body, &mut out);
        decoder.finish(&mut out);
        return (out, false);
    }
    let mut reader = BodyReader::new(method, body);
    let mut out = Vec::with_capacity(body.len().min(max).min(AHEAD));
    loop {
        let piece = reader.step();
        if piece.is_empty() {
            return (out, false);
        }
        let room = max - out.len();
        out.extend_from_slice(&piece[..piece.len().min(room)]);
        if piece.len() > room {
            return (out, true);
        }
    }
}

fn feed(decoder: &mut Decoder, method: Method, piece: &[u8], out: &mut Vec<u8>) {
    let kept: Vec<u8> = match method {
        Method::Base64Through => piece.iter().copied().filter(|&b| b != b'=').collect(),
        Method::Base64Url => piece.iter().map(|&b| [b, b'+', b'/'][usize::from(b == b'-') + 2 * usize::from(b == b'_')]).collect(),
        Method::Base64Lines => {
            let clean = piece.split_inclusive(|&b| b == b'\n').filter(|line| line.iter().all(|&b| is_base64(b) || b == b'='));
            clean.flatten().copied().collect()
        }
        Method::Base64ByLine => piece.split(|&b| b == b'\n').flat_map(whole_groups).collect(),
        Method::QuotedPrintableDrop1 => dropped(piece, 1),
        Method::QuotedPrintableDrop2 => dropped(piece, 2),
        Method::QuotedPrintableDrop3 => dropped(piece, 3),
        _ => return decoder.feed(piece, out),
    };
    decoder.feed(&kept, out);
}

/// The digits of a line up to its last whole group, or to its padding.
fn whole_groups(line: &[u8]) -> Vec<u8> {
    let mut digits: Vec<u8> =
        line.iter().copied().take_while(|&b| b != b'=').filter(|&b| is_base64(b) && !b.is_ascii_whitespace()).collect();
    let padded = memchr::memchr(b'=', line).is_some() && digits.len() % 4 > 1;
    if padded {
        digits.extend_from_slice(&b"=="[..4 - digits.len() % 4]);
    } else {
        digits.truncate(digits.len() / 4 * 4);
    }
    digits
}

/// Quoted-printable text without `count` octets at each broken escape.
fn dropped(piece: &[u8], count: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(piece.len());
    let mut rest = piece;
    while let Some(at) = memchr::memchr(b'=', rest) {
        let (good, escape) = rest.split_at(at);
        out.extend_from_slice(good);
        let broken = is_broken(escape);
        // The line's end stays. No further than that is looked: there may be an escape at each octet.
        let near = &escape[..escape.len().min(count)];
        let step = if broken { memchr::memchr(b'\n', near).unwrap_or(near.len()).max(1) } else { 1 };
        if !broken {
            out.push(b'=');
        }
        rest = &escape[step..];
    }
    out.extend_from_slice(rest);
    out
}

fn is_broken(escape: &[u8]) -> bool {
    let hex = escape.len() >= 3 && escape[1].is_ascii_hexdigit() && escape[2].is_ascii_hexdigit();
    let space = escape[1..].iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\r')).count();
    !hex && !matches!(escape.get(1 + space), None | Some(b'\n'))
}

/// A base64 digit or white space.
const fn is_base64(byte: u8) -> bool {
    (byte | 0x20).wrapping_sub(b'a') < 26 || byte.wrapping_sub(b'/') < 11 || byte == b'+' || matches!(byte, b'\r' | b'\n' | b' ' | b'\t')
}

fn padding_end(body: &[u8]) -> usize {
    let Some(first) = memchr::memchr(b'=', body) else { return body.len() };
    let tail = body[first..].iter().take_while(|&&b| b == b'=' || b.is_ascii_whitespace()).count();
    first + tail
}

/// Octets looked at in one go: as many as an octet can count.
const BLOCK: usize = 240;

fn base64_doubts(body: &[u8]) -> (Vec<Method>, Vec<(usize, DefectKind)>) {
    let (mut methods, mut defects) = (Vec::new(), Vec::new());
    // The body may end in white space and at most two padding octets; anything else that is no digit is looked at.
    let mut digits = 0usize;
    let mut invalid = None;
    for (n, block) in body.chunks(BLOCK).enumerate() {
        let (mut clean, mut spaces) = (true, 0u8);
        for &byte in block {
            clean &= is_base64(byte);
            // Wrapping, so that the loop becomes vector code; a block is too short to wrap.
            spaces = spaces.wrapping_add(u8::from(byte <= b' '));
        }
        digits += block.len() - usize::from(spaces);
        if !clean {
            invalid = block.iter().position(|&b| !is_base64(b) && b != b'=').map(|at| n * BLOCK + at).or(invalid);
            digits = digits.saturating_sub(block.iter().filter(|&&b| !is_base64(b) && b > b' ').count());
            if invalid.is_some() {
                break;
            }
        }
    }
    if let Some(at) = invalid {
        defects.push((at, DefectKind::Base64Invalid));
        methods.extend([Method::Base64ToInvalid, Method::Base64Lines]);
        if body.iter().any(|b| matches!(b, b'-' | b'_')) {
            methods.push(Method::Base64Url);
        }
    } else if digits % 4 == 1 || (!digits.is_multiple_of(4) && memchr::memchr(b'=', body).is_none()) {
        defects.push((body.len(), DefectKind::Base64Incomplete));
        methods.push(Method::Base64ByLine);
    }
    let padding = padding_end(body);
    if padding < body.len() && body[padding..].iter().any(|&b| is_base64(b) && !b.is_ascii_whitespace()) {
        defects.push((padding, DefectKind::Base64AfterPadding));
        methods.extend([Method::Base64ToPadding, Method::Base64Through, Method::Base64ByLine]);
    }
    (methods, defects)
}

fn quoted_printable_doubts(body: &[u8]) -> (Vec<Method>, Vec<(usize, DefectKind)>) {
    match memchr::memchr_iter(b'=', body).find(|&at| is_broken(&body[at..body.len().min(at + 200)])) {
        None => (Vec::new(), Vec::new()),
        Some(at) => {
            let methods = vec![Method::QuotedPrintableDrop1, Method::QuotedPrintableDrop2, Method::QuotedPrintableDrop3];
            (methods, vec![(at, DefectKind::QuotedPrintableInvalid)])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(method: Method, body: &str) -> String {
        String::from_utf8_lossy(&decode(method, body.as_bytes(), 1_000).0).into_owned()
    }

    #[test]
    fn data_after_padding_is_read_three_ways() {
        let body = "Zmly\r\nc3Q=\r\nc2Vjb25k\r\n";
        let (others, defects) = Method::Base64.others(body.as_bytes());
        assert_eq!(
            (others, defects),
            (vec![Method::Base64ToPadding, Method::Base64Through, Method::Base64ByLine], vec![(12, DefectKind::Base64AfterPadding)])
        );
        assert_eq!(text(Method::Base64, body), "firstsecond");
        assert_eq!(text(Method::Base64ToPadding, body), "first");
    }

    #[test]
    fn foreign_octets_end_the_body_for_some_readers() {
        let body = "aGVs\r\n!!!!\r\nbG8h\r\n";
        assert_eq!(Method::Base64.others(body.as_bytes()).0, [Method::Base64ToInvalid, Method::Base64Lines]);
        assert_eq!((text(Method::Base64, body).as_str(), text(Method::Base64ToInvalid, body).as_str()), ("hello!", "hel"));
        assert_eq!(text(Method::Base64Url, "Pz8_Pz8-"), "?????>");
    }

    #[test]
    fn clean_bodies_have_one_reading() {
        for body in ["", "aGVsbG8=\r\n", "aGVs\r\nbG8h\r\n", "aA==", " aA== \r\n\r\n"] {
            assert_eq!(Method::Base64.others(body.as_bytes()), (vec![], vec![]), "{body}");
        }
        assert_eq!(Method::QuotedPrintable.others(b"a=20b =\r\nc=\n =").0, []);
    }

    #[test]
    fn a_broken_escape_is_kept_or_dropped() {
        assert_eq!(text(Method::QuotedPrintable, "a=ZZb=41"), "a=ZZbA");
        assert_eq!(text(Method::QuotedPrintableDrop1, "a=ZZb=41"), "aZZbA");
        assert_eq!(text(Method::QuotedPrintableDrop3, "a=ZZb=41"), "abA");
    }
}
