//! The single pass: lines in, parts with offsets out. State is the stack of open parts and at most one partial line.

use std::ops::Range;

use memchr::memchr;

use crate::{Field, Index, Kind, Part, field};

/// Longest boundary that is recognised; RFC 2046 5.1.1 allows 70.
const BOUNDARY_MAX: usize = 200;
/// Octets of a body line that are looked at for a boundary.
const LINE_HEAD: usize = BOUNDARY_MAX + 56;

/// Caps of one message. What lies beyond is left opaque; it is never an error.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Parts, nested ones included.
    pub parts: usize,
    /// Nesting of multiparts and messages.
    pub depth: usize,
    /// Octets of all header blocks together that are kept.
    pub header_bytes: usize,
    /// Header fields of all parts together.
    pub fields: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { parts: 4_000, depth: 60, header_bytes: 1 << 20, fields: 20_000 }
    }
}

/// Index a whole message held in memory, with default caps.
pub fn index(message: &[u8]) -> Index {
    let mut indexer = Indexer::new(Limits::default());
    indexer.feed(message);
    indexer.finish()
}

struct Open {
    part: u32,
    boundary: Option<Vec<u8>>,
    /// Line ends seen when the body began.
    newlines: u32,
}

/// Builds an [`Index`] from chunks of any size.
pub struct Indexer {
    limits: Limits,
    index: Index,
    open: Vec<Open>,
    in_header: bool,
    pos: usize,
    newlines: u32,
    last_eol: usize,
    carry: Vec<u8>,
    carry_len: usize,
    carry_last: u8,
    header_lines: u32,
}

impl Indexer {
    /// An indexer at the start of a message.
    pub fn new(limits: Limits) -> Self {
        let mut indexer = Self {
            limits,
            index: Index::default(),
            open: Vec::new(),
            in_header: true,
            pos: 0,
            newlines: 0,
            last_eol: 0,
            carry: Vec::new(),
            carry_len: 0,
            carry_last: 0,
            header_lines: 0,
        };
        indexer.begin(None, 0, "text", "plain");
        indexer
    }

    /// True once the header block of the message itself is complete: enough for ENVELOPE and header fields.
    pub fn header_done(&self) -> bool {
        !self.in_header || self.index.parts.len() > 1
    }

    /// Take the next octets of the message.
    pub fn feed(&mut self, mut data: &[u8]) {
        while let Some(at) = memchr(b'\n', data) {
            let (line, rest) = data.split_at(at + 1);
            if self.carry_len == 0 {
                let eol = if line.ends_with(b"\r\n") { 2 } else { 1 };
                self.line(&line[..line.len() - eol], line.len(), eol);
            } else {
                self.line_from_carry(line);
            }
            data = rest;
        }
        self.keep(data);
    }

    /// The message ends here.
    pub fn finish(mut self) -> Index {
        if self.carry_len > 0 {
            let carry = std::mem::take(&mut self.carry);
            self.line(&carry, self.carry_len, 0);
        }
        self.close_above(0, self.pos, self.newlines);
        self.index.size = self.pos;
        self.index
    }

    fn line_from_carry(&mut self, line: &[u8]) {
        let before = if line.len() > 1 { line[line.len() - 2] } else { self.carry_last };
        let eol = if before == b'\r' { 2 } else { 1 };
        self.keep(line);
        let carry = std::mem::take(&mut self.carry);
        let len = std::mem::take(&mut self.carry_len);
        self.line(&carry[..carry.len().min(len - eol)], len, eol);
        self.carry = carry;
        self.carry.clear();
    }

    /// Remember a piece of a line whose end has not come yet: as much as its use needs, no more.
    fn keep(&mut self, piece: &[u8]) {
        let Some(&last) = piece.last() else { return };
        let cap = if self.in_header { self.limits.header_bytes.max(LINE_HEAD) } else { LINE_HEAD };
        let room = cap.saturating_sub(self.carry.len());
        self.carry.extend_from_slice(&piece[..piece.len().min(room)]);
        self.carry_len += piece.len();
        self.carry_last = last;
    }

