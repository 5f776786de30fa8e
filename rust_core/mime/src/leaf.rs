//! Leaves: the parts that readers show or save, with every name, type and decoding that some reader sees in them.

use std::ops::Range;

use crate::content::{accepted, encodings_in, value};
use crate::defect::DefectKind;
use crate::dialect::Dialect;
use crate::field;
use crate::index::{Field, FieldId, Index, Kind};
use crate::names::{self, Name};
use crate::regular::{Lines, Prepared};
use crate::transfer::{self, BodyReader, Method};

/// One way to decode a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decoding {
    /// How.
    pub method: Method,
    /// What a reader does differently who decodes so; empty for the first.
    pub how: &'static str,
}

/// A part without parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Readings ([`crate::Reading::id`]) that have this leaf.
    pub readings: Vec<u16>,
    /// Header block and body, in the message or in `inside`.
    pub header: Range<usize>,
    /// Encoded content.
    pub body: Range<usize>,
    /// The decoded message ([`crate::Analysis::decoded`]) that it lies in; `None`: the message itself.
    pub inside: Option<usize>,
    /// Names, likeliest first.
    pub names: Vec<Name>,
    /// Declared types in lower case, the one that counts first.
    pub types: Vec<String>,
    /// Disposition in lower case.
    pub disposition: Option<String>,
    /// Charset parameter.
    pub charset: Option<Vec<u8>>,
    /// Transfer decodings, likeliest first; never empty.
    pub decodings: Vec<Decoding>,
    /// Multiparts and messages around it.
    pub depth: u32,
    /// It is a whole message (message/rfc822 in an encoding).
    pub message: bool,
    /// What its body begins with, if that is base64 as programs write it.
    pub(crate) regular: Option<Lines>,
}

impl Leaf {
    /// `text/plain` or `text/html` that is no attachment: what a reader shows as the message.
    pub fn is_inline_text(&self) -> bool {
        self.disposition.as_deref() != Some("attachment")
            && self.names.is_empty()
            && matches!(self.types[0].as_str(), "text/plain" | "text/html")
    }

    /// The encoded octets; `message` is what `inside` says. Empty when the range does not fit.
    pub fn raw<'a>(&self, message: &'a [u8]) -> &'a [u8] {
        message.get(self.body.clone()).unwrap_or_default()
    }

    /// Decoded octets as a stream.
    pub fn reader<'a>(&self, message: &'a [u8], decoding: Decoding) -> BodyReader<'a> {
        BodyReader::new(decoding.method, self.raw(message))
    }

    /// All decoded octets up to `max`; true when there are more.
    pub fn decode(&self, message: &[u8], decoding: Decoding, max: usize) -> (Vec<u8>, bool) {
        match self.prepare(message, decoding, max) {
            Some(prepared) => (prepared.to_vec(), false),
            None => transfer::decode(decoding.method, self.raw(message), max),
        }
    }

    /// The same where the length is known before it is decoded: base64 as programs write it that is sure to give no more than `max` octets.
    pub fn prepare<'a>(&self, message: &'a [u8], decoding: Decoding, max: usize) -> Option<Prepared<'a>> {
        let lines = self.regular.filter(|_| decoding.method == Method::Base64)?;
        Prepared::new(lines, self.raw(message), max)
    }
}

/// The leaves of one index, as its dialect reads them.
pub(crate) fn leaves(index: &Index, message: &[u8], dialect: &Dialect, drop_unclosed: bool) -> (Vec<Leaf>, Vec<(usize, DefectKind)>) {
    let (mut found, mut defects) = (Vec::new(), Vec::new());
    let mut skipped = vec![false; index.parts.len()];
    let mut depths = vec![0u32; index.parts.len()];
    for (n, part) in index.parts.iter().enumerate() {
        if let Some(parent) = part.parent {
            skipped[n] = skipped[parent as usize];
            depths[n] = depths[parent as usize] + 1;
        }
        let dropped = drop_unclosed && part.kind == Kind::Multipart && !part.closed;
        let hollow = part.kind == Kind::Multipart && part.children.is_empty();
        if !skipped[n] && (part.kind == Kind::Leaf || dropped || hollow) {
            found.push(leaf(index, n as u32, message, dialect, depths[n], &mut defects));
        }
        skipped[n] |= dropped;
    }
    (found, defects)
}

