//! Base64 as programs write it: lines of one width, a multiple of four digits, each with CRLF behind it and nothing else in it.
//!
//! The indexer asks how many such lines a body begins with. In them is no delimiter, no doubt about line ends and none about the encoding,
//! so that one look takes the place of four; and where they are known, their octets are decoded straight to where they stay. What follows
//! them, the last line at the least, goes the usual way: as each line holds whole groups, the two meet at the border of a group.

use base64_simd::{AsOut, STANDARD_NO_PAD};

use crate::transfer::{self, Method};

/// Digits of a line at most (RFC 5322 2.1.1).
const WIDTH_MAX: usize = 996;
/// Digits looked at in one go.
const PACK: usize = 2 << 10;

/// Whole lines at the beginning of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lines {
    /// Where the first begins.
    pub start: usize,
    /// Their octets, line ends included.
    pub len: usize,
    /// Digits of each.
    pub width: usize,
}

impl Lines {
    /// The lines that `data` begins with, if there are some; `start` is where it stands in the message.
    pub fn find(data: &[u8], start: usize) -> Option<Self> {
        let width = memchr::memchr(b'\r', &data[..data.len().min(WIDTH_MAX + 1)]).filter(|width| *width > 0 && width.is_multiple_of(4))?;
        let len = match width {
            // Those that programs use: moves of a constant size are quick.
            76 => count::<76>(data),
            64 => count::<64>(data),
            72 => count::<72>(data),
            _ => count_any(data, width),
        };
        (len > 0).then_some(Self { start, len, width })
    }

    /// Those of them that are whole within so many octets: the last line end may belong to a delimiter.
    pub fn within(self, octets: usize) -> Self {
        Self { len: self.len.min(octets / (self.width + 2) * (self.width + 2)), ..self }
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.len / (self.width + 2)
    }

    /// Octets that they decode to.
    pub fn decoded(&self) -> usize {
        self.count() * self.width / 4 * 3
    }

    /// Decode them; `lines` are their octets, `out` has room for [`Lines::decoded`].
    pub fn decode(&self, lines: &[u8], out: &mut [u8]) {
        match self.width {
            76 => decode::<76>(lines, out),
            64 => decode::<64>(lines, out),
            72 => decode::<72>(lines, out),
            width => decode_any(lines, width, out),
        }
    }
}

/// A body of such lines and of others behind them, to be decoded where its octets stay.
#[derive(Debug)]
pub struct Prepared<'a> {
    lines: Lines,
    octets: &'a [u8],
    rest: Vec<u8>,
}

impl<'a> Prepared<'a> {
    /// `None` when it may decode to more than `max` octets.
    pub(crate) fn new(lines: Lines, body: &'a [u8], max: usize) -> Option<Self> {
        let lines = lines.within(body.len());
        let (octets, rest) = body.split_at_checked(lines.len)?;
        if lines.decoded() + rest.len() > max {
            return None;
        }
        let (rest, _) = transfer::decode(Method::Base64, rest, usize::MAX);
        Some(Self { lines, octets, rest })
    }

    /// Octets that it decodes to.
    pub fn len(&self) -> usize {
        self.lines.decoded() + self.rest.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Decode it to `out`, which has [`Prepared::len`] octets.
    pub fn write(&self, out: &mut [u8]) {
        let (lines, rest) = out.split_at_mut(self.lines.decoded().min(out.len()));
        self.lines.decode(self.octets, lines);
        rest.copy_from_slice(&self.rest);
    }

    /// Decoded.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = vec![0; self.len()];
        self.write(&mut out);
        out
    }
}

/// Octets of the whole lines of `WIDTH` digits at the beginning.
fn count<const WIDTH: usize>(data: &[u8]) -> usize {
    let mut packed = [0; PACK];
    let mut taken = 0;
    for lines in data.chunks(PACK / WIDTH * (WIDTH + 2)) {
        let (mut at, mut ended) = (0, false);
        for line in lines.chunks_exact(WIDTH + 2) {
            if &line[WIDTH..] != b"\r\n" {
                ended = true;
                break;
            }
            packed[at..at + WIDTH].copy_from_slice(&line[..WIDTH]);
            at += WIDTH;
        }
        let sound = sound(&packed[..at], WIDTH);
        taken += sound * (WIDTH + 2);
        if ended || sound * WIDTH < at {
            break;
        }
    }
    taken
}

