//! Canonical forms: the examples of RFC 6376 3.4.5, and that it does not matter where a body is cut.

use gatepost_dkim::{Body, Hash, header};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

fn of(octets: &[u8]) -> Hash {
    Sha256::digest(octets).into()
}

fn body(octets: &[u8], relaxed: bool, limit: Option<u64>) -> (Hash, u64) {
    let mut body = Body::new(relaxed, limit);
    body.take(octets);
    body.finish()
}

#[test]
fn the_examples_of_the_rfc_have_the_forms_it_gives() {
    let fields: [&[u8]; 2] = [b"A: X\r\n", b"B : Y\t\r\n\tZ  \r\n"];
    assert_eq!(header(&fields, true), of(b"a:X\r\nb:Y Z"));
    assert_eq!(header(&fields, false), of(b"A: X\r\nB : Y\t\r\n\tZ  "));
    let text = b" C \r\nD \t E\r\n\r\n\r\n";
    assert_eq!(body(text, true, None).0, of(b" C\r\nD E\r\n"));
    assert_eq!(body(text, false, None).0, of(b" C \r\nD \t E\r\n"));
}

#[test]
fn an_empty_body_is_one_line_end_in_simple_form_and_nothing_in_relaxed() {
    for empty in [b"".as_slice(), b"\r\n", b"\r\n\r\n"] {
        assert_eq!(body(empty, false, None), (of(b"\r\n"), 2));
        assert_eq!(body(empty, true, None), (of(b""), 0));
    }
    assert_eq!(body(b" \t\r\n", true, None), (of(b""), 0));
    assert_eq!(body(b"x", true, None), (of(b"x\r\n"), 3), "a last line gets its end");
}

#[test]
fn a_length_counts_octets_of_the_canonical_form() {
    assert_eq!(body(b"a  b\r\nc\r\n", true, Some(3)), (of(b"a b"), 8));
    assert_eq!(body(b"a\r\n", false, Some(900)), (of(b"a\r\n"), 3));
    assert_eq!(body(b"a\r\n", false, Some(0)), (of(b""), 3));
}

#[test]
fn a_value_that_begins_with_a_colon_keeps_its_blanks() {
    assert_eq!(header(&[b"Subject: : a\r\n"], true), of(b"subject:: a"));
    assert_eq!(header(&[b"no colon\r\n"], true), of(b"no colon:"));
}

/// The relaxed form, said in other words.
fn plainly(octets: &[u8]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = vec![Vec::new()];
    let mut rest = octets;
    while let Some((&first, more)) = rest.split_first() {
        if rest.starts_with(b"\r\n") {
            lines.push(Vec::new());
            rest = &rest[2..];
            continue;
        }
        let line = lines.last_mut().unwrap();
        if first == b' ' || first == b'\t' {
            if line.last() != Some(&b' ') {
                line.push(b' ');
            }
        } else {
            line.push(first);
        }
        rest = more;
    }
    for line in &mut lines {
        if line.last() == Some(&b' ') {
            line.pop();
        }
    }
    while lines.last().is_some_and(Vec::is_empty) {
        lines.pop();
    }
    lines.into_iter().flat_map(|line| [line, b"\r\n".to_vec()].concat()).collect()
}

proptest! {
    #[test]
    fn where_a_body_is_cut_does_not_matter(
        pieces in prop::collection::vec(prop::collection::vec(prop::sample::select(b"ab \t\r\n".to_vec()), 0..6), 0..12),
        relaxed: bool,
        limit in prop::option::of(0u64..40),
    ) {
        let mut cut = Body::new(relaxed, limit);
        for piece in &pieces {
            cut.take(piece);
        }
        let whole = pieces.concat();
        prop_assert_eq!(cut.finish(), body(&whole, relaxed, limit));
        if relaxed && limit.is_none() {
            let form = plainly(&whole);
            prop_assert_eq!(body(&whole, true, None), (of(&form), form.len() as u64));
        }
    }
}
