//! The corpus as the mail-parser crate reads it, against our readings. Every difference to our baseline is in differences-mail-parser.txt:
//! the number of the reading of ours that it has, or words when it has none. `GATEPOST_BLESS=1` writes the list anew and keeps the words.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gatepost_mime::{Analysis, Limits, Reading, analyse};
use mail_parser::{Message, MessageParser, MimeHeaders, PartType};

type View = Vec<Vec<u8>>;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus/mime")
}

fn corpus() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in [folder(), folder().join("readings")] {
        files.extend(std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()));
    }
    files.retain(|f| f.extension().is_some_and(|e| e == "eml"));
    files.sort();
    files
}

/// Leaf contents; text is compared without white space, because the other parser gives it decoded to characters and unfolded.
fn theirs(message: &Message<'_>, out: &mut View) {
    for part in &message.parts {
        match &part.body {
            PartType::Text(text) | PartType::Html(text) => out.push(plain(text.as_bytes())),
            PartType::Binary(octets) | PartType::InlineBinary(octets) => out.push(plain(octets)),
            PartType::Message(inner) => {
                // A message in base64 is one leaf more for us.
                if part.content_transfer_encoding().is_some_and(|e| e.eq_ignore_ascii_case("base64")) {
                    out.push(plain(inner.raw_message()));
                }
                theirs(inner, out);
            }
            PartType::Multipart(_) => {}
        }
    }
}

fn plain(octets: &[u8]) -> Vec<u8> {
    octets.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect()
}

fn ours(analysis: &Analysis, reading: &Reading, message: &[u8]) -> View {
    let shown = reading.leaves.iter().map(|shown| {
        let leaf = &analysis.leaves[shown.leaf];
        plain(&leaf.decode(analysis.source(message, leaf), leaf.decodings[shown.decoding], 1 << 20).0)
    });
    shown.collect()
}

fn difference(message: &[u8]) -> Option<String> {
    let mut view = Vec::new();
    if let Some(parsed) = MessageParser::default().parse(message) {
        theirs(&parsed, &mut view);
    }
    let analysis = analyse(message, &Limits::default());
    let same = analysis.readings.iter().find(|r| ours(&analysis, r, message) == view);
    match same {
        Some(reading) if reading.id == 0 => None,
        Some(reading) => Some(format!("reading {}", reading.id)),
        None => Some("no reading".into()),
    }
}

#[test]
fn every_difference_to_mail_parser_is_explained_and_every_explanation_is_needed() {
    let list = folder().join("differences-mail-parser.txt");
    let text = std::fs::read_to_string(&list).unwrap_or_default();
    let known: BTreeMap<&str, &str> = text.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split_once(" | ")).collect();
    let files = corpus();
    assert!(files.len() >= 75, "the corpus is gone");
    let (mut found, mut wrong) = (Vec::new(), Vec::new());
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let difference = difference(&std::fs::read(&file).unwrap());
        let said = known.get(name.as_str()).copied();
        let agrees = match (&difference, said) {
            (None, None) => true,
            (Some(found), Some(said)) => said == found || (found == "no reading" && said.starts_with("no reading: ")),
            _ => false,
        };
        if !agrees {
            wrong.push(format!("{name}: found {difference:?}, explained {said:?}"));
        }
        if let Some(difference) = difference {
            found.push(format!("{name} | {}", said.filter(|s| s.starts_with(&difference)).unwrap_or(&difference)));
        }
    }
    if std::env::var_os("GATEPOST_BLESS").is_some() {
        let comments: Vec<&str> = text.lines().filter(|l| l.starts_with('#')).collect();
        std::fs::write(&list, format!("{}\n{}\n", comments.join("\n"), found.join("\n"))).unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
