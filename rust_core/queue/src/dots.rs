//! DATA as it comes off the wire (RFC 5321 4.5.2): finds the end, takes stuffed dots out, refuses or mends bare line ends.
//!
//! The end of data is CRLF "." CRLF and nothing else (the CRLF before the dot may be the one that ended the DATA command). A CR
//! without LF, or an LF without CR, is a defect: taking either for a line end is what SMTP smuggling lives on. After a defect nothing
//! is stored but the end is still looked for, so that the session can answer and go on. The outcome is the same however
//! the octets are cut into pieces.

use memchr::memchr2;

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
        while at < data.len() {
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
