//! Which rows of one file can fit a filter: by terms, by addresses that fit a glob, and by spans. Used by `query`, which looks at each of them.
//!
//! Nothing that fits is left out; something that does not fit may be in (a hash has 32 bits). A sealed file costs time in proportion to what
//! has the terms, or to the distinct addresses of it for a glob; the file that is written to is gone through, and bounded.

use std::collections::HashSet;

use gatepost_queue::MessageId;
use memchr::memchr_iter;
use rusqlite::Connection;

use crate::error::HistoryError;
use crate::file::{Sealed, pair_of};
use crate::filter::Filter;
use crate::glob::Glob;
use crate::seal::{SPANS, each_address};
use crate::shelf::Voids;
use crate::span::{SPAN, Span, Window};
use crate::terms::{Field, hash};

/// Single spans are read up to this number of candidates, else all that the window reaches.
const FEW: usize = 100;
/// Addresses are looked up one by one up to this number, else all postings are gone through.
const FEW_ADDRESSES: usize = 200;

/// Blocks of postings that every term is given; one that has more is common.
const SHORT: usize = 2;
/// Rows up to which those that are left are looked at sooner than the postings of a common term are read.
const HANDFUL: usize = 8;

/// A candidate: id and row.
pub type Candidate = (MessageId, u32);

/// Candidates of a file that is still written to. `spans`: all of it, in the order of rows.
pub fn open_candidates(db: &Connection, spans: &[Span], filter: &Filter, window: &Window) -> Result<Vec<Candidate>, HistoryError> {
    let mut rows: Option<Vec<u32>> = None;
    let terms = filter.terms();
    if !terms.is_empty() {
        let mut lists = vec![Vec::new(); terms.len()];
        let mut query = db.prepare_cached("SELECT data FROM terms")?;
        let mut blobs = query.query([])?;
        while let Some(blob) = blobs.next()? {
            for pair in blob.get_ref(0)?.as_blob().unwrap_or_default().chunks_exact(8) {
                let (hash, row) = pair_of(pair);
                terms.iter().zip(&mut lists).filter(|(term, _)| **term == hash).for_each(|(_, list)| list.push(row));
            }
        }
        rows = lists.into_iter().map(sorted).reduce(|a, b| intersect(&a, &b));
    }
    let globs = filter.globs();
    if !globs.is_empty() && rows.as_ref().is_none_or(|rows| rows.len() > FEW) {
        let mut lists = vec![Vec::new(); globs.len()];
        each_address(db, &mut |row, field, address| {
            for ((_, glob), list) in globs.iter().zip(&mut lists).filter(|((wanted, _), _)| *wanted == field) {
                if glob.takes(address) {
                    list.push(row);
                }
            }
        })?;
        rows = lists.into_iter().map(sorted).chain(rows).reduce(|a, b| intersect(&a, &b));
    }
    let takes = |span: &&Span| window.takes(span);
    Ok(match rows {
        None => spans.iter().filter(takes).map(candidate).collect(),
        Some(rows) => {
            let known = rows.iter().filter_map(|row| spans.get((*row as usize).checked_sub(1)?));
            known.filter(takes).map(candidate).collect()
        }
    })
}

/// Candidates of a sealed file; rows that a newer file replaced are left out.
pub fn sealed_candidates(
    db: &Connection,
    sealed: &Sealed,
    filter: &Filter,
    window: &Window,
    void: &Voids,
) -> Result<Vec<Candidate>, HistoryError> {
    let (short, common) = short_terms(db, filter)?;
    if short.is_none() && window.narrows() && !(common.is_empty() && filter.globs().is_empty()) {
        // What few rows a moment or a state leaves over are looked at sooner than what has common words or fits a glob is gathered.
        let mut left = spans_within(db, sealed, window, &|_| true)?;
        left.retain(|span| window.takes(span) && !void.has(span.row));
        if left.len() <= FEW {
            return Ok(left.iter().map(candidate).collect());
        }
    }
    let ranks = ranks(db, filter, short, common)?;
    let spans = match &ranks {
        Some(ranks) if ranks.is_empty() => return Ok(Vec::new()),
        Some(ranks) if ranks.len() <= FEW => spans_of(db, ranks)?,
        Some(ranks) => {
            let wanted = |rank: u32| ranks.binary_search(&rank).is_ok();
            spans_within(db, sealed, window, &wanted)?
        }
        None => spans_within(db, sealed, window, &|_| true)?,
    };
    Ok(spans.iter().filter(|span| window.takes(span) && !void.has(span.row)).map(candidate).collect())
}

