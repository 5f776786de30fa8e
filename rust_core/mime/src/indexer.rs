//! The single pass: lines in, parts with offsets and defects out. State is the stack of open parts and at most one partial line.
//! Body lines that cannot be delimiters are taken at once (`skip`); only the others come one by one.

mod short;
mod skip;

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr;

use crate::content::{self, BOUNDARY_MAX};
use crate::defect::{DEFECTS_MAX, Defect, DefectKind};
use crate::dialect::{Choice, Dialect};
use crate::fields::{is_field, take_apart};
use crate::index::{Field, FieldId, Index, Kind, Part};
use crate::open::{self, Fit, Open};
use crate::{field, lines};

/// Octets of a body line that are looked at for a boundary.
pub(crate) const LINE_HEAD: usize = BOUNDARY_MAX + 56;

/// Caps of one message. What lies beyond is left opaque and gives a defect; it is never an error.
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
    /// Readings that are looked at.
    pub readings: usize,
    /// Octets that are run through for readings beyond the first.
    pub reading_bytes: usize,
    /// Octets of encoded messages that are decoded to look into them.
    pub decoded: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { parts: 4_000, depth: 60, header_bytes: 1 << 20, fields: 20_000, readings: 40, reading_bytes: 64 << 20, decoded: 64 << 20 }
    }
}

/// Index a whole message held in memory, with default caps, as the baseline reads it.
pub fn index(message: &[u8]) -> Index {
    index_as(message, Limits::default(), Dialect::default())
}

/// Index a whole message as `dialect` reads it.
pub fn index_as(message: &[u8], limits: Limits, dialect: Dialect) -> Index {
    let mut indexer = Indexer::new(limits);
    indexer.dialect = dialect;
    match dialect.get(Choice::Line) {
        0 => indexer.feed(message),
        option => indexer.feed_whole(message, option),
    }
    indexer.finish()
}

/// The option of [`Choice::Match`] by which a delimiter may stand anywhere.
const IN_LINE: u8 = 4;

/// Builds an [`Index`] from chunks of any size.
pub struct Indexer {
    limits: Limits,
    dialect: Dialect,
    index: Index,
    open: Vec<Open>,
    in_header: bool,
    /// The open part has an empty header block and its body begins at the next line.
    bare_start: bool,
    pos: usize,
    newlines: u32,
    last_eol: usize,
    carry: Vec<u8>,
    carry_len: usize,
    carry_last: u8,
    header_lines: u32,
    /// Kinds of caps that were told, a bit each.
    told: u64,
    /// The next octet 0 and the beginning of its line, for dialects that look at them.
    nul: Option<(usize, usize)>,
    /// Lines that were looked at one by one, boundaries that they were compared with, and short lines.
    #[cfg(test)]
    work: (usize, usize, usize),
    /// Each line is looked at by itself.
    #[cfg(test)]
    long_way: bool,
}

