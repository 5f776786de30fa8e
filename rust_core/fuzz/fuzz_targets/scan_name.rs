//! Any text as the name of a file.
#![no_main]

use gatepost_scan::{Name, matches_glob};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let name = Name::of(text);
    assert!(name.folded.contains(&name.extension));
    matches_glob(text, &name.folded);
});
