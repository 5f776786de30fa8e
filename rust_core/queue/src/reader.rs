//! The octets of a committed message, piece by piece. Holds one verified record of at most 256 KiB (plus envelope) at a time, and its segments open, so
//! that reading can be finished even if the message leaves the queue meanwhile. What one recipient gets may differ from what was received: the edits of
//! a route are applied while reading, and what is stored stays as it is.

use std::sync::Arc;

use gatepost_log::{Loc, Segment};
use memchr::{memchr2, memmem};

use crate::codec::{CHUNK_HEAD, Layout, is_chunk};
use crate::edit::{Edit, growth, in_order};
use crate::error::QueueError;
use crate::id::{MessageId, format_id};
use crate::spool::Core;

/// Octets of the message at `skip..skip + length` of what `place` holds.
#[derive(Clone)]
struct Piece {
    place: Place,
    skip: usize,
    length: usize,
}

#[derive(Clone)]
enum Place {
    /// The payload of a record.
    Record { segment: Arc<Segment>, offset: u32, chunk: Option<u32> },
    /// What an edit puts in.
    Text(Arc<[u8]>),
}

impl Piece {
    fn text(octets: Vec<u8>) -> Self {
        Self { skip: 0, length: octets.len(), place: Place::Text(octets.into()) }
    }

    /// The part of it that lies in `from..to`, when it begins at `start` of the message.
    fn part(&self, start: u64, from: u64, to: u64) -> Option<Self> {
        let (from, to) = (from.max(start), to.min(start + self.length as u64));
        (from < to).then(|| Self { skip: self.skip + (from - start) as usize, length: (to - from) as usize, place: self.place.clone() })
    }
}

/// Where dot-stuffed output stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    Start,
    Middle,
    /// A CR was read and not written yet.
    Cr,
    Ended,
}

/// Reads prefix and message.
pub struct Reader {
    id: MessageId,
    pieces: Vec<Piece>,
    /// Next piece to load.
    next: usize,
    current: Vec<u8>,
    at: usize,
    end: usize,
    size: u64,
    line: Line,
}

impl Reader {
    pub(crate) fn new(core: &Core, id: MessageId, accepted: Loc, layout: &Layout, size: u64) -> Result<Self, QueueError> {
        let mut pieces = Vec::with_capacity(layout.chunks.len() + 1);
        for (n, (loc, length)) in layout.chunks.iter().enumerate() {
            let place = Place::Record { segment: core.segment(*loc)?, offset: loc.offset, chunk: Some(n as u32) };
            pieces.push(Piece { place, skip: CHUNK_HEAD, length: *length as usize });
        }
        if layout.inline_len > 0 {
            let (skip, length) = (layout.inline_at as usize, layout.inline_len as usize);
            let place = Place::Record { segment: core.segment(accepted)?, offset: accepted.offset, chunk: None };
            pieces.push(Piece { place, skip, length });
        }
        Ok(Self { id, pieces, next: 0, current: Vec::new(), at: 0, end: 0, size, line: Line::Start })
    }

    /// The message with `edits`, from its beginning. Fails when they overlap or lie beyond its end.
    pub fn edited(&self, mut edits: Vec<Edit>) -> Result<Self, QueueError> {
        in_order(&mut edits, self.size)?;
        let size = self.size.saturating_add_signed(growth(&edits));
        let mut pieces = Vec::with_capacity(self.pieces.len() + 2 * edits.len());
        let mut at = 0;
        for edit in edits {
            self.span(at, edit.range.start, &mut pieces);
            pieces.push(Piece::text(edit.with));
            at = edit.range.end;
        }
        self.span(at, self.size, &mut pieces);
        Ok(Self { id: self.id, pieces, next: 0, current: Vec::new(), at: 0, end: 0, size, line: Line::Start })
    }

    /// Adds the pieces of the message between two places.
    fn span(&self, from: u64, to: u64, out: &mut Vec<Piece>) {
        let mut start = 0;
        for piece in &self.pieces {
            out.extend(piece.part(start, from, to));
            start += piece.length as u64;
        }
    }

    /// Octets in all.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Octets that are loaded and not read yet; loads the next piece when there are none. Empty at the end.
    fn fill(&mut self) -> Result<&[u8], QueueError> {
        // A piece whose octets were all cut is empty.
        while self.at == self.end {
            let Some(piece) = self.pieces.get(self.next) else {
                self.current = Vec::new();
                (self.at, self.end) = (0, 0);
                return Ok(&[]);
            };
            load(piece, &self.id, &mut self.current)?;
            (self.at, self.end) = (piece.skip, piece.skip + piece.length);
            self.next += 1;
        }
        Ok(&self.current[self.at..self.end])
    }

    /// Fills `out` with the next octets, fewer only at the end.
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, QueueError> {
        let mut done = 0;
        while done < out.len() {
            let data = self.fill()?;
            let n = data.len().min(out.len() - done);
            if n == 0 {
                break;
            }
            out[done..done + n].copy_from_slice(&data[..n]);
            self.at += n;
            done += n;
        }
        Ok(done)
    }