/// Ranks that have all terms that are not common, and the terms that are; None when there is no such term.
fn short_terms(db: &Connection, filter: &Filter) -> Result<(Option<Vec<u32>>, Vec<u32>), HistoryError> {
    let mut ranks: Option<Vec<u32>> = None;
    let mut common = Vec::new();
    for term in filter.terms() {
        match posting(db, term, SHORT)? {
            Some(found) => ranks = Some(both(ranks.as_deref(), found)),
            None => common.push(term),
        }
        if ranks.as_ref().is_some_and(Vec::is_empty) {
            break;
        }
    }
    Ok((ranks, common))
}

/// Ranks that have all terms, and an address for each glob; None when the filter has neither. `ranks`, `common`: of [`short_terms`].
fn ranks(db: &Connection, filter: &Filter, mut ranks: Option<Vec<u32>>, common: Vec<u32>) -> Result<Option<Vec<u32>>, HistoryError> {
    if ranks.as_ref().is_some_and(Vec::is_empty) {
        return Ok(ranks);
    }
    for term in common {
        // What a word that all have would still say costs megabytes from the disk.
        if ranks.as_ref().is_some_and(|ranks| ranks.len() <= HANDFUL) {
            return Ok(ranks);
        }
        ranks = Some(both(ranks.as_deref(), posting(db, term, usize::MAX)?.unwrap_or_default()));
    }
    // A few rows are looked at sooner than addresses are looked for.
    if ranks.as_ref().is_some_and(|ranks| ranks.len() <= FEW) {
        return Ok(ranks);
    }
    for (field, glob) in filter.globs() {
        if let Some(found) = globbed(db, field, &glob)? {
            ranks = Some(both(ranks.as_deref(), found));
        }
        if ranks.as_ref().is_some_and(Vec::is_empty) {
            return Ok(ranks);
        }
    }
    Ok(ranks)
}

/// Those of the ranks that are in `found` too.
fn both(ranks: Option<&[u32]>, found: Vec<u32>) -> Vec<u32> {
    match ranks {
        Some(ranks) => intersect(ranks, &found),
        None => found,
    }
}

/// Ranks with an address that fits; None when every address does.
fn globbed(db: &Connection, field: Field, glob: &Glob) -> Result<Option<Vec<u32>>, HistoryError> {
    let mut hashes = HashSet::new();
    let (mut lines, mut fitting) = (0, 0);
    let mut query = db.prepare_cached("SELECT data FROM address WHERE field=?1")?;
    let mut lists = query.query([field as u8])?;
    while let Some(list) = lists.next()? {
        let list = list.get_ref(0)?.as_blob().unwrap_or_default();
        lines += memchr_iter(b'\n', list).count();
        glob.lines(list, &mut |line| {
            fitting += 1;
            hashes.insert(hash(field, std::str::from_utf8(line).unwrap_or_default()));
        });
    }
    if lines > 0 && fitting == lines {
        return Ok(None);
    }
    if hashes.len() > FEW_ADDRESSES {
        return postings(db, &hashes).map(Some);
    }
    let mut ranks = Vec::new();
    for hash in hashes {
        ranks.extend(posting(db, hash, usize::MAX)?.unwrap_or_default());
    }
    Ok(Some(sorted(ranks)))
}

