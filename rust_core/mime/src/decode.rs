//! Content-transfer decoding in chunks, and text decoding (charset, RFC 2047) by mail-parser's tables.
//!
//! The decoders are lenient as mail readers are: octets outside the alphabet are skipped, a truncated end gives what is there.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mail_parser::HeaderValue;
use mail_parser::decoders::charsets::map::charset_decoder;
use mail_parser::parsers::MessageStream;

/// Header values longer than this are cut before decoding.
const HEADER_VALUE_MAX: usize = 64 << 10;

/// One of the encodings of RFC 2045 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// 7bit, 8bit, binary.
    Identity,
    /// base64
    Base64,
    /// quoted-printable
    QuotedPrintable,
}

impl Encoding {
    /// By its name in lower case; `None` is IMAP's UNKNOWN-CTE (RFC 3516 4.3).
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "7bit" | "8bit" | "binary" | "" => Some(Self::Identity),
            "base64" => Some(Self::Base64),
            "quoted-printable" => Some(Self::QuotedPrintable),
            _ => None,
        }
    }
}

/// Decodes one body fed in chunks of any size; keeps a few octets of state.
#[derive(Debug)]
pub struct Decoder {
    encoding: Encoding,
    bits: u32,
    count: u8,
    ended: bool,
    pending: Vec<u8>,
    packed: Vec<u8>,
}

/// Digits without line ends that are decoded in one go.
const PACKED: usize = 16 << 10;

/// Octets copied at once for a line of digits that is no longer.
const STRIDE: usize = 96;

/// White space and a broken escape are held back at most this long.
const PENDING_MAX: usize = 1_000;

impl Decoder {
    /// A decoder at the start of a body.
    pub fn new(encoding: Encoding) -> Self {
        Self { encoding, bits: 0, count: 0, ended: false, pending: Vec::new(), packed: Vec::new() }
    }

    /// Decode the next octets onto `out`.
    pub fn feed(&mut self, data: &[u8], out: &mut Vec<u8>) {
        match self.encoding {
            Encoding::Identity => out.extend_from_slice(data),
            Encoding::Base64 => self.base64(data, out),
            Encoding::QuotedPrintable => self.quoted_printable_lines(data, out),
        }
    }

