//! What people see of a message: its text, its HTML, its attachments, a preview line. All of them of the baseline reading.

use crate::analysis::Analysis;
use crate::decode;
use crate::leaf::Leaf;
use crate::names::NameSource;
use crate::regular::Prepared;
use crate::transfer;
use crate::{tnef, uuencode};

/// An attachment: a leaf with a name or a type that is not shown, a file in uuencode within text, or one out of a winmail.dat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Names, likeliest first.
    pub names: Vec<String>,
    /// Declared type.
    pub content_type: String,
    /// Where its names come from, and so what it is.
    pub source: NameSource,
    /// Place in [`Analysis::leaves`].
    pub leaf: usize,
}

/// The text parts of the baseline with one of these subtypes, decoded and joined; at most `max` octets are decoded.
fn joined(analysis: &Analysis, message: &[u8], wanted: &str, max: usize) -> Option<String> {
    let mut text: Option<String> = None;
    let mut room = max;
    for leaf in baseline(analysis).filter(|leaf| leaf.is_inline_text() && leaf.types[0] == wanted) {
        let (octets, _) = leaf.decode(analysis.source(message, leaf), leaf.decodings[0], room);
        room -= octets.len();
        let octets = if wanted == "text/plain" { without_uuencode(octets) } else { octets };
        let piece = decode::into_text(leaf.charset.as_deref(), octets);
        match &mut text {
            None => text = Some(piece),
            Some(text) => text.push_str(&piece),
        }
    }
    text
}

fn baseline(analysis: &Analysis) -> impl Iterator<Item = &Leaf> {
    analysis.readings.first().into_iter().flat_map(|r| r.leaves.iter()).map(|shown| &analysis.leaves[shown.leaf])
}

/// Plain text; `None` when the message has none. Files in uuencode are left out.
pub fn text(analysis: &Analysis, message: &[u8], max: usize) -> Option<String> {
    joined(analysis, message, "text/plain", max)
}

/// HTML; `None` when the message has none.
pub fn html(analysis: &Analysis, message: &[u8], max: usize) -> Option<String> {
    joined(analysis, message, "text/html", max)
}

/// What a leaf of the baseline holds: text as characters, all else as octets.
#[derive(Debug)]
pub enum Content<'a> {
    /// `text/*`, its charset undone.
    Text(String),
    /// Any other.
    Octets(Vec<u8>),
    /// Octets that are decoded when there is a place for them.
    Prepared(Prepared<'a>),
}

/// The contents of all leaves of the baseline in order, likeliest decoding; at most `max` octets are decoded in all.
pub fn contents<'a>(analysis: &'a Analysis, message: &'a [u8], max: usize) -> Vec<Content<'a>> {
    let mut room = max;
    let one = |leaf: &Leaf| {
        let (source, text) = (analysis.source(message, leaf), leaf.types[0].starts_with("text/"));
        if let Some(prepared) = leaf.prepare(source, leaf.decodings[0], room).filter(|_| !text) {
            room -= prepared.len();
            return Content::Prepared(prepared);
        }
        let (octets, _) = leaf.decode(source, leaf.decodings[0], room);
        room -= octets.len();
        if text { Content::Text(decode::into_text(leaf.charset.as_deref(), octets)) } else { Content::Octets(octets) }
    };
    baseline(analysis).map(one).collect()
}

/// The first `chars` characters that a list of messages shows: plain text, or the text of the HTML; white space is one space.
pub fn preview(analysis: &Analysis, message: &[u8], chars: usize) -> String {
    let max = chars.saturating_mul(16).max(16 << 10);
    let plain = text(analysis, message, max).filter(|t| !t.trim().is_empty());
    let text = plain.or_else(|| html(analysis, message, max).map(|h| strip_tags(&h))).unwrap_or_default();
    let mut out = String::new();
    for word in text.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
        if out.len() >= chars * 4 {
            break;
        }
    }
    out.chars().filter(|c| !c.is_control()).take(chars).collect()
}