/// Ranks that have one of many terms.
fn postings(db: &Connection, terms: &HashSet<u32>) -> Result<Vec<u32>, HistoryError> {
    let mut query = db.prepare_cached("SELECT data FROM posting ORDER BY first")?;
    let mut blocks = query.query([])?;
    let mut ranks = Vec::new();
    let mut last = (0, false);
    while let Some(block) = blocks.next()? {
        for (term, rank) in entries(block.get_ref(0)?.as_blob().unwrap_or_default()) {
            // Entries of a term stand together.
            if last.0 != term {
                last = (term, terms.contains(&term));
            }
            if last.1 {
                ranks.push(rank);
            }
        }
    }
    Ok(sorted(ranks))
}

/// Ranks that have a term, ascending. None when it has entries in more blocks than `most`.
fn posting(db: &Connection, term: u32, most: usize) -> Result<Option<Vec<u32>>, HistoryError> {
    let (low, high) = ((u64::from(term) << 24) as i64, (u64::from(term) << 24 | 0x00ff_ffff) as i64);
    let mut query = db.prepare_cached(
        "SELECT data FROM posting WHERE first BETWEEN coalesce((SELECT max(first) FROM posting WHERE first <= ?1), ?1) AND ?2 ORDER BY first",
    )?;
    let mut blocks = query.query([low, high])?;
    let (mut ranks, mut read) = (Vec::new(), 0);
    while let Some(block) = blocks.next()? {
        if read == most {
            return Ok(None);
        }
        read += 1;
        let found = entries(block.get_ref(0)?.as_blob().unwrap_or_default());
        ranks.extend(found.filter(|(one, _)| *one == term).map(|(_, rank)| rank));
    }
    Ok(Some(ranks))
}

/// Term and rank of each entry of a block.
fn entries(block: &[u8]) -> impl Iterator<Item = (u32, u32)> + '_ {
    let entry = |e: &[u8]| u64::from_le_bytes([e[0], e[1], e[2], e[3], e[4], e[5], e[6], e[7]]);
    block.chunks_exact(8).map(entry).map(|e| ((e >> 24) as u32, (e & 0x00ff_ffff) as u32))
}

fn spans_of(db: &Connection, ranks: &[u32]) -> Result<Vec<Span>, HistoryError> {
    let mut query = db.prepare_cached("SELECT substr(data, ?2, ?3) FROM span WHERE block=?1")?;
    let mut list = Vec::with_capacity(ranks.len());
    for rank in ranks {
        let (block, place) = (*rank as usize / SPANS, *rank as usize % SPANS);
        let span: Vec<u8> = query.query_row([block as i64, (place * SPAN + 1) as i64, SPAN as i64], |r| r.get(0))?;
        list.extend(Span::decode(&span));
    }
    Ok(list)
}

/// Spans of the blocks that a window reaches, of those ranks that are wanted.
fn spans_within(db: &Connection, sealed: &Sealed, window: &Window, wanted: &dyn Fn(u32) -> bool) -> Result<Vec<Span>, HistoryError> {
    let mut query = db.prepare_cached("SELECT data FROM span WHERE block=?1")?;
    let mut list = Vec::new();
    for (number, (first, ended)) in sealed.blocks.iter().enumerate() {
        let next = sealed.blocks.get(number + 1);
        if !window.reaches(*ended) || *first > window.ids.1 || next.is_some_and(|(id, _)| *id <= window.ids.0) {
            continue;
        }
        let mut rows = query.query([number as i64])?;
        let Some(row) = rows.next()? else { continue };
        let spans = row.get_ref(0)?.as_blob().unwrap_or_default().chunks_exact(SPAN);
        let ranked = spans.zip((number * SPANS) as u32..).filter(|(_, rank)| wanted(*rank));
        list.extend(ranked.filter_map(|(span, _)| Span::decode(span)));
    }
    Ok(list)
}

fn candidate(span: &Span) -> Candidate {
    (span.id, span.row)
}

fn sorted(mut rows: Vec<u32>) -> Vec<u32> {
    rows.sort_unstable();
    rows.dedup();
    rows
}

/// What both ascending lists have.
fn intersect(a: &[u32], b: &[u32]) -> Vec<u32> {
    let mut out = Vec::new();
    let mut b = b.iter().peekable();
    for x in a {
        while b.next_if(|y| *y < x).is_some() {}
        if b.peek() == Some(&x) {
            out.push(*x);
        }
    }
    out
}
