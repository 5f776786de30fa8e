//! Short lines one after the other, as a message of nothing else may have tens of millions: those of a body that begin with two dashes, and
//! those of header blocks of which no more is kept. The same as [`Indexer::line`] for each, without a search for each.
//!
//! Called by the pass before it takes a line the long way. What is not plain here is left to that: nothing is decided twice. A line that left
//! all as it was will do so again: of a run of the same line one is looked at.

use memchr::memchr;

use super::{IN_LINE, Indexer};
use crate::defect::DefectKind;
use crate::dialect::{Choice, Choices};
use crate::fields::is_field;

/// Octets of a line, its end included, up to which it is short.
const SHORT: usize = 80;
/// Lines without dashes that are taken between two with dashes.
const BETWEEN: usize = 4;

/// A short line.
#[derive(Clone, Copy)]
struct Line {
    /// Its octets, line end included.
    len: usize,
    /// Those of its end.
    eol: usize,
    /// Where the first dash stands behind those that it begins with.
    dash: usize,
}

impl Line {
    /// The line at the beginning; `None` when it is long or not whole. `ends` is the option of [`Choice::Line`]: 0 or 1.
    fn at(rest: &[u8], ends: u8) -> Option<Self> {
        let head = &rest[..rest.len().min(SHORT)];
        let (mut at, mut lead, mut dash) = (0, true, usize::MAX);
        while at < head.len() {
            match head[at] {
                b'-' if lead => {}
                b'\n' => {
                    let eol = if at > 0 && head[at - 1] == b'\r' { 2 } else { 1 };
                    return Some(Self { len: at + 1, eol, dash });
                }
                b'\r' if ends == 1 => {
                    let eol = if *head.get(at + 1)? == b'\n' { 2 } else { 1 };
                    return Some(Self { len: at + eol, eol, dash });
                }
                b'-' => dash = dash.min(at),
                _ => lead = false,
            }
            at += 1;
        }
        None
    }

    fn has_dash(self) -> bool {
        self.dash < self.len
    }
}

/// What a line may change, but for which multiparts are closed: defects, parts, open parts, caps that were told, choices.
type Mark = (usize, usize, usize, u64, Choices);

/// How often the first `len` octets come again at once behind themselves.
fn repeats(data: &[u8], len: usize) -> usize {
    const STEP: usize = 256;
    let mut same = 0;
    for (before, after) in data.chunks(STEP).zip(data[len..].chunks(STEP)) {
        let before = &before[..after.len().min(before.len())];
        if before != after {
            same += before.iter().zip(after).take_while(|(a, b)| a == b).count();
            break;
        }
        same += after.len();
    }
    let count = same / len;
    // A CR that ends a line by itself does not when an LF follows it.
    let joined = data[len - 1] == b'\r' && data.get(len * (count + 1)) == Some(&b'\n');
    count.saturating_sub(usize::from(joined))
}

impl Indexer {
    /// Takes short lines; returns how many octets that were. 0 where the next line is none of those that this is for.
    pub(super) fn skip_short(&mut self, data: &[u8]) -> usize {
        let ends = self.dialect.get(Choice::Line);
        #[cfg(test)]
        if self.long_way {
            return 0;
        }
        if self.carry_len > 0 || ends > 1 || self.dialect.get(Choice::Nul) != 0 {
            return 0;
        }
        if self.in_header {
            return if self.index.truncated { self.skip_fields(data, ends) } else { 0 };
        }
        if data.starts_with(b"--") && !self.bare_start { self.skip_dashes(data, ends) } else { 0 }
    }

    fn mark(&self) -> Mark {
        (self.index.defects.len(), self.index.parts.len(), self.open.len(), self.told, self.index.open)
    }

    fn passed(&mut self, octets: usize, lines: u32) -> usize {
        self.pos += octets;
        self.newlines += lines;
        octets
    }

    /// Body lines that begin with two dashes, and a few others between them, up to the next header block.
    fn skip_dashes(&mut self, data: &[u8], ends: u8) -> usize {
        let (mut at, mut others) = (0, 0);
        // Where the last line with dashes is, and how many lines from there on, as long as none of them changed anything.
        let mut idle: Option<(usize, u32)> = None;
        while !self.in_header
            && others <= BETWEEN
            && let Some(line) = Line::at(&data[at..], ends)
        {
            let text = &data[at..at + line.len - line.eol];
            if text.starts_with(b"--") {
                if let Some((from, lines)) = idle.take() {
                    let count = repeats(&data[from..], at - from);
                    at += self.passed((at - from) * count, lines * count as u32);
                    if count > 0 {
                        continue;
                    }
                }
                let Some(left) = self.dash_line(text, line) else { break };
                (idle, others) = (left.then_some((at, 0)), 0);
            } else if line.has_dash() || text.first() == Some(&b'-') {
                break;
            } else {
                others += 1;
            }
            at += self.passed(line.len, 1);
            self.last_eol = line.eol;
            idle = idle.map(|(from, lines)| (from, lines + 1));
        }
        at
    }

    /// True when it left all as it was. `None`, and nothing is done: it may hold a delimiter that counts.
    fn dash_line(&mut self, text: &[u8], line: Line) -> Option<bool> {
        let within = line.has_dash() && text.len() > line.dash + 1;
        let in_line = self.dialect.get(Choice::Match) == IN_LINE;
        if within && in_line {
            return None;
        }
        let before = self.mark();
        #[cfg(test)]
        (self.work.2 += 1);
        if let Some((level, last)) = self.delimiter(text) {
            let was_closed = self.open[level].closed;
            self.at_boundary(level, last, line.len);
            return Some(before == self.mark() && was_closed == self.open[level].closed);
        }
        if within
            && !in_line
            && let Some(at) = self.delimiter_in(text)
        {
            self.doubt_at(self.pos + at, Choice::Match, DefectKind::DelimiterInLine);
        }
        Some(before == self.mark())
    }

