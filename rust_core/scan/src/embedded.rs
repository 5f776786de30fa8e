//! Archives that begin somewhere in another file: self-extracting programs, pictures and PDFs with an archive behind them.
//!
//! An unpacker that looks for the end record (zip) or for the mark (RAR, 7z, cab) opens such a file whatever its beginning says.

use crate::budget::Stop;
use crate::kind::{Class, Format, Kind};
use crate::report::Defect;
use crate::walk::Walker;
use crate::zip_directory::find_end;
use crate::{cab, rar, seven, zip};

/// Look for archives in an entry that is something else.
pub fn read(walker: &mut Walker, id: u32, kind: &Kind, data: &[u8]) -> Result<(), Stop> {
    if kind.format != Format::Zip && data.len() > 22 && find_end(data).is_some() {
        let nested = has_zip_child(walker, id);
        let before = walker.entries[id as usize].defects.clone();
        zip::read(walker, id, data)?;
        if nested {
            // Its last member is a zip: the end of that is the end of this one.
            walker.entry(id).defects = before;
        }
    }
    if matches!(kind.class, Class::Executable | Class::Media | Class::Data | Class::Script) || kind.format == Format::Pdf {
        marks(walker, id, data)?;
    }
    Ok(())
}

fn has_zip_child(walker: &Walker, id: u32) -> bool {
    let from = id as usize + 1;
    walker
        .entries
        .iter()
        .skip(from)
        .any(|entry| entry.kind.is_some_and(|kind| kind.format == Format::Zip) && entry.depth > walker.entries[id as usize].depth)
}

fn marks(walker: &mut Walker, id: u32, data: &[u8]) -> Result<(), Stop> {
    let find = |mark: &[u8]| memchr::memmem::find(data, mark).filter(|at| *at > 0);
    if let Some(at) = find(b"Rar!\x1a\x07") {
        walker.entry(id).defect(Defect::Prepended);
        rar::read(walker, id, &data[at..])?;
    }
    if let Some(at) = find(b"7z\xbc\xaf\x27\x1c\0") {
        walker.entry(id).defect(Defect::Prepended);
        seven::read(walker, id, &data[at..])?;
    }
    // Four letters and a zero word are no rare octets: only where a whole header reads well.
    if let Some(at) = find(b"MSCF\0\0\0\0").filter(|at| data.get(at + 24..at + 26) == Some(&[3, 1])) {
        walker.entry(id).defect(Defect::Prepended);
        cab::read(walker, id, &data[at..])?;
    }
    Ok(())
}