    /// The body ends here.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if self.encoding == Encoding::Base64 {
            let rest = std::mem::take(&mut self.packed);
            self.base64_octets(&rest, out);
            self.base64_tail(out);
        }
        if self.encoding == Encoding::QuotedPrintable {
            let pending = std::mem::take(&mut self.pending);
            // White space at the very end of a line is transport padding (RFC 2045 6.7 rule 3), so is a lone soft break.
            if pending.first() == Some(&b'=') && pending.len() > 1 && !pending[1..].iter().all(u8::is_ascii_whitespace) {
                out.extend_from_slice(&pending);
            }
        }
    }

    /// Clean lines go in packs through the quick decoder; whatever it refuses is read octet by octet.
    fn base64(&mut self, data: &[u8], out: &mut Vec<u8>) {
        out.reserve(data.len() / 4 * 3 + 3);
        self.packed.reserve(data.len().min(PACKED) + STRIDE);
        let mut rest = data;
        // Lines are as long as the one before, as a rule.
        let mut width = usize::MAX;
        while !rest.is_empty() {
            let usual = rest.len() > width.saturating_add(1) && rest[width] == b'\r' && rest[width + 1] == b'\n';
            let end = if usual { width + 2 } else { memchr::memchr(b'\n', rest).map_or(rest.len(), |n| n + 1).min(PACKED) };
            if usual && let Some(stride) = rest.first_chunk::<STRIDE>().filter(|_| width <= STRIDE) {
                // A copy of constant size is a few moves; what is too much is cut off.
                let packed = self.packed.len();
                self.packed.extend_from_slice(stride);
                self.packed.truncate(packed + width);
                rest = &rest[end..];
                if self.packed.len() >= PACKED {
                    self.unpack(out);
                }
                continue;
            }
            let (line, tail) = rest.split_at(end);
            rest = tail;
            let text = line.strip_suffix(b"\n").unwrap_or(line);
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            width = text.len();
            self.packed.extend_from_slice(text);
            if self.packed.len() >= PACKED {
                self.unpack(out);
            }
        }
        self.unpack(out);
    }

    /// Decodes what is packed but for a group that is not whole yet.
    fn unpack(&mut self, out: &mut Vec<u8>) {
        let mut packed = std::mem::take(&mut self.packed);
        // A group that began among foreign octets ends before others are taken in one go.
        let mut start = 0;
        while (self.count > 0 || self.ended) && start < packed.len() {
            // Behind padding or within a group, what is no digit and no padding means nothing; behind padding, more of it neither.
            let nothing = |byte: &&u8| BASE64[**byte as usize] > 63 && (self.ended || **byte != b'=');
            start += packed[start..].iter().take_while(nothing).count();
            let next = packed.len().min(start + 1);
            self.base64_octets(&packed[start..next], out);
            start = next;
        }
        let mut whole = (packed.len() - start) / 4 * 4;
        // The group with the padding waits: a pack never ends the body for sure.
        if whole > 0 && packed[start + whole - 1] == b'=' {
            whole -= 4;
        }
        // Nothing is appended when it fails.
        if base64_simd::STANDARD_NO_PAD.decode_append(&packed[start..start + whole], out).is_ok() {
            packed.drain(..start + whole);
        } else {
            self.base64_octets(&packed[start..], out);
            packed.clear();
        }
        self.packed = packed;
    }

    fn base64_octets(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let (mut bits, mut count) = (self.bits, self.count);
        for &byte in data {
            let value = BASE64[byte as usize];
            if value < 64 {
                if self.ended {
                    // Padding inside: another encoded run follows; its groups start anew.
                    (bits, count, self.ended) = (0, 0, false);
                }
                bits = bits << 6 | u32::from(value);
                count += 1;
                if count == 4 {
                    out.extend_from_slice(&bits.to_be_bytes()[1..]);
                    (bits, count) = (0, 0);
                }
            } else if byte == b'=' && !self.ended {
                self.ended = true;
                (self.bits, self.count) = (bits, count);
                self.base64_tail(out);
                (bits, count) = (0, 0);
            }
        }
        (self.bits, self.count) = (bits, count);
    }

    fn base64_tail(&mut self, out: &mut Vec<u8>) {
        match self.count {
            2 => out.push((self.bits >> 4) as u8),
            3 => out.extend_from_slice(&[(self.bits >> 10) as u8, (self.bits >> 2) as u8]),
            _ => {}
        }
        (self.bits, self.count) = (0, 0);
    }

    /// Line by line as long as they are as programs write them; any other octet by octet.
    fn quoted_printable_lines(&mut self, data: &[u8], out: &mut Vec<u8>) {
        out.reserve(data.len());
        let mut rest = data;
        while !rest.is_empty() {
            let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |n| n + 1);
            let (line, tail) = rest.split_at(end);
            rest = tail;
            if self.pending.is_empty() && usual_line(line, out) {
                continue;
            }
            for &byte in line {
                self.quoted_printable(byte, out);
            }
        }
    }

    fn quoted_printable(&mut self, byte: u8, out: &mut Vec<u8>) {
        if self.pending.first() == Some(&b'=') {
            self.escape(byte, out);
            return;
        }
        match byte {
            b'=' => {
                out.append(&mut self.pending);
                self.pending.push(byte);
            }
            b' ' | b'\t' | b'\r' => {
                if self.pending.len() >= PENDING_MAX {
                    out.append(&mut self.pending);
                }
                self.pending.push(byte);
            }
            b'\n' => {
                let crlf = self.pending.last() == Some(&b'\r');
                self.pending.clear();
                out.extend_from_slice(if crlf { b"\r\n" } else { b"\n" });
            }
            _ => {
                out.append(&mut self.pending);
                out.push(byte);
            }
        }
    }

    /// `pending` starts with `=`.
    fn escape(&mut self, byte: u8, out: &mut Vec<u8>) {
        if byte == b'\n' && self.pending[1..].iter().all(u8::is_ascii_whitespace) {
            self.pending.clear();
            return;
        }
        if byte.is_ascii_whitespace() && self.pending.len() < PENDING_MAX && self.pending[1..].iter().all(u8::is_ascii_whitespace) {
            self.pending.push(byte);
            return;
        }
        if self.pending.len() == 1 && byte.is_ascii_hexdigit() {
            self.pending.push(byte);
            return;
        }
        if self.pending.len() == 2 && byte.is_ascii_hexdigit() && self.pending[1].is_ascii_hexdigit() {
            out.push(hex(self.pending[1]) << 4 | hex(byte));
            self.pending.clear();
            return;
        }
        // Not an escape: the octets stand for themselves.
        out.append(&mut self.pending);
        self.quoted_printable(byte, out);
    }
}

