//! Any octets as a message: no panic, slices join to the input, every reading can be decoded, and within a second for 10 MB.
//! Seeds: `seeds/mime`, `tests/corpus/mime` and its `readings`.
#![no_main]

use gatepost_fuzz::bounded;
use gatepost_mime::{Limits, analyse, imap, tnef, uuencode, views};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let analysis = bounded(data.len(), || analyse(data, &Limits::default()));
    let root = analysis.index.root();
    assert_eq!([&data[root.header.clone()], &data[root.body.clone()]].concat(), data);
    for leaf in &analysis.leaves {
        let source = analysis.source(data, leaf);
        for &decoding in &leaf.decodings {
            let (octets, _) = leaf.decode(source, decoding, 1 << 20);
            bounded(octets.len(), || uuencode::find(&octets));
            bounded(octets.len(), || tnef::attachments(&octets));
        }
    }
    bounded(data.len(), || views::preview(&analysis, data, 100));
    bounded(data.len(), || {
        let mut out = Vec::new();
        imap::envelope(&mut out, &analysis.index, 0, false);
        imap::body_structure(&mut out, &analysis.index, 0, true, false);
    });
    for attachment in views::attachments(&analysis, data, 1 << 20) {
        views::content(&analysis, data, &attachment, 1 << 20);
    }
});
