//! One message being received: takes octets in DATA form or raw, gathers them in a buffer of at most 256 KiB and hands full buffers on. From the first
//! of them on, long stretches of text go on as they come, without a stay in the buffer. Knows no log: what overflows goes to a callback.

use memchr::{memchr, memmem};

use crate::dots::{Bare, Body, Dots};
use crate::error::QueueError;

/// Octets kept in memory per message; also the size of a chunk record.
pub(crate) const BUFFER: usize = 256 * 1024;
/// Shorter stretches of a message that overflowed are gathered first: a record each would cost more than the copy.
const STRAIGHT: usize = 12 * 1024;
/// Octets of the header section kept for `header` and `received`.
const HEADER_LIMIT: usize = 256 * 1024;
const HEADER_END: &[u8; 4] = b"\r\n\r\n";

/// Why a message is refused. The first one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// CR without LF.
    BareCr,
    /// LF without CR.
    BareLf,
    /// Longer than allowed.
    TooBig,
    /// A chunk could not be stored for want of space.
    DiskFull,
    /// A chunk could not be stored: the log is closed.
    Closed,
}

impl Defect {
    /// Name as Python sees it.
    pub fn name(self) -> &'static str {
        match self {
            Self::BareCr => "bare-cr",
            Self::BareLf => "bare-lf",
            Self::TooBig => "too-big",
            Self::DiskFull => "disk-full",
            Self::Closed => "closed",
        }
    }
}

/// Takes the next octets of the message: what was in the buffer, and what came behind it. The first time that is a full buffer and nothing behind it; at
/// most [`BUFFER`] octets in all.
pub(crate) type Spill<'a> = dyn FnMut([&[u8]; 2]) -> Result<(), QueueError> + 'a;

/// The state of a message being received, without its place in the log.
pub(crate) struct Intake {
    dots: Dots,
    store: Store,
    finished: bool,
    last: Option<u8>,
}

/// What has been taken so far. Split off so that the dot machine can write into it.
struct Store {
    buffer: Vec<u8>,
    prefix: u64,
    size: u64,
    max: u64,
    allow_bare: bool,
    defect: Option<Defect>,
    /// A bare CR or LF was seen.
    bare: bool,
    head: Vec<u8>,
    /// Octets of the header section, kept or not.
    head_octets: u64,
    /// How many octets of CR LF CR LF the header scan has matched; all of them once the header has ended.
    head_match: usize,
    /// Something was handed on.
    spilled: bool,
}

/// The store while it is being fed, with the way out of it.
struct Filling<'a, 'b> {
    store: &'a mut Store,
    spill: &'a mut Spill<'b>,
}

impl Body for Filling<'_, '_> {
    fn put(&mut self, data: &[u8]) {
        if !self.store.note(data) {
            return;
        }
        if !self.store.spilled || data.len() < STRAIGHT {
            self.store.keep(data);
            return;
        }
        if self.store.buffer.len() + data.len() > BUFFER {
            self.store.hand_on(self.store.buffer.len(), &[], self.spill);
        }
        self.store.hand_on(self.store.buffer.len(), data, self.spill);
    }

    fn bare(&mut self, kind: Bare) {
        self.store.bare = true;
        if self.store.allow_bare {
            // Stored as what it was meant for; only the end of data is never found behind it.
            self.put(b"\r\n");
        } else {
            self.store.fail(if kind == Bare::Cr { Defect::BareCr } else { Defect::BareLf });
        }
    }
}

impl Store {
    /// Looks at the next octets of the message. False: they are not wanted.
    fn note(&mut self, data: &[u8]) -> bool {
        if self.defect.is_some() || data.is_empty() {
            return false;
        }
        self.size += data.len() as u64;
        if self.max > 0 && self.size > self.max {
            self.fail(Defect::TooBig);
            return false;
        }
        if self.head_match < HEADER_END.len() {
            self.take_header(data);
        }
        true
    }

    fn keep(&mut self, data: &[u8]) {
        let wanted = self.buffer.len() + data.len();
        if wanted > self.buffer.capacity() && wanted > BUFFER / 4 {
            // A large message: grow once to what a full buffer needs, not by doubling beyond it.
            self.buffer.reserve_exact(BUFFER + BUFFER / 4 - self.buffer.len());
        }
        self.buffer.extend_from_slice(data);
    }

    /// Hands on so many first octets of the buffer with `data` behind them, which must be all of it if there are any.
    fn hand_on(&mut self, kept: usize, data: &[u8], spill: &mut Spill<'_>) {
        if self.defect.is_some() {
            return;
        }
        self.spilled = true;
        match spill([&self.buffer[..kept], data]) {
            Ok(()) => {
                let rest = self.buffer.len() - kept;
                self.buffer.copy_within(kept.., 0);
                self.buffer.truncate(rest);
            }
            Err(QueueError::Log(error)) if error.is_disk_full() => self.fail(Defect::DiskFull),
            Err(_) => self.fail(Defect::Closed),
        }
    }

    fn fail(&mut self, defect: Defect) {
        self.defect.get_or_insert(defect);
        self.buffer = Vec::new();
    }

    /// Takes the header's share of `data`.
    fn take_header(&mut self, data: &[u8]) {
        let length = self.header_share(data);
        self.head_octets += length as u64;
        let room = HEADER_LIMIT.saturating_sub(self.head.len());
        self.head.extend_from_slice(&data[..length.min(room)]);
    }

