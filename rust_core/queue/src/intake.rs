//! One message being received: takes octets in DATA form or raw, gathers them in a buffer of at most 256 KiB and hands full buffers on. From the first
//! of them on, long stretches of text go on as they come, without a stay in the buffer. Knows no log: what overflows goes to a callback.

use memchr::{memchr, memmem, memrchr};

use crate::dots::{Bare, Body, Dots};
use crate::error::QueueError;

/// Octets kept in memory per message; also the size of a chunk record.
pub(crate) const BUFFER: usize = 256 * 1024;
/// Shorter stretches of a message that overflowed are gathered first: a record each would cost more than the copy.
const STRAIGHT: usize = 12 * 1024;
/// Octets of the header section kept for `header` and `facts`.
const HEADER_LIMIT: usize = 256 * 1024;
/// Delivered-To values reported at most.
const MAX_DELIVERED_TO: usize = 100;

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

/// What was seen of a message while it came in; the prefix is not counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Received fields in the header.
    pub received: usize,
    /// Octets of the header section with the empty line.
    pub header_octets: u64,
    /// An octet above 127 in the body.
    pub body_8bit: bool,
    /// Octets of the longest line without CRLF.
    pub longest_line: u64,
    /// An octet above 127 in the header.
    pub header_8bit: bool,
    /// Values of Delivered-To fields.
    pub delivered_to: Vec<Vec<u8>>,
    /// A bare CR or LF was seen.
    pub bare: bool,
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
    facts: Facts,
    line: u64,
    head: Vec<u8>,
    head_done: bool,
    /// How many octets of CR LF CR LF the header scan has matched.
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
        self.store.facts.bare = true;
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
        self.measure(data);
        let body = if self.head_done { data } else { self.take_header(data) };
        self.facts.body_8bit |= !body.is_ascii();
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

    /// Keeps the length of the longest line. Lines end in LF here; CR before it is not counted.
    fn measure(&mut self, data: &[u8]) {
        let mut start = 0;
        loop {
            start += self.pass_shorter_lines(&data[start..]);
            let Some(length) = memchr(b'\n', &data[start..]) else { break };
            let (line, end) = (self.line + length as u64, start + length);
            let cr = u64::from(line > 0 && (end == 0 || data[end - 1] == b'\r'));
            self.facts.longest_line = self.facts.longest_line.max(line - cr);
            self.line = 0;
            start = end + 1;
        }
        self.line += (data.len() - start) as u64;
        self.facts.longest_line = self.facts.longest_line.max(self.line.saturating_sub(1));
    }

    /// Octets of whole lines that are no longer than the longest so far. From the beginning of a line an end is looked for backwards, from
    /// as far as it can be: mostly it is right there, and what lies before it need not be looked at.
    fn pass_shorter_lines(&self, data: &[u8]) -> usize {
        let Ok(most) = usize::try_from(self.facts.longest_line + 2) else { return 0 };
        let mut start = 0;
        while self.line == 0
            && let Some(lines) = data.get(start..start + most)
            && let Some(end) = memrchr(b'\n', lines)
        {
            if end + 1 == most && lines[end - 1] != b'\r' {
                // Without CR it is longer by one.
                break;
            }
            start += end + 1;
        }
        start
    }

    /// Takes the header's share of `data`; returns what belongs to the body.
    fn take_header<'a>(&mut self, data: &'a [u8]) -> &'a [u8] {
        let length = self.header_share(data);
        let (header, body) = data.split_at(length);
        self.facts.header_octets += length as u64;
        self.facts.header_8bit |= !header.is_ascii();
        let room = HEADER_LIMIT.saturating_sub(self.head.len());
        self.head.extend_from_slice(&header[..header.len().min(room)]);
        body
    }

    /// Octets of `data` that belong to the header: up to the first empty line, which may be the first line of all.
    fn header_share(&mut self, data: &[u8]) -> usize {
        const END: &[u8; 4] = b"\r\n\r\n";
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
                o if o == END[self.head_match] => self.head_match + 1,
                b'\r' => 1,
                _ => 0,
            };
            if self.head_match == END.len() {
                self.head_done = true;
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
            facts: Facts::default(),
            line: 0,
            head: Vec::new(),
            head_done: false,
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
            self.store.facts.bare |= self.has_bare(piece);
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
        self.store.facts.header_octets > HEADER_LIMIT as u64
    }

    /// The message's own header section, at most 256 KiB.
    pub fn header(&self) -> &[u8] {
        &self.store.head
    }

    /// What was seen.
    pub fn facts(&self) -> Facts {
        let mut facts = self.store.facts.clone();
        for line in fields(&self.store.head) {
            if named(line, b"received") {
                facts.received += 1;
            } else if named(line, b"delivered-to") && facts.delivered_to.len() < MAX_DELIVERED_TO {
                facts.delivered_to.push(line[b"delivered-to:".len()..].trim_ascii().to_vec());
            }
        }
        facts
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
