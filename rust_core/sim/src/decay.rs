//! Bits that flip in old segments of the spool, and whom that may concern.

use gatepost_log::{Damage, Loc, Log, Options, RECORD_HEADER, parse_segment_name, segment_name};
use gatepost_queue::MessageId;

use crate::disk::Disk;
use crate::spool_history::Run;

/// Kinds of records (docs/formats.md) that begin with the id of the one message they are about.
const ABOUT_ONE: [u8; 4] = [1, 2, 3, 5];

/// There are two copies of these, of which one may be damaged.
const REMAIN: u8 = 4;

/// Every record of the log: place, kind, length and first octets.
fn records(disk: &Disk, run: &Run<'_>) -> Vec<(Loc, u8, usize, Vec<u8>)> {
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

/// Flips a bit of a record in a segment that has a successor.
pub(crate) fn decay(run: &mut Run<'_>) {
    if !run.chaos.decays(&mut run.rng) {
        return;
    }
    let last = run.disk.files(&run.dir).iter().filter_map(|name| parse_segment_name(name)).max().unwrap_or(0);
    let mut all = records(&run.disk, run);
    all.retain(|(loc, kind, ..)| loc.segment < last && (*kind != REMAIN || !run.remain_hit));
    let Some((loc, kind, length, start)) = run.rng.pick(&all).cloned() else { return };
    let offset = u64::from(loc.offset) + run.rng.below(u64::from(RECORD_HEADER) + length as u64);
    run.diary.note(|| format!("a bit of {loc}, kind {kind}, flips at {offset}"));
    run.disk.flip(&run.dir.join(segment_name(loc.segment)), offset, 1 << run.rng.below(8));
    run.flips.push((loc.segment, offset));
    run.remain_hit |= kind == REMAIN;
    let about: Option<MessageId> = start.try_into().ok().filter(|_| ABOUT_ONE.contains(&kind));
    if let Some(id) = about {
        match run.messages.iter_mut().find(|m| m.id == id) {
            Some(message) => message.damaged = true,
            None => drop(run.doubtful.insert(id)),
        }
    }
}

/// Damage is reported where there is any, unless the checkpoint made the opening pass it by, and nowhere else.
pub(crate) fn check(run: &Run<'_>, damaged: &[Damage], checkpoint: bool) -> Result<(), String> {
    let covers = |d: &Damage, (segment, offset): (u32, u64)| {
        parse_segment_name(&d.file) == Some(segment) && (d.offset..d.offset + d.length).contains(&offset)
    };
    if let Some(false_alarm) = damaged.iter().find(|d| !run.flips.iter().any(|flip| covers(d, *flip))) {
        return Err(format!("damage that never happened: {false_alarm}"));
    }
    let files = run.disk.files(&run.dir);
    let hidden = run.flips.iter().find(|flip| files.contains(&segment_name(flip.0)) && !damaged.iter().any(|d| covers(d, **flip)));
    match hidden {
        Some((segment, offset)) if !checkpoint => Err(format!("damage of {} at {offset} is not reported", segment_name(*segment))),
        _ => Ok(()),
    }
}
