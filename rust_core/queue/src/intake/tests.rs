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
        }
        let (whole, _) = take(&[&data], allow);
        prop_assert_eq!((whole.received(), whole.bare()), (intake.received(), intake.bare()));
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
        prop_assert_eq!(intake.bare(), (0..body.len()).any(bare));
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
fn received_fields_are_counted_in_the_header_only() {
    let text = b"Received: a\r\n b\r\nRECEIVED : no\r\nreceived: c\r\nSubject: \xc3\xa9\r\n\r\nReceived: body\r\n1234567890\r\n.\r\n";
    let (intake, _) = take(&[text], false);
    assert_eq!((intake.received(), intake.bare(), intake.long_header()), (2, false, false));
    assert!(intake.header().ends_with(b"\r\n\r\n"));
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
