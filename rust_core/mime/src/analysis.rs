//! All readings of a message. The baseline is read first; each choice it meets is tried the other ways, and what those readings meet in
//! turn, until nothing new shows or a cap is reached. Readings that show the same leaves are one.
//!
//! Called by the scanner, which looks at every leaf of every reading, and by `gatepost mime`. Never fails: caps become defects.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::defect::{Defect, DefectKind};
use crate::dialect::{Choice, Choices, Dialect};
use crate::index::Index;
use crate::indexer::{Limits, index_as};
use crate::leaf::{self, Leaf};
use crate::lines;
use crate::transfer::{self, Method};

/// Encoded messages within encoded messages that are looked into.
const ENCODED_DEPTH: usize = 4;
/// How often a message that is not small is run through, and the octets up to which one is small: time stays in proportion to the size.
const PASSES_BIG: usize = 16;
const READ_ALWAYS: usize = 4 << 20;
/// Leaves that all readings together may show: it bounds the memory of an analysis.
const SHOWN_MAX: usize = 100_000;
/// Encoded messages that are decoded in one analysis, in all their decodings.
const DECODED_MAX: usize = 24;

/// How some reader sees the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Its number; 0 is the baseline.
    pub id: u16,
    /// What this reader does differently; empty for the baseline.
    pub label: String,
    /// Leaves it shows, as places in [`Analysis::leaves`], with the name and the decoding it takes for each.
    pub leaves: Vec<Shown>,
}

/// A leaf in one reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shown {
    /// Place in [`Analysis::leaves`].
    pub leaf: usize,
    /// Place in [`Leaf::names`]; meaningless when there is none.
    pub name: usize,
    /// Place in [`Leaf::decodings`].
    pub decoding: usize,
}

/// What a message is, for everybody who may read it.
#[derive(Debug, Default)]
pub struct Analysis {
    /// The baseline, which IMAP shows.
    pub index: Index,
    /// All defects, by offset.
    pub defects: Vec<Defect>,
    /// All readings; 0 is the baseline.
    pub readings: Vec<Reading>,
    /// Leaves of all readings, each once.
    pub leaves: Vec<Leaf>,
    /// Encoded messages that were decoded to look into them.
    pub decoded: Vec<Vec<u8>>,
    /// The leaf, as a place in `leaves`, that each of `decoded` is the content of.
    pub decoded_of: Vec<usize>,
    /// Readers would see different leaves, names or contents.
    pub ambiguous: bool,
    /// A cap was reached: there is more than the leaves show.
    pub incomplete: bool,
    /// Leaves by the place of their bodies.
    places: HashMap<(usize, usize), Vec<usize>>,
    /// Leaves shown by all readings together.
    shown: usize,
}

impl Analysis {
    /// The octets that the ranges of a leaf are of.
    pub fn source<'a>(&'a self, message: &'a [u8], leaf: &Leaf) -> &'a [u8] {
        leaf.inside.map_or(message, |n| self.decoded[n].as_slice())
    }
}

/// Dialects that wait to be tried.
#[derive(Default)]
struct Paths {
    seen: HashSet<Dialect>,
    first: VecDeque<(Dialect, Choices)>,
    later: VecDeque<(Dialect, Choices)>,
    /// The last one came from a reading that showed or met something new.
    certain: bool,
}

impl Paths {
    fn next(&mut self) -> Option<(Dialect, Choices)> {
        self.certain = !self.first.is_empty();
        self.first.pop_front().or_else(|| self.later.pop_front())
    }

    /// Everything one choice away from `dialect`, which met the choices `open`.
    fn follow(&mut self, dialect: Dialect, open: Choices, fruitful: bool) {
        for choice in Choice::ALL.into_iter().filter(|&c| open.has(c) && dialect.get(c) == 0) {
            for option in 1..choice.options().len() {
                let next = dialect.with(choice, option as u8);
                if self.seen.insert(next) {
                    if fruitful { self.first.push_back((next, open)) } else { self.later.push_back((next, open)) }
                }
            }
        }
    }
}

