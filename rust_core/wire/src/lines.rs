//! Cuts command lines (RFC 5321 2.3.8: they end in CR LF and nothing else). Sans-IO: the caller keeps what is not a whole line yet.

use memchr::{memchr, memchr2};

/// Octets of a line with CR LF. RFC 4954 section 4 wants this much for AUTH; the caller holds other commands to less.
pub const LINE_LIMIT: usize = 12_288;

/// What the input begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// A line: octets without its end, and octets with it.
    Line(usize, usize),
    /// A line that was too long, ended now: so many octets are done with.
    TooLong(usize),
    /// A line with a bare CR or LF: so many octets are done with.
    Bare(usize),
    /// No end of line yet: keep the octets and come again with more.
    Partial,
    /// No end of line yet, and too much of it: drop the octets; the line will be `TooLong` when it ends.
    Flood,
}

/// The machine; its only memory is that a line is being skipped.
#[derive(Debug, Default)]
pub struct Cutter {
    skipping: bool,
}

impl Cutter {
    /// Looks at the first line of `data`. With `allow_bare` a bare LF ends a line too; a bare CR never does.
    pub fn cut(&mut self, data: &[u8], allow_bare: bool) -> Cut {
        let Some(lf) = memchr(b'\n', data) else {
            self.skipping |= data.len() > LINE_LIMIT;
            return if self.skipping { Cut::Flood } else { Cut::Partial };
        };
        let end = lf + 1;
        if std::mem::take(&mut self.skipping) || end > LINE_LIMIT {
            return Cut::TooLong(end);
        }
        match memchr2(b'\r', b'\n', &data[..end]) {
            Some(cr) if cr + 1 == lf && data[cr] == b'\r' => Cut::Line(cr, end),
            Some(first) if allow_bare && first == lf => Cut::Line(lf, end),
            _ => Cut::Bare(end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(data: &[u8]) -> Cut {
        Cutter::default().cut(data, false)
    }

    #[test]
    fn a_line_ends_with_cr_lf_and_nothing_else() {
        assert_eq!(cut(b"NOOP\r\nQUIT\r\n"), Cut::Line(4, 6));
        assert_eq!(cut(b"\r\n"), Cut::Line(0, 2));
        assert_eq!(cut(b"NOOP\n"), Cut::Bare(5));
        assert_eq!(cut(b"NO\rOP\r\n"), Cut::Bare(7));
        assert_eq!(cut(b"NOOP\r\r\n"), Cut::Bare(7));
        assert_eq!(cut(b"NOOP\r"), Cut::Partial);
    }

    #[test]
    fn bare_lf_ends_a_line_where_it_is_allowed_and_bare_cr_never() {
        let allowed = |data| Cutter::default().cut(data, true);
        assert_eq!(allowed(b"NOOP\n"), Cut::Line(4, 5));
        assert_eq!(allowed(b"NOOP\r\n"), Cut::Line(4, 6));
        assert_eq!(allowed(b"NO\rOP\n"), Cut::Bare(6));
        assert_eq!(allowed(b"NOOP\r\r\n"), Cut::Bare(7));
    }

    #[test]
    fn a_long_line_is_reported_once_when_it_ends() {
        let mut cutter = Cutter::default();
        assert_eq!(cutter.cut(&[b'x'; LINE_LIMIT], false), Cut::Partial);
        assert_eq!(cutter.cut(&[b'x'; LINE_LIMIT + 1], false), Cut::Flood);
        assert_eq!(cutter.cut(b"more", false), Cut::Flood);
        assert_eq!(cutter.cut(b"end\r\nNOOP\r\n", false), Cut::TooLong(5));
        assert_eq!(cutter.cut(b"NOOP\r\n", false), Cut::Line(4, 6));
    }

    #[test]
    fn the_limit_includes_the_line_end() {
        let line = |n: usize| [&vec![b'x'; n - 2][..], b"\r\n"].concat();
        assert_eq!(cut(&line(LINE_LIMIT)), Cut::Line(LINE_LIMIT - 2, LINE_LIMIT));
        assert_eq!(cut(&line(LINE_LIMIT + 1)), Cut::TooLong(LINE_LIMIT + 1));
    }

    proptest! {
        #[test]
        fn any_octets_are_cut_within_bounds(data in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), any::<u8>()], 0..60), allow: bool) {
            match Cutter::default().cut(&data, allow) {
                Cut::Line(text, end) => {
                    prop_assert!(!data[..text].contains(&b'\r') && !data[..text].contains(&b'\n'));
                    prop_assert_eq!(data[end - 1], b'\n');
                }
                Cut::TooLong(_) | Cut::Flood => prop_assert!(false),
                Cut::Bare(end) => prop_assert_eq!(data[end - 1], b'\n'),
                Cut::Partial => prop_assert!(!data.contains(&b'\n')),
            }
        }
    }
}
