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
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What DATA means, said as slowly as possible: (octets stored, defect, octets consumed).
    fn reference(data: &[u8], allow_bare: bool) -> (Vec<u8>, Option<Defect>, usize) {
        let (body, consumed) = if data.starts_with(b".\r\n") {
            (0, 3)
        } else {
            let at = data.windows(5).position(|w| w == b"\r\n.\r\n").expect("an end");
            (at + 2, at + 5)
        };
        let mut stored = Vec::new();
        let mut defect = None;
        let mut line_start = true;
        let mut n = 0;
        while n < body {
            let octet = data[n];
            let crlf = octet == b'\r' && data[n + 1] == b'\n';
            if line_start && octet == b'.' {
                line_start = false;
                n += 1;
                continue;
            }
            line_start = crlf;
            if crlf {
                stored.extend_from_slice(b"\r\n");
                n += 2;
                continue;
            }
            if octet == b'\r' || octet == b'\n' {
                defect = defect.or(Some(if octet == b'\r' { Defect::BareCr } else { Defect::BareLf }));
                stored.extend_from_slice(b"\r\n");
            } else {
                stored.push(octet);
            }
            n += 1;
        }
        (stored, defect.filter(|_| !allow_bare), consumed)
    }

    fn take(pieces: &[&[u8]], allow_bare: bool) -> (Intake, usize) {
        let mut intake = Intake::new(b"P: x\r\n", 0, allow_bare);
        let mut consumed = 0;
        for piece in pieces {
            let n = intake.feed(piece, &mut |_| panic!("nothing to spill"));
            consumed += n;
            assert!(n == piece.len() || intake.done());
        }
        (intake, consumed)
    }

    fn cut<'a>(data: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
        let mut at: Vec<usize> = cuts.iter().map(|c| c % (data.len() + 1)).collect();
        at.extend([0, data.len()]);
        at.sort_unstable();
        at.windows(2).map(|w| &data[w[0]..w[1]]).collect()
    }

    fn octets() -> impl Strategy<Value = Vec<u8>> {
        let octet = prop_oneof![3 => Just(b'\r'), 3 => Just(b'\n'), 3 => Just(b'.'), 2 => Just(b'a'), 1 => Just(0xe9)];
        let line = prop_oneof![
            2 => proptest::collection::vec(octet, 0..6),
            1 => Just(b"x\r\n".to_vec()),
            1 => Just(b"..\r\n".to_vec()),
            1 => Just(b"\r\n".to_vec())
        ];
        proptest::collection::vec(line, 0..12).prop_map(|lines| lines.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn any_pieces_give_what_the_reference_gives(body in octets(), tail in octets(), cuts in proptest::collection::vec(0usize..200, 0..6), allow: bool) {
            let data = [&body[..], b"\r\n.\r\n", &tail].concat();
            let (stored, defect, end) = reference(&data, allow);
            let (intake, consumed) = take(&cut(&data, &cuts), allow);
            prop_assert!(intake.done());
            prop_assert_eq!(consumed, end);
            prop_assert_eq!(intake.defect(), defect);
            if defect.is_none() {
                prop_assert_eq!(intake.rest(), [b"P: x\r\n", &stored[..]].concat());
                prop_assert_eq!(intake.size(), stored.len() as u64);
                let lines = stored.split(|octet| *octet == b'\n').map(|line| line.len().saturating_sub(1));
                prop_assert_eq!(intake.facts().longest_line, lines.max().unwrap_or(0) as u64);
            }
            let (whole, _) = take(&[&data], allow);
            prop_assert_eq!(whole.facts(), intake.facts());
            prop_assert_eq!(whole.header(), intake.header());
        }

        #[test]
        fn raw_octets_stay_as_they_are_whatever_the_pieces(body in octets(), cuts in proptest::collection::vec(0usize..200, 0..6)) {
            let mut intake = Intake::new(b"", 0, false);
            for piece in cut(&body, &cuts) {
                intake.feed_raw(piece, &mut |_| Ok(()));
            }
            intake.finish(&mut |_| Ok(()));
            let mut expected = body.clone();
            match body.last() {
                None | Some(b'\n') => {}
                Some(b'\r') => expected.push(b'\n'),
                Some(_) => expected.extend_from_slice(b"\r\n"),
            }
            prop_assert_eq!(intake.rest(), &expected[..]);
            let bare = |n: usize| match body[n] {
                b'\r' => body.get(n + 1).is_some_and(|next| *next != b'\n'),
                b'\n' => n == 0 || body[n - 1] != b'\r',
                _ => false,
            };
            prop_assert_eq!(intake.facts().bare, (0..body.len()).any(bare));
        }
    }

    /// Long text is looked at in blocks of 2 KiB.
    #[test]
    fn what_is_odd_is_seen_wherever_it_lies_in_a_long_text() {
        let text = [&[b'x'; 70][..], b"\r\n"].concat().repeat(80);
        for odd in [&b"\r"[..], b"\n", b"\r\n.", b"\r\n..\r", b".\r\n", b"\r\n.\r\n", b"\n.", b"\r\r\n", b".", b"\r\n"] {
            for at in (2030..2060).chain(4080..4110).chain(text.len() - 5..=text.len()) {
                let data = [&text[..at], odd, &text[at..], b"\r\n.\r\n"].concat();
                for allow in [false, true] {
                    let (stored, defect, end) = reference(&data, allow);
                    for pieces in [vec![&data[..]], vec![&data[..at], &data[at..]], data.chunks(1023).collect()] {
                        let (intake, consumed) = take(&pieces, allow);
                        assert_eq!((intake.defect(), consumed), (defect, end), "{odd:?} at {at}");
                        assert!(defect.is_some() || intake.rest()[6..] == stored[..], "{odd:?} at {at}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_longest_line_is_found_among_others_of_any_length() {
        for lengths in [&[70, 70, 70, 70][..], &[3, 70, 2, 1, 70, 71, 5], &[0, 0, 1, 0], &[900, 1, 1, 899, 900, 901], &[5, 4, 3, 2, 1]] {
            let text: Vec<u8> = lengths.iter().flat_map(|n| [&vec![b'y'; *n][..], b"\r\n"].concat()).collect();
            let bare: Vec<u8> = lengths.iter().flat_map(|n| [&vec![b'y'; *n][..], b"\n"].concat()).collect();
            let longest = *lengths.iter().max().unwrap() as u64;
            for size in [1, 7, 72, text.len()] {
                let pieces: Vec<&[u8]> = text.chunks(size).chain([&b".\r\n"[..]]).collect();
                assert_eq!(take(&pieces, false).0.facts().longest_line, longest, "{lengths:?}");
            }
            let mut raw = Intake::new(b"", 0, false);
            raw.feed_raw(&bare, &mut |_| Ok(()));
            assert_eq!(raw.facts().longest_line, longest, "{lengths:?} without CR");
        }
    }

    #[test]
    fn a_dot_right_away_is_an_empty_message() {
        let (intake, consumed) = take(&[b".\r\nQUIT\r\n"], false);
        assert_eq!((consumed, intake.size(), intake.done(), intake.defect()), (3, 0, true, None));
    }

    #[test]
    fn smuggled_ends_of_data_do_not_end_it() {
        for end in [&b"\n.\r\n"[..], b"\n.\n", b"\r.\r\n", b"\r\n.\n", b"\r\n.\r", b"\r.\r"] {
            let data = [b"a", end, b"MAIL FROM:<x@y>\r\n"].concat();
            for allow in [false, true] {
                let (intake, consumed) = take(&[&data], allow);
                assert!(!intake.done(), "{end:?}");
                assert_eq!(consumed, data.len());
                assert_eq!(intake.defect().is_some(), !allow);
            }
        }
    }

    #[test]
    fn after_a_defect_the_end_is_still_found() {
        let (intake, consumed) = take(&[b"a\nb\r\n", b"..\r\n.\r", b"\nNOOP\r\n"], false);
        assert!(intake.done());
        assert_eq!(intake.defect(), Some(Defect::BareLf));
        assert_eq!(consumed, 12);
        assert!(intake.rest().is_empty());
    }

    #[test]
    fn the_facts_say_what_was_seen() {
        let text = b"Received: a\r\n b\r\nRECEIVED : no\r\nreceived: c\r\nDelivered-To:  x@y \r\nSubject: \xc3\xa9\r\n\r\nReceived: body\r\n1234567890\r\n.\r\n";
        let (intake, _) = take(&[text], false);
        let facts = intake.facts();
        assert_eq!((facts.received, facts.delivered_to.clone()), (2, vec![b"x@y".to_vec()]));
        assert_eq!((facts.header_8bit, facts.body_8bit, facts.bare), (true, false, false));
        assert_eq!(facts.longest_line, 19);
        assert!(intake.header().ends_with(b"\r\n\r\n"));
        assert_eq!(facts.header_octets, intake.header().len() as u64);
    }

    #[test]
    fn a_message_that_is_too_big_is_swallowed_to_its_end() {
        let mut intake = Intake::new(b"prefix\r\n", 10, false);
        assert_eq!(intake.feed(b"12345678\r\n.\r\n", &mut |_| Ok(())), 13);
        assert_eq!(intake.defect(), None);
        let mut intake = Intake::new(b"prefix\r\n", 10, false);
        intake.feed(b"123456789\r\nmore\r\n.\r\n", &mut |_| Ok(()));
        assert!(intake.done());
        assert_eq!(intake.defect(), Some(Defect::TooBig));
    }

    #[test]
    fn a_long_message_leaves_in_full_buffers_and_memory_stays_bounded() {
        let mut intake = Intake::new(b"", 0, false);
        let (mut spilled, mut sizes) = (Vec::new(), Vec::new());
        let line = [&[b'x'; 98][..], b"\r\n"].concat();
        let data = line.repeat(30_000);
        for piece in data.chunks(65_537) {
            intake.feed(piece, &mut |next| {
                spilled.extend_from_slice(&next.concat());
                sizes.push(next.concat().len());
                Ok(())
            });
            assert!(intake.store.buffer.capacity() <= 2 * BUFFER);
        }
        intake.feed(b".\r\n", &mut |_| Ok(()));
        spilled.extend_from_slice(intake.rest());
        assert!(intake.done() && spilled == data);
        assert!(sizes[0] == BUFFER && sizes.iter().all(|n| (STRAIGHT..=BUFFER).contains(n)));
    }

    #[test]
    fn want_of_space_is_a_defect_of_the_message() {
        let mut intake = Intake::new(b"", 0, false);
        let full = || QueueError::Log(gatepost_log::LogError::DiskFull("test".into()));
        intake.feed(&vec![b'x'; 2 * BUFFER], &mut |_| Err(full()));
        intake.feed(b"\r\n.\r\n", &mut |_| Err(full()));
        assert!(intake.done());
        assert_eq!(intake.defect(), Some(Defect::DiskFull));
    }
}
