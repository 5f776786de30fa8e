//! OLE compound files (MS-CFB): old Office documents, macros, packages, Outlook's .msg, Windows installers.
//!
//! An own reader that takes broken files as Office does: chains are followed as far as they go and never in circles, sizes are clamped.

use std::collections::HashMap;

use crate::budget::Stop;
use crate::bytes::{clamp, le16, le32, le64, utf16le};
use crate::office;
use crate::report::{Defect, Flags};
use crate::walk::Walker;

const END: u32 = 0xffff_fffa;
/// Directory entries read.
const ENTRIES_MAX: usize = 20_000;

/// A stream or storage.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Names of the storages above it and its own, with `/` between.
    pub path: String,
    /// A stream, and not a storage.
    pub is_stream: bool,
    start: u32,
    size: u64,
}

/// An opened file.
pub struct Compound<'a> {
    data: &'a [u8],
    sector: usize,
    fat: Vec<u32>,
    mini_fat: Vec<u32>,
    mini: Vec<u8>,
    cutoff: u64,
    /// Class of the root storage.
    pub class: [u8; 16],
    /// All streams and storages.
    pub nodes: Vec<Node>,
    by_path: HashMap<String, usize>,
}

impl<'a> Compound<'a> {
    /// Read the directory; `None` when there is none.
    pub fn open(data: &'a [u8]) -> Option<Self> {
        let shift = le16(data, 30).filter(|shift| (7..=16).contains(shift)).unwrap_or(9);
        let cutoff = u64::from(le32(data, 56)?);
        let mut file = Self {
            data,
            sector: 1 << shift,
            fat: Vec::new(),
            mini_fat: Vec::new(),
            mini: Vec::new(),
            cutoff,
            class: [0; 16],
            nodes: Vec::new(),
            by_path: HashMap::new(),
        };
        file.read_fat();
        let directory = file.chain(le32(data, 48)?, (ENTRIES_MAX * 128) as u64);
        let mini = file.chain(le32(data, 60)?, u64::MAX);
        file.mini_fat = mini.chunks_exact(4).map(|octets| le32(octets, 0).unwrap_or(END)).collect();
        let root = directory.get(..128)?;
        file.class.copy_from_slice(&root[80..96]);
        file.mini = file.chain(le32(root, 116)?, le64(root, 120)? & 0xffff_ffff);
        file.read_nodes(&directory);
        Some(file)
    }

    fn sector_at(&self, number: u32) -> &'a [u8] {
        clamp(self.data, (u64::from(number) + 1) * self.sector as u64, self.sector as u64)
    }

    /// The table of chains: its sectors are listed in the header, then in a chain of sectors of their own.
    fn read_fat(&mut self) {
        let most = self.data.len() / self.sector + 1;
        let mut places: Vec<u32> = (0..109).filter_map(|at| le32(self.data, 76 + at * 4)).filter(|place| *place < END).collect();
        let mut next = le32(self.data, 68).unwrap_or(END);
        for _ in 0..most {
            let sector = self.sector_at(next);
            if next >= END || sector.len() < self.sector {
                break;
            }
            let (list, link) = sector.split_at(self.sector - 4);
            places.extend(list.chunks_exact(4).filter_map(|octets| le32(octets, 0)).filter(|place| *place < END));
            next = le32(link, 0).unwrap_or(END);
        }
        places.truncate(most);
        for place in places {
            self.fat.extend(self.sector_at(place).chunks_exact(4).filter_map(|octets| le32(octets, 0)));
            if self.fat.len() > most {
                break;
            }
        }
    }

    /// The octets of a chain, at most `size` and at most what the file has.
    fn chain(&self, start: u32, size: u64) -> Vec<u8> {
        let size = size.min(self.data.len() as u64) as usize;
        let mut octets = Vec::new();
        let mut next = start;
        // A circle ends when as much as the file has come out.
        while next < END && octets.len() < size {
            let sector = self.sector_at(next);
            if sector.is_empty() {
                break;
            }
            octets.extend_from_slice(sector);
            next = self.fat.get(next as usize).copied().unwrap_or(END);
        }
        octets.truncate(size);
        octets
    }

    fn mini_chain(&self, start: u32, size: u64) -> Vec<u8> {
        let size = size.min(self.mini.len() as u64) as usize;
        let mut octets = Vec::new();
        let mut next = start;
        while next < END && octets.len() < size {
            let sector = clamp(&self.mini, u64::from(next) * 64, 64);
            if sector.is_empty() {
                break;
            }
            octets.extend_from_slice(sector);
            next = self.mini_fat.get(next as usize).copied().unwrap_or(END);
        }
        octets.truncate(size);
        octets
    }

    fn find(&self, path: &str) -> Option<&Node> {
        self.by_path.get(path).map(|at| &self.nodes[*at])
    }

    /// The content of a stream.
    pub fn stream(&self, node: &Node) -> Vec<u8> {
        if node.size < self.cutoff { self.mini_chain(node.start, node.size) } else { self.chain(node.start, node.size) }
    }

    /// The storage tree; entries that the tree does not reach are taken, too, as damaged files have them.
    fn read_nodes(&mut self, directory: &[u8]) {
        let raw: Vec<&[u8]> = directory.chunks_exact(128).collect();
        let mut seen = vec![false; raw.len()];
        let mut waiting: Vec<(usize, String)> =
            raw.first().and_then(|root| le32(root, 76)).map(|child| (child as usize, String::new())).into_iter().collect();
        let mut unreached = 1;
        loop {
            let Some((at, above)) = waiting.pop().or_else(|| {
                unreached += 1;
                (unreached <= raw.len()).then(|| (unreached - 1, String::new()))
            }) else {
                return;
            };
            if at >= raw.len() || seen[at] {
                continue;
            }
            seen[at] = true;
            let entry = raw[at];
            let kind = entry[66];
            if !matches!(kind, 1 | 2) {
                continue;
            }
            let name = utf16le(&entry[..64]);
            let path = if above.is_empty() || above.len() > 512 { name.clone() } else { format!("{above}/{name}") };
            let link = |place| le32(entry, place).map_or(usize::MAX, |number| number as usize);
            waiting.push((link(68), above.clone()));
            waiting.push((link(72), above));
            if kind == 1 {
                waiting.push((link(76), path.clone()));
            }
            let size = le64(entry, 120).unwrap_or(0) & 0xffff_ffff;
            self.by_path.insert(path.clone(), self.nodes.len());
            self.nodes.push(Node { name, path, is_stream: kind == 2, start: le32(entry, 116).unwrap_or(END), size });
        }
    }
}