/// Decodes a whole line of quoted-printable that holds nothing but text, escapes of two digits and a soft break at its end. False, and
/// nothing is appended, when it is another.
fn usual_line(line: &[u8], out: &mut Vec<u8>) -> bool {
    let Some(text) = line.strip_suffix(b"\n") else { return false };
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let (text, end) = match text.strip_suffix(b"=") {
        Some(text) => (text, &[][..]),
        None if matches!(text.last(), Some(b' ' | b'\t' | b'\r')) => return false,
        None => (text, &line[text.len()..]),
    };
    let (before, mut from) = (out.len(), 0);
    for at in memchr::memchr_iter(b'=', text) {
        let (Some(&high), Some(&low)) = (text.get(at + 1), text.get(at + 2)) else { break };
        if !high.is_ascii_hexdigit() || !low.is_ascii_hexdigit() {
            break;
        }
        out.extend_from_slice(&text[from..at]);
        out.push(hex(high) << 4 | hex(low));
        from = at + 3;
    }
    if memchr::memchr(b'=', &text[from..]).is_some() {
        out.truncate(before);
        return false;
    }
    out.extend_from_slice(&text[from..]);
    out.extend_from_slice(end);
    true
}

fn hex(digit: u8) -> u8 {
    (digit as char).to_digit(16).unwrap_or(0) as u8
}

const BASE64: [u8; 256] = base64_table();

const fn base64_table() -> [u8; 256] {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut table = [255u8; 256];
    let mut n = 0;
    while n < 64 {
        table[alphabet[n] as usize] = n as u8;
        n += 1;
    }
    table
}

/// Decode a whole body; `None` for an unknown encoding.
pub fn decode(encoding: &str, body: &[u8]) -> Option<Vec<u8>> {
    let mut decoder = Decoder::new(Encoding::from_name(encoding)?);
    let mut out = Vec::new();
    decoder.feed(body, &mut out);
    decoder.finish(&mut out);
    Some(out)
}

/// Octets in a charset to text. Unknown charsets are read as UTF-8 with replacement characters.
pub fn charset(name: Option<&[u8]>, octets: &[u8]) -> String {
    let utf8 = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    if let Some(big) = name.and_then(utf16) {
        let unit = |pair: &[u8]| if big { u16::from_be_bytes([pair[0], pair[1]]) } else { u16::from_le_bytes([pair[0], pair[1]]) };
        let units = octets.chunks_exact(2).map(unit);
        return char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    }
    match name.filter(|n| !n.is_empty() && n.len() <= 45 && !n.eq_ignore_ascii_case(b"us-ascii")) {
        Some(name) => guarded(|| charset_decoder(name).map(|decoder| decoder(octets))).flatten().unwrap_or_else(|| utf8(octets)),
        None => utf8(octets),
    }
}

