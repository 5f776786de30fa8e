//! Messages: every part that some reader would show is looked at, in each way to decode it, under each of its names and types.
//!
//! What the parts are is `gatepost_mime`'s affair, which reads a message in all plausible ways. Where those differ the message has the
//! flag `ambiguous`, where they are more than could be listed the defect `too-large`; each doubt is a sign (`mime:repeated-parameter`).

use gatepost_mime::transfer::Method;
use gatepost_mime::{Analysis, Decoding, Kind, Leaf, Limits, analyse, decode, uuencode};
use memchr::memmem;

use crate::budget::Stop;
use crate::kind::{Class, Format};
use crate::loose;
use crate::name::Name;
use crate::report::{Defect, Entry, Flags, Place};
use crate::walk::Walker;

/// Files looked for in one text: more than the budget has entries.
const FILES_MAX: usize = 20_001;
/// Shorter pieces between parts are delimiters and hold no file.
const GAP_MIN: usize = 60;

/// Open a message. The places of its parts are noted if it is the file asked about.
pub fn read(walker: &mut Walker, id: u32, data: &[u8]) -> Result<(), Stop> {
    let analysis = analyse(data, &Limits::default());
    note(walker, id, &analysis);
    walker.budget.tick()?;
    let owners = messages(walker, id, &analysis)?;
    // The entry of each leaf, for those that lie in an encoded message.
    let mut entries = vec![id; analysis.leaves.len()];
    for (number, leaf) in analysis.leaves.iter().enumerate() {
        let above = match leaf.inside {
            Some(decoded) => analysis.decoded_of.get(decoded).map_or(id, |&outer| entries[outer]),
            None => owner(&analysis, &owners, leaf).unwrap_or(id),
        };
        entries[number] = one_leaf(walker, above, id, &analysis, number, data)?;
    }
    between(walker, id, &analysis, data)
}

/// What lies between the parts of all readings, before and behind them: a file in it is taken out by no mail program, but by people.
fn between(walker: &mut Walker, id: u32, analysis: &Analysis, data: &[u8]) -> Result<(), Stop> {
    let leaves = analysis.leaves.iter().filter(|leaf| leaf.inside.is_none()).map(|leaf| leaf.header.start..leaf.body.end);
    let headers = analysis.index.parts.iter().map(|part| part.header.clone());
    let mut covered: Vec<_> = leaves.chain(headers).collect();
    covered.sort_unstable_by_key(|range| range.start);
    covered.push(data.len()..data.len());
    let mut at = 0;
    for range in covered {
        if let Some(gap) = data.get(at..range.start).filter(|gap| gap.len() > GAP_MIN) {
            files_in(walker, id, gap)?;
            loose::look(walker, id, gap)?;
        }
        at = at.max(range.end);
    }
    Ok(())
}

fn note(walker: &mut Walker, id: u32, analysis: &Analysis) {
    let entry = walker.entry(id);
    // Beyond a cap some reader may see what no leaf shows.
    if analysis.ambiguous || analysis.incomplete {
        entry.flags.set(Flags::AMBIGUOUS);
    }
    if analysis.incomplete {
        entry.defect(Defect::TooLarge);
    }
    if analysis.ambiguous || analysis.incomplete {
        analysis.defects.iter().for_each(|defect| entry.sign(format!("mime:{}", defect.kind.name())));
    }
}

/// An entry for each message within the message, as the standard reads it: (part, entry).
fn messages(walker: &mut Walker, id: u32, analysis: &Analysis) -> Result<Vec<(usize, u32)>, Stop> {
    let index = &analysis.index;
    let mut found: Vec<(usize, u32)> = Vec::new();
    // The innermost message around each part.
    let mut around: Vec<u32> = Vec::with_capacity(index.parts.len());
    for (number, part) in index.parts.iter().enumerate() {
        let mut above = part.parent.map_or(id, |parent| around[parent as usize]);
        if part.kind == Kind::Message {
            let names: Vec<String> = gatepost_mime::names::of(index, number as u32);
            let child = walker.named(above, &names)?;
            let place = Place { header: part.header.start, body: part.body.start, end: part.body.end, coding: Method::Identity };
            let entry = walker.entry(child);
            (entry.size, entry.kind) = (part.body.len() as u64, Some(crate::kind::MAIL));
            "message/rfc822".clone_into(&mut entry.declared);
            if id == 0 {
                entry.place = Some(place);
            }
            found.push((number, child));
            above = child;
        }
        around.push(above);
    }
    Ok(found)
}

/// The innermost of the messages that a leaf lies in.
fn owner(analysis: &Analysis, messages: &[(usize, u32)], leaf: &Leaf) -> Option<u32> {
    let parts = &analysis.index.parts;
    let holds = |part: usize| parts[part].body.start <= leaf.header.start && leaf.body.end <= parts[part].body.end;
    messages.iter().rev().find(|(part, _)| holds(*part)).map(|(_, entry)| *entry)
}