/// Attachments of the baseline, and their octets through [`content`].
pub fn attachments(analysis: &Analysis, message: &[u8], max: usize) -> Vec<Attachment> {
    let mut found = Vec::new();
    for shown in analysis.readings.first().map(|r| r.leaves.as_slice()).unwrap_or_default() {
        let leaf = &analysis.leaves[shown.leaf];
        if leaf.is_inline_text() {
            let files = within(analysis, message, leaf, max);
            found.extend(files.into_iter().map(|(names, source)| Attachment {
                names,
                content_type: OCTETS.into(),
                source,
                leaf: shown.leaf,
            }));
            continue;
        }
        let names: Vec<String> = leaf.names.iter().map(|n| n.text.clone()).collect();
        let source = leaf.names.first().map_or(NameSource::Type, |n| n.source);
        found.push(Attachment { names, content_type: leaf.types[0].clone(), source, leaf: shown.leaf });
        let files = within(analysis, message, leaf, max);
        found.extend(files.into_iter().map(|(names, source)| Attachment { names, content_type: OCTETS.into(), source, leaf: shown.leaf }));
    }
    found
}

const OCTETS: &str = "application/octet-stream";

/// Names of the files within a leaf: uuencode in text, TNEF.
fn within(analysis: &Analysis, message: &[u8], leaf: &Leaf, max: usize) -> Vec<(Vec<String>, NameSource)> {
    let source = analysis.source(message, leaf);
    let text = leaf.types[0].starts_with("text/");
    let tnef_like =
        leaf.types.iter().any(|t| t.ends_with("ms-tnef")) || leaf.names.iter().any(|n| n.text.eq_ignore_ascii_case("winmail.dat"));
    if !text && !tnef_like {
        return Vec::new();
    }
    let (octets, _) = transfer::decode(leaf.decodings[0].method, leaf.raw(source), max);
    if tnef_like && let Some(contents) = tnef::attachments(&octets) {
        return contents.files.into_iter().map(|f| (f.names, NameSource::Tnef)).collect();
    }
    uuencode::find(&octets).into_iter().map(|f| (vec![f.name], NameSource::Uuencode)).collect()
}

/// The octets of an attachment, up to `max`; true when there are more.
pub fn content(analysis: &Analysis, message: &[u8], attachment: &Attachment, max: usize) -> (Vec<u8>, bool) {
    let leaf = &analysis.leaves[attachment.leaf];
    let (octets, cut) = leaf.decode(analysis.source(message, leaf), leaf.decodings[0], max);
    let inner = match attachment.source {
        NameSource::Uuencode => {
            uuencode::find(&octets).into_iter().find(|f| attachment.names.first() == Some(&f.name)).map(|f| f.content(&octets).0)
        }
        NameSource::Tnef => tnef::attachments(&octets)
            .and_then(|c| c.files.into_iter().find(|f| f.names == attachment.names))
            .map(|f| octets[f.range].to_vec()),
        _ => return (octets, cut),
    };
    (inner.unwrap_or_default(), cut)
}

fn without_uuencode(octets: Vec<u8>) -> Vec<u8> {
    let files = uuencode::find(&octets);
    if files.is_empty() {
        return octets;
    }
    let mut out = Vec::new();
    let mut from = 0;
    for file in files {
        out.extend_from_slice(&octets[from..file.begin]);
        from = file.body.end;
    }
    out.extend_from_slice(&octets[from..]);
    out
}

/// Text of HTML, good enough for a preview: tags, comments, styles and scripts go, the commonest entities are undone. Linear.
fn strip_tags(html: &str) -> String {
    let mut out = String::with_capacity(html.len() / 2);
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let hidden =
            ["style", "script", "title", "head"].iter().find(|tag| rest.get(1..=tag.len()).is_some_and(|t| t.eq_ignore_ascii_case(tag)));
        let from = match hidden {
            Some(tag) => memchr::memmem::find(rest.to_ascii_lowercase().as_bytes(), format!("</{tag}").as_bytes()).unwrap_or(rest.len()),
            None => 0,
        };
        out.push(' ');
        rest = rest[from..].find('>').map_or("", |end| &rest[from + end + 1..]);
    }
    out.push_str(rest);
    let entities = [("&nbsp;", " "), ("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")];
    entities.iter().fold(out, |text, (entity, plain)| text.replace(entity, plain))
}
