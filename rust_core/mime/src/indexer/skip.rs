//! Body lines that cannot be delimiters, taken at once: most of a big message is never looked at line by line.
//!
//! Works for every dialect: `ends` is its option of [`Choice::Line`], by which lines end. What may matter stays for [`Indexer::line`].

use std::sync::LazyLock;

use memchr::memchr;
use memchr::memmem::Finder;

use super::{IN_LINE, Indexer};
use crate::defect::DefectKind;
use crate::dialect::Choice;
use crate::index::Kind;
use crate::lines;
use crate::open::Open;
use crate::regular::Lines;

/// Finds lines that may be delimiters, and delimiters within lines.
static DASHES: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"--"));

/// Multiparts, from the outermost and from the innermost on, whose delimiters are looked for within lines.
const IN_LINE_LEVELS: usize = 4;

/// Behind a run of dashes.
fn behind_dashes(data: &[u8], at: usize) -> usize {
    at + data[at..].iter().take_while(|&&octet| octet == b'-').count()
}

impl Indexer {
    /// All of a message whose lines end otherwise than by LF.
    pub(super) fn feed_whole(&mut self, message: &[u8], ends: u8) {
        let mut rest = &message[self.skip(message)..];
        while !rest.is_empty() {
            let (len, eol) = lines::first(rest, ends);
            self.line(&rest[..len - eol], len, eol);
            rest = &rest[len..];
            rest = &rest[self.skip(rest)..];
        }
    }

    /// Takes lines that need no look of their own. Returns how many octets that were; behind them is a line that does.
    pub(super) fn skip(&mut self, data: &[u8]) -> usize {
        let mut at = self.skip_short(data);
        loop {
            let body = self.skip_body(&data[at..]);
            let short = if body > 0 { self.skip_short(&data[at + body..]) } else { 0 };
            at += body + short;
            if short == 0 {
                return at;
            }
        }
    }

    /// Takes whole body lines that cannot be delimiters. Returns how many octets that were.
    fn skip_body(&mut self, data: &[u8]) -> usize {
        if self.in_header || self.bare_start || self.carry_len > 0 || data.starts_with(b"--") {
            return 0;
        }
        let ends = self.dialect.get(Choice::Line);
        let data = if self.dialect.get(Choice::Nul) == 0 { data } else { self.before_nul(data, ends) };
        if let Some(len) = self.skip_regular(data) {
            return len;
        }
        let end = self.dashes(data, ends).unwrap_or_else(|| lines::last_end(data, ends));
        let skipped = &data[..end];
        if !skipped.is_empty() {
            self.pos += end;
            self.newlines += lines::count(skipped, ends) as u32;
            self.last_eol = if skipped.ends_with(b"\r\n") { 2 } else { 1 };
        }
        end
    }

    /// The lines before the first with an octet 0. Its place is kept: it may be far away, and is asked for at each delimiter.
    fn before_nul<'a>(&mut self, data: &'a [u8], ends: u8) -> &'a [u8] {
        let known = self.nul.filter(|(nul, _)| *nul >= self.pos);
        let (nul, line) = known.unwrap_or_else(|| {
            let at = memchr(0, data).unwrap_or(data.len());
            (self.pos + at, self.pos + lines::last_end(&data[..at], ends))
        });
        self.nul = Some((nul, line));
        &data[..line.saturating_sub(self.pos).min(data.len())]
    }

    /// Takes the lines at the beginning of a body that are nothing but base64.
    fn skip_regular(&mut self, data: &[u8]) -> Option<usize> {
        let part = &self.index.parts[self.open.last()?.part as usize];
        if part.body.start != self.pos || part.kind != Kind::Leaf || part.encoding != "base64" {
            return None;
        }
        let lines = Lines::find(data, self.pos)?;
        self.pos += lines.len;
        self.newlines += lines.count() as u32;
        self.last_eol = 2;
        self.index.regular.push(lines);
        Some(lines.len)
    }

    /// Where the first line is that begins with two dashes, or has a delimiter in it where that counts. Dashes within lines before it are
    /// looked at.
    fn dashes(&mut self, data: &[u8], ends: u8) -> Option<usize> {
        let mut from = 0;
        while let Some(at) = DASHES.find(&data[from..]).map(|n| n + from) {
            if lines::is_start(data, at, ends) {
                return Some(at);
            }
            if self.fits_in_line(&data[at + 2..]) {
                if self.dialect.get(Choice::Match) == IN_LINE {
                    return Some(lines::last_end(&data[..at], ends));
                }
                self.doubt_at(self.pos + at, Choice::Match, DefectKind::DelimiterInLine);
            }
            from = behind_dashes(data, at);
        }
        None
    }

    /// What follows two dashes within a line is the boundary of an open multipart.
    fn fits_in_line(&self, rest: &[u8]) -> bool {
        let fits = |open: &Open| open.boundary.as_deref().is_some_and(|boundary| !boundary.is_empty() && rest.starts_with(boundary));
        self.open.iter().take(IN_LINE_LEVELS).any(fits) || self.open.iter().skip(IN_LINE_LEVELS).rev().take(IN_LINE_LEVELS).any(fits)
    }

    /// The place of a delimiter within a body line, not at its beginning.
    pub(super) fn delimiter_in(&self, text: &[u8]) -> Option<usize> {
        let mut from = if text.starts_with(b"--") { behind_dashes(text, 0) } else { 0 };
        // Most lines are short and have none; to ask so costs less than to begin a search.
        memchr(b'-', &text[from..])?;
        while let Some(at) = DASHES.find(&text[from..]).map(|n| n + from) {
            if self.fits_in_line(&text[at + 2..]) {
                return Some(at);
            }
            from = behind_dashes(text, at);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::indexer::Limits;

    /// Lines looked at and boundaries compared in one pass of a dialect.
    fn work(message: &[u8], dialect: Dialect) -> (usize, usize) {
        let mut indexer = Indexer::new(Limits::default());
        indexer.dialect = dialect;
        match dialect.get(Choice::Line) {
            0 => indexer.feed(message),
            ends => indexer.feed_whole(message, ends),
        }
        assert_eq!(indexer.pos, message.len());
        (indexer.work.0 + indexer.work.2, indexer.work.1)
    }

    /// 100 MB of the shortest lines took a second a pass where each was looked at by itself.
    #[test]
    fn lines_that_cannot_be_delimiters_are_taken_at_once_in_every_dialect() {
        let head = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nX: y\r\n\r\nx\r\n";
        for line in ["x\n", "\n", "x\r\n", " - \n", "x--c\n", "\r"] {
            let message = [&head[..], &line.repeat(20_000).into_bytes(), b"\r\n\0\r\n--b--\r\n"].concat();
            let choices = Choice::ALL.into_iter().flat_map(|choice| (0..choice.options().len() as u8).map(move |option| (choice, option)));
            for (choice, option) in choices {
                let (lines, _) = work(&message, Dialect::default().with(choice, option));
                assert!(lines < 20, "{line:?}, {choice:?} {option}: {lines}");
            }
        }
    }

    /// 100 MB of multiparts, each with another boundary, took more than a second: sixty of them are open, and each line was compared with all.
    #[test]
    fn a_line_is_compared_with_few_of_many_boundaries() {
        let level = |n: usize| format!("Content-Type: multipart/mixed; boundary={n}a\r\n\r\n--{n}a\r\n").into_bytes();
        let levels: Vec<u8> = (0..3_000).flat_map(level).collect();
        let (lines, compared) = work(&levels, Dialect::default());
        assert!(lines > 3_000 && compared < 2 * lines, "{lines} {compared}");
    }
}