/// Read a message in all plausible ways.
pub fn analyse(message: &[u8], limits: &Limits) -> Analysis {
    let mut analysis = Analysis::default();
    let mut defects = Vec::new();
    let mut first = index_as(message, *limits, Dialect::default());
    look_at_lines(message, &mut first);
    analysis.explore(message, limits, first, &mut defects);
    analysis.add_variants(&mut defects);
    analysis.look_into_messages(message, limits, &mut defects);
    analysis.ambiguous = analysis.readings.len() > 1;
    defects.append(&mut analysis.index.defects.clone());
    // What shows within a decoded message is told at a place of this one.
    for defect in &mut defects {
        defect.offset = defect.offset.min(message.len());
    }
    defects.sort_unstable();
    defects.dedup();
    analysis.incomplete = defects.iter().any(|d| d.kind.incomplete());
    analysis.defects = defects;
    analysis
}

fn look_at_lines(message: &[u8], index: &mut Index) {
    let facts = lines::facts(message, &index.regular);
    let found = [
        (facts.bare_cr, DefectKind::BareCr, Choice::Line),
        (facts.bare_lf, DefectKind::MixedLineEnds, Choice::Line),
        (facts.nul, DefectKind::Nul, Choice::Nul),
    ];
    for (offset, kind, choice) in found {
        if let Some(offset) = offset {
            index.defects.push(Defect { offset, kind });
            index.open.add(choice);
        }
    }
}

impl Analysis {
    /// The baseline, then every dialect that takes another option of a choice that a reading met. A dialect that shows nothing new and
    /// meets nothing new is followed up only when all others are done: tricks that need two habits at one place are rare.
    fn explore(&mut self, message: &[u8], limits: &Limits, first: Index, defects: &mut Vec<Defect>) {
        let mut paths = Paths::default();
        let mut signatures = HashSet::new();
        let facts = first.open;
        if facts.is_empty() {
            self.add_only(&first, message, defects);
            self.index = first;
            return;
        }
        self.add(&first, message, &Dialect::default(), &mut signatures, defects);
        paths.follow(Dialect::default(), first.open, true);
        self.index = first;
        let (mut passes, mut octets) = (0, 0);
        let most = limits.reading_bytes.min(message.len().saturating_mul(PASSES_BIG).max(READ_ALWAYS)).max(message.len());
        while let Some((dialect, met)) = paths.next() {
            passes += 1;
            octets += message.len();
            if passes > limits.readings || octets > most || self.shown > SHOWN_MAX {
                if paths.certain {
                    defects.push(Defect { offset: message.len(), kind: DefectKind::TooManyReadings });
                }
                break;
            }
            let mut index = index_as(message, *limits, dialect);
            for line_choice in [Choice::Line, Choice::Nul].into_iter().filter(|&c| facts.has(c)) {
                index.open.add(line_choice);
            }
            let new = self.add(&index, message, &dialect, &mut signatures, defects);
            paths.follow(dialect, index.open, new || !met.covers(index.open));
        }
    }

    /// The one structural reading of a message that leaves nothing open.
    fn add_only(&mut self, index: &Index, message: &[u8], defects: &mut Vec<Defect>) {
        let (mut leaves, found) = leaf::leaves(index, message, &Dialect::default(), false);
        defects.extend(found.into_iter().map(|(offset, kind)| Defect { offset, kind }));
        for leaf in &mut leaves {
            leaf.readings.push(0);
        }
        let shown = (0..leaves.len()).map(|leaf| Shown { leaf, name: 0, decoding: 0 }).collect();
        self.shown += leaves.len();
        self.leaves = leaves;
        self.readings.push(Reading { id: 0, label: String::new(), leaves: shown });
    }

    /// Add a structural reading unless one shows the same leaves.
    fn add(
        &mut self,
        index: &Index,
        message: &[u8],
        dialect: &Dialect,
        signatures: &mut HashSet<Vec<usize>>,
        defects: &mut Vec<Defect>,
    ) -> bool {
        let drop_unclosed = dialect.get(Choice::Unclosed) == 1;
        let (leaves, found) = leaf::leaves(index, message, dialect, drop_unclosed);
        if dialect.is_baseline() {
            defects.extend(found.into_iter().map(|(offset, kind)| Defect { offset, kind }));
        }
        let places: Vec<usize> = leaves.into_iter().map(|leaf| self.place(leaf)).collect();
        if !signatures.insert(places.clone()) {
            return false;
        }
        let id = self.readings.len() as u16;
        for &place in &places {
            self.leaves[place].readings.push(id);
        }
        self.shown += places.len();
        let leaves = places.into_iter().map(|leaf| Shown { leaf, name: 0, decoding: 0 }).collect();
        self.readings.push(Reading { id, label: dialect.label(), leaves });
        true
    }

