//! Changes to a message before its commit: octets put in, octets cut or replaced; and a copy of it to look into, taken off the event loop.
//!
//! Called for what a verdict asks: a field put in front, forged copies of it cut, a part replaced by a notice. Only the pieces that a change
//! falls into are written anew; the front of a long message, which holds its header, waits in memory for the commit and costs nothing.
//! Invariant: all octets that no change names stay as they were received. Fails like reception: with the log's error.

use std::ops::Range;
use std::sync::Arc;

use gatepost_log::Loc;

use crate::codec::{CHUNK_HEAD, is_chunk};
use crate::error::QueueError;
use crate::id::{MessageId, format_id};
use crate::spool::Core;

/// `with` takes the place of `range`, which counts from the first octet of the message as it is stored, prefix included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// What goes; may be empty.
    pub range: Range<u64>,
    /// What comes.
    pub with: Vec<u8>,
}

/// Sorts them and checks that they fit into `total` octets and do not overlap.
pub(crate) fn in_order(edits: &mut [Edit], total: u64) -> Result<(), QueueError> {
    edits.sort_by_key(|edit| (edit.range.start, edit.range.end));
    let fits = edits.iter().all(|edit| edit.range.start <= edit.range.end && edit.range.end <= total);
    let apart = edits.windows(2).all(|two| two[0].range.end <= two[1].range.start);
    if fits && apart { Ok(()) } else { Err(QueueError::Invalid("changes of a message overlap or lie beyond its end".into())) }
}

/// The piece at `start..start + octets.len()` of the message after `edits`; None when none concerns it. What is put in belongs to the piece
/// where it begins, at the very end to the `last` one.
pub(crate) fn apply(octets: &[u8], start: u64, last: bool, edits: &[Edit]) -> Option<Vec<u8>> {
    if !touches(start, octets.len() as u64, last, edits) {
        return None;
    }
    let end = start + octets.len() as u64;
    let mut out = Vec::with_capacity(octets.len() + 256);
    let mut at = start;
    for edit in edits.iter().filter(|edit| edit.range.end >= start) {
        let from = edit.range.start.clamp(at, end);
        out.extend_from_slice(&octets[(at - start) as usize..(from - start) as usize]);
        if begins_in(edit, start, end, last) {
            out.extend_from_slice(&edit.with);
        }
        at = edit.range.end.clamp(from, end);
    }
    out.extend_from_slice(&octets[(at - start) as usize..]);
    Some(out)
}

/// Whether a change falls into a piece.
pub(crate) fn touches(start: u64, length: u64, last: bool, edits: &[Edit]) -> bool {
    let end = start + length;
    edits.iter().any(|edit| begins_in(edit, start, end, last) || edit.range.start < end && edit.range.end > start)
}

fn begins_in(edit: &Edit, start: u64, end: u64, last: bool) -> bool {
    edit.range.start >= start && (edit.range.start < end || last)
}

/// By how much the edits make a message longer.
pub(crate) fn growth(edits: &[Edit]) -> i64 {
    edits.iter().map(|edit| (edit.with.len() as u64).cast_signed() - (edit.range.end - edit.range.start).cast_signed()).sum()
}

/// Where fields of that name stand in a header section, with their continuation lines; blanks, controls and octets beyond ASCII in it do not hide one.
pub fn fields_named(header: &[u8], name: &[u8]) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    let (mut at, mut inside) = (0, false);
    while at < header.len() && !name.is_empty() {
        let end = memchr::memchr(b'\n', &header[at..]).map_or(header.len(), |n| at + n + 1);
        let line = &header[at..end];
        inside = if matches!(line.first(), Some(b' ' | b'\t')) { inside } else { is_named(line, name) };
        if inside {
            match found.last_mut() {
                Some(last) if last.end == at => last.end = end,
                _ => found.push(at..end),
            }
        }
        at = end;
    }
    found
}

/// Controls, blanks and octets beyond ASCII are passed over: some readers leave them out of a name.
fn is_named(line: &[u8], name: &[u8]) -> bool {
    let mut rest = name.iter();
    for octet in line {
        match octet {
            b':' => return rest.as_slice().is_empty(),
            0x21..=0x7e if rest.next().is_some_and(|wanted| wanted.eq_ignore_ascii_case(octet)) => {}
            0x21..=0x7e => return false,
            _ => {}
        }
    }
    false
}

/// A message that was received and is not committed, to be read elsewhere while it waits. The [`crate::Incoming`] it is of must live.
pub struct Content {
    pub(crate) core: Arc<Core>,
    pub(crate) id: MessageId,
    pub(crate) prefix: usize,
    pub(crate) front: Vec<u8>,
    /// Pieces in the log behind the front: number, place.
    pub(crate) chunks: Vec<(u32, Loc)>,
    pub(crate) rest: Vec<u8>,
    pub(crate) total: u64,
}

