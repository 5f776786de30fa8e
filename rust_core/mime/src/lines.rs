//! Other ideas of a line than "up to LF": readers for whom a bare CR ends one too, or only CRLF does; and octets 0 within lines.

use std::borrow::Cow;

use memchr::{memchr, memchr_iter, memchr2, memmem, memrchr, memrchr2};

use crate::regular::Lines;

/// Length of the first line, and of its end. Option 1: CR, LF or CRLF end a line; 2: CRLF only; 0: LF.
pub(crate) fn first(rest: &[u8], option: u8) -> (usize, usize) {
    if option == 1 { any_end(rest) } else { crlf_only(rest) }
}

/// A line begins at `at`, which is not the beginning.
pub(crate) fn is_start(data: &[u8], at: usize, option: u8) -> bool {
    matches!((option, &data[..at]), (0, [.., b'\n']) | (1, [.., b'\r' | b'\n']) | (2, [.., b'\r', b'\n']))
}

/// Behind the last line end; 0 when there is none.
pub(crate) fn last_end(data: &[u8], option: u8) -> usize {
    match option {
        0 => memrchr(b'\n', data).map_or(0, |at| at + 1),
        1 => memrchr2(b'\r', b'\n', data).map_or(0, |at| at + 1),
        _ => memmem::rfind(data, b"\r\n").map_or(0, |at| at + 2),
    }
}

/// Line ends in whole lines.
pub(crate) fn count(data: &[u8], option: u8) -> usize {
    match option {
        0 => memchr_iter(b'\n', data).count(),
        1 => memchr_iter(b'\n', data).count() + memchr_iter(b'\r', data).count() - pairs(data),
        _ => pairs(data),
    }
}

/// CRs with an LF behind them.
fn pairs(data: &[u8]) -> usize {
    let blocks = data.chunks(128).zip(data.get(1..).unwrap_or_default().chunks(128));
    // Wrapping, so that the loop becomes vector code although overflow is checked; a block is too short to wrap.
    let pair = |count: u8, (a, b): (&u8, &u8)| count.wrapping_add(u8::from(*a == b'\r') & u8::from(*b == b'\n'));
    blocks.map(|(before, after)| usize::from(before.iter().zip(after).fold(0, pair))).sum()
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

/// One quick run; only a message that is odd is looked at closer. In `regular` lines nothing is.
pub(crate) fn facts(message: &[u8], regular: &[Lines]) -> LineFacts {
    let mut at = 0;
    for lines in regular {
        if is_odd(&message[at..lines.start]) {
            return look_closer(message);
        }
        at = lines.start + lines.len;
    }
    if is_odd(&message[at..]) { look_closer(message) } else { LineFacts::default() }
}

/// There is a CR or an LF alone in these whole lines, or an octet 0.
fn is_odd(message: &[u8]) -> bool {
    let (Some(&first), Some(&last)) = (message.first(), message.last()) else { return false };
    let mut odd = first == b'\n' || last == b'\r';
    let mut low = last;
    for (before, after) in message.chunks(512).zip(message[1..].chunks(512)) {
        for (a, b) in before.iter().zip(after) {
            // Without branches, so that the loop becomes vector code.
            odd |= (*a == b'\r') ^ (*b == b'\n');
            low = low.min(*a);
        }
    }
    odd || low == 0
}

fn look_closer(message: &[u8]) -> LineFacts {
    let (crs, lfs, pairs) = (memchr_iter(b'\r', message).count(), memchr_iter(b'\n', message).count(), pairs(message));
    LineFacts {
        bare_cr: if crs > pairs { memchr_iter(b'\r', message).find(|&at| message.get(at + 1) != Some(&b'\n')) } else { None },
        bare_lf: if pairs > 0 && lfs > pairs { memchr_iter(b'\n', message).find(|&at| at == 0 || message[at - 1] != b'\r') } else { None },
        nul: memchr(0, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_see_the_first_of_each_across_blocks() {
        let mut text = b"a\r\n".repeat(100);
        assert_eq!(facts(&text, &[]), LineFacts::default());
        text.extend_from_slice(b"b\rc\nd\0");
        assert_eq!(facts(&text, &[]), LineFacts { bare_cr: Some(301), bare_lf: Some(303), nul: Some(305) });
        assert_eq!(facts(b"a\nb\n", &[]), LineFacts::default());
    }

    #[test]
    fn lines_end_where_the_option_says() {
        let text = b"a\rb\r\nc\nd";
        let ends = |option| {
            let (mut found, mut rest) = (Vec::new(), &text[..]);
            while !rest.is_empty() {
                let (len, eol) = first(rest, option);
                found.push((len, eol));
                rest = &rest[len..];
            }
            let starts: Vec<usize> = (1..text.len()).filter(|at| is_start(text, *at, option)).collect();
            (found, count(text, option), last_end(text, option), starts)
        };
        assert_eq!(ends(1), (vec![(2, 1), (3, 2), (2, 1), (1, 0)], 3, 7, vec![2, 4, 5, 7]));
        assert_eq!(ends(2), (vec![(5, 2), (3, 0)], 1, 5, vec![5]));
        assert_eq!((count(text, 0), last_end(text, 0), is_start(text, 7, 0), is_start(text, 2, 0)), (2, 7, true, false));
    }
}
