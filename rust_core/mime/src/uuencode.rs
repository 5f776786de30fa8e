//! uuencode within text: the files between `begin MODE NAME` and `end`, as readers that show them as attachments find them.

use memchr::memchr;

use crate::decode;

/// Files looked for in one text.
const FILES_MAX: usize = 256;

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
}

/// Find all files. A `begin` line counts when a line in uuencode follows it.
pub fn find(text: &[u8]) -> Vec<File> {
    let mut found = Vec::new();
    let mut from = 0;
    let finder = memchr::memmem::Finder::new(b"begin");
    while let Some(at) = finder.find(&text[from..]).map(|n| n + from) {
        let line_end = end_of_line(text, at);
        from = at + 5;
        let starts = at == 0 || matches!(text[at - 1], b'\n' | b'\r');
        let Some(name) = begin_line(&text[at..line_end]).filter(|_| starts) else { continue };
        let body = encoded_lines(text, line_end);
        if body.is_empty() {
            continue;
        }
        from = body.end;
        let tail = text[body.end..].trim_ascii_start();
        let ended = tail.strip_prefix(b"`").unwrap_or(tail).trim_ascii_start().starts_with(b"end");
        found.push(File { name, begin: at, body, ended });
        if found.len() == FILES_MAX {
            break;
        }
    }
    found
}

/// Decode lines in uuencode; others are skipped. Works on whole bodies without a `begin` line too.
pub fn decode(text: &[u8], out: &mut Vec<u8>) {
    for line in text.split(|&b| b == b'\n') {
        decode_line(line.trim_ascii_end(), out);
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

/// Octets that a line says it has, when its length agrees; trailing spaces may have been cut.
fn count(line: &[u8]) -> Option<usize> {
    let first = *line.first().filter(|b| (b'!'..=b'M').contains(b))?;
    let count = usize::from(first - b' ');
    let most = count.div_ceil(3) * 4 + 2;
    let plain = line[1..].iter().all(|b| (b' '..=b'`').contains(b));
    (plain && line.len() > 1 && line.len() - 1 <= most && line.len() + 3 >= count * 4 / 3).then_some(count)
}

fn begin_line(line: &[u8]) -> Option<String> {
    let rest = line.strip_prefix(b"begin")?;
    let rest = rest.strip_prefix(b"-base64").unwrap_or(rest).strip_prefix(b" ")?.trim_ascii();
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let name = rest[digits..].trim_ascii();
    ((3..=6).contains(&digits) && rest.get(digits) == Some(&b' ') && !name.is_empty() && name.len() <= 512).then(|| decode::guess(name))
}

fn encoded_lines(text: &[u8], start: usize) -> std::ops::Range<usize> {
    let mut at = start;
    while at < text.len() {
        let end = end_of_line(text, at);
        if count(text[at..end].trim_ascii_end()).is_none() {
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
        let mut out = Vec::new();
        decode(&text[files[0].body.clone()], &mut out);
        assert_eq!(out, b"Cat");
    }

    #[test]
    fn prose_that_begins_is_no_file() {
        assert!(find(b"begin 644 x\nThis is prose, longer than its first octet says it could be, and in lower case.\n").is_empty());
        assert!(find(b"begin\nbegin 6\nbegin 644\n").is_empty());
    }
}