fn leaf(index: &Index, number: u32, message: &[u8], dialect: &Dialect, depth: u32, defects: &mut Vec<(usize, DefectKind)>) -> Leaf {
    let part = &index.parts[number as usize];
    let mut content = false;
    let mut disposition = None;
    for field in index.fields(number) {
        content |= field.id != FieldId::Other;
        if field.id == FieldId::Disposition && disposition.is_none() {
            disposition = field::disposition_kind(&value(index, field, dialect));
        }
    }
    let mut leaf = Leaf {
        readings: Vec::new(),
        header: part.header.clone(),
        body: part.body.clone(),
        inside: None,
        names: Vec::new(),
        types: Vec::new(),
        disposition,
        charset: part.content_type.parameter("charset").map(<[u8]>::to_vec),
        decodings: vec![Decoding { method: Method::Identity, how: "" }],
        depth,
        message: part.content_type.is_message(),
        regular: index.regular_at(part.body.start),
    };
    if content {
        let names = names::names(index, number, dialect);
        defects.extend(names.defects);
        leaf.names = names.list;
        leaf.types = names::types(index, number, dialect);
        leaf.decodings = decodings(index, number, &leaf, message, dialect, defects);
    } else {
        leaf.types = vec![part.content_type.name()];
    }
    if (leaf.message || part.content_type.is_multipart()) && leaf.decodings[0].method != Method::Identity {
        defects.push((part.header.start, DefectKind::EncodedComposite));
    }
    leaf
}

/// Every plausible decoding: each encoding that some reader sees in the fields, then each reading of dirty encoded octets.
fn decodings(
    index: &Index,
    number: u32,
    leaf: &Leaf,
    message: &[u8],
    dialect: &Dialect,
    defects: &mut Vec<(usize, DefectKind)>,
) -> Vec<Decoding> {
    let body = leaf.raw(message);
    let part = &index.parts[number as usize];
    let mut list = Vec::new();
    let mut add = |method: Method, how: &'static str| {
        if !list.iter().any(|d: &Decoding| d.method == method) {
            list.push(Decoding { method, how: if list.is_empty() { "" } else { how } });
        }
    };
    let first = Method::by_name(&part.encoding);
    add(first.unwrap_or(Method::Identity), "");
    if first.is_none() {
        defects.push((part.header.start, DefectKind::UnknownEncoding));
    }
    let fields: Vec<&Field> = index.fields(number).iter().filter(|f| f.id == FieldId::Encoding).collect();
    for (n, field) in fields.iter().enumerate() {
        let counts = accepted(index, number, FieldId::Encoding, dialect).any(|f| f.offset == field.offset);
        field_encodings(index, field, n > 0 || !counts, dialect, defects, &mut add);
    }
    for (n, method) in list.clone().iter().enumerate() {
        // Lines that are known to be base64 leave nothing open.
        let known = leaf.regular.filter(|_| method.method == Method::Base64).map_or(0, |lines| lines.within(body.len()).len);
        let (others, found) = method.method.others(&body[known..]);
        if n == 0 {
            defects.extend(found.into_iter().map(|(at, kind)| (part.body.start + known + at, kind)));
        }
        list.extend(others.into_iter().map(|method| Decoding { method, how: method.label() }));
    }
    list
}

/// The encodings in one field. A value that is a known name and nothing else leaves no doubt.
fn field_encodings(
    index: &Index,
    field: &Field,
    another: bool,
    dialect: &Dialect,
    defects: &mut Vec<(usize, DefectKind)>,
    add: &mut impl FnMut(Method, &'static str),
) {
    let value = value(index, field, dialect);
    let lower = String::from_utf8_lossy(&value).to_ascii_lowercase();
    let exact = Method::by_name(lower.trim());
    if let Some(method) = exact.filter(|_| field.foreign == 0) {
        let how = if another { "another Content-Transfer-Encoding counts" } else { "any white space stands before the encoding" };
        add(method, how);
        return;
    }
    defects.push((field.offset, DefectKind::OddEncoding));
    for name in encodings_in(&value) {
        if let Some(method) = Method::by_name(name) {
            add(method, "an encoding's name counts wherever it stands");
        }
    }
    add(Method::Identity, Method::Identity.label());
}
