//! 7z: names always, contents for LZMA, LZMA2, deflate, bzip2 and stored folders. Encrypted folders and headers are flagged.

use crate::budget::Stop;
use crate::bytes::{clamp, le32, le64};
use crate::report::{Defect, Flags};
use crate::seven_header::{Folder, Parsed, Streams, parse};
use crate::unpack::{self, Output};
use crate::walk::Walker;

/// A header behind a header behind a header is nobody's need.
const HEADERS_MAX: usize = 4;

/// Open an archive that starts at the start of `data`.
pub fn read(walker: &mut Walker, id: u32, data: &[u8]) -> Result<(), Stop> {
    let (Some(offset), Some(length)) = (le64(data, 12), le64(data, 20)) else {
        walker.entry(id).defect(Defect::Truncated);
        return Ok(());
    };
    let header = clamp(data, offset.saturating_add(32), length);
    if (header.len() as u64) < length {
        walker.entry(id).defect(Defect::Truncated);
    }
    let mut header = header.to_vec();
    for _ in 0..HEADERS_MAX {
        match parse(&header) {
            Some(Parsed::Plain(streams, files)) => return contents(walker, id, data, &streams, &files),
            Some(Parsed::Encoded(streams)) => match inner_header(walker, id, data, &streams)? {
                Some(inner) => header = inner,
                None => return Ok(()),
            },
            None => break,
        }
    }
    if !header.is_empty() {
        walker.entry(id).defect(Defect::Damaged);
    }
    Ok(())
}

fn inner_header(walker: &mut Walker, id: u32, data: &[u8], streams: &Streams) -> Result<Option<Vec<u8>>, Stop> {
    let Some(folder) = streams.folders.first() else {
        walker.entry(id).defect(Defect::Damaged);
        return Ok(None);
    };
    let body = clamp(data, streams.at.saturating_add(32), streams.packed.first().copied().unwrap_or(0));
    match decode(walker, folder, body)? {
        Folded::Out(output) => Ok(Some(output.data)),
        Folded::Encrypted => {
            let entry = walker.entry(id);
            entry.flags.set(Flags::ENCRYPTED);
            entry.sign("7z:names-encrypted");
            Ok(None)
        }
        Folded::Unsupported => {
            walker.entry(id).defect(Defect::Unsupported);
            Ok(None)
        }
    }
}

enum Folded {
    Out(Output),
    Encrypted,
    Unsupported,
}

/// The one compression of a folder; x86 and similar filters behind it change addresses in code only and are left as they are.
fn decode(walker: &mut Walker, folder: &Folder, body: &[u8]) -> Result<Folded, Stop> {
    if folder.coders.iter().any(|coder| coder.id.starts_with(&[6, 0xf1, 7])) {
        return Ok(Folded::Encrypted);
    }
    let is_filter = |id: &[u8]| matches!(id, [3, 3, _, _] | [4..=10]) && id != [3, 3, 1, 0x1b];
    let mut main = folder.coders.iter().filter(|coder| !is_filter(&coder.id));
    let (Some(coder), None, 1) = (main.next(), main.next(), folder.packed) else { return Ok(Folded::Unsupported) };
    let size = folder.sizes.first().copied().unwrap_or(u64::MAX);
    let budget = &mut walker.budget;
    Ok(Folded::Out(match coder.id.as_slice() {
        [0] | [] => {
            unpack::stored(budget, body)?;
            Output { data: body[..body.len().min(budget.room())].to_vec(), total: body.len() as u64, used: body.len(), sound: true }
        }
        [0x21] => match coder.properties.first().and_then(|octet| unpack::lzma2_dictionary(*octet)) {
            Some(dictionary) => unpack::lzma2(budget, body, dictionary.min(size))?,
            None => return Ok(Folded::Unsupported),
        },
        [3, 1, 1] => match (coder.properties.first(), le32(&coder.properties, 1)) {
            (Some(&properties), Some(dictionary)) => unpack::lzma(budget, body, properties, dictionary, size)?,
            _ => return Ok(Folded::Unsupported),
        },
        [4, 1, 8] => unpack::deflate(budget, body, false)?,
        [4, 1, 9] => unpack::deflate64(budget, body)?,
        [4, 2, 2] => unpack::bzip2(budget, body)?,
        _ => return Ok(Folded::Unsupported),
    }))
}

fn contents(walker: &mut Walker, id: u32, data: &[u8], streams: &Streams, files: &[crate::seven_header::File]) -> Result<(), Stop> {
    let mut files = files.iter();
    let mut at = streams.at.saturating_add(32);
    let mut packed = streams.packed.iter();
    for folder in &streams.folders {
        let taken: u64 = packed.by_ref().take(folder.packed as usize).fold(0, |sum: u64, size| sum.saturating_add(*size));
        let body = clamp(data, at, taken);
        at = at.saturating_add(taken);
        let folded = decode(walker, folder, body)?;
        match &folded {
            Folded::Out(output) => {
                walker.budget.hold(output.data.len());
                let looked = folder_files(walker, id, folder, &mut files, &folded);
                walker.budget.release(output.data.len());
                looked?;
            }
            _ => folder_files(walker, id, folder, &mut files, &folded)?,
        }
    }
    for file in files.filter(|file| !file.name.is_empty()) {
        let child = walker.enter(id, &file.name)?;
        if file.has_stream {
            walker.entry(child).defect(Defect::Truncated);
        }
    }
    Ok(())
}

type Files<'a> = std::slice::Iter<'a, crate::seven_header::File>;

/// The files of one folder, as slices of what came out of it.
fn folder_files(walker: &mut Walker, id: u32, folder: &Folder, files: &mut Files<'_>, opened: &Folded) -> Result<(), Stop> {
    let mut at = 0u64;
    for &size in &folder.files {
        // Files without content stand between the others in the list of names.
        let name = loop {
            match files.next() {
                Some(file) if file.has_stream => break file.name.as_str(),
                Some(file) => drop(walker.enter(id, &file.name)?),
                None => break "",
            }
        };
        let child = walker.enter(id, name)?;
        match opened {
            Folded::Out(output) => {
                let part = clamp(&output.data, at, size);
                if (part.len() as u64) < size {
                    let defect = if output.is_whole() { Defect::Truncated } else { Defect::TooLarge };
                    walker.entry(child).defect(defect);
                }
                if !output.sound {
                    walker.entry(child).defect(Defect::Damaged);
                }
                walker.look(child, part)?;
            }
            Folded::Encrypted => walker.entry(child).flags.set(Flags::ENCRYPTED),
            Folded::Unsupported => walker.entry(child).defect(Defect::Unsupported),
        }
        walker.entry(child).size = size;
        at = at.saturating_add(size);
    }
    Ok(())
}