    /// Appends the next octets as DATA (RFC 5321 4.5.2) to `out`: about `n` of them, at the end CRLF "." CRLF. Appends nothing after that. A bare CR or LF,
    /// which must not go out (RFC 5321 2.3.8), becomes CRLF.
    pub fn read_dotted(&mut self, n: usize, out: &mut Vec<u8>) -> Result<(), QueueError> {
        let start = out.len();
        let mut line = self.line;
        while line != Line::Ended && out.len() - start < n {
            let want = n - (out.len() - start);
            let data = self.fill()?;
            let data = &data[..data.len().min(want)];
            let taken = data.len();
            if taken == 0 {
                out.extend_from_slice(if line == Line::Start { b".\r\n" } else { b"\r\n.\r\n" });
                line = Line::Ended;
            } else {
                line = stuff(data, line, out);
            }
            self.at += taken;
        }
        self.line = line;
        Ok(())
    }

    /// The header section (prefix included) up to and with its empty line, at most `limit` octets. Does not move the read position.
    pub fn header(&self, limit: usize) -> Result<Vec<u8>, QueueError> {
        let mut header = Vec::new();
        let mut record = Vec::new();
        for piece in &self.pieces {
            load(piece, &self.id, &mut record)?;
            let from = header.len().saturating_sub(3);
            let data = &record[piece.skip..piece.skip + piece.length];
            header.extend_from_slice(&data[..data.len().min(limit - header.len())]);
            if let Some(end) = memmem::find(&header[from..], b"\r\n\r\n") {
                header.truncate(from + end + 4);
                break;
            }
            if header.len() >= limit {
                break;
            }
        }
        Ok(header)
    }
}

/// Reads and checks the record of a piece.
fn load(piece: &Piece, id: &MessageId, out: &mut Vec<u8>) -> Result<(), QueueError> {
    let (segment, offset, chunk) = match &piece.place {
        Place::Record { segment, offset, chunk } => (segment, *offset, *chunk),
        Place::Text(octets) => {
            out.clear();
            out.extend_from_slice(octets);
            return Ok(());
        }
    };
    segment.read(offset, out)?;
    let whole = out.len() >= piece.skip + piece.length;
    let mine = match chunk {
        Some(number) => is_chunk(out, id, number),
        None => out.starts_with(id),
    };
    if whole && mine {
        return Ok(());
    }
    let place = Loc { segment: segment.number(), offset };
    Err(QueueError::Damaged(format!("{place}: not a piece of message {}", format_id(id))))
}

/// Appends `data` dot-stuffed. Returns where the line stands.
fn stuff(data: &[u8], mut line: Line, out: &mut Vec<u8>) -> Line {
    let mut rest = data;
    while let Some(first) = rest.first().copied() {
        match line {
            Line::Cr => {
                out.extend_from_slice(b"\r\n");
                rest = if first == b'\n' { &rest[1..] } else { rest };
                line = Line::Start;
                continue;
            }
            Line::Start if first == b'.' => out.push(b'.'),
            _ => {}
        }
        line = Line::Middle;
        let Some(end) = memchr2(b'\r', b'\n', rest) else {
            out.extend_from_slice(rest);
            break;
        };
        out.extend_from_slice(&rest[..end]);
        if rest[end] == b'\r' {
            line = Line::Cr;
        } else {
            out.extend_from_slice(b"\r\n");
            line = Line::Start;
        }
        rest = &rest[end + 1..];
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stuffed(pieces: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        let line = pieces.iter().fold(Line::Start, |line, piece| stuff(piece, line, &mut out));
        out.extend_from_slice(if line == Line::Start { b".\r\n" } else { b"\r\n.\r\n" });
        out
    }

    #[test]
    fn dots_that_begin_a_line_are_doubled() {
        assert_eq!(stuffed(&[b".a\r\n..b\r\nc.\r\n"]), b"..a\r\n...b\r\nc.\r\n.\r\n");
        assert_eq!(stuffed(&[b""]), b".\r\n");
        assert_eq!(stuffed(&[b"no end"]), b"no end\r\n.\r\n");
    }

    #[test]
    fn bare_line_ends_leave_as_crlf_so_that_nothing_can_be_smuggled() {
        assert_eq!(stuffed(&[b"a\n.\r\nb\r.\r\nc\r"]), b"a\r\n..\r\nb\r\n..\r\nc\r\n.\r\n");
    }

    #[test]
    fn any_split_gives_the_same_octets() {
        let text = b".x\r\n.\r\n\r\n..\ra\n.b\r\r\n.";
        let whole = stuffed(&[text]);
        for a in 0..=text.len() {
            for b in a..=text.len() {
                assert_eq!(stuffed(&[&text[..a], &text[a..b], &text[b..]]), whole);
            }
        }
    }
}
