//! Any octets as an attachment, and the same as a message: no panic of ours, and within the budget.
//! Seeds: `seeds/scan` and `tests/corpus/scan`.
#![no_main]

use std::time::Duration;

use gatepost_fuzz::within;
use gatepost_scan::{Defect, Limits, inspect};
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    // Panics of decoders are caught and counted as damage: they must not end the fuzzer.
    init: std::panic::set_hook(Box::new(|_| ())),
    |data: &[u8]| {
        for (name, declared) in [("", ""), ("a.eml", "message/rfc822")] {
            let limits = Limits { bytes: 16 << 20, ..Limits::default() };
            let report = within(Duration::from_secs(4), data.len(), || inspect(data, name, declared, limits));
            if report.entries.iter().any(|entry| entry.defects.contains(&Defect::Panicked)) {
                std::process::abort();
            }
        }
    }
);
