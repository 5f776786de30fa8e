//! What the MIME fields of one part say, as one dialect reads them: type, boundary, encoding. Called by the indexer at the end of each
//! header block. Tells which choices the fields leave open and what is wrong with them.

use std::borrow::Cow;

use crate::alternate;
use crate::decode;
use crate::defect::DefectKind;
use crate::dialect::{Choice, Choices, Dialect};
use crate::extended::Extended;
use crate::field::{self, ContentType, PARAMETERS_MAX};
use crate::index::{Field, FieldId, Index};

/// Longest boundary that is recognised; RFC 2046 5.1.1 allows 70.
pub(crate) const BOUNDARY_MAX: usize = 998;

/// The reading of one header block.
#[derive(Default)]
pub(crate) struct Content {
    /// `None`: the default of the context stands.
    pub given: Option<ContentType>,
    /// Delimiter of a multipart; `None` when there is no usable one.
    pub boundary: Option<Vec<u8>>,
    /// True when this is to be taken for a multipart.
    pub multipart: bool,
    /// In lower case; `None` when not given.
    pub encoding: Option<Cow<'static, str>>,
    /// What these fields leave open.
    pub open: Choices,
    /// Kind and place.
    pub defects: Vec<(usize, DefectKind)>,
}

/// Fields of one kind that the dialect accepts, in order.
pub(crate) fn accepted<'a>(
    index: &'a Index,
    part: u32,
    id: FieldId,
    dialect: &'a Dialect,
) -> impl DoubleEndedIterator<Item = &'a Field> + 'a {
    let names = dialect.get(Choice::FieldName);
    index.fields(part).iter().filter(move |field| field.id == id && field.foreign <= [1, 0, 2][names as usize % 3])
}

/// The unfolded value of a field as the dialect sees it.
pub(crate) fn value<'a>(index: &'a Index, field: &Field, dialect: &Dialect) -> Cow<'a, [u8]> {
    let value = field::unfold(index.bytes(&field.value));
    if dialect.get(Choice::FieldName) == 2 {
        let junk = value.iter().take_while(|b| matches!(b, b':' | b'=' | b' ')).count();
        return Cow::Owned(value[junk..].to_vec());
    }
    value
}

/// Read the fields of `part`.
pub(crate) fn read(index: &Index, part: u32, dialect: &Dialect) -> Content {
    let mut content = Content::default();
    let mut type_field = None;
    let mut encoding_field = None;
    let mut more = false;
    for field in index.fields(part) {
        match field.id {
            FieldId::Type => more |= type_field.replace(field).is_some(),
            FieldId::Encoding => more |= encoding_field.replace(field).is_some(),
            FieldId::Other | FieldId::Disposition => continue,
        }
        if field.foreign > 0 {
            content.open.add(Choice::FieldName);
            content.defects.push((field.offset, DefectKind::OddFieldName));
        }
    }
    if more || !dialect.is_baseline() || !content.open.is_empty() {
        type_field = content.choose(index, part, FieldId::Type, dialect);
        encoding_field = content.choose(index, part, FieldId::Encoding, dialect);
    }
    if let Some(field) = type_field {
        content.read_type(index, field, dialect);
    }
    if let Some(field) = encoding_field {
        let token = field::token(&value(index, field, dialect));
        content.encoding = Some(token).filter(|t| !t.is_empty()).map(lower);
    }
    content
}