/// Open a compound file.
pub fn read(walker: &mut Walker, id: u32, data: &[u8]) -> Result<(), Stop> {
    let Some(file) = Compound::open(data) else {
        walker.entry(id).defect(Defect::Damaged);
        return Ok(());
    };
    office::document(walker, id, &file)?;
    for node in file.nodes.iter().filter(|node| node.is_stream) {
        let content = file.stream(node);
        if (content.len() as u64) < node.size {
            walker.entry(id).defect(Defect::Truncated);
        }
        // Streams may share their octets.
        crate::unpack::stored(&mut walker.budget, &content)?;
        walker.budget.hold(content.len());
        let looked = stream(walker, id, node, &content, &file);
        walker.budget.release(content.len());
        looked?;
    }
    Ok(())
}

fn stream(walker: &mut Walker, id: u32, node: &Node, content: &[u8], file: &Compound<'_>) -> Result<(), Stop> {
    if node.name == "\u{1}Ole10Native" {
        return package(walker, id, content.get(4..).unwrap_or_default());
    }
    if node.name == "__substg1.0_37010102" {
        let name = attachment_name(file, node);
        return walker.child(id, &name, content).map(drop);
    }
    let kind = crate::kind::of(content);
    if matches!(kind.class, crate::kind::Class::Executable | crate::kind::Class::Archive) || matches!(kind.name, "ole" | "pdf" | "rtf") {
        walker.entry(id).flags.set(Flags::EMBEDS);
        walker.child(id, &node.path, content)?;
    }
    Ok(())
}

/// The name of an attachment of a .msg: the stream of its long name beside the content, else the short one.
fn attachment_name(file: &Compound<'_>, node: &Node) -> String {
    let folder = node.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let beside = |suffix: &str| file.find(&format!("{folder}/__substg1.0_{suffix}")).map(|found| file.stream(found));
    let wide = beside("3707001F").or_else(|| beside("3704001F")).map(|octets| utf16le(&octets));
    wide.or_else(|| beside("3707001E").or_else(|| beside("3704001E")).map(|octets| crate::bytes::text(&octets))).unwrap_or_default()
}

/// An OLE package, or what calls itself one.
fn package(walker: &mut Walker, id: u32, content: &[u8]) -> Result<(), Stop> {
    let entry = walker.entry(id);
    entry.flags.set(Flags::EMBEDS);
    entry.sign("ole:package");
    match packed(content) {
        Some((name, body)) => walker.child(id, &name, body).map(drop),
        None => walker.child(id, "package", content).map(drop),
    }
}

/// Name and content of a package behind its size: label, path, temporary path, content. `None` when it does not read as one.
pub fn packed(content: &[u8]) -> Option<(String, &[u8])> {
    let mut cursor = crate::bytes::Cursor::new(content);
    cursor.take(2)?;
    let label = crate::bytes::text(cursor.until_nul()?);
    let path = crate::bytes::text(cursor.until_nul()?);
    cursor.take(4)?;
    let length = cursor.u32()? as usize;
    cursor.take(length)?;
    let size = cursor.u32()?;
    let body = clamp(cursor.rest(), 0, u64::from(size));
    (!body.is_empty()).then_some((if label.is_empty() { path } else { label }, body))
}