/// Look at a leaf in each of its decodings. The entry of the first is returned.
fn one_leaf(walker: &mut Walker, above: u32, id: u32, analysis: &Analysis, number: usize, data: &[u8]) -> Result<u32, Stop> {
    let leaf = &analysis.leaves[number];
    let source = analysis.source(data, leaf);
    let mut names: Vec<String> = leaf.names.iter().map(|name| name.text.clone()).collect();
    names.extend(elsewhere(source.get(leaf.header.clone()).unwrap_or_default()));
    let mut first = None;
    for &decoding in &leaf.decodings {
        let child = walker.named(above, &names)?;
        first.get_or_insert(child);
        let entry = walker.entry(child);
        leaf.types.first().unwrap_or(&String::new()).clone_into(&mut entry.declared);
        if id == 0 && leaf.inside.is_none() {
            entry.place = Some(Place { header: leaf.header.start, body: leaf.body.start, end: leaf.body.end, coding: decoding.method });
        }
        let opened = decoding.method != Method::Identity && analysis.decoded_of.contains(&number);
        content(walker, child, leaf, decoding, source, opened, &names)?;
        note_types(walker.entry(child), leaf);
    }
    Ok(first.unwrap_or(above))
}

/// Decode and look. What was `opened` by the analysis is not opened again: its leaves are leaves like all others.
fn content(
    walker: &mut Walker,
    id: u32,
    leaf: &Leaf,
    decoding: Decoding,
    source: &[u8],
    opened: bool,
    names: &[String],
) -> Result<(), Stop> {
    let raw = leaf.raw(source);
    let decoded = (decoding.method != Method::Identity).then(|| leaf.decode(source, decoding, usize::MAX).0);
    let content = decoded.as_deref().unwrap_or(raw);
    walker.budget.spend(content.len(), raw.len() as u64, content.len() as u64)?;
    if opened {
        walker.opened(id, content);
        return Ok(());
    }
    walker.look_as(id, names, &leaf.types, content)?;
    let declared = leaf.types.first().map_or("", String::as_str);
    let textual = walker.entry(id).kind.is_some_and(|kind| kind.class == Class::Text);
    let shown = declared.is_empty() || ["text/", "multipart/", "message"].iter().any(|start| declared.starts_with(start));
    if shown || matches!(declared, "application/octet-stream" | "application/mac-binhex40" | "application/http" | "application/mbox") {
        within_text(walker, id, content)?;
        loose::look(walker, id, content)?;
    } else if textual {
        // Unpackers take the files out of a text that was saved, whatever type it was sent with.
        files_in(walker, id, content)?;
    }
    loose::bare(walker, id, content)
}

/// Types whose content is not all in the message.
fn note_types(entry: &mut Entry, leaf: &Leaf) {
    for declared in &leaf.types {
        match declared.as_str() {
            // Readers that know it fetch the content from elsewhere (RFC 2046 5.2.3).
            "message/external-body" => entry.flags.set(Flags::LAUNCH),
            // A piece; the others come in other messages, and nobody sees the whole but who puts it together (RFC 2046 5.2.2).
            "message/partial" => entry.defect(Defect::Unsupported),
            // PGP/MIME (RFC 3156): the part behind this one is for its recipient only.
            "application/pgp-encrypted" => entry.flags.set(Flags::ENCRYPTED),
            // S/MIME that does not read as such.
            "application/pkcs7-mime" | "application/x-pkcs7-mime" if entry.kind.is_none_or(|kind| kind.format != Format::Cms) => {
                entry.defect(Defect::Unsupported);
            }
            _ => continue,
        }
        entry.sign(format!("mime:{declared}"));
    }
}

/// Names that dangerous files have in fields that are no file names by the standard, and that some readers save under.
fn elsewhere(header: &[u8]) -> Vec<String> {
    const FIELDS: [&[u8]; 3] = [b"content-description:", b"content-location:", b"content-id:"];
    let mut found = Vec::new();
    for line in header.split(|&b| b == b'\n') {
        let value = FIELDS.iter().find(|name| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name)));
        let Some(value) = value.map(|name| line[name.len()..].trim_ascii()) else { continue };
        let text = decode::header_text(value);
        let name = text.trim_matches(['"', '<', '>', ' ']).rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
        if found.len() < FIELDS.len() && Name::of(&name).flags().has(Flags::BLOCKED_NAME) {
            found.push(name);
        }
    }
    found
}

/// Files in a text: uuencode, yEnc, `BinHex`; and text that only its recipient can read.
fn within_text(walker: &mut Walker, id: u32, text: &[u8]) -> Result<(), Stop> {
    if is_pgp(text) {
        let entry = walker.entry(id);
        entry.flags.set(Flags::ENCRYPTED);
        entry.sign("pgp:message");
    }
    files_in(walker, id, text)
}

fn files_in(walker: &mut Walker, id: u32, text: &[u8]) -> Result<(), Stop> {
    for file in uuencode::find_up_to(text, FILES_MAX) {
        let (octets, cut) = file.content(text);
        walker.budget.spend(octets.len(), file.body.len() as u64, octets.len() as u64)?;
        let child = walker.child(id, &file.name, &octets)?;
        if cut {
            walker.entry(child).defect(Defect::TooLarge);
        }
    }
    Ok(())
}

/// A message of PGP (RFC 4880 6.2) begins in it.
pub fn is_pgp(text: &[u8]) -> bool {
    memmem::find_iter(text, b"-----BEGIN PGP MESSAGE").any(|at| at == 0 || text[at - 1] == b'\n')
}
