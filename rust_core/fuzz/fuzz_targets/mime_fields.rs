//! Any octets as the values of MIME fields, as addresses and as section texts.
#![no_main]

use gatepost_mime::section::Section;
use gatepost_mime::{Limits, address, analyse, date, decode, field, imap};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    address::parse(data);
    field::content_type(data);
    field::disposition(data);
    decode::header_text(data);
    date::sent_day(data);
    let section = Section::parse(&String::from_utf8_lossy(data));
    for name in ["Content-Type", "Content-Disposition", "Content-Transfer-Encoding", "From"] {
        let message = [name.as_bytes(), b": ", data, b"\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n"].concat();
        let analysis = analyse(&message, &Limits::default());
        let mut out = Vec::new();
        imap::envelope(&mut out, &analysis.index, 0, false);
        imap::body_structure(&mut out, &analysis.index, 0, true, true);
        if let Some(section) = &section {
            section.locate(&analysis.index);
        }
    }
});
