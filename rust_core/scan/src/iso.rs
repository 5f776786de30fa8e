//! ISO 9660 images with Joliet names: directories and files by their extents. UDF alone is named unsupported.

use std::collections::HashSet;

use crate::budget::Stop;
use crate::bytes::{clamp, le32, text};
use crate::report::Defect;
use crate::walk::Walker;

const SECTOR: u64 = 2_048;
/// Descriptors looked at.
const DESCRIPTORS_MAX: u64 = 64;
/// A directory longer than this is cut.
const DIRECTORY_MAX: u64 = 4 << 20;

struct Volume {
    root: (u64, u64),
    joliet: bool,
}

/// Open an image.
pub fn read(walker: &mut Walker, id: u32, data: &[u8]) -> Result<(), Stop> {
    let mut seen = HashSet::new();
    let found = volumes(data);
    if found.is_empty() {
        walker.entry(id).defect(Defect::Unsupported);
    }
    // Both trees: they may differ, and readers differ in which they show.
    for volume in found {
        let mut waiting = vec![volume.root];
        while let Some((at, size)) = waiting.pop() {
            if !seen.insert((at, u64::MAX)) {
                continue;
            }
            walker.budget.tick()?;
            directory(walker, id, data, (at, size), volume.joliet, &mut seen, &mut waiting)?;
        }
    }
    Ok(())
}

/// Joliet first: its names are the ones shown.
fn volumes(data: &[u8]) -> Vec<Volume> {
    let mut found = Vec::new();
    for number in 0..DESCRIPTORS_MAX {
        let sector = clamp(data, (16 + number) * SECTOR, SECTOR);
        if sector.len() < SECTOR as usize || &sector[1..6] != b"CD001" || sector[0] == 255 {
            break;
        }
        let joliet = sector[0] == 2 && sector[88] == b'%' && sector[89] == b'/';
        let root = le32(sector, 158).zip(le32(sector, 166));
        if let (1 | 2, Some((at, size))) = (sector[0], root) {
            found.push(Volume { root: (u64::from(at), u64::from(size)), joliet });
        }
    }
    found.sort_by_key(|volume| !volume.joliet);
    found
}

fn directory(
    walker: &mut Walker,
    id: u32,
    data: &[u8],
    place: (u64, u64),
    joliet: bool,
    seen: &mut HashSet<(u64, u64)>,
    waiting: &mut Vec<(u64, u64)>,
) -> Result<(), Stop> {
    let octets = clamp(data, place.0 * SECTOR, place.1.min(DIRECTORY_MAX));
    let mut at = 0;
    while at < octets.len() {
        let length = usize::from(octets[at]);
        if length == 0 {
            // Records do not cross sectors.
            at = (at / SECTOR as usize + 1) * SECTOR as usize;
            continue;
        }
        let record = clamp(octets, at as u64, length as u64);
        at += length;
        let (Some(extent), Some(size), Some(&flags), Some(&name_length)) =
            (le32(record, 2), le32(record, 10), record.get(25), record.get(32))
        else {
            break;
        };
        let (extent, size) = (u64::from(extent), u64::from(size));
        let raw = clamp(record, 33, u64::from(name_length));
        if matches!(raw, [0 | 1]) {
            continue;
        }
        if flags & 2 != 0 {
            waiting.push((extent, size));
        } else if seen.insert((extent, size)) {
            let content = clamp(data, extent.saturating_mul(SECTOR), size);
            let child = walker.child(id, &file_name(raw, joliet), content)?;
            if (content.len() as u64) < size {
                walker.entry(child).defect(Defect::Truncated);
            }
        }
    }
    Ok(())
}

/// Without the version, `;1`.
fn file_name(raw: &[u8], joliet: bool) -> String {
    let name = if joliet {
        let units: Vec<u16> = raw.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
        String::from_utf16_lossy(&units)
    } else {
        text(raw)
    };
    name.split_once(";1").map_or(name.clone(), |(name, _)| name.to_owned())
}