fn count_any(data: &[u8], width: usize) -> usize {
    let is_whole = |line: &&[u8]| &line[width..] == b"\r\n" && STANDARD_NO_PAD.check(&line[..width]).is_ok();
    data.chunks_exact(width + 2).take_while(is_whole).count() * (width + 2)
}

/// Lines of packed digits that are nothing else.
fn sound(packed: &[u8], width: usize) -> usize {
    if STANDARD_NO_PAD.check(packed).is_ok() {
        return packed.len() / width;
    }
    packed.chunks_exact(width).take_while(|line| STANDARD_NO_PAD.check(line).is_ok()).count()
}

fn decode<const WIDTH: usize>(lines: &[u8], out: &mut [u8]) {
    let mut packed = [0; PACK];
    let (step, room) = (PACK / WIDTH * (WIDTH + 2), PACK / WIDTH * WIDTH / 4 * 3);
    for (lines, out) in lines.chunks(step).zip(out.chunks_mut(room)) {
        let mut at = 0;
        for line in lines.chunks_exact(WIDTH + 2) {
            packed[at..at + WIDTH].copy_from_slice(&line[..WIDTH]);
            at += WIDTH;
        }
        into(&packed[..at], out);
    }
}

fn decode_any(lines: &[u8], width: usize, out: &mut [u8]) {
    for (line, out) in lines.chunks_exact(width + 2).zip(out.chunks_exact_mut(width / 4 * 3)) {
        into(&line[..width], out);
    }
}

/// They were looked at when the lines were found; of others the place stays as it is.
fn into(digits: &[u8], out: &mut [u8]) {
    let done = STANDARD_NO_PAD.decode(digits, out.as_out());
    debug_assert!(done.is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(data: &[u8]) -> Option<(usize, usize)> {
        Lines::find(data, 7).map(|lines| (lines.count(), lines.width))
    }

    #[test]
    fn lines_are_counted_up_to_the_first_that_is_another() {
        for width in [4, 60, 64, 72, 76, 996] {
            let line = [vec![b'Q'; width], b"\r\n".to_vec()].concat();
            for rest in [&b"QUJD\r\n--b"[..], b"", b"QUI=\r\n", b"\r\n", b"--b\r\n"] {
                let many = [line.repeat(300), rest.to_vec()].concat();
                assert_eq!(found(&many), Some((300 + usize::from(width == 4 && rest.starts_with(b"QUJD")), width)), "{width} {rest:?}");
            }
            for (at, octet) in [(0, b'-'), (width - 1, b'='), (width / 2, 0), (width, b' '), (width + 1, b'A'), (1, b'\n'), (2, b'\r')] {
                let mut many = line.repeat(300);
                many[(width + 2) * 250 + at] = octet;
                assert_eq!(found(&many), Some((250, width)), "{width} {at}");
            }
        }
        for none in [&b""[..], b"QUJDR\r\nQUJDR\r\n", b"QUJD", b"QUJD\r", b"QUJD\nQUJD\n", b"QUI=\r\n", b"\r\n\r\n"] {
            assert_eq!(found(none), None);
        }
        assert_eq!(found(&[vec![b'Q'; 1_000], b"\r\n".to_vec()].concat()), None);
    }

    #[test]
    fn they_decode_as_all_base64_does() {
        for width in [4, 60, 64, 72, 76, 996] {
            let line: Vec<u8> = (0..width).map(|n| b"ABCDwxyz0189+/"[n % 14]).chain(*b"\r\n").collect();
            for count in [1, 2, 106, 107, 108, 500] {
                let body = line.repeat(count);
                let lines = Lines::find(&body, 0).unwrap();
                let mut out = vec![0; lines.decoded()];
                lines.decode(&body, &mut out);
                assert_eq!(Some(out), crate::decode::decode("base64", &body), "{width} {count}");
            }
        }
    }
}
