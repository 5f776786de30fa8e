//! Canonical forms of DKIM (RFC 6376 3.4) and their SHA-256: the part of a verification that grows with the message.
//!
//! Called by the binding for `policy/mail_auth/dkim.py`, which reads signatures, finds keys and decides. Invariants: linear in the octets,
//! whatever they are; a body is taken in pieces of any size and never kept; the digest does not depend on where it was cut. Never fails.

use memchr::{memchr, memchr3};
use sha2::{Digest, Sha256};

/// A SHA-256 digest.
pub type Hash = [u8; 32];

/// The digest of one canonical form of a body (RFC 6376 3.4.3, 3.4.4), made while the body comes in.
pub struct Body {
    relaxed: bool,
    limit: u64,
    hasher: Sha256,
    /// Octets of the canonical form so far, also those beyond the limit.
    length: u64,
    /// Line ends that stand only if a line with text follows.
    ends: u64,
    /// Blanks that stand only if text follows in the line.
    blank: bool,
    /// The last piece ended with a CR.
    cr: bool,
}

impl Body {
    /// `limit` is the `l=` of a signature: octets of the canonical form that count.
    pub fn new(relaxed: bool, limit: Option<u64>) -> Self {
        Self { relaxed, limit: limit.unwrap_or(u64::MAX), hasher: Sha256::new(), length: 0, ends: 0, blank: false, cr: false }
    }

    /// Takes the next octets.
    pub fn take(&mut self, octets: &[u8]) {
        let mut rest = octets;
        if self.cr && !rest.is_empty() {
            self.cr = false;
            rest = self.behind_cr(rest);
        }
        while !rest.is_empty() {
            let found = if self.relaxed { memchr3(b'\r', b' ', b'\t', rest) } else { memchr(b'\r', rest) };
            let at = found.unwrap_or(rest.len());
            if at > 0 {
                self.text(&rest[..at]);
            }
            rest = match rest.get(at) {
                None => return,
                Some(b'\r') if at + 1 == rest.len() => {
                    self.cr = true;
                    return;
                }
                Some(b'\r') => self.behind_cr(&rest[at + 1..]),
                Some(_) => {
                    self.blank = true;
                    &rest[at + 1..]
                }
            };
        }
    }

    /// The digest, and how many octets the canonical form has, those beyond the limit too.
    pub fn finish(mut self) -> (Hash, u64) {
        if self.cr {
            self.text(b"\r");
        }
        if self.length > 0 || !self.relaxed {
            self.put(b"\r\n");
        }
        (self.hasher.finalize().into(), self.length)
    }

    /// What follows a CR: with an LF it was the end of a line, else it was text.
    fn behind_cr<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        if let [b'\n', rest @ ..] = rest {
            self.blank = false;
            self.ends += 1;
            return rest;
        }
        self.text(b"\r");
        rest
    }

    fn text(&mut self, octets: &[u8]) {
        for _ in 0..std::mem::take(&mut self.ends) {
            self.put(b"\r\n");
        }
        if std::mem::take(&mut self.blank) {
            self.put(b" ");
        }
        self.put(octets);
    }

    fn put(&mut self, octets: &[u8]) {
        let room = usize::try_from(self.limit.saturating_sub(self.length)).unwrap_or(usize::MAX);
        self.hasher.update(&octets[..octets.len().min(room)]);
        self.length += octets.len() as u64;
    }
}

/// The digest of header fields (RFC 6376 3.4.1, 3.4.2, 3.7): each with its line end as it stands in the message, the last one the
/// signature's own, whose line end does not count.
pub fn header<T: AsRef<[u8]>>(fields: &[T], relaxed: bool) -> Hash {
    let mut hasher = Sha256::new();
    for (number, field) in fields.iter().enumerate() {
        let mut form = if relaxed { relaxed_field(field.as_ref()) } else { field.as_ref().to_vec() };
        if number + 1 == fields.len() && form.ends_with(b"\r\n") {
            form.truncate(form.len() - 2);
        }
        hasher.update(&form);
    }
    hasher.finalize().into()
}

fn relaxed_field(field: &[u8]) -> Vec<u8> {
    let colon = memchr(b':', field).unwrap_or(field.len());
    let mut form = field[..colon].trim_ascii_end().to_ascii_lowercase();
    form.push(b':');
    let name = form.len();
    let mut blank = false;
    for &octet in field.get(colon + 1..).unwrap_or_default() {
        match octet {
            b'\r' | b'\n' => {}
            b' ' | b'\t' => blank = true,
            _ => {
                if std::mem::take(&mut blank) && form.len() > name {
                    form.push(b' ');
                }
                form.push(octet);
            }
        }
    }
    form.extend_from_slice(b"\r\n");
    form
}