    /// One line without its line end; `len` counts all of it. `text` may be cut at the caps above.
    fn line(&mut self, text: &[u8], len: usize, eol: usize) {
        let boundary = if text.starts_with(b"--") && len <= LINE_HEAD { self.boundary(text) } else { None };
        if let Some((level, last)) = boundary {
            self.at_boundary(level, last, len);
        } else if self.in_header {
            self.header_line(text, len, eol);
        }
        self.pos += len;
        if eol > 0 {
            self.newlines += 1;
        }
        self.last_eol = eol;
    }

    /// Which open multipart this line delimits, and whether it is the close-delimiter (RFC 2046 5.1.1). Innermost first.
    fn boundary(&self, text: &[u8]) -> Option<(usize, bool)> {
        let text = &text[2..];
        self.open.iter().enumerate().rev().find_map(|(level, open)| {
            let tail = text.strip_prefix(open.boundary.as_deref()?)?.trim_ascii_end();
            match tail {
                b"" => Some((level, false)),
                b"--" => Some((level, true)),
                _ => None,
            }
        })
    }

    fn at_boundary(&mut self, level: usize, last: bool, len: usize) {
        let newlines = self.newlines - u32::from(self.last_eol > 0);
        self.close_above(level + 1, self.pos - self.last_eol, newlines);
        let parent = self.open[level].part;
        if last {
            self.open[level].boundary = None;
            self.in_header = false;
        } else if self.index.parts.len() < self.limits.parts {
            let digest = self.index.parts[parent as usize].content_type.subtype.eq_ignore_ascii_case("digest");
            let (kind, subtype) = if digest { ("message", "rfc822") } else { ("text", "plain") };
            self.begin(Some(parent), self.pos + len, kind, subtype);
        } else {
            self.index.truncated = true;
            self.in_header = false;
        }
    }

    /// Start a part whose header block begins at `start`; kind/subtype are the defaults of its context (RFC 2046 5.1.5).
    fn begin(&mut self, parent: Option<u32>, start: usize, kind: &str, subtype: &str) {
        let number = self.index.parts.len() as u32;
        let fields = self.index.fields.len() as u32;
        self.index.parts.push(Part {
            parent,
            kind: Kind::Leaf,
            header: start..start,
            body: start..start,
            header_lines: 0,
            lines: 0,
            children: Vec::new(),
            content_type: field::ContentType::new(kind, subtype),
            encoding: String::from("7bit"),
            fields: fields..fields,
        });
        if let Some(parent) = parent {
            self.index.parts[parent as usize].children.push(number);
        }
        self.open.push(Open { part: number, boundary: None, newlines: 0 });
        self.in_header = true;
        self.header_lines = 0;
    }

    fn header_line(&mut self, text: &[u8], len: usize, eol: usize) {
        self.header_lines += u32::from(eol > 0);
        if text.is_empty() {
            self.end_header(self.pos + len, self.newlines + u32::from(eol > 0));
            return;
        }
        if self.index.headers.len() + text.len() + 2 > self.limits.header_bytes || text.len() < len - eol {
            self.index.truncated = true;
            return;
        }
        let part = self.open[self.open.len() - 1].part as usize;
        let at = self.index.headers.len() as u32;
        self.index.headers.extend_from_slice(text);
        let value_end = self.index.headers.len() as u32;
        self.index.headers.extend_from_slice(&b"\r\n"[2 - eol.min(2)..]);
        let whole = at..self.index.headers.len() as u32;
        if matches!(text[0], b' ' | b'\t') {
            self.fold(part, value_end, whole.end);
        } else {
            self.add_field(part, text, at, value_end, whole);
        }
    }

