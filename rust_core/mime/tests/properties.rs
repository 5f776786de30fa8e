//! Any bytes at all: no panic, ranges inside the message and inside the parent, chunking makes no difference.

use gatepost_mime::analysis::analyse;
use gatepost_mime::decode::{Decoder, Encoding};
use gatepost_mime::section::{Located, Section};
use gatepost_mime::transfer::{self, Method};
use gatepost_mime::{Index, Indexer, Kind, Limits, imap, index};
use proptest::prelude::*;

const SEED: &[u8] = b"From: \"A (x)\" <a@b.test>\r\nTo: g: x@y, z;\r\nSubject: =?utf-8?Q?a=20b?=\r\n folded\r\n\
Content-Type: multipart/mixed; boundary=\"b1\"\r\n\r\npreamble\r\n--b1\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nhello\r\n\
--b1\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\nContent-Type: multipart/digest; boundary=b2\r\n\r\n--b2\r\n\r\nSubject: d\r\n\r\nx\r\n--b2--\r\n\
--b1\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename=a\r\n\r\nSGVsbG8=\r\n--b1--\r\nepilogue\r\n";

fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        Just(&b"--b1\r\n"[..]),
        Just(&b"--b2\r\n"[..]),
        Just(&b"--b1--\r\n"[..]),
        Just(&b"--b2--\n"[..]),
        Just(&b"\r\n"[..]),
        Just(&b"\n"[..]),
        Just(&b"Content-Type: multipart/mixed; boundary=b1\r\n"[..]),
        Just(&b"Content-Type: multipart/digest; boundary=b2\r\n"[..]),
        Just(&b"Content-Type: message/rfc822\r\n"[..]),
        Just(&b"Content-Transfer-Encoding: base64\r\n"[..]),
        Just(&b"Subject: s\r\n folded\r\n"[..]),
        Just(&b"From: \"a\" (c) <@r:x@y>, g: h;\r\n"[..]),
        Just(&b"text text"[..]),
        Just(&b"\r"[..]),
        Just(&b"\0"[..]),
        Just(&b"\xff\xfe"[..]),
        Just(&b"Content-Type: text/plain; boundary=b; boundary=\"c\"d\r\n"[..]),
        Just(&b"Content-Type : multipart/mixed; boundary*0=b; x=(y\r\n"[..]),
        Just(&b"Content-Transfer-Encoding: quoted-printable, base64\r\n"[..]),
        Just(&b"Content-Disposition: attachment; filename*1=x; filename=\"=?utf-8?q?y?=\r\n"[..]),
        Just(&b"--b x\r\n"[..]),
        Just(&b"--B--\r\n"[..]),
        Just(&b" \r\n"[..]),
        Just(&b"QUJD=QUJD\r\n"[..]),
    ];
    prop::collection::vec(token, 0..60).prop_map(|tokens| tokens.concat())
}

fn mutated() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec((0..SEED.len(), any::<u8>(), 0..3u8), 0..20).prop_map(|edits| {
        let mut message = SEED.to_vec();
        for (at, byte, kind) in edits {
            let at = at % message.len().max(1);
            match kind {
                0 => message[at] = byte,
                1 => message.insert(at, byte),
                _ => drop(message.drain(at..(at + usize::from(byte)).min(message.len()))),
            }
            if message.is_empty() {
                message.push(b'\n');
            }
        }
        message
    })
}

fn check(message: &[u8], split: usize) {
    let whole = index(message);
    let mut indexer = Indexer::new(Limits::default());
    for piece in message.chunks(split.max(1)) {
        indexer.feed(piece);
    }
    let chunked = indexer.finish();
    assert_eq!(format!("{:?}", whole.parts), format!("{:?}", chunked.parts));
    assert_eq!(whole.size, message.len());
    ranges_are_sound(&whole);
    slices_join_to_the_input(&whole, message);
    readings_are_sound(message);
    views_do_not_panic(&whole, message);
}

fn ranges_are_sound(index: &Index) {
    for part in &index.parts {
        assert!(part.header.start <= part.header.end && part.header.end == part.body.start);
        assert!(part.body.start <= part.body.end && part.body.end <= index.size);
        for &child in &part.children {
            let child = &index.parts[child as usize];
            assert!(part.body.start <= child.header.start && child.body.end <= part.body.end.max(child.body.start));
        }
        assert!(part.kind != Kind::Message || part.children.len() == 1);
    }
}

/// Nothing is lost and nothing is made up: slices joined give the input back, for the message and for each field.
fn slices_join_to_the_input(index: &Index, message: &[u8]) {
    let root = index.root();
    assert_eq!([&message[root.header.clone()], &message[root.body.clone()]].concat(), message);
    for number in 0..index.parts.len() as u32 {
        let header = index.parts[number as usize].header.clone();
        let mut at = header.start;
        for field in index.fields(number).iter().filter(|_| !index.truncated) {
            let place = field.place();
            assert!(at <= place.start && place.end <= header.end);
            assert_eq!(&message[place.clone()], index.bytes(&field.whole));
            assert_eq!(&message[field.value_place()], index.bytes(&field.value));
            at = place.end;
        }
    }
}

