//! One file of the simulated disk: what programs see, what the platter holds, and the changes between the two.

use std::collections::BTreeSet;

use crate::rng::Rng;

/// Octets that a disk writes or loses as one, usually.
const SECTOR: usize = 512;
/// Octets that become unreadable as one.
const PAGE: usize = 4096;

/// A change that is not synced yet, in the order of the calls.
#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Length(usize),
}

/// A file. `live` is what reads give (the page cache), `durable` what a power cut leaves if no change is kept.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    dirty: Vec<Change>,
    /// Pages that cannot be read.
    spoilt: BTreeSet<usize>,
    /// Handles that are open; a file without a name keeps its space as long as there are any.
    pub handles: usize,
}

/// How a power cut treats the unsynced changes of one file.
#[derive(Clone, Copy)]
enum Fate {
    Lost,
    Kept,
    /// Kept in order up to one that is torn, the rest lost.
    Torn,
    /// Each kept, lost or torn by itself: later writes can be there without earlier ones.
    Each,
    /// As `Each`, sector by sector.
    Sectors,
}

impl Inode {
    pub fn len(&self) -> usize {
        self.live.len()
    }

    pub fn read(&self, buf: &mut [u8], offset: usize) -> usize {
        let data = self.live.get(offset..).unwrap_or(&[]);
        let n = data.len().min(buf.len());
        buf[..n].copy_from_slice(&data[..n]);
        n
    }

    /// Does a read of these octets fail?
    pub fn spoilt(&self, offset: usize, length: usize) -> bool {
        let end = offset.saturating_add(length).min(self.live.len());
        offset < end && self.spoilt.range(offset / PAGE..=(end - 1) / PAGE).next().is_some()
    }

    pub fn spoil(&mut self, offset: usize) {
        self.spoilt.insert(offset / PAGE);
    }

    pub fn unspoil(&mut self) {
        self.spoilt.clear();
    }

    pub fn write(&mut self, data: &[u8], offset: usize) {
        if !data.is_empty() {
            // The disk takes another place for a page that is written.
            let (from, to) = (offset / PAGE, (offset + data.len() - 1) / PAGE);
            self.spoilt.retain(|page| !(from..=to).contains(page));
            put(&mut self.live, data, offset);
            self.dirty.push(Change::Write { offset, data: data.to_vec() });
        }
    }

    pub fn set_len(&mut self, len: usize) {
        if self.live.len() != len {
            self.live.resize(len, 0);
            self.dirty.push(Change::Length(len));
        }
    }

    pub fn sync(&mut self) {
        for change in std::mem::take(&mut self.dirty) {
            apply(&mut self.durable, &change);
        }
    }

    /// A sync that fails: data that was to be written counts as written from now on, whether it was or not; the cache still shows it. The length
    /// is the journal's, and stays to be written.
    pub fn fail_sync(&mut self, rng: &mut Rng) {
        let dirty = std::mem::take(&mut self.dirty);
        settle(&mut self.durable, &dirty, rng);
        if self.live.len() != self.durable.len() {
            self.dirty.push(Change::Length(self.live.len()));
        }
    }

    pub fn power_cut(&mut self, rng: &mut Rng) {
        let dirty = std::mem::take(&mut self.dirty);
        settle(&mut self.durable, &dirty, rng);
        self.live.clone_from(&self.durable);
    }

    /// Decay: changes an octet that was synced.
    pub fn flip(&mut self, offset: usize, mask: u8) {
        for image in [&mut self.live, &mut self.durable] {
            if let Some(octet) = image.get_mut(offset) {
                *octet ^= mask;
            }
        }
    }

    pub fn octets(&self) -> &[u8] {
        &self.live
    }
}

fn put(image: &mut Vec<u8>, data: &[u8], offset: usize) {
    if image.len() < offset + data.len() {
        image.resize(offset + data.len(), 0);
    }
    image[offset..offset + data.len()].copy_from_slice(data);
}

fn apply(image: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { offset, data } => put(image, data, *offset),
        Change::Length(len) => image.resize(*len, 0),
    }
}

/// Decides what becomes of unsynced changes.
fn settle(image: &mut Vec<u8>, dirty: &[Change], rng: &mut Rng) {
    if dirty.is_empty() {
        return;
    }
    let fate = [Fate::Lost, Fate::Kept, Fate::Torn, Fate::Each, Fate::Sectors][rng.index(5)];
    let torn = rng.index(dirty.len());
    for (n, change) in dirty.iter().enumerate() {
        match fate {
            Fate::Kept => apply(image, change),
            Fate::Torn if n < torn => apply(image, change),
            Fate::Torn if n == torn => tear(image, change, rng),
            Fate::Lost | Fate::Torn => {}
            Fate::Each => match rng.below(3) {
                0 => apply(image, change),
                1 => tear(image, change, rng),
                _ => {}
            },
            Fate::Sectors => sectors(image, change, rng),
        }
    }
}

/// Keeps the first octets of a write. The file may be as long as if all had come.
fn tear(image: &mut Vec<u8>, change: &Change, rng: &mut Rng) {
    let Change::Write { offset, data } = change else { return };
    let kept = rng.index(data.len() + 1);
    if rng.chance(50) && image.len() < offset + data.len() {
        image.resize(offset + data.len(), 0);
    }
    put(image, &data[..kept], *offset);
}

fn sectors(image: &mut Vec<u8>, change: &Change, rng: &mut Rng) {
    let Change::Write { offset, data } = change else {
        if rng.chance(50) {
            apply(image, change);
        }
        return;
    };
    let mut at = 0;
    while at < data.len() {
        let end = ((offset + at) / SECTOR + 1) * SECTOR - offset;
        let piece = &data[at..end.min(data.len())];
        if rng.chance(50) {
            put(image, piece, offset + at);
        }
        at += piece.len();
    }
}
