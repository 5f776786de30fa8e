//! Every message in tests/corpus/mime/readings against the outcome beside it: defects, readings, and what each reading shows of each leaf
//! (type, name, octets, checksum, beginning). `GATEPOST_BLESS=1` writes what is now; read it before you commit it.
//!
//! Payloads are words. Where a trick hides one, some reading must show it: the field X-Hidden names it, and the test looks for it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use gatepost_mime::{Analysis, Limits, analyse};

fn corpus() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus/mime/readings");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "eml"));
    files.sort();
    files
}

fn outcome(analysis: &Analysis, message: &[u8]) -> String {
    let mut out = String::new();
    writeln!(out, "ambiguous {}", analysis.ambiguous).unwrap();
    for defect in &analysis.defects {
        writeln!(out, "defect {} {}", defect.kind.name(), defect.offset).unwrap();
    }
    for reading in &analysis.readings {
        writeln!(out, "reading {} {}", reading.id, reading.label).unwrap();
        for shown in &reading.leaves {
            let leaf = &analysis.leaves[shown.leaf];
            let name = leaf.names.get(shown.name).map_or("-", |n| n.text.as_str());
            let (octets, _) = leaf.decode(analysis.source(message, leaf), leaf.decodings[shown.decoding], 1 << 20);
            let head = octets[..octets.len().min(60)].escape_ascii();
            let name = name.escape_default();
            writeln!(out, "  {} {name} {} {:08x} {head}", leaf.types[0].escape_default(), octets.len(), crc32c::crc32c(&octets)).unwrap();
        }
    }
    out
}

/// The value of X-Hidden: what some reading must show.
fn hidden(message: &[u8]) -> Option<&[u8]> {
    let at = memchr::memmem::find(message, b"X-Hidden: ")? + 10;
    Some(message[at..].split(|b| matches!(b, b'\r' | b'\n')).next().unwrap_or_default())
}

fn shows(analysis: &Analysis, message: &[u8], wanted: &[u8]) -> bool {
    analysis.leaves.iter().any(|leaf| {
        let source = analysis.source(message, leaf);
        let named = leaf.names.iter().any(|n| n.text.as_bytes() == wanted);
        named || leaf.decodings.iter().any(|&d| leaf.decode(source, d, 1 << 20).0.trim_ascii() == wanted)
    })
}

#[test]
fn every_trick_of_the_corpus_has_the_expected_readings() {
    let files = corpus();
    assert!(files.len() >= 60, "the corpus is gone");
    let mut wrong = Vec::new();
    for file in files {
        let message = std::fs::read(&file).unwrap();
        let analysis = analyse(&message, &Limits::default());
        let found = outcome(&analysis, &message);
        let expected = file.with_extension("readings");
        if std::env::var_os("GATEPOST_BLESS").is_some() {
            std::fs::write(&expected, &found).unwrap();
        }
        if std::fs::read_to_string(&expected).unwrap_or_default() != found {
            wrong.push(format!("{}:\n{found}", file.display()));
        }
        if let Some(wanted) = hidden(&message)
            && !shows(&analysis, &message, wanted)
        {
            wrong.push(format!("{}: no reading shows {}", file.display(), wanted.escape_ascii()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
