//! PDF: scripts, actions that start something, files inside, encryption. Streams are decoded, so that object streams hide nothing.
//!
//! No object is resolved: whatever names stand anywhere count, with `#xx` undone. That is what a hostile file cannot lay out differently.

use crate::budget::Stop;
use crate::bytes::clamp;
use crate::report::{Defect, Flags};
use crate::unpack;
use crate::walk::Walker;

/// Names and what they mean.
const NAMES: &[(&[u8], Flags, &str)] = &[
    (b"JavaScript", Flags::SCRIPT, "pdf:javascript"),
    (b"JS", Flags::SCRIPT, "pdf:javascript"),
    (b"Launch", Flags::LAUNCH, "pdf:launch"),
    (b"EmbeddedFile", Flags::EMBEDS, "pdf:embedded-file"),
    (b"EmbeddedFiles", Flags::EMBEDS, "pdf:embedded-file"),
    (b"Filespec", Flags(0), "pdf:file-name"),
    (b"RichMedia", Flags::EMBEDS, "pdf:rich-media"),
    (b"OpenAction", Flags(0), "pdf:open-action"),
    (b"AA", Flags(0), "pdf:additional-action"),
    (b"XFA", Flags::SCRIPT, "pdf:xfa"),
    (b"SubmitForm", Flags(0), "pdf:submit-form"),
    (b"GoToE", Flags::LAUNCH, "pdf:goto-embedded"),
    (b"GoToR", Flags(0), "pdf:goto-remote"),
    (b"ImportData", Flags(0), "pdf:import-data"),
    (b"URI", Flags(0), "pdf:uri"),
    (b"Encrypt", Flags::ENCRYPTED, "pdf:encrypted"),
];

/// A dictionary before its stream is looked for this far back.
const DICTIONARY_MAX: usize = 8 << 10;
/// Filters of one stream.
const FILTERS_MAX: usize = 6;

/// Look through a PDF.
pub fn read(walker: &mut Walker, id: u32, data: &[u8]) -> Result<(), Stop> {
    // What stands in compressed streams' octets is noise; names are looked for between the streams, and in what streams decode to.
    let mut from = 0;
    for at in memchr::memmem::find_iter(data, b"stream") {
        if at < from || at >= 3 && &data[at - 3..at] == b"end" {
            continue;
        }
        let Some(start) = stream_start(data, at) else { continue };
        names(walker, id, &data[from..at])?;
        let dictionary = dictionary_before(&data[from..at]);
        let end = memchr::memmem::find(&data[start..], b"endstream").map_or(data.len(), |length| start + length);
        stream(walker, id, dictionary, &data[start..end])?;
        from = end;
    }
    names(walker, id, &data[from..])
}

/// The octets begin behind one line end (ISO 32000 7.3.8.1).
fn stream_start(data: &[u8], at: usize) -> Option<usize> {
    match clamp(data, at as u64 + 6, 2) {
        [b'\r', b'\n'] => Some(at + 8),
        [b'\n' | b'\r', ..] => Some(at + 7),
        _ => None,
    }
}

fn dictionary_before(text: &[u8]) -> &[u8] {
    let text = &text[text.len().saturating_sub(DICTIONARY_MAX)..];
    let start = memchr::memmem::rfind(text, b" obj").unwrap_or(0);
    &text[start..]
}

/// Names between looks at the clock.
const NAMES_A_TICK: usize = 10_000;

/// Names in text; those of [`NAMES`] are noted. The text of strings is not told apart: a name in a string is a false alarm that costs nothing.
fn names(walker: &mut Walker, id: u32, text: &[u8]) -> Result<(), Stop> {
    for (count, at) in memchr::memchr_iter(b'/', text).enumerate() {
        if count % NAMES_A_TICK == 0 {
            walker.budget.tick()?;
        }
        let raw = &text[at + 1..];
        // The first letters of the names, or an escape.
        if !raw.first().is_some_and(|octet| b"JLEFROAXSGIU#".contains(octet)) {
            continue;
        }
        let length = raw.iter().take(64).position(|octet| is_delimiter(*octet)).unwrap_or(raw.len().min(64));
        let name = unescape(&raw[..length]);
        if let Some((_, flags, sign)) = NAMES.iter().find(|(known, ..)| *known == name.as_slice()) {
            let entry = walker.entry(id);
            entry.flags.set(*flags);
            entry.sign(*sign);
            if name.len() < length {
                entry.sign("pdf:hidden-name");
            }
        }
    }
    let entry = walker.entry(id);
    let starts = entry.signs.iter().any(|sign| sign == "pdf:open-action" || sign == "pdf:additional-action");
    if starts && (entry.flags.has(Flags::SCRIPT) || entry.flags.has(Flags::LAUNCH)) {
        entry.flags.set(Flags::AUTORUN);
    }
    Ok(())
}

