//! Any octets as a message: no panic, slices join to the input, every reading can be decoded, and within a second for 10 MB.
//! Seeds: `tests/corpus/mime` and its `readings`.
#![no_main]

use std::time::{Duration, Instant};

use gatepost_mime::{Limits, analyse, tnef, uuencode, views};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let started = Instant::now();
    let analysis = analyse(data, &Limits::default());
    let spent = started.elapsed();
    let root = analysis.index.root();
    assert_eq!([&data[root.header.clone()], &data[root.body.clone()]].concat(), data);
    for leaf in &analysis.leaves {
        let source = analysis.source(data, leaf);
        for &decoding in &leaf.decodings {
            let (octets, _) = leaf.decode(source, decoding, 1 << 20);
            uuencode::find(&octets);
            tnef::attachments(&octets);
        }
    }
    views::preview(&analysis, data, 100);
    for attachment in views::attachments(&analysis, data, 1 << 20) {
        views::content(&analysis, data, &attachment, 1 << 20);
    }
    // Sanitizers and coverage slow the code down about tenfold; small inputs are granted the noise of a busy machine.
    assert!(spent < Duration::from_secs(1) + Duration::from_micros(data.len() as u64), "{spent:?} for {} octets", data.len());
});
