//! What is inside an attachment: its true type by content, the tree of what containers hold, and what in it is dangerous.
//!
//! Called by the binding for a message after DATA, and for files by `gatepost scan`. [`inspect`] takes octets and the name and type
//! somebody claims for them; it answers with a flat tree of [`Entry`]: size, type, [`Flags`], signs (what was found, in words), defects.
//!
//! Invariants: no declared size is believed; every decompressed octet is counted against one [`Budget`] shared by the whole tree;
//! what cannot be opened is an entry with a defect, never silence; time is linear in input plus output. It fails by verdict:
//! [`Verdict::Bomb`] and [`Verdict::Timeout`] when a limit was reached, [`Verdict::Partial`] when something stayed closed. A panic in a
//! decoder is damage of its entry; one of our own, which there should be none of, is caught at the edge and is the defect `panicked`.

mod budget;
mod bytes;
mod cab;
mod cms;
mod embedded;
mod fault;
mod filling;
mod html;
mod iso;
mod kind;
mod long_text;
mod loose;
mod mail;
mod name;
mod office;
mod ole;
mod pdf;
mod plain;
mod rar;
mod report;
mod rich;
mod script;
mod seven;
mod seven_header;
mod stream;
mod tar;
mod tnef;
mod unpack;
mod vba;
mod walk;
mod wide;
mod xz;
mod zip;
mod zip_directory;

use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use budget::{Budget, Limits, Stop};
pub use fault::panic_on;
pub use kind::{Class, Format, Kind, of as kind_of};
pub use long_text::LongText;
pub use name::{BLOCKED_EXTENSIONS, Name, is_blocked_extension, matches_glob};
pub use plain::{PLAIN_MAX, is_plain};
pub use report::{Defect, Entry, Flags, Place, Report, Verdict};

/// Look into `data`, which claims to be `name` of media type `declared` (either may be empty).
pub fn inspect(data: &[u8], name: &str, declared: &str, limits: Limits) -> Report {
    let mut walker = walk::Walker::new(Budget::new(limits, data.len()));
    // The last net: decoders, which are other people's, are guarded one by one.
    let ended = catch_unwind(AssertUnwindSafe(|| walker.root(data, name, declared)));
    match ended {
        Ok(result) => walker.finish(result.err()),
        Err(_) => walker.finish_after_panic(),
    }
}

/// [`inspect`] for a stream: reads at most `most` octets of it into memory; what is longer has the defect `too-large`.
pub fn inspect_reader(reader: impl Read, most: u64, name: &str, declared: &str, limits: Limits) -> io::Result<Report> {
    let mut data = Vec::new();
    let mut reader = reader.take(most.saturating_add(1));
    reader.read_to_end(&mut data)?;
    let cut = data.len() as u64 > most;
    if cut {
        data.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    }
    let mut report = inspect(&data, name, declared, limits);
    if cut {
        report.entries[0].defects.push(Defect::TooLarge);
        report.settle();
    }
    Ok(report)
}
