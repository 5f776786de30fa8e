//! Files with octets changed, cut and repeated: never a panic, never longer than the budget. The long runs are in the fuzz workspace.

mod make;

use std::time::{Duration, Instant};

use gatepost_scan::{Defect, Limits, inspect};
use make::{entry, gzip, program, tar, zip};
use proptest::prelude::*;

fn seeds() -> Vec<Vec<u8>> {
    let inner = zip(&[entry("a.exe", &program()), entry("b.html", b"<html><script>atob('AAAA')</script>")]);
    let mut ole = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".to_vec();
    ole.resize(4_096, 7);
    let mut iso = vec![0; 40_000];
    iso[32_768..32_774].copy_from_slice(b"\x01CD001");
    vec![
        gzip(&tar(&[("x.zip", &inner)]), "x"),
        inner,
        ole,
        iso,
        b"%PDF-1.7 1 0 obj <</Filter /FlateDecode>> stream\nxxxx endstream".to_vec(),
        b"7z\xbc\xaf\x27\x1c\0\x04\0\0\0\0\x08\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\0\0\0\0aaaaaaaa\x01\x04\x06\0\x01\x09\x08\0\x07\x0b\x01\0\x01\x21\x21".to_vec(),
        b"Rar!\x1a\x07\x01\0\0\0\0\0\x0e\x02\x02\x05\0\x05\0\0\0\x04name".to_vec(),
        b"Rar!\x1a\x07\0\xcf\x90\x73\0\0\x0d\0\0\0\0\0\0\0\0\0\x74\0\x80\x24\0\x04\0\0\0\x04\0\0\0".to_vec(),
        b"MSCF\0\0\0\0\x50\0\0\0\0\0\0\0\x2c\0\0\0\0\0\0\0\x03\x01\x01\0\x01\0\0\0\0\0\0\0\x40\0\0\0\x01\0\x01\0\x05\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0a\0".to_vec(),
        b"\x78\x9f\x3e\x22\x01\0\x02\x02\x90\x06\0\x04\0\0\0abcd\0\0\x02\x0f\x80\x06\0\x02\0\0\0MZ\0\0".to_vec(),
        b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4\x46\x02\0\x21\x01\x16\0\0\0".to_vec(),
        b"BZh91AY&SY\0\0\0\0\0\0\0\0".to_vec(),
        b"\x28\xb5\x2f\xfd\x20\x03\x19\0\0abc".to_vec(),
        b"{\\rtf1{\\object{\\*\\objdata 0105000002000000}}}".to_vec(),
        b"From: a\r\nTo: b\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\nbegin 644 a\r\n#86)C\r\n--x--".to_vec(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn no_change_makes_it_panic_or_run_on(
        seed in 0..15usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        cut in any::<prop::sample::Index>(),
        repeat in 1..3usize,
    ) {
        let mut data = seeds().swap_remove(seed);
        for (place, octet) in changes {
            let place = place.index(data.len());
            data[place] = octet;
        }
        if repeat == 2 {
            data.truncate(cut.index(data.len()) + 1);
        }
        let started = Instant::now();
        let report = inspect(&data.repeat(repeat), "mutant", "", Limits::default());
        prop_assert!(started.elapsed() < Duration::from_secs(10));
        prop_assert!(!report.entries[0].defects.contains(&Defect::Panicked));
        prop_assert!(report.entries.iter().enumerate().all(|(at, entry)| entry.parent.is_none_or(|parent| (parent as usize) < at)));
    }
}
