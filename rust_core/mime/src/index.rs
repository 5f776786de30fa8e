//! The result of one pass: parts and header fields with their offsets. Owns the header blocks, never a body.

use std::borrow::Cow;
use std::ops::Range;

use crate::defect::Defect;
use crate::dialect::Choices;
use crate::field::{self, ContentType, Disposition};
use crate::regular::Lines;

/// What a part contains, as far as the index looks into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Opaque content.
    Leaf,
    /// `multipart/*` with a usable boundary; its children are body parts.
    Multipart,
    /// `message/rfc822` or `message/global` in an identity encoding; its one child is the message inside.
    Message,
}

/// Fields that MIME looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldId {
    /// Any other.
    Other,
    /// Content-Type
    Type,
    /// Content-Transfer-Encoding
    Encoding,
    /// Content-Disposition
    Disposition,
}

/// One header field. Ranges are places in [`Index::headers`].
#[derive(Clone, Debug)]
pub struct Field {
    /// The name without the colon.
    pub name: Range<u32>,
    /// The raw value behind the colon, folds included, last line end excluded.
    pub value: Range<u32>,
    /// Name through last line end.
    pub whole: Range<u32>,
    /// Where the name starts in the message.
    pub offset: usize,
    /// What MIME makes of its name.
    pub id: FieldId,
    /// How far the name is from what it seems to be: 0 exact, 1 with spaces before the colon, 2 with foreign octets or no colon.
    pub foreign: u8,
}

impl Field {
    /// The whole field in the message, last line end included.
    pub fn place(&self) -> Range<usize> {
        self.offset..self.offset + self.whole.len()
    }

    /// The raw value in the message, from behind the colon to before the last line end.
    pub fn value_place(&self) -> Range<usize> {
        let start = self.offset + (self.value.start - self.whole.start) as usize;
        start..start + self.value.len()
    }
}

/// One part: the message itself (number 0), a body part, or a nested message.
#[derive(Clone, Debug)]
pub struct Part {
    /// The part that contains this one.
    pub parent: Option<u32>,
    /// What is known of the content.
    pub kind: Kind,
    /// Header block in the message, delimiting blank line included.
    pub header: Range<usize>,
    /// Content in the message; the line end before a boundary belongs to the boundary (RFC 2046 5.1.1).
    pub body: Range<usize>,
    /// Line ends within the header block.
    pub header_lines: u32,
    /// Line ends within the body.
    pub lines: u32,
    /// Body parts, or the one nested message.
    pub children: Vec<u32>,
    /// Parsed Content-Type, defaults applied.
    pub content_type: ContentType,
    /// Content-Transfer-Encoding in lower case, "7bit" when absent.
    pub encoding: Cow<'static, str>,
    /// For a multipart: its close-delimiter came.
    pub closed: bool,
    pub(crate) fields: Range<u32>,
}

/// Structure of one message.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// Parts in the order of their header blocks; 0 is the message.
    pub parts: Vec<Part>,
    /// Octets seen.
    pub size: usize,
    /// A cap of [`crate::Limits`] was reached: what lies beyond is opaque.
    pub truncated: bool,
    /// What is wrong, in the order of discovery; at most [`crate::defect::DEFECTS_MAX`].
    pub defects: Vec<Defect>,
    /// What this message leaves open: another dialect may see other parts.
    pub open: Choices,
    pub(crate) fields: Vec<Field>,
    pub(crate) headers: Vec<u8>,
    /// What bodies in base64 begin with, by place.
    pub(crate) regular: Vec<Lines>,
}

impl Index {
    /// The message itself.
    pub fn root(&self) -> &Part {
        &self.parts[0]
    }

    /// Header fields of a part in order.
    pub fn fields(&self, part: u32) -> &[Field] {
        let range = &self.parts[part as usize].fields;
        &self.fields[range.start as usize..range.end as usize]
    }

    /// Bytes of a range handed out in a [`Field`].
    pub fn bytes(&self, range: &Range<u32>) -> &[u8] {
        &self.headers[range.start as usize..range.end as usize]
    }

    /// Raw value of the first field of that name (ASCII case-insensitive), unfolded and trimmed.
    pub fn first(&self, part: u32, name: &str) -> Option<Vec<u8>> {
        self.all(part, name).next()
    }

    /// Raw values of all fields of that name, unfolded and trimmed.
    pub fn all<'a>(&'a self, part: u32, name: &'a str) -> impl Iterator<Item = Vec<u8>> + 'a {
        self.fields(part)
            .iter()
            .filter(|f| self.bytes(&f.name).eq_ignore_ascii_case(name.as_bytes()))
            .map(|f| field::unfold(self.bytes(&f.value)).into_owned())
    }

    /// The lines of base64 that the body at `start` begins with, if it was seen in one piece.
    pub(crate) fn regular_at(&self, start: usize) -> Option<Lines> {
        let place = self.regular.binary_search_by_key(&start, |lines| lines.start).ok()?;
        Some(self.regular[place])
    }

    /// Parsed Content-Disposition, if there is one.
    pub fn disposition(&self, part: u32) -> Option<Disposition> {
        self.first(part, "content-disposition").and_then(|v| field::disposition(&v))
    }

    /// The header block of a part as raw bytes, as far as the cap on header bytes kept it.
    pub fn header_bytes(&self, part: u32) -> &[u8] {
        match self.fields(part) {
            [] => &[],
            [first, .., last] | [first @ last] => &self.headers[first.whole.start as usize..last.whole.end as usize],
        }
    }
}