    /// Octets of `data` that belong to the header: up to the first empty line, which may be the first line of all.
    fn header_share(&mut self, data: &[u8]) -> usize {
        let mut at = 0;
        while at < data.len() {
            if self.head_match == 0 {
                match memchr(b'\r', &data[at..]) {
                    Some(n) => at += n,
                    None => return data.len(),
                }
            }
            let octet = data[at];
            at += 1;
            self.head_match = match octet {
                o if o == HEADER_END[self.head_match] => self.head_match + 1,
                b'\r' => 1,
                _ => 0,
            };
            if self.head_match == HEADER_END.len() {
                return at;
            }
        }
        data.len()
    }
}

impl Intake {
    /// `prefix` is stored in front. `max` bounds the message without it; 0 is no bound.
    pub fn new(prefix: &[u8], max: u64, allow_bare: bool) -> Self {
        let mut buffer = Vec::with_capacity((prefix.len() + 4096).min(BUFFER));
        buffer.extend_from_slice(prefix);
        let store = Store {
            buffer,
            prefix: prefix.len() as u64,
            size: 0,
            max,
            allow_bare,
            defect: None,
            bare: false,
            head: Vec::new(),
            head_octets: 0,
            // The end of the prefix (or of the DATA command) counts as a line end.
            head_match: 2,
            spilled: false,
        };
        Self { dots: Dots::new(), store, finished: false, last: None }
    }

    /// Octets of the message so far, without the prefix.
    pub fn size(&self) -> u64 {
        self.store.size
    }

    /// Octets with the prefix.
    pub fn total(&self) -> u64 {
        self.store.prefix + self.store.size
    }

    pub fn done(&self) -> bool {
        self.finished || self.dots.done()
    }

    pub fn defect(&self) -> Option<Defect> {
        self.store.defect
    }

    pub fn fail(&mut self, defect: Defect) {
        self.store.fail(defect);
    }

    /// Takes DATA. Returns the octets consumed: all, or up to the end of data.
    pub fn feed(&mut self, data: &[u8], spill: &mut Spill<'_>) -> usize {
        let mut taken = 0;
        // Pieces, so that the buffer never grows far beyond its size.
        while taken < data.len() && !self.done() {
            let piece = &data[taken..data.len().min(taken + BUFFER / 4)];
            taken += self.dots.feed(piece, &mut Filling { store: &mut self.store, spill });
            self.spill(spill);
        }
        taken
    }

    /// Takes octets as they are; bare CR and LF are noted.
    pub fn feed_raw(&mut self, data: &[u8], spill: &mut Spill<'_>) {
        if self.finished {
            return;
        }
        for piece in data.chunks(BUFFER / 4) {
            self.store.bare |= self.has_bare(piece);
            self.last = piece.last().copied().or(self.last);
            Filling { store: &mut self.store, spill }.put(piece);
            self.spill(spill);
        }
    }

    /// Raw mode: ends the message; a last line without CRLF gets one.
    pub fn finish(&mut self, spill: &mut Spill<'_>) {
        if self.done() {
            return;
        }
        match self.last {
            None | Some(b'\n') => {}
            Some(b'\r') => Filling { store: &mut self.store, spill }.put(b"\n"),
            Some(_) => Filling { store: &mut self.store, spill }.put(b"\r\n"),
        }
        self.finished = true;
        self.spill(spill);
    }

    fn has_bare(&self, piece: &[u8]) -> bool {
        let mut before = self.last;
        let mut at = 0;
        if before == Some(b'\r') && piece.first() != Some(&b'\n') {
            return true;
        }
        while let Some(n) = memchr::memchr2(b'\r', b'\n', &piece[at..]) {
            let found = at + n;
            if found > 0 {
                before = Some(piece[found - 1]);
            }
            if piece[found] == b'\n' && before != Some(b'\r') {
                return true;
            }
            if piece[found] == b'\r' && piece.get(found + 1).is_some_and(|next| *next != b'\n') {
                return true;
            }
            at = found + 1;
        }
        false
    }

    fn spill(&mut self, spill: &mut Spill<'_>) {
        while self.store.buffer.len() >= BUFFER {
            self.store.hand_on(BUFFER, &[], spill);
        }
    }

    /// What was not handed on yet.
    pub fn rest(&self) -> &[u8] {
        &self.store.buffer
    }

    /// Other octets in the place of those.
    pub fn replace_rest(&mut self, rest: Vec<u8>) {
        self.store.buffer = rest;
    }

    /// Gives the buffer back.
    pub fn discard(&mut self) {
        self.store.buffer = Vec::new();
        self.store.head = Vec::new();
    }

    /// The header section is longer than what is kept of it.
    pub fn long_header(&self) -> bool {
        self.store.head_octets > HEADER_LIMIT as u64
    }

    /// The message's own header section, at most 256 KiB.
    pub fn header(&self) -> &[u8] {
        &self.store.head
    }

    /// Received fields in the header.
    pub fn received(&self) -> usize {
        fields(&self.store.head).filter(|line| named(line, b"received")).count()
    }

    /// A bare CR or LF was seen.
    pub fn bare(&self) -> bool {
        self.store.bare
    }
}

/// Lines of a header section; continuation lines come as lines of their own.
fn fields(header: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = header;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memmem::find(rest, b"\r\n").map_or(rest.len(), |n| n + 2);
        let (line, tail) = rest.split_at(end);
        rest = tail;
        Some(line)
    })
}

fn named(line: &[u8], name: &[u8]) -> bool {
    line.len() > name.len() && line[name.len()] == b':' && line[..name.len()].eq_ignore_ascii_case(name)
}

#[cfg(test)]
mod tests;