    /// Lines of a header block that are not kept, and that do not end it; at most one delimiter behind them.
    fn skip_fields(&mut self, data: &[u8], ends: u8) -> usize {
        let mut at = 0;
        while let Some(line) = Line::at(&data[at..], ends) {
            let text = &data[at..at + line.len - line.eol];
            let before = self.mark();
            if self.index.headers.len() + text.len() + 2 <= self.limits.header_bytes || text.is_empty() {
                break;
            }
            let dashes = text.starts_with(b"--");
            if dashes && self.dialect.get(Choice::HeaderEnd) == 2 {
                break;
            }
            if dashes && let Some((level, last)) = self.delimiter(text) {
                self.at_boundary(level, last, line.len);
                self.last_eol = line.eol;
                return at + self.passed(line.len, 1);
            }
            if !self.is_inside(text) {
                break;
            }
            #[cfg(test)]
            (self.work.2 += 1);
            self.capped(DefectKind::HeaderTooLarge);
            let idle = before == self.mark();
            let count = if idle { 1 + repeats(&data[at..], line.len) } else { 1 };
            self.header_lines += count as u32;
            self.last_eol = line.eol;
            at += self.passed(line.len * count, count as u32);
        }
        at
    }

    /// The header block goes on behind this line. What is odd about it is told.
    fn is_inside(&mut self, text: &[u8]) -> bool {
        let (odd, option) = match text[0] {
            b' ' | b'\t' if text.trim_ascii().is_empty() => (DefectKind::SpaceLine, 1),
            b' ' | b'\t' => return true,
            // Odd in two ways, and rare.
            _ if text.trim_ascii().is_empty() => return false,
            _ if is_field(text, memchr(b':', text)) || text.starts_with(b"From ") => return true,
            _ => (DefectKind::NotAField, 2),
        };
        let inside = self.dialect.get(Choice::HeaderEnd) != option;
        if inside {
            self.doubt(Choice::HeaderEnd, odd);
        }
        inside
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dialect::Dialect;
    use crate::indexer::Limits;

    const LIMITS: Limits = Limits { parts: 6, depth: 4, header_bytes: 160, fields: 8, readings: 1, reading_bytes: 0, decoded: 0 };

    fn read(message: &[u8], limits: Limits, dialect: Dialect, long_way: bool) -> Indexer {
        let mut indexer = Indexer::new(limits);
        (indexer.dialect, indexer.long_way) = (dialect, long_way);
        match dialect.get(Choice::Line) {
            0 => indexer.feed(message),
            ends => indexer.feed_whole(message, ends),
        }
        indexer
    }

    fn dialects() -> impl Iterator<Item = Dialect> {
        let choices = Choice::ALL.into_iter().flat_map(|choice| (0..choice.options().len() as u8).map(move |option| (choice, option)));
        choices.map(|(choice, option)| Dialect::default().with(choice, option))
    }

    /// Runs of lines that may or may not be delimiters, fields, or the end of a header block.
    fn runs() -> impl Strategy<Value = Vec<u8>> {
        let line = prop::sample::select(vec![
            "",
            " ",
            "x",
            "a: b",
            " c",
            "no field",
            "From x",
            "\t--",
            "--",
            "--b",
            "--b--",
            "--b ",
            "--bc",
            "--B",
            "--c",
            "--c--",
            "--x--b",
            "x--b",
            "---",
            "--\0b",
            "\0",
            "\r",
            "\r--b",
            "--b\r",
            "-",
            "--:",
            "Content-Type: multipart/mixed; boundary=c",
            "Content-Type: message/rfc822",
        ]);
        let end = prop::sample::select(vec!["\n", "\r\n", "\r"]);
        let line = (line, end).prop_map(|(line, end)| [line, end].concat());
        let run = (prop::collection::vec(line, 1..4), 1..6usize).prop_map(|(lines, count)| lines.concat().repeat(count));
        let head = "Content-Type: multipart/mixed; boundary=b\r\n\r\n";
        prop::collection::vec(run, 0..8).prop_map(move |runs| [head, &runs.concat()].concat().into_bytes())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]

        #[test]
        fn the_short_way_reads_what_the_long_way_reads(message in runs()) {
            for dialect in dialects() {
                let read = |long_way| format!("{:?}", read(&message, LIMITS, dialect, long_way).finish());
                let (short, long) = (read(false), read(true));
                prop_assert!(short == long, "{}: {:?}\n{short}\n{long}", dialect.label(), String::from_utf8_lossy(&message));
            }
        }
    }

    /// 100 MB of such lines took more than two seconds.
    #[test]
    fn of_a_run_of_the_same_lines_few_are_looked_at() {
        let head = b"Content-Type: multipart/mixed; boundary=aB\r\n\r\n";
        for lines in ["--\n", "--aBc\n", "--AB\n", "--aB--\n", "--aB\n", "--aB\r\n\r\nx\r\n", "--x--aB\r\n"] {
            let message = [&head[..], &lines.repeat(20_000).into_bytes()].concat();
            let indexer = read(&message, Limits::default(), Dialect::default(), false);
            assert!(indexer.work.0 + indexer.work.2 < 20_000, "{lines:?} {:?}", indexer.work);
        }
        for line in ["a:\n", " \n", " b\n", "no field\n", "--:\n"] {
            let message = [&b"A: b\n"[..], &line.repeat(400_000).into_bytes()].concat();
            let indexer = read(&message, Limits { header_bytes: 10_000, ..Limits::default() }, Dialect::default(), false);
            assert!(indexer.work.0 + indexer.work.2 < 10_000, "{line:?} {:?}", indexer.work);
        }
    }
}
