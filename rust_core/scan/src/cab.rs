//! Microsoft cabinets: names always, contents of stored, MSZIP and LZX folders. Quantum is named unsupported.

use lzxd::{Lzxd, WindowSize};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use crate::budget::Stop;
use crate::bytes::{Cursor, clamp, le16, le32, text};
use crate::report::Defect;
use crate::unpack::{Output, Sink, guarded};
use crate::walk::Walker;

/// A block's output, and MSZIP's window.
const BLOCK: usize = 32 << 10;

struct Folder {
    data: usize,
    blocks: u16,
    method: u16,
}

struct File {
    name: String,
    size: u64,
    offset: u64,
    folder: u16,
}

struct Cabinet {
    folders: Vec<Folder>,
    files: Vec<File>,
    /// Octets reserved in each block's header.
    reserve: usize,
}

/// Open a cabinet that starts at the start of `data`.
pub fn read(walker: &mut Walker, id: u32, data: &[u8]) -> Result<(), Stop> {
    let Some(cabinet) = parse(data) else {
        walker.entry(id).defect(Defect::Damaged);
        return Ok(());
    };
    if le32(data, 8).is_some_and(|size| (size as usize) > data.len()) {
        walker.entry(id).defect(Defect::Truncated);
    }
    for (number, folder) in cabinet.folders.iter().enumerate() {
        let output = unfold(walker, data, folder, cabinet.reserve)?;
        let held = output.as_ref().map_or(0, |output| output.data.len());
        walker.budget.hold(held);
        let looked = cabinet
            .files
            .iter()
            .filter(|file| usize::from(file.folder) == number)
            .try_for_each(|file| one(walker, id, file, output.as_ref()));
        walker.budget.release(held);
        looked?;
    }
    // Files that go on in another cabinet, or name a folder that is not there.
    for file in cabinet.files.iter().filter(|file| usize::from(file.folder) >= cabinet.folders.len()) {
        let child = walker.enter(id, &file.name)?;
        walker.entry(child).size = file.size;
        walker.entry(child).defect(Defect::Truncated);
    }
    Ok(())
}

fn one(walker: &mut Walker, id: u32, file: &File, output: Option<&Output>) -> Result<(), Stop> {
    let child = walker.enter(id, &file.name)?;
    let Some(output) = output else {
        let entry = walker.entry(child);
        entry.size = file.size;
        entry.defect(Defect::Unsupported);
        return Ok(());
    };
    let part = clamp(&output.data, file.offset, file.size);
    if (part.len() as u64) < file.size {
        walker.entry(child).defect(if output.is_whole() { Defect::Truncated } else { Defect::TooLarge });
    }
    // Files may name the same octets again and again.
    crate::unpack::stored(&mut walker.budget, part)?;
    walker.look(child, part)
}

fn parse(data: &[u8]) -> Option<Cabinet> {
    let files_at = le32(data, 16)? as usize;
    let (folder_count, file_count, flags) = (le16(data, 26)?, le16(data, 28)?, le16(data, 30)?);
    let mut cursor = Cursor::new(data);
    cursor.take(36)?;
    let (mut folder_reserve, mut reserve) = (0, 0);
    if flags & 4 != 0 {
        let header_reserve = cursor.u16()?;
        folder_reserve = usize::from(cursor.u8()?);
        reserve = usize::from(cursor.u8()?);
        cursor.take(usize::from(header_reserve))?;
    }
    // Names of the cabinet before and the one behind.
    for flag in [1, 2] {
        if flags & flag != 0 {
            cursor.until_nul()?;
            cursor.until_nul()?;
        }
    }
    let mut folders = Vec::new();
    for _ in 0..folder_count {
        let folder = Folder { data: cursor.u32()? as usize, blocks: cursor.u16()?, method: cursor.u16()? };
        cursor.take(folder_reserve)?;
        folders.push(folder);
    }
    let mut cursor = Cursor::new(data.get(files_at..)?);
    let mut files = Vec::new();
    for _ in 0..file_count {
        let Some(file) = parse_file(&mut cursor) else { break };
        files.push(file);
    }
    Some(Cabinet { folders, files, reserve })
}

fn parse_file(cursor: &mut Cursor<'_>) -> Option<File> {
    let (size, offset, folder) = (cursor.u32()?, cursor.u32()?, cursor.u16()?);
    cursor.take(6)?;
    let name = text(cursor.until_nul()?);
    Some(File { name, size: u64::from(size), offset: u64::from(offset), folder })
}

/// All blocks of a folder behind each other; `None` when the compression is unknown.
fn unfold(walker: &mut Walker, data: &[u8], folder: &Folder, reserve: usize) -> Result<Option<Output>, Stop> {
    let Some(mut blocks) = Blocks::new(folder.method) else { return Ok(None) };
    let mut cursor = Cursor::new(data.get(folder.data..).unwrap_or(&[]));
    let mut sink = Sink::new(&mut walker.budget, cursor.rest().len());
    for _ in 0..folder.blocks {
        let Some((body, size)) = block(&mut cursor, reserve) else { return Ok(Some(sink.done(0, false))) };
        let Some(piece) = blocks.next(body, usize::from(size)) else { return Ok(Some(sink.done(0, false))) };
        sink.push(piece)?;
    }
    Ok(Some(sink.done(0, true)))
}

fn block<'a>(cursor: &mut Cursor<'a>, reserve: usize) -> Option<(&'a [u8], u16)> {
    cursor.take(4)?;
    let (packed, size) = (cursor.u16()?, cursor.u16()?);
    cursor.take(reserve)?;
    Some((cursor.take(usize::from(packed))?, size))
}

enum Blocks {
    Stored(Vec<u8>),
    /// Window, then the block's output.
    Zip(Vec<u8>, usize),
    Lzx(Box<Lzxd>),
}

impl Blocks {
    fn new(method: u16) -> Option<Self> {
        match method & 15 {
            0 => Some(Self::Stored(Vec::new())),
            1 => Some(Self::Zip(vec![0; BLOCK * 2], 0)),
            3 => Some(Self::Lzx(Box::new(Lzxd::new(window(method >> 8 & 31)?)))),
            _ => None,
        }
    }

    fn next(&mut self, body: &[u8], size: usize) -> Option<&[u8]> {
        match self {
            Self::Stored(kept) => {
                *kept = body.to_vec();
                Some(kept)
            }
            Self::Zip(buffer, window) => {
                let body = body.strip_prefix(b"CK").filter(|_| size <= BLOCK)?;
                let start = *window;
                let (status, _, count) =
                    decompress(&mut DecompressorOxide::new(), body, buffer, start, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF);
                if status != TINFLStatus::Done {
                    return None;
                }
                // The last 32 KiB of output are the next block's window.
                let end = start + count;
                let keep = end.min(BLOCK);
                buffer.copy_within(end - keep..end, 0);
                *window = keep;
                let from = keep.checked_sub(count)?;
                Some(&buffer[from..keep])
            }
            Self::Lzx(decoder) if size <= BLOCK => guarded(|| decoder.decompress_next(body, size).ok()).flatten(),
            Self::Lzx(_) => None,
        }
    }
}

fn window(bits: u16) -> Option<WindowSize> {
    Some(match bits {
        15 => WindowSize::KB32,
        16 => WindowSize::KB64,
        17 => WindowSize::KB128,
        18 => WindowSize::KB256,
        19 => WindowSize::KB512,
        20 => WindowSize::MB1,
        21 => WindowSize::MB2,
        _ => return None,
    })
}
