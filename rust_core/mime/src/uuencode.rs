//! Files within text, as readers that show them as attachments find them: uuencode and its base64 form (POSIX `uuencode -m`) between
//! `begin` and `end`, yEnc between `=ybegin` and `=yend`, `BinHex` 4.0 (RFC 1741) between colons.
//!
//! Called by the views and the scanner. Nothing fails: what cannot be decoded is left out.

use memchr::memchr;
use memchr::memmem::{self, Finder};

use crate::binhex;
use crate::decode::{self, Decoder, Encoding};

/// Files that the views look for in one text.
const FILES_MAX: usize = 256;

/// How a file within text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// uuencode
    Uuencode,
    /// `begin-base64`
    Base64,
    /// yEnc, which uses all octets but four
    YEnc,
    /// `BinHex` 4.0
    BinHex,
}

/// A file found in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// The name on its `begin` line.
    pub name: String,
    /// Where that line starts.
    pub begin: usize,
    /// Its encoded lines.
    pub body: std::ops::Range<usize>,
    /// An `end` line follows.
    pub ended: bool,
    /// How it is written.
    pub coding: Coding,
}

impl File {
    /// The file's octets; `text` is what it was found in. True when there are more than the 64 MiB that are decoded.
    pub fn content(&self, text: &[u8]) -> (Vec<u8>, bool) {
        let body = &text[self.body.clone()];
        let mut out = Vec::new();
        match self.coding {
            Coding::Uuencode => decode(body, &mut out),
            Coding::Base64 => {
                let mut decoder = Decoder::new(Encoding::Base64);
                decoder.feed(body, &mut out);
                decoder.finish(&mut out);
            }
            Coding::YEnc => yenc(body, &mut out),
            Coding::BinHex => return binhex::decode(body).map_or((out, false), |file| (file.data, file.cut)),
        }
        (out, false)
    }
}

/// The first files of a text, as many as a view shows.
pub fn find(text: &[u8]) -> Vec<File> {
    find_up_to(text, FILES_MAX)
}

/// The files of a text by place, `most` of each coding. A `begin` line counts when a line in its coding follows it.
pub fn find_up_to(text: &[u8], most: usize) -> Vec<File> {
    let mut found = Vec::new();
    let mut from = 0;
    let finder = Finder::new(b"begin");
    while let Some(at) = finder.find(&text[from..]).map(|n| n + from) {
        from = at + 5;
        if found.len() == most {
            break;
        }
        let marked = text[..at].ends_with(b"=y");
        let start = if marked { at - 2 } else { at };
        if start > 0 && !matches!(text[start - 1], b'\n' | b'\r') {
            continue;
        }
        let file = if marked { yenc_file(text, start) } else { uuencoded_file(text, start) };
        if let Some(file) = file {
            from = file.body.end;
            found.push(file);
        }
    }
    if binhex::find(text, most, &mut found) {
        found.sort_by_key(|file| file.begin);
    }
    found
}

fn uuencoded_file(text: &[u8], at: usize) -> Option<File> {
    let line_end = end_of_line(text, at);
    let (name, coding) = begin_line(&text[at..line_end])?;
    let body = match coding {
        Coding::Base64 => line_end..base64_end(text, line_end),
        _ => encoded_lines(text, line_end),
    };
    if body.is_empty() {
        return None;
    }
    let tail = text[body.end..].trim_ascii_start();
    let ended = tail.starts_with(b"====") || tail.strip_prefix(b"`").unwrap_or(tail).trim_ascii_start().starts_with(b"end");
    Some(File { name, begin: at, body, ended, coding })
}

/// Where lines of base64 end: at `====`, or at a line that is none.
fn base64_end(text: &[u8], start: usize) -> usize {
    let mut at = start;
    while at < text.len() {
        let end = end_of_line(text, at);
        let line = text[at..end].trim_ascii_end();
        let digit = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
        if line.is_empty() || line.starts_with(b"====") || !line.iter().all(digit) {
            break;
        }
        at = end;
    }
    at
}

/// `=ybegin … name=NAME`, perhaps `=ypart`, and lines up to `=yend`.
fn yenc_file(text: &[u8], at: usize) -> Option<File> {
    let mut start = end_of_line(text, at);
    let line = &text[at..start];
    let name = memmem::find(line, b" name=").map(|n| line[n + 6..].trim_ascii())?;
    if text[start..].starts_with(b"=ypart") {
        start = end_of_line(text, start);
    }
    // A line cannot begin so in yEnc: = and y would be an octet that needs no escape.
    let end = memmem::find(&text[start..], b"\n=yend").map(|n| start + n + 1);
    let body = start..end.unwrap_or(text.len());
    let name = decode::guess(&name[..name.len().min(512)]);
    (!body.is_empty()).then_some(File { name, begin: at, body, ended: end.is_some(), coding: Coding::YEnc })
}

