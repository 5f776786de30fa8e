//! Streams with one file inside: gzip, bzip2, xz, lzma, lzip, zstd.

use crate::budget::Stop;
use crate::bytes::{Cursor, text};
use crate::kind::Format;
use crate::report::Defect;
use crate::unpack::{self, Output};
use crate::walk::Walker;
use crate::xz;

/// Open a stream of the given format.
pub fn read(walker: &mut Walker, id: u32, format: Format, data: &[u8]) -> Result<(), Stop> {
    if format == Format::Gzip {
        return gzip(walker, id, data);
    }
    let child = walker.enter(id, &inner_name(walker, id))?;
    let output = match format {
        Format::Bzip2 => unpack::bzip2(&mut walker.budget, data)?,
        Format::Xz => xz::read(&mut walker.budget, data)?,
        Format::Lzma => unpack::lzma_alone(&mut walker.budget, data)?,
        Format::Lzip => unpack::lzip(&mut walker.budget, data)?,
        _ => unpack::zstd(&mut walker.budget, data)?,
    };
    if output.sound && output.used < data.len() {
        walker.entry(id).defect(Defect::Trailing);
    }
    walker.unpacked(child, &output, None)
}

/// The container's name without the extension that names the compression.
fn inner_name(walker: &Walker, id: u32) -> String {
    let name = &walker.entries[id as usize].name;
    let Some((stem, extension)) = name.rsplit_once('.') else { return name.clone() };
    match extension.to_ascii_lowercase().as_str() {
        "tgz" | "tbz" | "tbz2" | "txz" | "tzst" | "tlz" => format!("{stem}.tar"),
        "gz" | "bz2" | "xz" | "lzma" | "lz" | "zst" => stem.to_owned(),
        _ => name.clone(),
    }
}

/// Members of a gzip file (RFC 1952 2.2) are one file when they follow each other.
fn gzip(walker: &mut Walker, id: u32, data: &[u8]) -> Result<(), Stop> {
    let mut at = 0;
    let mut members = 0;
    while data[at..].starts_with(b"\x1f\x8b") {
        let Some((name, body)) = gzip_header(&data[at..]) else {
            walker.entry(id).defect(Defect::Damaged);
            break;
        };
        let name = if name.is_empty() { inner_name(walker, id) } else { name };
        let child = walker.enter(id, &name)?;
        let output = gzip_rest(walker, &data[at + body..])?;
        walker.unpacked(child, &output, None)?;
        members += 1;
        at += body + output.used + 8;
        if !output.sound || at >= data.len() {
            break;
        }
    }
    if members == 0 || at < data.len() && data[at..].iter().any(|&octet| octet != 0) {
        walker.entry(id).defect(Defect::Trailing);
    }
    Ok(())
}

/// This member and those behind it that have no name of their own, joined as `gunzip` joins them.
fn gzip_rest(walker: &mut Walker, data: &[u8]) -> Result<Output, Stop> {
    let mut output = unpack::deflate(&mut walker.budget, data, false)?;
    loop {
        let next = output.used + 8;
        let Some((name, body)) = data.get(next..).and_then(gzip_header) else { return Ok(output) };
        if !output.sound || !name.is_empty() {
            return Ok(output);
        }
        walker.budget.hold(output.data.len());
        let more = unpack::deflate(&mut walker.budget, &data[next + body..], false);
        walker.budget.release(output.data.len());
        let more = more?;
        if output.is_whole() {
            output.data.extend_from_slice(&more.data);
        }
        output.total += more.total;
        (output.used, output.sound) = (next + body + more.used, more.sound);
    }
}

/// Name, and octets up to the compressed data.
fn gzip_header(data: &[u8]) -> Option<(String, usize)> {
    let mut cursor = Cursor::new(data);
    let magic = cursor.take(3)?;
    let flags = cursor.u8()?;
    if magic != b"\x1f\x8b\x08" || flags & 0xe0 != 0 {
        return None;
    }
    cursor.take(6)?;
    if flags & 4 != 0 {
        let extra = cursor.u16()?;
        cursor.take(usize::from(extra))?;
    }
    let name = if flags & 8 != 0 { text(cursor.until_nul()?) } else { String::new() };
    if flags & 16 != 0 {
        cursor.until_nul()?;
    }
    if flags & 2 != 0 {
        cursor.take(2)?;
    }
    Some((name, cursor.at()))
}