impl Content {
    fn choose<'a>(&mut self, index: &'a Index, part: u32, id: FieldId, dialect: &Dialect) -> Option<&'a Field> {
        let all = || index.fields(part).iter().filter(move |field| field.id == id);
        let (Some(first), Some(last)) = (all().next(), all().next_back()) else { return None };
        if first.offset != last.offset {
            let text = |field: &Field| field::unfold(index.bytes(&field.value)).to_ascii_lowercase();
            let same = all().all(|field| text(field) == text(first));
            self.defects.push((last.offset, repeated(id, same)));
            if id == FieldId::Type && !same {
                self.open.add(Choice::TypeField);
            }
        }
        let kept: Vec<u32> = accepted(index, part, id, dialect).map(|f| f.whole.start).collect();
        // The last Content-Type and the last encoding go together: a reader has one habit.
        let at = if dialect.get(Choice::TypeField) == 1 { kept.last() } else { kept.first() };
        at.and_then(|&at| all().find(|field| field.whole.start == at))
    }

    fn read_type(&mut self, index: &Index, field: &Field, dialect: &Dialect) {
        let value = value(index, field, dialect);
        let odd = self.look_at(&value, field.offset);
        let parsed = if dialect.reads_values_apart() { alternate::content_type(&value, dialect) } else { field::content_type(&value) };
        if let Some(parsed) = &parsed {
            self.read_boundary(&value, parsed, field.offset, dialect, odd);
        } else {
            self.defects.push((field.offset, DefectKind::BadType));
            self.open.add(Choice::Value);
            if value.starts_with(b":") || value.starts_with(b"=") {
                self.open.add(Choice::FieldName);
            }
        }
        self.given = parsed;
        self.loose_multipart(&value, field.offset, dialect);
    }

    /// Signs in the value that readers take differently. Rather too many than too few: what turns out alike is merged later.
    fn look_at(&mut self, value: &[u8], offset: usize) -> bool {
        if !has_signs(value) {
            return false;
        }
        let has = |byte: u8| memchr::memchr(byte, value).is_some();
        if has(b'(') {
            self.open.add(Choice::Comment);
            self.defects.push((offset, DefectKind::Comment));
        }
        if memchr::memmem::find(value, b"=?").is_some() {
            self.open.add(Choice::Words);
            self.defects.push((offset, DefectKind::EncodedWord));
        }
        if has(b'*') {
            self.open.add(Choice::Extended);
        }
        if value.iter().any(|b| *b >= 0x80) {
            self.defects.push((offset, DefectKind::EightBitHeader));
        }
        if has(b'\\') || has(b'\'') || !quotes_are_plain(value) {
            self.open.add(Choice::Value);
            self.defects.push((offset, DefectKind::MalformedParameter));
        }
        true
    }

    fn read_boundary(&mut self, value: &[u8], parsed: &ContentType, offset: usize, dialect: &Dialect, odd: bool) {
        if parsed.parameters.len() >= PARAMETERS_MAX {
            self.defects.push((offset, DefectKind::TooManyParameters));
        }
        let mut boundaries = parsed.parameters.iter().filter(|(n, _)| n.eq_ignore_ascii_case(b"boundary")).map(|(_, v)| v);
        let first = boundaries.next();
        let last = boundaries.next_back().or(first);
        if first != last {
            self.open.add(Choice::Parameter);
            self.defects.push((offset, DefectKind::RepeatedParameter));
        }
        let plain = if dialect.get(Choice::Parameter) == 1 { last } else { first };
        let extended = if odd { Extended::find(&parsed.parameters, "boundary") } else { None };
        if extended.is_some() {
            self.open.add(Choice::Extended);
            self.defects.push((offset, DefectKind::ExtendedBoundary));
        }
        let joined = extended.as_ref().map(|e| &e.as_they_come);
        let extended = extended.as_ref().map(|e| &e.octets);
        let anywhere = if dialect.get(Choice::Value) == 4 { alternate::anywhere(value, b"boundary") } else { Vec::new() };
        let anywhere = if dialect.get(Choice::Parameter) == 1 { anywhere.last() } else { anywhere.first() };
        let found = anywhere.or(match dialect.get(Choice::Extended) {
            0 => plain.or(extended),
            1 => extended.or(plain),
            2 => plain,
            _ => joined.or(plain),
        });
        self.multipart = parsed.is_multipart();
        if let Some(found) = found {
            self.take_boundary(found, offset, dialect);
        }
        if self.multipart {
            self.doubt_boundary(value, offset);
        }
    }

    fn take_boundary(&mut self, found: &[u8], offset: usize, dialect: &Dialect) {
        let trimmed = match dialect.get(Choice::Trim) {
            0 => found.trim_ascii_end(),
            1 => found.trim_ascii(),
            _ => found,
        };
        if found.trim_ascii().len() != found.len() {
            self.open.add(Choice::Trim);
            self.defects.push((offset, DefectKind::BoundarySpace));
        }
        if trimmed.len() > BOUNDARY_MAX {
            self.defects.push((offset, DefectKind::BoundaryTooLong));
            return;
        }
        if trimmed.len() > 70 {
            self.defects.push((offset, DefectKind::LongBoundary));
            self.open.add(Choice::Match);
        }
        if !trimmed.is_empty() || dialect.get(Choice::NoBoundary) == 2 {
            self.boundary = Some(trimmed.to_vec());
        }
    }

    /// A multipart: is its boundary beyond doubt?
    fn doubt_boundary(&mut self, value: &[u8], offset: usize) {
        if self.boundary.is_none() {
            self.defects.push((offset, DefectKind::NoBoundary));
            self.open.add(Choice::NoBoundary);
            self.open.add(Choice::Value);
        } else if mentions(value, b"boundary") != 1 {
            self.open.add(Choice::Value);
        }
    }

    /// What only careless readers take for a multipart.
    fn loose_multipart(&mut self, value: &[u8], offset: usize, dialect: &Dialect) {
        if self.multipart || !(mentions(value, b"multipart") > 0 || mentions(value, b"boundary") > 0) {
            return;
        }
        self.open.add(Choice::TypeForm);
        self.defects.push((offset, DefectKind::OddType));
        if dialect.get(Choice::TypeForm) == 1 {
            self.multipart = true;
            let found = alternate::anywhere(value, b"boundary");
            let found = if dialect.get(Choice::Parameter) == 1 { found.last() } else { found.first() };
            if let Some(found) = found {
                self.take_boundary(found, offset, dialect);
            }
            self.given = Some(ContentType { given: true, ..ContentType::new("multipart", "mixed") });
        }
    }
}

