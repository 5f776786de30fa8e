//! No trick of the corpus of readings hides a program: each file says in X-Hidden what it hides, and with a program in its place the
//! program is found; what hides a name is found by the name. X-Within says what no reading of the message shows, and only a look at what
//! lies between parts or within texts finds.

use std::fs;
use std::path::{Path, PathBuf};

use gatepost_scan::{Entry, Flags, Limits, Report, Verdict, inspect};
use sha2::{Digest, Sha256};

/// What the files hide, and a program of the same length: no offset moves.
const PAYLOAD: &[u8] = b"payload of the hidden part";
const PROGRAM: &[u8] = b"\x7fELFprogram.in.hidden.part";

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus/mime/readings")
}

fn hidden(mail: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(mail).into_owned();
    let named =
        |line: &str| ["X-Hidden: ", "X-Within: "].iter().find_map(|name| line.split_once(name).map(|(_, what)| what.trim().to_owned()));
    text.lines().find_map(named)
}

fn base64(octets: &[u8], digits: &[u8; 64]) -> Vec<u8> {
    let mut out = Vec::new();
    for group in octets.chunks(3) {
        let bits = (0..3).fold(0u32, |bits, at| bits << 8 | u32::from(group.get(at).copied().unwrap_or(0)));
        (0..=group.len()).for_each(|at| out.push(digits[(bits >> (18 - 6 * at) & 63) as usize]));
        out.resize(out.len().next_multiple_of(4), b'=');
    }
    out
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn uuencode(octets: &[u8]) -> Vec<u8> {
    let digits: [u8; 64] = std::array::from_fn(|n| if n == 0 { b'`' } else { n as u8 + b' ' });
    base64(octets, &digits).into_iter().filter(|octet| *octet != b'=').collect()
}

fn replace(data: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = data;
    while let Some(at) = rest.windows(from.len()).position(|window| window == from) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    out.extend_from_slice(rest);
    out
}

/// The mail with a program where it hides its payload, in whatever encoding that is.
fn armed(mail: &[u8]) -> Vec<u8> {
    let head = mail.windows(PAYLOAD.len()).position(|w| w == PAYLOAD).map_or(0, |at| at + PAYLOAD.len());
    let mut body = replace(&mail[head..], PAYLOAD, PROGRAM);
    body = replace(&body, &base64(PAYLOAD, DIGITS), &base64(PROGRAM, DIGITS));
    body = replace(&body, base64(PAYLOAD, DIGITS).trim_ascii_end().split(|o| *o == b'=').next().unwrap(), &base64(PROGRAM, DIGITS)[..35]);
    body = replace(&body, &uuencode(PAYLOAD), &uuencode(PROGRAM));
    [&mail[..head], &body].concat()
}

fn look(mail: &[u8]) -> Report {
    inspect(mail, "", "message/rfc822", Limits::default())
}

/// Some entry is the hidden content, or has the hidden name.
fn shows(report: &Report, what: &str) -> bool {
    let digests = ["", "\r\n", "\n"].map(|end| <[u8; 32]>::from(Sha256::digest(format!("{what}{end}"))));
    let named = |entry: &Entry| entry.name == what || entry.signs.contains(&format!("name:also {what}"));
    report.entries.iter().any(|entry| named(entry) || entry.sha256.is_some_and(|digest| digests.contains(&digest)))
}

#[test]
fn whatever_the_trick_the_hidden_program_is_found() {
    let mut missed = Vec::new();
    let (mut programs, mut others) = (0, 0);
    for path in fs::read_dir(corpus()).unwrap().map(|entry| entry.unwrap().path()) {
        let mail = fs::read(&path).unwrap();
        let Some(what) = hidden(&mail).filter(|_| path.extension().is_some_and(|end| end == "eml")) else { continue };
        let armed = armed(&mail);
        let report = look(&armed);
        let found = if armed == mail {
            others += 1;
            shows(&report, &what)
        } else {
            programs += 1;
            // What a cap hides is told instead.
            report.flags().has(Flags::EXECUTABLE) || report.verdict == Verdict::Partial
        };
        if !found {
            missed.push(format!("{}: {what}", path.display()));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
    assert!(programs >= 100 && others >= 20, "{programs} {others}");
}

#[test]
fn an_ambiguous_message_says_so_and_why() {
    let report = look(&fs::read(corpus().join("boundary-twice.eml")).unwrap());
    assert!(report.entries[0].flags.has(Flags::AMBIGUOUS));
    assert!(report.entries[0].signs.contains(&"mime:repeated-parameter".to_owned()), "{:?}", report.entries[0].signs);
    let plain = look(b"Subject: x\r\n\r\nhello\r\n");
    assert!(!plain.flags().has(Flags::AMBIGUOUS) && plain.verdict == Verdict::Complete);
}

fn within_text(text: &[u8]) -> Report {
    look(&[b"Subject: x\r\n\r\nhello\r\n", text].concat())
}

#[test]
fn a_program_in_text_is_found_in_whatever_coding_it_is_written() {
    let mut padded = PROGRAM.to_vec();
    padded.resize(45, 0);
    let lines = replace(&uuencode(&padded), b"`", b" ");
    let cut = [b"begin 644 x.txt\r\nM", lines.trim_ascii_end(), b"\r\nend\r\n"].concat();
    let plain = [b"begin-base64 644 x.txt\r\n", &base64(PROGRAM, DIGITS)[..], b"\r\n====\r\n"].concat();
    let shifted: Vec<u8> = PROGRAM.iter().map(|octet| octet.wrapping_add(42)).collect();
    let yenc = [b"=ybegin line=128 size=26 name=x.txt\r\n", &shifted[..], b"\r\n=yend size=26\r\n"].concat();
    let fork = [b"\x05x.txt\0TEXTttxt\0\0\0\0\0\x1a\0\0\0\0\0\0", PROGRAM, b"\0\0\0\0"].concat();
    let digits = b"!\"#$%&'()*+,-012345689@ABCDEFGHIJKLMNPQRSTUVXYZ[`abcdefhijklmpqr";
    let binhex = [b"(This file must be converted with BinHex 4.0)\r\n\r\n:", &base64(&fork, digits)[..], b":\r\n"].concat();
    for text in [cut, plain, yenc, binhex.clone()] {
        let report = within_text(&text);
        let found = report.entries.iter().any(|entry| entry.name == "x.txt" && entry.flags.has(Flags::EXECUTABLE));
        assert!(found, "{}\n{report:#?}", text.escape_ascii());
    }
    let declared = look(&[b"Content-Type: application/mac-binhex40\r\n\r\n", &binhex[..]].concat());
    assert!(declared.flags().has(Flags::EXECUTABLE));
}

#[test]
fn a_text_of_any_declared_type_is_looked_through_for_files() {
    let uu = [b"begin 644 x.txt\r\n:", &uuencode(PROGRAM)[..], b"\r\n`\r\nend\r\n"].concat();
    let report = look(&[b"Content-Type: application/x-notes; name=a.bin\r\n\r\n", &uu[..]].concat());
    assert!(report.flags().has(Flags::EXECUTABLE), "{report:#?}");
}

#[test]
fn encodings_around_each_other_beyond_those_undone_leave_the_verdict_open() {
    let mail = |times: usize| {
        let content = (0..times).fold(b"a few words that are long enough for it".to_vec(), |octets, _| base64(&octets, DIGITS));
        look(&[b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n", &content[..], b"\r\n"].concat())
    };
    assert_eq!((mail(5).verdict, mail(6).verdict), (Verdict::Complete, Verdict::Partial));
}

#[test]
fn behind_very_many_files_in_text_nothing_is_passed_over() {
    let report = within_text(&b"begin 644 a\r\n#0V%T\r\nend\r\n".repeat(21_000));
    assert_eq!(report.verdict, Verdict::Bomb);
}

#[test]
fn content_that_is_not_in_the_message_or_not_for_us_is_told() {
    let elsewhere = look(b"Content-Type: message/external-body; access-type=URL; URL=\"http://x.test/\"\r\n\r\nContent-ID: <1@x>\r\n\r\n");
    assert!(elsewhere.flags().has(Flags::LAUNCH));
    let piece = look(b"Content-Type: message/partial; id=x; number=1; total=2\r\n\r\nTVqQ");
    assert_eq!(piece.verdict, Verdict::Partial);
    let secret = within_text(b"-----BEGIN PGP MESSAGE-----\r\n\r\nhQEMA+\r\n-----END PGP MESSAGE-----\r\n");
    assert!(secret.flags().has(Flags::ENCRYPTED));
    let capped = look(&[b"a: b\r\n".repeat(20_100), b"\r\nx".to_vec()].concat());
    assert!(capped.flags().has(Flags::AMBIGUOUS) && capped.verdict == Verdict::Partial);
}

#[test]
fn a_blocked_name_counts_in_fields_that_are_no_names_by_the_standard() {
    for field in ["Content-Description: run.exe", "Content-Location: file:///c:/run.exe", "Content-ID: <run.exe>"] {
        let report = look(format!("Content-Type: application/octet-stream\r\n{field}\r\n\r\nx").as_bytes());
        assert!(report.flags().has(Flags::BLOCKED_NAME), "{field}");
    }
    assert_eq!(look(b"Content-Type: text/plain\r\nContent-Description: a letter of mine\r\n\r\nx").flags(), Flags::CONTAINER);
}

/// A value of DER.
fn der(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let content = contents.concat();
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[tag, 0x82, length[0], length[1]], &content[..]].concat()
}

/// A `ContentInfo` (RFC 5652 3) of type 1.2.840.113549.1.7.`kind`.
fn content_info(kind: u8, content: &[u8]) -> Vec<u8> {
    let oid = [b"\x2a\x86\x48\x86\xf7\x0d\x01\x07".as_slice(), &[kind]].concat();
    der(0x30, &[&der(6, &[&oid]), &der(0xa0, &[content])])
}

fn signed(octets: &[u8]) -> Vec<u8> {
    let data = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01";
    content_info(2, &der(0x30, &[&der(2, &[b"\x01"]), &der(0x31, &[]), &der(0x30, &[data, &der(0xa0, &[octets])]), &der(0x31, &[])]))
}

fn smime(octets: &[u8]) -> Report {
    let head = b"Content-Type: application/pkcs7-mime; name=smime.p7m\r\nContent-Transfer-Encoding: base64\r\n\r\n";
    look(&[head, &base64(octets, DIGITS)[..]].concat())
}

#[test]
fn encrypted_smime_is_encrypted_and_signed_smime_is_opened() {
    let secret = smime(&content_info(3, &der(0x30, &[&der(2, &[b"\0"])])));
    assert!(secret.flags().has(Flags::ENCRYPTED) && secret.verdict == Verdict::Partial);
    let part = [b"Content-Type: application/octet-stream\r\n\r\n", PROGRAM].concat();
    let whole = der(4, &[&part]);
    let pieces = [&[0x24, 0x80], &der(4, &[&part[..20]])[..], &der(4, &[&part[20..]]), &[0, 0]].concat();
    for octets in [whole, pieces] {
        assert!(smime(&signed(&octets)).flags().has(Flags::EXECUTABLE), "{}", octets.escape_ascii());
    }
    let beside = smime(&signed(b""));
    assert_eq!((beside.verdict, beside.flags()), (Verdict::Complete, Flags::CONTAINER));
    assert_eq!(smime(b"no DER at all").verdict, Verdict::Partial);
    let pgp = look(b"Content-Type: application/pgp-encrypted\r\n\r\nVersion: 1\r\n");
    assert!(pgp.flags().has(Flags::ENCRYPTED));
}

#[test]
fn smime_that_is_cut_anywhere_or_nested_without_end_does_no_harm() {
    let whole = signed(&der(4, &[PROGRAM]));
    for end in 0..whole.len() {
        smime(&whole[..end]);
    }
    smime(&[&signed(b"")[..30], &b"\x24\x80".repeat(100_000)].concat());
    assert_eq!(
        smime(&[b"\x30\x80\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02", &b"\xa0\x80".repeat(1_000)[..]].concat()).verdict,
        Verdict::Complete
    );
}
