//! DATA as it comes off the wire (RFC 5321 4.5.2): finds the end, takes stuffed dots out, refuses or mends bare line ends.
//!
//! The end of data is CRLF "." CRLF and nothing else (the CRLF before the dot may be the one that ended the DATA command). A CR
//! without LF, or an LF without CR, is a defect: taking either for a line end is what SMTP smuggling lives on. After a defect nothing
//! is stored but the end is still looked for, so that the session can answer and go on. The outcome is the same however
//! the octets are cut into pieces.

use memchr::memchr2;

/// Octets that are looked at together for anything but whole lines of text.
const BLOCK: usize = 2048;

/// Where in a line the next octet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    LineStart,
    /// Behind a dot that began a line; the dot is not stored.
    Dot,
    /// Behind CR of a line that is only a dot.
    DotCr,
    Text,
    /// Behind a CR that is not stored yet.
    Cr,
    End,
}

/// What is wrong with a line end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bare {
    Cr,
    Lf,
}

/// Takes the octets of the message as they become known.
pub(crate) trait Body {
    /// Octets of the message; lines end in CRLF.
    fn put(&mut self, data: &[u8]);
    /// A bare CR or LF. What is put in its place is up to the body (it calls `put`).
    fn bare(&mut self, kind: Bare);
}

/// The machine; feed it until `done`.
#[derive(Debug)]
pub(crate) struct Dots {
    place: Place,
}

impl Dots {
    pub fn new() -> Self {
        Self { place: Place::LineStart }
    }

    pub fn done(&self) -> bool {
        self.place == Place::End
    }

    /// Takes octets up to and including the end of data. Returns how many.
    pub fn feed(&mut self, data: &[u8], body: &mut impl Body) -> usize {
        let mut at = 0;
        // data[from..at] is text that was looked at and not put yet.
        let mut from = 0;
        // So far the lines are to be looked at one by one.
        let mut singly = 0;
        while at < data.len() {
            if at >= singly && matches!(self.place, Place::LineStart | Place::Text) {
                let clean = clean(&data[at..]);
                if clean > 0 {
                    at += clean;
                    self.place = if data[at - 1] == b'\n' { Place::LineStart } else { Place::Text };
                    continue;
                }
                singly = at + BLOCK;
            }
            match self.place {
                Place::End => return at,
                Place::LineStart if data[at] == b'.' => {
                    body.put(&data[from..at]);
                    at += 1;
                    from = at;
                    self.place = Place::Dot;
                }
                Place::Dot if data[at] == b'\r' => {
                    at += 1;
                    from = at;
                    self.place = Place::DotCr;
                }
                Place::LineStart | Place::Dot => self.place = Place::Text,
                Place::DotCr if data[at] == b'\n' => {
                    self.place = Place::End;
                    return at + 1;
                }
                Place::Cr if data[at] == b'\n' => {
                    body.put(b"\r\n");
                    at += 1;
                    from = at;
                    self.place = Place::LineStart;
                }
                Place::DotCr | Place::Cr => {
                    body.bare(Bare::Cr);
                    self.place = Place::Text;
                }
                Place::Text => (at, from) = self.text(data, at, from, body),
            }
        }
        body.put(&data[from..at]);
        at
    }

    /// Goes on to the end of the line, or to something wrong with it. Returns the new `at` and `from`.
    fn text(&mut self, data: &[u8], at: usize, from: usize, body: &mut impl Body) -> (usize, usize) {
        let Some(found) = memchr2(b'\r', b'\n', &data[at..]) else { return (data.len(), from) };
        let found = at + found;
        match (data[found], data.get(found + 1)) {
            (b'\r', Some(b'\n')) => {
                self.place = Place::LineStart;
                (found + 2, from)
            }
            (b'\r', None) => {
                body.put(&data[from..found]);
                self.place = Place::Cr;
                (found + 1, found + 1)
            }
            (end, _) => {
                body.put(&data[from..found]);
                body.bare(if end == b'\r' { Bare::Cr } else { Bare::Lf });
                (found + 1, found + 1)
            }
        }
    }
}

/// How many octets from here on, in whole blocks, are text as it should be: CR and LF come together only, no line begins with a dot. What
/// is found does not end in CR, so that what follows it need not be known.
fn clean(data: &[u8]) -> usize {
    if matches!(data.first(), Some(b'.' | b'\n')) {
        return 0;
    }
    let mut end = 0;
    while end < data.len() {
        let next = data.len().min(end + BLOCK);
        // With the octet behind it, if there is one.
        if !pairs_are_clean(&data[end..data.len().min(next + 1)]) {
            break;
        }
        end = next;
    }
    if end > 0 && data[end - 1] == b'\r' { end - 1 } else { end }
}

fn pairs_are_clean(data: &[u8]) -> bool {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { pairs_are_clean_wide(data) };
    }
    pairs_are_clean_any(data)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn pairs_are_clean_wide(data: &[u8]) -> bool {
    pairs_are_clean_any(data)
}

/// Written so that it becomes vector code.
#[inline(always)]
#[allow(clippy::inline_always)]
fn pairs_are_clean_any(data: &[u8]) -> bool {
    let Some((_, behind)) = data.split_first() else { return true };
    let odd = |(a, b): (&u8, &u8)| (u8::from(*a == b'\r') ^ u8::from(*b == b'\n')) | (u8::from(*a == b'\n') & u8::from(*b == b'.'));
    data.iter().zip(behind).fold(0, |found, pair| found | odd(pair)) == 0
}