fn yenc(body: &[u8], out: &mut Vec<u8>) {
    let mut escaped = false;
    for &byte in body {
        match byte {
            b'\r' | b'\n' => {}
            b'=' if !escaped => escaped = true,
            _ => {
                out.push(byte.wrapping_sub(if std::mem::take(&mut escaped) { 106 } else { 42 }));
            }
        }
    }
}

/// Decode lines in uuencode; others are skipped. Works on whole bodies without a `begin` line too.
pub fn decode(text: &[u8], out: &mut Vec<u8>) {
    for line in text.split(|&b| b == b'\n') {
        decode_line(without_end(line), out);
    }
}

pub(crate) fn decode_line(line: &[u8], out: &mut Vec<u8>) {
    let Some(count) = count(line) else { return };
    let before = out.len();
    for group in line[1..].chunks(4) {
        let six = |n: usize| group.get(n).map_or(0, |b| b.wrapping_sub(b' ') & 0x3f);
        let bits = u32::from(six(0)) << 18 | u32::from(six(1)) << 12 | u32::from(six(2)) << 6 | u32::from(six(3));
        out.extend_from_slice(&bits.to_be_bytes()[1..]);
    }
    out.resize(before + count, 0);
}

/// Octets that a line says it has. A line may be shorter: spaces at its end are digits, and are cut on the way; readers take them for there.
fn count(line: &[u8]) -> Option<usize> {
    let first = *line.first().filter(|b| (b'!'..=b'_').contains(b))?;
    let count = usize::from(first - b' ');
    let most = count.div_ceil(3) * 4 + 2;
    let plain = line[1..].iter().all(|b| (b' '..=b'`').contains(b));
    (plain && line.len() - 1 <= most).then_some(count)
}

/// A line without its end; spaces stay.
fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn begin_line(line: &[u8]) -> Option<(String, Coding)> {
    let rest = line.strip_prefix(b"begin")?;
    let (rest, coding) = rest.strip_prefix(b"-base64").map_or((rest, Coding::Uuencode), |rest| (rest, Coding::Base64));
    let rest = rest.strip_prefix(b" ").or_else(|| rest.strip_prefix(b"\t"))?.trim_ascii();
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let name = rest[digits..].trim_ascii();
    // Some readers want no name, and give one.
    let apart = matches!(rest.get(digits), None | Some(b' ' | b'\t'));
    ((3..=6).contains(&digits) && apart && name.len() <= 512).then(|| (decode::guess(name), coding))
}

fn encoded_lines(text: &[u8], start: usize) -> std::ops::Range<usize> {
    let mut at = start;
    while at < text.len() {
        let end = end_of_line(text, at);
        if count(without_end(&text[at..end])).is_none() {
            break;
        }
        at = end;
    }
    start..at
}

fn end_of_line(text: &[u8], at: usize) -> usize {
    memchr(b'\n', &text[at..]).map_or(text.len(), |n| at + n + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_text_is_found_and_decoded() {
        let text = b"hello\r\nbegin 644 cat.txt\r\n#0V%T\r\n`\r\nend\r\nbegin the day\r\n";
        let files = find(text);
        assert_eq!((files.len(), files[0].name.as_str(), files[0].ended), (1, "cat.txt", true));
        assert_eq!(files[0].content(text).0, b"Cat");
    }

    #[test]
    fn a_line_whose_spaces_were_cut_still_has_its_zeros() {
        let text = b"begin 644 zeros\n#35I0\n#\n#0V%T\nend\n";
        assert_eq!(find(text)[0].content(text).0, b"MZP\0\0\0Cat");
    }

    #[test]
    fn the_other_codings_within_text_are_found_and_decoded() {
        let text = b"x\nbegin-base64 644 a.bin\nTVqQ\nAA==\n====\n=ybegin line=128 size=4 name=b.bin\nw\x84=}*\n=yend size=4\n";
        let files = find(text);
        let found: Vec<_> = files.iter().map(|f| (f.name.as_str(), f.coding, f.ended, f.content(text).0)).collect();
        let expected = [("a.bin", Coding::Base64, true, b"MZ\x90\0".to_vec()), ("b.bin", Coding::YEnc, true, b"MZ\x13\0".to_vec())];
        assert_eq!(found, expected);
    }

    #[test]
    fn prose_that_begins_is_no_file() {
        assert!(find(b"begin 644 x\nThis is prose, longer than its first octet says it could be, and in lower case.\n").is_empty());
        assert!(find(b"begin\nbegin 6\nbegin 644\n").is_empty());
    }
}
