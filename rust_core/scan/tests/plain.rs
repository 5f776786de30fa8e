//! The quick look says yes only where the inspection finds nothing but text: on all corpora, and on messages changed at random.

use std::fs;
use std::path::{Path, PathBuf};

use gatepost_scan::{Class, Flags, Limits, LongText, Verdict, inspect, is_plain};
use proptest::prelude::*;

const TEXT: &str = "Subject: x\r\nFrom: a@b.test\r\nTo: c@d.test\r\n\r\nHello,\r\n--\r\nbye\r\n";
const BOTH: &str = "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/alternative;\r\n boundary=\"=_b1\"\r\n\r\nseen by few\r\n\
--=_b1\r\nContent-Type: text/plain; charset=utf-8; format=flowed\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nHello =C3=A4\r\n\
--=_b1\r\nContent-Type: text/html; charset=\"utf-8\"\r\nContent-Transfer-Encoding: base64\r\n\r\nPHA+SGVsbG88L3A+\r\n--=_b1--\r\n";

/// What a quick yes promises.
fn is_only_text(message: &[u8]) -> bool {
    let report = inspect(message, "", "message/rfc822", Limits::default());
    let texts = report.entries.iter().skip(1).all(|entry| {
        let kind = entry.kind.map(|kind| kind.class);
        entry.flags == Flags::default() && entry.signs.is_empty() && (entry.size == 0 || matches!(kind, Some(Class::Text | Class::Markup)))
    });
    let root = &report.entries[0];
    texts
        && report.verdict == Verdict::Complete
        && root.flags == Flags::CONTAINER
        && report.entries.iter().all(|entry| entry.defects.is_empty())
}

fn files(folder: &str) -> Vec<PathBuf> {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus").join(folder);
    fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
}

#[test]
fn texts_are_plain() {
    assert!(is_plain(TEXT.as_bytes()));
    assert!(is_plain(BOTH.as_bytes()));
    assert!(is_plain(format!("{}{}", TEXT, "talk of powershell -x and %temp% in a line of text\r\n".repeat(200)).as_bytes()));
}

#[test]
fn what_is_more_than_text_is_not_plain() {
    for (from, to) in [
        ("text/plain", "application/pdf"),
        ("charset=utf-8; format", "charset=utf-8; name=a.txt; format"),
        ("--=_b1--", "--=_b1 --"),
        ("Content-Transfer-Encoding: base64", "Content-Transfer-Encoding: base64\r\nContent-Transfer-Encoding: 7bit"),
        ("MIME-Version", "Content-Type : text/plain\r\nMIME-Version"),
        ("Hello =C3", "begin 644 a.exe\r\n#0V%T\r\n`\r\nend\r\n=C3"),
        ("PHA+SGVsbG88L3A+", "PHNjcmlwdD4gYWxlcnQoMSkgPC9zY3JpcHQ+"),
    ] {
        let changed = BOTH.replacen(from, to, 1);
        assert!(changed != BOTH && !is_plain(changed.as_bytes()), "{from} -> {to}");
    }
}

#[test]
fn nothing_of_the_corpora_is_plain_that_is_more() {
    let mut seen = 0;
    for path in ["mime/readings", "mime", "scan"].iter().flat_map(|folder| files(folder)) {
        let octets = fs::read(&path).unwrap();
        seen += 1;
        assert!(!is_plain(&octets) || is_only_text(&octets), "{}", path.display());
    }
    assert!(seen > 100);
}

const LINE: &str = "It was the best of times, beginning and end of all talk; begin 644 it did not.\r\n";

/// The quick look at length: the message behind a prefix, in pieces that end at `cuts`.
fn is_long_text(message: &[u8], cuts: &[usize]) -> bool {
    let whole = [b"Received: by us\r\n", message].concat();
    let mut look = LongText::new(whole.len() - message.len());
    let mut ends: Vec<usize> = cuts.iter().map(|cut| (70 << 10) + cut % (whole.len() - (70 << 10))).collect();
    ends.push(whole.len());
    ends.sort_unstable();
    let mut from = 0;
    ends.into_iter().all(|end| look.take(&whole[std::mem::replace(&mut from, end)..end]))
}

#[test]
fn long_texts_are_plain_however_they_are_cut() {
    let long = format!("{TEXT}{}", LINE.repeat(4000));
    assert!(!is_plain(long.as_bytes()) && is_only_text(long.as_bytes()));
    for cuts in [&[][..], &[1], &[1000, 1001, 200_000], &[100_000, 70_000, 5]] {
        assert!(is_long_text(long.as_bytes(), cuts), "{cuts:?}");
    }
}

#[test]
fn a_long_message_that_is_more_than_text_is_not_plain() {
    let long = format!("{TEXT}{}", LINE.repeat(4000));
    let place = 200_000 - 200_000 % LINE.len() + TEXT.len();
    for piece in [
        "begin 644 a.exe\r\n#0V%T\r\n`\r\nend\r\n",
        "=ybegin line=128 size=3 name=a.exe\r\nabc\r\n=yend size=3\r\n",
        "a\0b\r\n",
        "Content-transfer-encoding: base64\r\n\r\nTVqQAAMAAAAEAAAA\r\n",
        "-----BEGIN PGP MESSAGE-----\r\n",
        "(This file must be converted with BinHex 4.0)\r\n:abc:\r\n",
    ] {
        let mut changed = long.clone();
        changed.insert_str(place, piece);
        for cut in place - 90..place + piece.len() + 20 {
            assert!(!is_long_text(changed.as_bytes(), &[cut - (70 << 10) + 17]), "{piece} cut at {cut}");
        }
    }
    for (from, to) in
        [("Subject", "Content-Type: text/html\r\nSubject"), ("Subject", "Content-Transfer-Encoding: base64\r\nSubject"), ("Hello", "<a>")]
    {
        assert!(!is_long_text(long.replacen(from, to, 1).as_bytes(), &[]), "{to}");
    }
}

