//! Every message in tests/corpus/mime against the expected views beside it. `GATEPOST_BLESS=1` writes what is now; read it before you commit it.
//!
//! An expectation has one view per line, escaped to ASCII: ENVELOPE, BODYSTRUCTURE, BODY, and `BODY[n]` for all numbered parts.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use gatepost_mime::section::{Located, Section};
use gatepost_mime::{Index, Kind, imap, index};

fn corpus() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus/mime");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "eml"));
    files.sort();
    files
}

fn line(out: &mut String, name: &str, view: &[u8]) {
    writeln!(out, "{name} {}", view.escape_ascii()).unwrap();
}

fn numbers(index: &Index, part: u32, prefix: &str, out: &mut Vec<String>) {
    let this = &index.parts[part as usize];
    match this.kind {
        Kind::Multipart => {
            for (n, &child) in this.children.iter().enumerate() {
                let number = format!("{prefix}{}", n + 1);
                out.push(number.clone());
                below(index, child, &number, out);
            }
        }
        _ if prefix.is_empty() || index.parts[part as usize].parent.is_some() => {
            out.push(format!("{prefix}1"));
            below(index, part, &format!("{prefix}1"), out);
        }
        _ => {}
    }
}

fn below(index: &Index, part: u32, number: &str, out: &mut Vec<String>) {
    let this = &index.parts[part as usize];
    let prefix = format!("{number}.");
    match this.kind {
        Kind::Multipart => numbers(index, part, &prefix, out),
        Kind::Message => {
            out.extend(["HEADER", "TEXT"].map(|what| format!("{prefix}{what}")));
            numbers(index, this.children[0], &prefix, out);
        }
        Kind::Leaf => out.push(format!("{prefix}MIME")),
    }
}

fn views(message: &[u8]) -> String {
    let index = index(message);
    let mut out = String::new();
    let mut view = Vec::new();
    imap::envelope(&mut view, &index, 0, false);
    line(&mut out, "ENVELOPE", &view);
    for (name, extended) in [("BODYSTRUCTURE", true), ("BODY", false)] {
        view.clear();
        imap::body_structure(&mut view, &index, 0, extended, false);
        line(&mut out, name, &view);
    }
    let mut sections = vec!["HEADER.FIELDS (SUBJECT)".to_owned(), "TEXT".to_owned()];
    numbers(&index, 0, "", &mut sections);
    for text in sections {
        let name = format!("BODY[{text}]");
        match Section::parse(&text).unwrap().locate(&index) {
            Some(Located::Range(range)) => line(&mut out, &name, &message[range]),
            Some(Located::Bytes(bytes)) => line(&mut out, &name, &bytes),
            None => line(&mut out, &name, b"NIL"),
        }
    }
    out
}

#[test]
fn every_message_of_the_corpus_has_the_expected_views() {
    let files = corpus();
    assert!(files.len() >= 15, "the corpus is gone");
    let mut wrong = Vec::new();
    for file in files {
        let found = views(&std::fs::read(&file).unwrap());
        let expected = file.with_extension("expected");
        if std::env::var_os("GATEPOST_BLESS").is_some() {
            std::fs::write(&expected, &found).unwrap();
        }
        if std::fs::read_to_string(&expected).unwrap_or_default() != found {
            wrong.push(format!("{}:\n{found}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