impl Content {
    /// Octets of the message, without the prefix.
    pub fn size(&self) -> u64 {
        self.total - self.prefix as u64
    }

    /// All of them. Reads from the disk; verified.
    pub fn read(&self) -> Result<Vec<u8>, QueueError> {
        let mut out = Vec::with_capacity(self.total as usize);
        out.extend_from_slice(&self.front);
        let mut record = Vec::new();
        for (number, loc) in &self.chunks {
            out.extend_from_slice(chunk(&self.core, &self.id, *number, *loc, &mut record)?);
        }
        out.extend_from_slice(&self.rest);
        out.drain(..self.prefix.min(out.len()));
        Ok(out)
    }
}

/// The octets of a piece in the log, read into `record`.
pub(crate) fn chunk<'a>(core: &Core, id: &MessageId, number: u32, loc: Loc, record: &'a mut Vec<u8>) -> Result<&'a [u8], QueueError> {
    core.log.read(loc, record)?;
    if is_chunk(record, id, number) {
        return Ok(&record[CHUNK_HEAD..]);
    }
    Err(QueueError::Damaged(format!("{loc}: not a piece of message {}", format_id(id))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn edit(from: u64, to: u64, with: &[u8]) -> Edit {
        Edit { range: from..to, with: with.to_vec() }
    }

    proptest! {
        #[test]
        fn pieces_changed_one_by_one_are_the_whole_changed(
            data in proptest::collection::vec(any::<u8>(), 0..60),
            cuts in proptest::collection::vec(0usize..61, 0..5),
            places in proptest::collection::vec((0usize..61, proptest::collection::vec(any::<u8>(), 0..4)), 0..4),
        ) {
            let clip = |n: usize| n.min(data.len());
            let mut ends: Vec<usize> = places.iter().map(|(at, _)| clip(*at)).collect();
            ends.sort_unstable();
            let mut edits: Vec<Edit> =
                ends.chunks(2).zip(&places).map(|(two, (_, with))| edit(two[0] as u64, *two.last().unwrap() as u64, with)).collect();
            in_order(&mut edits, data.len() as u64).unwrap();
            let mut whole = data.clone();
            for edit in edits.iter().rev() {
                whole.splice(edit.range.start as usize..edit.range.end as usize, edit.with.iter().copied());
            }
            let mut at: Vec<usize> = cuts.into_iter().map(clip).collect();
            at.extend([0, data.len()]);
            at.sort_unstable();
            let mut joined = Vec::new();
            for (n, two) in at.windows(2).enumerate() {
                let piece = &data[two[0]..two[1]];
                joined.extend(apply(piece, two[0] as u64, n + 2 == at.len(), &edits).unwrap_or_else(|| piece.to_vec()));
            }
            prop_assert_eq!((data.len() as u64).checked_add_signed(growth(&edits)), Some(whole.len() as u64));
            prop_assert_eq!(joined, whole);
        }
    }

    #[test]
    fn changes_that_overlap_or_do_not_fit_are_refused() {
        assert!(in_order(&mut [edit(0, 3, b""), edit(2, 4, b"")], 9).is_err());
        assert!(in_order(&mut [edit(8, 10, b"")], 9).is_err());
        assert!(in_order(&mut [edit(3, 4, b""), edit(0, 3, b"")], 9).is_ok());
    }

    #[test]
    fn forged_fields_are_found_folded_and_in_any_case() {
        let header = b"X-A: 1\r\nx-scan : a\r\n b\r\n\tc\r\nX-SCAN:d\r\nX-Scanned: no\r\n X-Scan: e\r\nX-Scan\r\n:f\r\n\r\n";
        let found: Vec<&[u8]> = fields_named(header, b"X-Scan").into_iter().map(|range| &header[range]).collect();
        assert_eq!(found, [&b"x-scan : a\r\n b\r\n\tc\r\nX-SCAN:d\r\n"[..]]);
    }

    #[test]
    fn what_a_reader_may_leave_out_of_a_name_hides_no_field() {
        for hidden in [&b"X-Scan\0: a"[..], b"\x0bX-Scan: a", b"\xef\xbb\xbfX-Scan: a", b"X\x7f-Sc\x80an\t : a", b"\x0cx-scan:"] {
            let header = [b"A: 1\r\n", hidden, b"\r\nB: 2\r\n\r\n"].concat();
            let found: Vec<&[u8]> = fields_named(&header, b"X-Scan").into_iter().map(|range| &header[range]).collect();
            assert_eq!(found, [&[hidden, b"\r\n"].concat()[..]], "{}", hidden.escape_ascii());
        }
        assert!(fields_named(b"X-Scan2: a\r\nX-Sca: b\r\nYX-Scan: c\r\nX-Scan\r\nX:Scan: d\r\n\r\n", b"X-Scan").is_empty());
    }
}
