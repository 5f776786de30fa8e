//! Other ideas of a line than "up to LF": readers for whom a bare CR ends one too, or only CRLF does; and octets 0 within lines.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

/// Call `each` with every line and the length of its end. Option 1: CR, LF or CRLF end a line; 2: CRLF only.
pub(crate) fn split(message: &[u8], option: u8, mut each: impl FnMut(&[u8], usize)) {
    let mut rest = message;
    while !rest.is_empty() {
        let (len, eol) = if option == 1 { any_end(rest) } else { crlf_only(rest) };
        each(&rest[..len], eol);
        rest = &rest[len..];
    }
}

fn any_end(rest: &[u8]) -> (usize, usize) {
    match memchr2(b'\r', b'\n', rest) {
        Some(at) if rest[at..].starts_with(b"\r\n") => (at + 2, 2),
        Some(at) => (at + 1, 1),
        None => (rest.len(), 0),
    }
}

fn crlf_only(rest: &[u8]) -> (usize, usize) {
    let mut from = 0;
    while let Some(at) = memchr(b'\n', &rest[from..]).map(|n| n + from) {
        if at > 0 && rest[at - 1] == b'\r' {
            return (at + 1, 2);
        }
        from = at + 1;
    }
    (rest.len(), 0)
}

/// Option 1: octets 0 vanish; 2: the line ends at the first.
pub(crate) fn without_nul(text: &[u8], option: u8) -> Cow<'_, [u8]> {
    match memchr(0, text) {
        None => Cow::Borrowed(text),
        Some(at) if option == 2 => Cow::Borrowed(&text[..at]),
        Some(_) => Cow::Owned(text.iter().copied().filter(|&b| b != 0).collect()),
    }
}

/// What the octets say about lines: the first bare CR, the first bare LF when CRLF is used too, the first octet 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LineFacts {
    pub bare_cr: Option<usize>,
    pub bare_lf: Option<usize>,
    pub nul: Option<usize>,
}

/// One quick run; only a message that is odd is looked at closer.
pub(crate) fn facts(message: &[u8]) -> LineFacts {
    let (Some(&first), Some(&last)) = (message.first(), message.last()) else { return LineFacts::default() };
    let mut odd = first == b'\n' || last == b'\r';
    let mut low = last;
    for (before, after) in message.chunks(512).zip(message[1..].chunks(512)) {
        for (a, b) in before.iter().zip(after) {
            // Without branches, so that the loop becomes vector code.
            odd |= (*a == b'\r') ^ (*b == b'\n');
            low = low.min(*a);
        }
    }
    if odd || low == 0 { look_closer(message) } else { LineFacts::default() }
}

fn look_closer(message: &[u8]) -> LineFacts {
    let (mut crs, mut lfs, mut pairs, mut low) = (0usize, 0usize, 0usize, u8::MAX);
    for (n, block) in message.chunks(128).enumerate() {
        let before = if n == 0 { 0 } else { message[n * 128 - 1] };
        let (mut cr, mut lf, mut pair) = (0u8, 0u8, u8::from(before == b'\r' && block[0] == b'\n'));
        for &byte in block {
            // Wrapping, so that the loop becomes vector code although overflow is checked; a block is too short to wrap.
            cr = cr.wrapping_add(u8::from(byte == b'\r'));
            lf = lf.wrapping_add(u8::from(byte == b'\n'));
            low = low.min(byte);
        }
        for (a, b) in block.iter().zip(&block[1..]) {
            pair = pair.wrapping_add(u8::from(*a == b'\r') & u8::from(*b == b'\n'));
        }
        crs += usize::from(cr);
        lfs += usize::from(lf);
        pairs += usize::from(pair);
    }
    LineFacts {
        bare_cr: if crs > pairs { memchr::memchr_iter(b'\r', message).find(|&at| message.get(at + 1) != Some(&b'\n')) } else { None },
        bare_lf: if pairs > 0 && lfs > pairs {
            memchr::memchr_iter(b'\n', message).find(|&at| at == 0 || message[at - 1] != b'\r')
        } else {
            None
        },
        nul: if low == 0 { memchr(0, message) } else { None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_see_the_first_of_each_across_blocks() {
        let mut text = b"a\r\n".repeat(100);
        assert_eq!(facts(&text), LineFacts::default());
        text.extend_from_slice(b"b\rc\nd\0");
        assert_eq!(facts(&text), LineFacts { bare_cr: Some(301), bare_lf: Some(303), nul: Some(305) });
        assert_eq!(facts(b"a\nb\n"), LineFacts::default());
    }

    #[test]
    fn lines_end_where_the_option_says() {
        let ends = |option| {
            let mut found = Vec::new();
            split(b"a\rb\r\nc\nd", option, |line, eol| found.push((line.len(), eol)));
            found
        };
        assert_eq!(ends(1), [(2, 1), (3, 2), (2, 1), (1, 0)]);
        assert_eq!(ends(2), [(5, 2), (3, 0)]);
    }
}