fn is_delimiter(octet: u8) -> bool {
    matches!(octet, 0 | 9 | 10 | 12 | 13 | 32 | b'(' | b')' | b'<' | b'>' | b'[' | b']' | b'{' | b'}' | b'/' | b'%')
}

/// `#4A` is J (ISO 32000 7.3.5).
fn unescape(raw: &[u8]) -> Vec<u8> {
    let digit = |at: usize| raw.get(at).and_then(|octet| (*octet as char).to_digit(16));
    let mut name = Vec::with_capacity(raw.len());
    let mut at = 0;
    while at < raw.len() {
        match (raw[at], digit(at + 1), digit(at + 2)) {
            (b'#', Some(high), Some(low)) => {
                name.push((high << 4 | low) as u8);
                at += 3;
            }
            (octet, ..) => {
                name.push(octet);
                at += 1;
            }
        }
    }
    name
}

/// Names of a dictionary in order, without escapes.
fn list(dictionary: &[u8]) -> Vec<Vec<u8>> {
    let parts = dictionary.split(|octet| *octet == b'/').skip(1);
    parts.map(|part| unescape(&part[..part.iter().position(|octet| is_delimiter(*octet)).unwrap_or(part.len())])).take(256).collect()
}

fn stream(walker: &mut Walker, id: u32, dictionary: &[u8], body: &[u8]) -> Result<(), Stop> {
    let named = list(dictionary);
    let has = |name: &[u8]| named.iter().any(|other| other == name);
    let is_file = has(b"EmbeddedFile");
    // Pictures hold no names; but what also has the keys of an object stream is read as one.
    let is_picture = has(b"Image") && !has(b"ObjStm") && !has(b"First");
    if is_picture && !is_file {
        return Ok(());
    }
    let filters: Vec<Filter> = named.iter().filter_map(|name| Filter::of(name)).take(FILTERS_MAX).collect();
    let mut current: Option<Vec<u8>> = None;
    for filter in filters {
        let input = current.as_deref().unwrap_or(body);
        current = filter.apply(walker, input)?;
        if current.is_none() {
            if is_file || has(b"ObjStm") {
                walker.entry(id).defect(Defect::Unsupported);
            }
            return Ok(());
        }
    }
    let content = current.as_deref().unwrap_or(body);
    walker.budget.hold(content.len());
    let looked = if is_file { walker.child(id, "embedded file", content).map(drop) } else { names(walker, id, content) };
    walker.budget.release(content.len());
    looked
}

#[derive(Clone, Copy)]
enum Filter {
    Flate,
    Hex,
    Base85,
    Other,
}

impl Filter {
    fn of(name: &[u8]) -> Option<Self> {
        match name {
            b"FlateDecode" | b"Fl" => Some(Self::Flate),
            b"ASCIIHexDecode" | b"AHx" => Some(Self::Hex),
            b"ASCII85Decode" | b"A85" => Some(Self::Base85),
            b"LZWDecode" | b"LZW" | b"RunLengthDecode" | b"RL" | b"DCTDecode" | b"JPXDecode" | b"CCITTFaxDecode" | b"JBIG2Decode"
            | b"Crypt" => Some(Self::Other),
            _ => None,
        }
    }

    /// `None` when it is not undone here. Damage is not noted: what could be decoded is looked at.
    fn apply(self, walker: &mut Walker, input: &[u8]) -> Result<Option<Vec<u8>>, Stop> {
        Ok(match self {
            Self::Flate => {
                let output = unpack::deflate(&mut walker.budget, input, true)?;
                let raw = output.total == 0 && input.len() > 2;
                // Readers take data whose zlib header is broken.
                Some(if raw { unpack::deflate(&mut walker.budget, &input[2..], false)?.data } else { output.data })
            }
            Self::Hex => Some(hex(input)),
            Self::Base85 => Some(base85(input)),
            Self::Other => None,
        })
    }
}

fn hex(input: &[u8]) -> Vec<u8> {
    let digits: Vec<u8> = input.iter().take_while(|o| **o != b'>').filter_map(|o| (*o as char).to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or(0)).collect()
}

/// ASCII base-85 (ISO 32000 7.4.3).
fn base85(input: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(input.len() / 5 * 4);
    let mut group = Vec::with_capacity(5);
    for &octet in input.iter().take_while(|o| **o != b'~') {
        match octet {
            b'z' if group.is_empty() => out.extend_from_slice(&[0; 4]),
            b'!'..=b'u' => group.push(octet - b'!'),
            _ => {}
        }
        if group.len() == 5 {
            out.extend_from_slice(&value85(&group).to_be_bytes());
            group.clear();
        }
    }
    if group.len() > 1 {
        let kept = group.len() - 1;
        group.resize(5, 84);
        out.extend_from_slice(&value85(&group).to_be_bytes()[..kept]);
    }
    out
}

fn value85(group: &[u8]) -> u32 {
    group.iter().fold(0u32, |value, digit| value.wrapping_mul(85).wrapping_add(u32::from(*digit)))
}