    /// Where this leaf is; it is added when it is new. Leaves that differ in their header only in how much of it is seen are one.
    fn place(&mut self, leaf: Leaf) -> usize {
        let same = |old: &Leaf| {
            let shown = (&old.names, &old.types, &old.decodings, &old.disposition);
            shown == (&leaf.names, &leaf.types, &leaf.decodings, &leaf.disposition)
        };
        let known = self.places.entry((leaf.body.start, leaf.body.end)).or_default();
        if let Some(&place) = known.iter().find(|&&place| same(&self.leaves[place])) {
            return place;
        }
        known.push(self.leaves.len());
        self.leaves.push(leaf);
        self.leaves.len() - 1
    }

    /// Readings that differ from another only in names or decodings: one for each habit that occurs in it.
    fn add_variants(&mut self, defects: &mut Vec<Defect>) {
        for base in 0..self.readings.len() {
            let mut habits: Vec<&'static str> = Vec::new();
            for shown in &self.readings[base].leaves {
                let leaf = &self.leaves[shown.leaf];
                habits.extend(leaf.names.iter().map(|n| n.how).chain(leaf.decodings.iter().map(|d| d.how)).filter(|how| !how.is_empty()));
            }
            habits.sort_unstable();
            habits.dedup();
            for how in habits {
                if self.shown > SHOWN_MAX {
                    // The candidates are in the leaves all the same; only the readings are not spelled out.
                    defects.push(Defect { offset: 0, kind: DefectKind::TooManyReadings });
                    return;
                }
                self.add_variant(base, how);
            }
        }
    }

    fn add_variant(&mut self, base: usize, how: &'static str) {
        let Ok(id) = u16::try_from(self.readings.len()) else { return };
        let mut leaves = self.readings[base].leaves.clone();
        self.shown += leaves.len();
        for shown in &mut leaves {
            let leaf = &mut self.leaves[shown.leaf];
            shown.name = leaf.names.iter().position(|n| n.how == how).unwrap_or(0);
            shown.decoding = leaf.decodings.iter().position(|d| d.how == how).unwrap_or(0);
            leaf.readings.push(id);
        }
        let label = [self.readings[base].label.as_str(), how].iter().filter(|l| !l.is_empty()).copied().collect::<Vec<_>>().join("; ");
        self.readings.push(Reading { id, label, leaves });
    }

    /// Messages and multiparts in base64 or quoted-printable: decode them within the budget and add their leaves to the readings.
    fn look_into_messages(&mut self, message: &[u8], limits: &Limits, defects: &mut Vec<Defect>) {
        let mut budget = limits.decoded;
        let mut level: Vec<(usize, usize)> = (0..self.leaves.len()).map(|n| (n, 0)).collect();
        while let Some((place, depth)) = level.pop() {
            let leaf = &self.leaves[place];
            let composite = leaf.message || leaf.types.iter().any(|t| t.starts_with("multipart/"));
            let encoded: Vec<_> = leaf.decodings.iter().copied().filter(|d| d.method != Method::Identity).collect();
            if !composite || encoded.is_empty() {
                continue;
            }
            if depth >= ENCODED_DEPTH {
                defects.push(Defect { offset: leaf.body.start, kind: DefectKind::TooDeep });
                continue;
            }
            for decoding in encoded {
                if self.decoded.len() >= DECODED_MAX || self.shown > SHOWN_MAX {
                    defects.push(Defect { offset: self.leaves[place].body.start.min(message.len()), kind: DefectKind::DecodedTooLarge });
                    return;
                }
                let leaf = self.leaves[place].clone();
                let source = self.source(message, &leaf);
                let (mut octets, cut) = leaf.decode(source, decoding, budget);
                budget -= octets.len();
                if cut {
                    defects.push(Defect { offset: leaf.body.start, kind: DefectKind::DecodedTooLarge });
                }
                if !leaf.message {
                    // A multipart's header stays outside of what is encoded.
                    octets.splice(0..0, plain_header(&source[leaf.header.clone()]));
                }
                let from = self.leaves.len();
                self.decoded_of.push(place);
                self.look_into(octets, &leaf, limits, defects);
                level.extend((from..self.leaves.len()).map(|n| (n, depth + 1)));
            }
        }
    }

