//! Bits that flip in old segments of the spool, pages of them that cannot be read any more, and whom that may concern.

use gatepost_log::{Damage, Loc, Log, Options, RECORD_HEADER, parse_segment_name, segment_name};
use gatepost_queue::MessageId;

use crate::disk::Disk;
use crate::spool_history::Run;

/// Kinds of records (docs/formats.md) that begin with the id of the one message they are about.
const ABOUT_ONE: [u8; 4] = [1, 2, 3, 5];

/// There are two copies of these, of which one may be damaged.
const REMAIN: u8 = 4;

/// Octets that are lost as one.
const PAGE: u64 = 4096;

/// A record: place, kind, length and first octets.
type Found = (Loc, u8, usize, Vec<u8>);

/// Every record of the log.
fn records(disk: &Disk, run: &Run<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    let options = Options { storage: disk.fork().storage(), threads: false, ..Options::new(*b"SPOL") };
    if let Ok(mut prepared) = Log::prepare(&run.dir, options) {
        let _ = prepared.replay(Loc::NONE, &mut |loc, kind, payload| {
            found.push((loc, kind, payload.len(), payload[..payload.len().min(16)].to_vec()));
            Ok(())
        });
    }
    found
}

/// Flips a bit of a record in a segment that has a successor, or loses a page of it.
pub(crate) fn decay(run: &mut Run<'_>) {
    if !run.chaos.decays(&mut run.rng) {
        return;
    }
    let last = run.disk.files(&run.dir).iter().filter_map(|name| parse_segment_name(name)).max().unwrap_or(0);
    let everything = records(&run.disk, run);
    if run.rng.chance(30) {
        return spoil(run, &everything, last);
    }
    let mut all = everything;
    all.retain(|(loc, kind, ..)| loc.segment < last && (*kind != REMAIN || !run.remain_hit));
    let Some((loc, kind, length, start)) = run.rng.pick(&all).cloned() else { return };
    let offset = u64::from(loc.offset) + run.rng.below(u64::from(RECORD_HEADER) + length as u64);
    run.diary.note(|| format!("a bit of {loc}, kind {kind}, flips at {offset}"));
    run.disk.flip(&run.dir.join(segment_name(loc.segment)), offset, 1 << run.rng.below(8));
    run.flips.push((loc.segment, offset, 1));
    concern(run, kind, start);
}

/// A record of this kind, which begins so, is not what it was.
fn concern(run: &mut Run<'_>, kind: u8, start: Vec<u8>) {
    run.remain_hit |= kind == REMAIN;
    let about: Option<MessageId> = start.try_into().ok().filter(|_| ABOUT_ONE.contains(&kind));
    if let Some(id) = about {
        match run.messages.iter_mut().find(|m| m.id == id) {
            Some(message) => message.damaged = true,
            None => drop(run.doubtful.insert(id)),
        }
    }
}

/// A page without the segment's header cannot be read any more.
fn spoil(run: &mut Run<'_>, all: &[Found], last: u32) {
    let old: Vec<&Found> = all.iter().filter(|(loc, ..)| loc.segment < last).collect();
    let Some((loc, _, length, _)) = run.rng.pick(&old).copied() else { return };
    let octet = u64::from(loc.offset) + run.rng.below(u64::from(RECORD_HEADER) + *length as u64);
    let (page, segment) = (octet / PAGE * PAGE, loc.segment);
    let reaches = |(at, _, length, _): &&Found| {
        let (start, end) = (u64::from(at.offset), u64::from(at.offset + RECORD_HEADER) + *length as u64);
        at.segment == segment && start < page + PAGE && end > page
    };
    let hit: Vec<Found> = all.iter().filter(reaches).cloned().collect();
    if page == 0 || run.remain_hit && hit.iter().any(|(_, kind, ..)| *kind == REMAIN) {
        return;
    }
    run.diary.note(|| format!("the page at {page} of {} cannot be read any more", segment_name(segment)));
    run.disk.spoil(&run.dir.join(segment_name(segment)), page);
    run.flips.push((segment, page, PAGE));
    for (_, kind, _, start) in hit {
        concern(run, kind, start);
    }
}

/// Damage is reported where there is any, unless the checkpoint made the opening pass it by, and nowhere else.
pub(crate) fn check(run: &Run<'_>, damaged: &[Damage], checkpoint: bool) -> Result<(), String> {
    // A replay from a checkpoint may begin within a page.
    let covers = |d: &Damage, (segment, offset, length): (u32, u64, u64)| {
        parse_segment_name(&d.file) == Some(segment) && d.offset < offset + length && offset < d.offset + d.length
    };
    // A spoilt page stays with its file when a freed segment is written again under another name, until it is written itself.
    let spoilt = |d: &Damage| run.disk.spoilt(&run.dir.join(&d.file), d.offset, d.length);
    if let Some(false_alarm) = damaged.iter().find(|d| !run.flips.iter().any(|flip| covers(d, *flip)) && !spoilt(d)) {
        return Err(format!("damage that never happened: {false_alarm}"));
    }
    let files = run.disk.files(&run.dir);
    let hidden = run.flips.iter().find(|flip| files.contains(&segment_name(flip.0)) && !damaged.iter().any(|d| covers(d, **flip)));
    match hidden {
        Some((segment, offset, _)) if !checkpoint => Err(format!("damage of {} at {offset} is not reported", segment_name(*segment))),
        _ => Ok(()),
    }
}