impl Indexer {
    /// An indexer at the start of a message.
    pub fn new(limits: Limits) -> Self {
        let mut indexer = Self {
            limits,
            dialect: Dialect::default(),
            // Room for a usual letter.
            index: Index {
                parts: Vec::with_capacity(4),
                fields: Vec::with_capacity(32),
                headers: Vec::with_capacity(2 << 10),
                ..Index::default()
            },
            open: Vec::with_capacity(4),
            in_header: true,
            bare_start: false,
            pos: 0,
            newlines: 0,
            last_eol: 0,
            carry: Vec::new(),
            carry_len: 0,
            carry_last: 0,
            header_lines: 0,
            told: 0,
            nul: None,
            #[cfg(test)]
            work: (0, 0, 0),
            #[cfg(test)]
            long_way: false,
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
        loop {
            data = &data[self.skip(data)..];
            let Some(at) = memchr(b'\n', data) else { break };
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

    fn defect(&mut self, offset: usize, kind: DefectKind) {
        if self.index.defects.len() < DEFECTS_MAX {
            self.index.defects.push(Defect { offset, kind });
        }
    }

    /// A cap was reached here.
    fn capped(&mut self, kind: DefectKind) {
        self.index.truncated = true;
        // Every further line may come here.
        let told = self.told & 1 << kind as u64 > 0;
        self.told |= 1 << kind as u64;
        if !told && !self.index.defects.iter().any(|d| d.kind == kind) {
            // Caps are told even when the list is full: they decide whether the parts can be trusted.
            self.index.defects.push(Defect { offset: self.pos, kind });
        }
    }

    /// One line without its line end; `len` counts all of it. `text` may be cut at the caps above.
    fn line(&mut self, mut text: &[u8], mut len: usize, eol: usize) {
        let apart = self.dialect.get(Choice::Match) == IN_LINE && text.len() + eol == len;
        while apart
            && !self.in_header
            && let Some(at) = self.delimiter_in(text)
        {
            self.piece(&text[..at], at, 0);
            (text, len) = (&text[at..], len - at);
        }
        self.piece(text, len, eol);
    }

    /// A line, or what a delimiter within it leaves of it.
    fn piece(&mut self, text: &[u8], len: usize, eol: usize) {
        let whole = text.len() + eol == len;
        #[cfg(test)]
        (self.work.0 += 1);
        let text = match self.dialect.get(Choice::Nul) {
            0 => Cow::Borrowed(text),
            option => lines::without_nul(text, option),
        };
        // Of a longer line the beginning is looked at, whatever pieces it came in: white space may follow a delimiter without end.
        let fit = if text.starts_with(b"--") { self.delimiter(&text[..text.len().min(LINE_HEAD)]) } else { None };
        if let Some((level, last)) = fit {
            self.at_boundary(level, last, len);
        } else if self.in_header {
            self.header_line(&text, whole, len, eol);
        } else {
            if self.bare_start {
                self.first_line(&text);
            }
            if self.dialect.get(Choice::Match) != IN_LINE
                && let Some(at) = self.delimiter_in(&text)
            {
                self.doubt_at(self.pos + at, Choice::Match, DefectKind::DelimiterInLine);
            }
        }
        self.pos += len;
        if eol > 0 {
            self.newlines += 1;
        }
        self.last_eol = eol;
    }

    /// The first body line of a part without header fields: a field here means that somebody sees a header where others see none.
    fn first_line(&mut self, text: &[u8]) {
        if text.trim_ascii().is_empty() {
            return;
        }
        self.bare_start = false;
        if text.len() > 8 && text[..8].eq_ignore_ascii_case(b"content-") {
            self.index.open.add(Choice::HeaderEnd);
            self.defect(self.pos, DefectKind::HeaderStart);
        }
    }

    /// Which open multipart this line delimits, and whether it is the close-delimiter (RFC 2046 5.1.1). Innermost first.
    fn delimiter(&mut self, text: &[u8]) -> Option<(usize, bool)> {
        let mut found: Option<(usize, bool)> = None;
        let (count, outermost) = (self.open.len(), self.dialect.get(Choice::Order) == 1);
        let key = open::key(&text[2..]);
        for n in 0..count {
            // Beyond a cap nobody trusts the parts any more, and the first that fits will do: many nested parts may share a boundary.
            let level = if outermost && self.index.truncated { n } else { count - 1 - n };
            if found.is_some() && self.index.truncated {
                break;
            }
            if !self.open[level].may_fit(key) {
                continue;
            }
            #[cfg(test)]
            (self.work.1 += 1);
            let Some(fit) = self.open[level].fit(&text[2..], &self.dialect) else { continue };
            match fit {
                Fit::Delimiter(last) if found.is_none() => found = Some((level, last)),
                Fit::Delimiter(last) => {
                    self.doubt(Choice::Order, DefectKind::SharedBoundary);
                    if self.dialect.get(Choice::Order) == 1 {
                        found = Some((level, last));
                    }
                }
                Fit::Spaced(last) => {
                    self.doubt(Choice::Match, DefectKind::DelimiterSpace);
                    if found.is_none() && self.dialect.get(Choice::Match) != 3 {
                        found = Some((level, last));
                    }
                }
                Fit::Closed => self.doubt(Choice::AfterClose, DefectKind::AfterClose),
                Fit::Prefix => self.doubt(Choice::Match, DefectKind::DelimiterPrefix),
                Fit::Case => self.doubt(Choice::Match, DefectKind::DelimiterCase),
            }
        }
        found
    }

    fn doubt(&mut self, choice: Choice, kind: DefectKind) {
        self.doubt_at(self.pos, choice, kind);
    }

    fn doubt_at(&mut self, offset: usize, choice: Choice, kind: DefectKind) {
        self.index.open.add(choice);
        self.defect(offset, kind);
    }

    fn at_boundary(&mut self, level: usize, last: bool, len: usize) {
        let newlines = self.newlines - u32::from(self.last_eol > 0);
        // It comes right behind the delimiter that opened a part.
        let again = self.in_header && self.header_lines == 0 && self.open.len() == level + 2 && self.dialect.get(Choice::Match) == 0;
        self.close_above(level + 1, self.pos - self.last_eol, newlines);
        let parent = self.open[level].part;
        self.bare_start = false;
        // A reader that looks at a delimiter's beginning only takes a close-delimiter that comes first for one that opens a part, and one
        // that passes over delimiters without anything between them takes it for another of these.
        let first = last && (again || self.index.parts[parent as usize].children.is_empty());
        if first {
            self.doubt(Choice::AfterClose, DefectKind::AfterClose);
        }
        if last && !(first && self.dialect.get(Choice::AfterClose) == 1) {
            self.open[level].closed = true;
            self.index.parts[parent as usize].closed = true;
            self.in_header = false;
        } else if self.index.parts.len() < self.limits.parts {
            let digest = self.index.parts[parent as usize].content_type.subtype.eq_ignore_ascii_case("digest");
            let (kind, subtype) = if digest { ("message", "rfc822") } else { ("text", "plain") };
            self.begin(Some(parent), self.pos + len, kind, subtype);
        } else {
            self.capped(DefectKind::TooManyParts);
            self.in_header = false;
        }
    }

    /// Start a part whose header block begins at `start`; kind/subtype are the defaults of its context (RFC 2046 5.1.5).
    fn begin(&mut self, parent: Option<u32>, start: usize, kind: &'static str, subtype: &'static str) {
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
            encoding: Cow::Borrowed("7bit"),
            closed: false,
            fields: fields..fields,
        });
        if let Some(parent) = parent {
            self.index.parts[parent as usize].children.push(number);
        }
        self.open.push(Open::new(number));
        self.in_header = true;
        self.header_lines = 0;
    }

    fn header_line(&mut self, text: &[u8], whole: bool, len: usize, eol: usize) {
        let part = self.open[self.open.len() - 1].part as usize;
        let empty_block = self.index.parts[part].fields.is_empty();
        if self.ends_header(text, empty_block) {
            self.header_lines += u32::from(eol > 0);
            self.end_header(self.pos + len, self.newlines + u32::from(eol > 0));
            self.bare_start = empty_block && !self.in_header;
            return;
        }
        let folded = matches!(text.first(), Some(b' ' | b'\t'));
        let colon = if folded { None } else { memchr(b':', text) };
        if !folded && !text.is_empty() && !is_field(text, colon) && !text.starts_with(b"From ") {
            self.doubt(Choice::HeaderEnd, DefectKind::NotAField);
            if self.dialect.get(Choice::HeaderEnd) == 2 {
                self.end_header(self.pos, self.newlines);
                if self.in_header {
                    self.header_line(text, whole, len, eol);
                }
                return;
            }
        }
        self.header_lines += u32::from(eol > 0);
        self.store_line(text, whole, eol, folded, colon);
    }

    fn ends_header(&mut self, text: &[u8], empty_block: bool) -> bool {
        if text.is_empty() {
            return !(empty_block && self.dialect.get(Choice::HeaderEnd) == 3);
        }
        if !matches!(text[0], b' ' | b'\t' | 0x0b | 0x0c | b'\r') || !text.trim_ascii().is_empty() {
            return false;
        }
        self.doubt(Choice::HeaderEnd, DefectKind::SpaceLine);
        self.dialect.get(Choice::HeaderEnd) == 1
    }

    fn store_line(&mut self, text: &[u8], whole: bool, eol: usize, folded: bool, colon: Option<usize>) {
        if self.index.headers.len() + text.len() + 2 > self.limits.header_bytes || !whole {
            self.capped(DefectKind::HeaderTooLarge);
            return;
        }
        let part = self.open[self.open.len() - 1].part as usize;
        let at = self.index.headers.len() as u32;
        self.index.headers.extend_from_slice(text);
        let value_end = self.index.headers.len() as u32;
        self.index.headers.extend_from_slice(&b"\r\n"[2 - eol.min(2)..]);
        let place = at..self.index.headers.len() as u32;
        if folded && !self.index.parts[part].fields.is_empty() {
            self.fold(value_end, place.end);
        } else if folded {
            self.doubt(Choice::FieldName, DefectKind::HeaderStart);
            if self.dialect.get(Choice::FieldName) == 2 {
                self.add_field(part, text, memchr(b':', text), value_end, place);
            }
        } else {
            self.add_field(part, text, colon, value_end, place);
        }
    }

    fn fold(&mut self, value_end: u32, end: u32) {
        // Once a cap was reached lines are missing in between, and this one may belong to one of them.
        if let Some(last) = self.index.fields.last_mut().filter(|_| !self.index.truncated) {
            last.value.end = value_end;
            last.whole.end = end;
        }
    }

    fn add_field(&mut self, part: usize, text: &[u8], colon: Option<usize>, value_end: u32, whole: Range<u32>) {
        if self.index.fields.len() >= self.limits.fields {
            self.capped(DefectKind::TooManyFields);
            return;
        }
        // A line without a colon is kept as a field without a name, so that the block stays complete.
        let line = take_apart(text, colon);
        let at = whole.start;
        let value = at + line.value as u32..value_end;
        self.index.fields.push(Field {
            name: at..at + line.name_len as u32,
            value,
            whole,
            offset: self.pos,
            id: line.id,
            foreign: line.foreign,
        });
        self.index.parts[part].fields.end = self.index.fields.len() as u32;
    }

    /// The header block of the innermost part is complete: learn what the body is.
    fn end_header(&mut self, body: usize, newlines: u32) {
        self.in_header = false;
        let level = self.open.len() - 1;
        let number = self.open[level].part;
        self.open[level].newlines = newlines;
        let content = self.read_content(number);
        let deep = level + 1 >= self.limits.depth;
        let full = self.index.parts.len() >= self.limits.parts;
        let part = &mut self.index.parts[number as usize];
        part.header.end = body;
        part.body = body..body;
        part.header_lines = self.header_lines;
        let identity = matches!(&*part.encoding, "7bit" | "8bit" | "binary" | "");
        if content.multipart && !deep {
            let guess = self.dialect.get(Choice::NoBoundary) == 1;
            if content.boundary.is_some() || guess {
                part.kind = Kind::Multipart;
                self.open[level].expect(content.boundary.filter(|_| !guess));
                self.open[level].multipart = true;
            }
        } else if part.content_type.is_message() && identity && !deep && !full {
            part.kind = Kind::Message;
            self.begin(Some(number), body, "text", "plain");
        }
        if deep {
            self.capped(DefectKind::TooDeep);
        }
    }

    fn read_content(&mut self, number: u32) -> content::Content {
        let mut content = content::read(&self.index, number, &self.dialect);
        self.index.open.merge(content.open);
        for (offset, kind) in std::mem::take(&mut content.defects) {
            if kind.incomplete() { self.capped(kind) } else { self.defect(offset, kind) }
        }
        let part = &mut self.index.parts[number as usize];
        if let Some(content_type) = content.given.take() {
            part.content_type = content_type;
        }
        if let Some(encoding) = content.encoding.take() {
            part.encoding = encoding;
        }
        content
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
            if !open.multipart || part.closed {
                continue;
            }
            let at = part.body.end;
            if part.children.is_empty() {
                self.index.open.add(Choice::NoBoundary);
                self.defect(at, DefectKind::NoDelimiter);
            } else {
                self.index.open.add(Choice::Unclosed);
                self.defect(at, DefectKind::Unclosed);
            }
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
        self.read_content(number);
        let part = &mut self.index.parts[number as usize];
        part.header.end = self.pos.max(part.header.start);
        part.header_lines = self.header_lines;
        part.body = part.header.end..part.header.end;
        let offset = part.header.end;
        let content = self.index.fields(number).iter().any(|f| f.id != FieldId::Other);
        if content {
            self.defect(offset, DefectKind::HeaderNotEnded);
        }
    }
}