/// [`charset`] for octets that are not needed any more: UTF-8 becomes text where it lies.
pub fn into_text(name: Option<&[u8]>, octets: Vec<u8>) -> String {
    let plain = name.is_none_or(|name| [&b"utf-8"[..], b"us-ascii"].iter().any(|known| name.eq_ignore_ascii_case(known)));
    if !plain {
        return charset(name, &octets);
    }
    String::from_utf8(octets).unwrap_or_else(|fault| charset(name, fault.as_bytes()))
}

/// True for UTF-16 with the high octet first. The names with an order are decoded here: the library takes both for the machine's.
fn utf16(name: &[u8]) -> Option<bool> {
    let is = |wanted: &[u8]| name.eq_ignore_ascii_case(wanted);
    if is(b"utf-16be") { Some(true) } else { is(b"utf-16le").then_some(false) }
}

/// Octets without a charset: UTF-8 if they are that, else the Western one that mail programs fall back to.
pub fn guess(octets: &[u8]) -> String {
    match std::str::from_utf8(octets) {
        Ok(text) => text.to_owned(),
        Err(_) => charset(Some(b"windows-1252"), octets),
    }
}

/// A header value (unfolded) with its RFC 2047 words decoded; 8-bit octets are read as UTF-8.
pub fn header_text(value: &[u8]) -> String {
    let value = &value[..value.len().min(HEADER_VALUE_MAX)];
    if memchr::memmem::find(value, b"=?").is_none() {
        return String::from_utf8_lossy(value).into_owned();
    }
    let mut line = value.to_vec();
    line.push(b'\n');
    let decoded = guarded(|| match MessageStream::new(&line).parse_unstructured() {
        HeaderValue::Text(text) => Some(text.into_owned()),
        _ => None,
    });
    decoded.flatten().unwrap_or_else(|| String::from_utf8_lossy(value).into_owned())
}

/// Run foreign decoding code; a panic in it counts as "cannot decode". Mail is hostile input and overflow checks are on.
fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_pieces(encoding: Encoding, body: &[u8], size: usize) -> Vec<u8> {
        let mut decoder = Decoder::new(encoding);
        let mut out = Vec::new();
        for piece in body.chunks(size) {
            decoder.feed(piece, &mut out);
        }
        decoder.finish(&mut out);
        out
    }

    #[test]
    fn quoted_printable_follows_rfc_2045_6_7() {
        let body = b"caf=C3=A9 =\r\nsoft  \r\nend=  \r\n=ZZ=3D=";
        for size in [1, 2, 3, 100] {
            assert_eq!(in_pieces(Encoding::QuotedPrintable, body, size), "café soft\r\nend=ZZ=".as_bytes(), "{size}");
        }
    }

    #[test]
    fn base64_skips_foreign_octets_and_takes_a_missing_end() {
        assert_eq!(decode("base64", b"SGVs\r\nbG8h").unwrap(), b"Hello!");
        assert_eq!(decode("base64", b"SGVsbG8=\r\n").unwrap(), b"Hello");
        assert_eq!(decode("base64", b"SGVsbG8").unwrap(), b"Hello");
        assert_eq!(in_pieces(Encoding::Base64, b"S*G V\r\ns b G8=", 1), b"Hello");
        assert_eq!(decode("x-uue", b""), None);
    }

    #[test]
    fn header_words_and_charsets_become_text() {
        assert_eq!(header_text(b"=?ISO-8859-1?Q?Patrik_F=E4ltstr=F6m?= <p@x>"), "Patrik Fältström <p@x>");
        assert_eq!(header_text("Grüße".as_bytes()), "Grüße");
        assert_eq!(charset(Some(b"iso-8859-1"), b"caf\xe9"), "café");
        assert_eq!(charset(Some(b"shift_jis"), b"\x83n\x83\x8D"), "ハロ");
        assert_eq!(charset(Some(b"UTF-16BE"), b"\0a\x20\xac"), "a€");
        assert_eq!(charset(Some(b"x-nobody-knows"), b"abc"), "abc");
    }
}