    fn look_into(&mut self, octets: Vec<u8>, outer: &Leaf, limits: &Limits, defects: &mut Vec<Defect>) {
        let limits = &Limits { readings: limits.readings.min(8), reading_bytes: limits.reading_bytes / 8, ..*limits };
        let inner = index_as(&octets, *limits, Dialect::default());
        let mut own = Self::default();
        let mut found = Vec::new();
        own.explore(&octets, limits, inner, &mut found);
        own.add_variants(&mut found);
        // Offsets within are of no use outside: the defects are told at the encoded part.
        found.extend(own.index.defects.iter().copied());
        defects.extend(found.into_iter().map(|d| Defect { offset: outer.body.start, kind: d.kind }));
        let (place, first) = (self.decoded.len(), self.leaves.len());
        self.decoded.push(octets);
        self.keep_closed(&outer.readings);
        for mut leaf in own.leaves {
            leaf.inside = Some(place);
            leaf.depth += outer.depth + 1;
            leaf.readings.clone_from(&outer.readings);
            self.leaves.push(leaf);
        }
        for reading in own.readings {
            let shown = reading.leaves.iter().map(|s| Shown { leaf: s.leaf + first, ..*s });
            self.attach(&outer.readings, shown.collect(), reading.id > 0, &reading.label);
        }
    }

    /// A reading for those who do not look into encoded messages: the standard has none (RFC 2046 5.2.1).
    fn keep_closed(&mut self, readings: &[u16]) {
        const LABEL: &str = "encoded messages are not looked into";
        if let (Some(&base), Ok(id)) = (readings.first(), u16::try_from(self.readings.len()))
            && !self.readings.iter().any(|r| r.label == LABEL)
        {
            let leaves = self.readings[usize::from(base)].leaves.clone();
            self.readings.push(Reading { id, label: LABEL.into(), leaves });
        }
    }

    /// Put the leaves of an encoded message into the readings of its part; a reading of its own for each further way to read it.
    fn attach(&mut self, readings: &[u16], shown: Vec<Shown>, further: bool, label: &str) {
        if !further {
            for &id in readings {
                self.shown += shown.len();
                if self.shown <= SHOWN_MAX {
                    self.readings[usize::from(id)].leaves.extend_from_slice(&shown);
                }
            }
            return;
        }
        let Ok(id) = u16::try_from(self.readings.len()) else { return };
        if self.shown > SHOWN_MAX {
            return;
        }
        let base = self.readings[usize::from(readings.first().copied().unwrap_or(0))].clone();
        self.shown += base.leaves.len() + shown.len();
        let leaves = base.leaves.into_iter().chain(shown).collect();
        self.readings.push(Reading { id, label: format!("in the encoded message: {label}"), leaves });
    }
}

/// A header block with its encoding's field made void, so that the decoded body is not decoded again.
fn plain_header(header: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(header.len());
    let mut skipping = false;
    for line in header.split_inclusive(|&b| b == b'\n') {
        let folded = matches!(line.first(), Some(b' ' | b'\t'));
        let name = b"content-transfer-encoding";
        skipping = if folded { skipping } else { line.get(..name.len()).is_some_and(|n| n.eq_ignore_ascii_case(name)) };
        if !skipping {
            out.extend_from_slice(line);
        }
    }
    out
}

/// The first octets of a decoded leaf, as text (for previews and types).
pub fn head(analysis: &Analysis, message: &[u8], leaf: &Leaf, octets: usize) -> Vec<u8> {
    let source = analysis.source(message, leaf);
    transfer::decode(leaf.decodings[0].method, leaf.raw(source), octets).0
}