    fn fold(&mut self, part: usize, value_end: u32, end: u32) {
        if self.index.parts[part].fields.is_empty() {
            return;
        }
        // Once a cap was reached lines are missing in between, and this one may belong to one of them.
        if let Some(last) = self.index.fields.last_mut().filter(|_| !self.index.truncated) {
            last.value.end = value_end;
            last.whole.end = end;
        }
    }

    fn add_field(&mut self, part: usize, text: &[u8], at: u32, value_end: u32, whole: Range<u32>) {
        if self.index.fields.len() >= self.limits.fields {
            self.index.truncated = true;
            return;
        }
        // A line without a colon is kept as a field without a name, so that the block stays complete.
        let colon = memchr(b':', text).map(|c| c as u32);
        let name_len = colon.map_or(0, |c| text[..c as usize].trim_ascii_end().len() as u32);
        let value_start = colon.map_or(at, |c| at + c + 1);
        self.index.fields.push(Field { name: at..at + name_len, value: value_start..value_end, whole, offset: self.pos });
        self.index.parts[part].fields.end = self.index.fields.len() as u32;
    }

    /// The header block of the innermost part is complete: learn what the body is.
    fn end_header(&mut self, body: usize, newlines: u32) {
        self.in_header = false;
        let level = self.open.len() - 1;
        let number = self.open[level].part;
        self.open[level].newlines = newlines;
        self.read_content_fields(number);
        let deep = level + 1 >= self.limits.depth;
        let full = self.index.parts.len() >= self.limits.parts;
        let part = &mut self.index.parts[number as usize];
        part.header.end = body;
        part.body = body..body;
        part.header_lines = self.header_lines;
        let identity = matches!(part.encoding.as_str(), "7bit" | "8bit" | "binary" | "");
        if part.content_type.is_multipart() {
            if let Some(boundary) = usable_boundary(&part.content_type).filter(|_| !deep) {
                part.kind = Kind::Multipart;
                self.open[level].boundary = Some(boundary);
            }
        } else if part.content_type.is_message() && identity && !deep && !full {
            part.kind = Kind::Message;
            self.begin(Some(number), body, "text", "plain");
        }
        self.index.truncated |= deep;
    }

    fn read_content_fields(&mut self, number: u32) {
        let content_type = self.index.first(number, "content-type").and_then(|v| field::content_type(&v));
        let encoding = self.index.first(number, "content-transfer-encoding").map(|v| field::token(&v));
        let part = &mut self.index.parts[number as usize];
        if let Some(content_type) = content_type {
            part.content_type = content_type;
        }
        if let Some(encoding) = encoding.filter(|e| !e.is_empty()) {
            part.encoding = encoding.to_ascii_lowercase();
        }
    }

    /// End all open parts from `level` on at `end`.
    fn close_above(&mut self, level: usize, end: usize, newlines: u32) {
        while self.open.len() > level {
            if self.in_header {
                self.end_header_early();
                continue;
            }
            let Some(open) = self.open.pop() else { return };
            let part = &mut self.index.parts[open.part as usize];
            part.body.end = end.max(part.body.start);
            part.lines = newlines.saturating_sub(open.newlines);
        }
    }

    /// The part ends within its header block: all of it is header, the body is empty.
    fn end_header_early(&mut self) {
        self.in_header = false;
        let Some(last) = self.open.last_mut() else {
            return;
        };
        last.newlines = u32::MAX;
        let number = last.part;
        self.read_content_fields(number);
        let part = &mut self.index.parts[number as usize];
        part.header.end = self.pos.max(part.header.start);
        part.header_lines = self.header_lines;
        part.body = part.header.end..part.header.end;
    }
}

fn usable_boundary(content_type: &field::ContentType) -> Option<Vec<u8>> {
    let boundary = content_type.parameter("boundary")?.trim_ascii_end();
    (!boundary.is_empty() && boundary.len() <= BOUNDARY_MAX).then(|| boundary.to_vec())
}
