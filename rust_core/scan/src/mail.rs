//! Messages: every part that some reader would show is looked at, in each way to decode it, under each of its names and types.
//!
//! What the parts are is `gatepost_mime`'s affair, which reads a message in all plausible ways. Where those differ the message has the
//! flag `ambiguous`, where they are more than could be listed the defect `too-large`; each doubt is a sign (`mime:repeated-parameter`).

use gatepost_mime::transfer::Method;
use gatepost_mime::{Analysis, Decoding, Kind, Leaf, Limits, analyse, uuencode};

use crate::budget::Stop;
use crate::report::{Defect, Flags, Place};
use crate::walk::Walker;

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
    Ok(())
}

fn note(walker: &mut Walker, id: u32, analysis: &Analysis) {
    let entry = walker.entry(id);
    if analysis.ambiguous {
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
    let names: Vec<String> = leaf.names.iter().map(|name| name.text.clone()).collect();
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
    if declared.starts_with("text/") || declared.is_empty() || declared == "application/octet-stream" {
        uuencoded(walker, id, content)?;
    }
    Ok(())
}

/// Files in a text between `begin MODE NAME` and `end`.
fn uuencoded(walker: &mut Walker, id: u32, text: &[u8]) -> Result<(), Stop> {
    for file in uuencode::find(text) {
        let mut octets = Vec::new();
        let body = &text[file.body];
        uuencode::decode(body, &mut octets);
        walker.budget.spend(octets.len(), body.len() as u64, octets.len() as u64)?;
        walker.child(id, &file.name, &octets)?;
    }
    Ok(())
}