fn lower(text: Cow<'static, str>) -> Cow<'static, str> {
    if text.bytes().any(|octet| octet.is_ascii_uppercase()) { Cow::Owned(text.to_ascii_lowercase()) } else { text }
}

/// There may be more than one way to read this value.
pub(crate) fn has_signs(value: &[u8]) -> bool {
    const SIGNS: [bool; 256] = signs();
    value.iter().any(|&b| SIGNS[b as usize]) || !quotes_are_plain(value)
}

fn repeated(id: FieldId, same: bool) -> DefectKind {
    match (id, same) {
        (FieldId::Type, true) => DefectKind::RepeatedType,
        (FieldId::Type, false) => DefectKind::ConflictingType,
        (_, true) => DefectKind::RepeatedEncoding,
        (_, false) => DefectKind::ConflictingEncoding,
    }
}

const fn signs() -> [bool; 256] {
    let mut table = [false; 256];
    let mut n = 0x80;
    while n < 256 {
        table[n] = true;
        n += 1;
    }
    let odd = b"()\\*?'";
    n = 0;
    while n < odd.len() {
        table[odd[n] as usize] = true;
        n += 1;
    }
    table
}

/// True when each quote opens right after "=" and closes before a semicolon or the end.
fn quotes_are_plain(value: &[u8]) -> bool {
    let mut open = false;
    let mut at = 0;
    while let Some(next) = memchr::memchr(b'"', &value[at..]).map(|n| n + at) {
        let rest = value[next + 1..].trim_ascii_start();
        if open && !(rest.is_empty() || rest[0] == b';') || !open && !value[..next].trim_ascii_end().ends_with(b"=") {
            return false;
        }
        open = !open;
        at = next + 1;
    }
    !open
}

/// How often a word is in the text, in any case; two is as good as more.
pub(crate) fn mentions(text: &[u8], word: &[u8]) -> usize {
    let first = word[0];
    let mut count = 0;
    for at in memchr::memchr2_iter(first, first.to_ascii_uppercase(), text) {
        if text.len() - at >= word.len() && text[at..at + word.len()].eq_ignore_ascii_case(word) {
            count += 1;
            if count == 2 {
                break;
            }
        }
    }
    count
}

/// The name of an encoding hidden in a value that is more than a name: every known one that occurs in it.
pub(crate) fn encodings_in(value: &[u8]) -> Vec<&'static str> {
    let bare = alternate::without_comments(value, false);
    let text = format!("{} {}", decode::header_text(value), String::from_utf8_lossy(&bare)).to_ascii_lowercase();
    let text: String = text.chars().filter(|c| !c.is_whitespace() && *c != '\\').collect();
    let known = [("64", "base64"), ("quoted", "quoted-printable"), ("qp", "quoted-printable"), ("uu", "x-uuencode")];
    known.iter().filter(|(word, _)| text.contains(word)).map(|(_, name)| *name).collect()
}