/// Every reading is made of leaves that lie within the message and can be decoded; the same message gives the same answer.
fn readings_are_sound(message: &[u8]) {
    let analysis = analyse(message, &Limits::default());
    assert_eq!(analysis.ambiguous, analysis.readings.len() > 1);
    for (n, reading) in analysis.readings.iter().enumerate() {
        assert_eq!(usize::from(reading.id), n);
        for shown in &reading.leaves {
            let leaf = &analysis.leaves[shown.leaf];
            let source = analysis.source(message, leaf);
            assert!(leaf.header.end <= leaf.body.start && leaf.body.end <= source.len());
            let (octets, cut) = leaf.decode(source, leaf.decodings[shown.decoding], 100);
            assert!(octets.len() <= 100 && (cut || octets.len() < 100 || leaf.body.len() >= 100));
        }
    }
    for defect in &analysis.defects {
        assert!(defect.offset <= message.len());
    }
    gatepost_mime::views::preview(&analysis, message, 80);
    for attachment in gatepost_mime::views::attachments(&analysis, message, 1_000) {
        gatepost_mime::views::content(&analysis, message, &attachment, 1_000);
    }
    assert_eq!(analysis.readings, analyse(message, &Limits::default()).readings);
}

fn views_do_not_panic(index: &Index, message: &[u8]) {
    let mut out = Vec::new();
    imap::envelope(&mut out, index, 0, false);
    imap::body_structure(&mut out, index, 0, true, true);
    imap::body_structure(&mut out, index, 0, false, false);
    for text in ["", "1", "2.1", "1.MIME", "HEADER", "2.HEADER", "2.TEXT", "2.1.1", "HEADER.FIELDS (From To)", "1.1.1.1"] {
        let section = Section::parse(text).unwrap();
        if let Some(Located::Range(range)) = section.locate(index) {
            assert!(message.get(range).is_some());
        }
    }
    for part in &index.parts {
        gatepost_mime::decode::decode(&part.encoding, &message[part.body.clone()]);
    }
    for field in index.fields(0) {
        gatepost_mime::decode::header_text(index.bytes(&field.value));
        gatepost_mime::date::sent_day(index.bytes(&field.value));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_bytes_are_indexed(message in prop::collection::vec(any::<u8>(), 0..2_000), split in 1..300usize) {
        check(&message, split);
    }

    #[test]
    fn random_structure_is_indexed(message in pieces(), split in 1..50usize) {
        check(&message, split);
    }

    #[test]
    fn mutated_messages_are_indexed(message in mutated(), split in 1..50usize) {
        check(&message, split);
    }

    #[test]
    fn random_text_is_parsed_as_fields(value in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'('), Just(b'"'), Just(b'\\'), Just(b'<'), Just(b'@')], 0..200)) {
        gatepost_mime::address::parse(&value);
        gatepost_mime::field::content_type(&value);
        gatepost_mime::field::disposition(&value);
        let _ = Section::parse(&String::from_utf8_lossy(&value));
    }
}

/// Guards against quadratic time: each of these took minutes in parsers that rescan.
fn encoded() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        Just(&b"TWFueSBoYW5kcyBtYWtlIGxpZ2h0IHdvcmsuIE1hbnkgaGFuZHMgbWFrZSBsaWdodCB3b3JrLiBN\r\n"[..]),
        Just(&b"TWFueSBoYW5kcyBtYWtlIGxpZ2h0IHdvcmsuIE1hbnkgaGFuZHMgbWFrZSBsaWdodCB3b3JrLiBN\n"[..]),
        Just(&b"QUJD\r\n"[..]),
        Just(&b"QUI=\r\n"[..]),
        Just(&b"QUI"[..]),
        Just(&b"="[..]),
        Just(&b"=\r\n"[..]),
        Just(&b"=  \n"[..]),
        Just(&b"=C3=a9 text"[..]),
        Just(&b"=4"[..]),
        Just(&b"=ZZ"[..]),
        Just(&b" \t"[..]),
        Just(&b"\r"[..]),
        Just(&b"\r\n"[..]),
        Just(&b"\n"[..]),
        Just(&b"\0\xff*"[..]),
    ];
    prop::collection::vec(token, 0..60).prop_map(|tokens| tokens.concat())
}

proptest! {
    /// The quick ways for whole lines give what the slow way gives, which sees one octet after the other.
    #[test]
    fn bodies_decode_alike_in_one_go_and_octet_by_octet(body in encoded(), size in 1..200usize) {
        for (method, encoding) in [(Method::Base64, Encoding::Base64), (Method::QuotedPrintable, Encoding::QuotedPrintable)] {
            let in_pieces = |size: usize| {
                let (mut decoder, mut out) = (Decoder::new(encoding), Vec::new());
                body.chunks(size).for_each(|piece| decoder.feed(piece, &mut out));
                decoder.finish(&mut out);
                out
            };
            let slow = in_pieces(1);
            prop_assert_eq!(&transfer::decode(method, &body, usize::MAX).0, &slow);
            prop_assert_eq!(&in_pieces(size), &slow);
            let mut stream = Vec::new();
            std::io::Read::read_to_end(&mut transfer::BodyReader::new(method, &body), &mut stream).unwrap();
            prop_assert_eq!(&stream, &slow);
        }
    }
}

#[test]
fn hostile_megabytes_take_linear_time() {
    let started = std::time::Instant::now();
    let comments = [b"To: ".as_slice(), &vec![b'('; 4 << 20], b"\r\n\r\n"].concat();
    let boundaries = [b"Content-Type: multipart/mixed; ".as_slice(), &b"boundary=".repeat(400_000), b"\r\n\r\n"].concat();
    let nested = b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n".repeat(80_000);
    let dashes = [b"Content-Type: multipart/mixed; boundary=a\r\n\r\n".as_slice(), &b"--\n".repeat(1_000_000)].concat();
    for message in [comments, boundaries, nested, dashes] {
        views_do_not_panic(&index(&message), &message);
        assert!(analyse(&message, &Limits::default()).readings.len() <= 100);
    }
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}