#[test]
fn lines_filled_with_one_letter_are_a_text_and_base64_is_not() {
    let head = &TEXT[..TEXT.find("\r\n\r\n").unwrap() + 4];
    let lines = |count: usize| (0..count).flat_map(|n| [(n % 10).to_string(), "X".repeat(77), "\r\n".to_owned()]).collect::<String>();
    for repeats in 1..9 {
        let short = format!("{head}{}{}\r\n", lines(100), "X".repeat(repeats));
        assert!(is_plain(short.as_bytes()) && is_only_text(short.as_bytes()));
    }
    let long = format!("{head}{}", lines(4000));
    assert!(is_long_text(long.as_bytes(), &[100_000]) && is_only_text(long.as_bytes()));
    let base64 = format!("{head}{}", "TVqQAAMAAAAEAAAA//8AALgAAAAAAAAAQAAAAAAAAA\r\n".repeat(4000));
    (0..4).for_each(|cut| assert!(!is_long_text(base64.as_bytes(), &[100_000 + cut])));
}

/// A sender may put as much filling as he likes before what he hides.
#[test]
fn what_is_hidden_behind_filling_is_found() {
    let head = &TEXT[..TEXT.find("\r\n\r\n").unwrap() + 4];
    let hidden =
        ["TVqQAAMAAAAEAAAA//8AALgAAAAAAAAAQAAAAAAAAAB3\r\n".repeat(40), "=4D=5A=90=00=03=00=00=00=04=00=00=00=FF=FF=\r\n".repeat(200)];
    for (filling, hidden) in
        [("XXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX\r\n", &hidden[0]), ("Dear all,\r\n", &hidden[1])]
    {
        for (before, after) in [(60, 0), (600, 0), (600, 600), (2_500, 1), (13_000, 0), (13_000, 2_000)] {
            let message = format!("{head}{}{hidden}{}", filling.repeat(before), filling.repeat(after));
            let report = inspect(message.as_bytes(), "", "message/rfc822", Limits::default());
            let found = report.entries.iter().any(|entry| entry.signs.iter().any(|sign| sign == "mime:encoded-without-field"));
            assert!(found, "{before} {after} {filling}");
            assert!(!is_plain(message.as_bytes()), "{before} {after} {filling}");
            assert!(message.len() < 80_000 || !is_long_text(message.as_bytes(), &[80_000, 200_001]), "{before} {after} {filling}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn however_it_is_changed_a_long_plain_message_is_only_text(
        cuts in proptest::collection::vec(any::<usize>(), 0..3),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>(), any::<prop::sample::Index>()), 1..4),
    ) {
        let mut message = format!("{TEXT}{}", LINE.repeat(1100)).into_bytes();
        let pieces: Vec<&[u8]> = vec![b"--", b"\r\n", b"Content-Type: text/html\r\n", b"\0", b"begin 644 x.exe\r\n#0V%T\r\n`\r\nend\r\n",
            b"=ybegin name=x\r\nabc\r\n=yend\r\n", b"<script>", b"PK\x05\x06", b"MZ", b"%PDF-1.4", b"CD001", b"ustar", b"MIME-Version: 1.0\r\n"];
        for (place, early, what) in changes {
            let at = place.index(if early { 600 } else { message.len() });
            message.splice(at..at, what.get(&pieces).iter().copied());
        }
        // Whoever asks sees to the line ends.
        let of = |mark: &[u8]| message.windows(mark.len()).filter(|octets| *octets == mark).count();
        let sound = of(b"\r\n") == of(b"\r") && of(b"\r\n") == of(b"\n");
        prop_assert!(!sound || !is_long_text(&message, &cuts) || is_only_text(&message));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn however_it_is_changed_a_plain_message_is_only_text(
        both: bool,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..3, any::<prop::sample::Index>()), 1..4),
    ) {
        let mut message = if both { BOTH } else { TEXT }.as_bytes().to_vec();
        let pieces: Vec<&[u8]> = vec![b"--", b"--=_b1\r\n", b"\r\n", b" ", b";", b"\"", b"(", b"=", b"Content-Type: text/html\r\n", b"\0", b"\r",
            b"begin 644 x.exe\r\n", b"<script>", b"PK\x05\x06", b"Content-Disposition: attachment; filename=x.exe\r\n", b"MZ", b":", b"a"];
        for (place, how, what) in changes {
            let at = place.index(message.len() + 1);
            let to = if how == 0 { at } else { (at + how).min(message.len()) };
            message.splice(at..to, what.get(&pieces).iter().copied());
        }
        prop_assert!(!is_plain(&message) || is_only_text(&message), "{}", String::from_utf8_lossy(&message));
    }
}
