//! A stored message as a byte stream for POP3: raw, or dot-stuffed and with the body cut after some lines (RFC 1939 RETR, TOP).

use std::sync::Arc;

use crate::content::Content;
use crate::error::Result;
use crate::id::Id;
use crate::volume::Volume;

/// Reads one message from its begin to its end.
pub struct StoredMessage {
    content: Content,
    at: u64,
    line_start: bool,
    /// Last octet handed out.
    last: u8,
    /// The blank line behind the header was passed.
    in_body: bool,
    line_octets: usize,
    body_lines: i64,
    ended: bool,
}

impl StoredMessage {
    /// Open a message; a damaged small one is found out here.
    pub fn open(volume: &Arc<Volume>, folder: &Id, uid: i64) -> Result<Self> {
        let message = volume.message(folder, uid)?;
        let place = volume.read(|db| message.place(volume, db))?;
        let content = Content::open_listed(volume, &message, &place)?;
        Ok(Self { content, at: 0, line_start: true, last: b'\n', in_body: false, line_octets: 0, body_lines: 0, ended: false })
    }

    /// Octets of the message.
    pub fn size(&self) -> u64 {
        self.content.len()
    }

    /// Next octets, `n` at most; empty at the end.
    pub fn read(&mut self, n: usize) -> Result<Vec<u8>> {
        let octets = self.content.at(self.at, n.max(1))?.to_vec();
        self.at += octets.len() as u64;
        Ok(octets)
    }

    /// Next octets dot-stuffed, about `n`; CRLF.CRLF at the end, then empty. `limit` >= 0 ends after that many body lines.
    pub fn read_dotted(&mut self, n: usize, limit: i64) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(n.min(1 << 20) + 64);
        while out.len() < n.max(1) && !self.ended {
            let octets = self.content.at(self.at, n.max(1))?.to_vec();
            if octets.is_empty() {
                self.end(&mut out);
                break;
            }
            for &octet in &octets {
                self.at += 1;
                if self.put(octet, &mut out, limit) {
                    self.end(&mut out);
                    break;
                }
            }
        }
        Ok(out)
    }

    /// Put one octet; true when the limit of body lines is reached.
    fn put(&mut self, octet: u8, out: &mut Vec<u8>, limit: i64) -> bool {
        if self.line_start && self.in_body && limit >= 0 && self.body_lines >= limit {
            return true;
        }
        if self.line_start && octet == b'.' {
            out.push(b'.');
        }
        if octet == b'\n' && self.last != b'\r' {
            // POP3 lines end with CRLF whatever the message has.
            out.push(b'\r');
        }
        out.push(octet);
        self.line_start = octet == b'\n';
        if octet == b'\n' {
            if self.in_body {
                self.body_lines += 1;
            } else if self.line_octets == 0 {
                self.in_body = true;
            }
            self.line_octets = 0;
        } else if octet != b'\r' {
            self.line_octets += 1;
        }
        self.last = octet;
        false
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if self.last != b'\n' {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
        self.ended = true;
    }
}
