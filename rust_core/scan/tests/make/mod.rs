//! Makes the files that the tests look at: zips with any header at any place, gzip, tar. All harmless.

#![allow(dead_code, missing_docs)]

use miniz_oxide::deflate::compress_to_vec;

/// One entry, as the writer of a zip would be allowed to lie about it.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    pub name: String,
    /// Name in the local header, when it differs.
    pub local_name: Option<String>,
    pub content: Vec<u8>,
    pub stored: bool,
    pub encrypted: bool,
    /// Declared size, when it differs.
    pub size: Option<u32>,
    /// Not in the directory.
    pub unlisted: bool,
}

pub fn entry(name: &str, content: &[u8]) -> Entry {
    Entry { name: name.into(), content: content.to_vec(), ..Entry::default() }
}

fn le(out: &mut Vec<u8>, width: usize, value: u64) {
    out.extend((0..width).map(|at| if at < 8 { (value >> (8 * at)) as u8 } else { 0 }));
}

fn fields(out: &mut Vec<u8>, entry: &Entry, packed: usize) {
    le(out, 2, u64::from(entry.encrypted));
    le(out, 2, if entry.stored { 0 } else { 8 });
    le(out, 8, 0);
    le(out, 4, packed as u64);
    le(out, 4, u64::from(entry.size.unwrap_or(entry.content.len() as u32)));
}

fn central(out: &mut Vec<u8>, entry: &Entry, packed: usize, place: usize) {
    out.extend_from_slice(b"PK\x01\x02");
    le(out, 4, 0x0014_0014);
    fields(out, entry, packed);
    le(out, 2, entry.name.len() as u64);
    le(out, 12, 0);
    le(out, 4, place as u64);
    out.extend_from_slice(entry.name.as_bytes());
}

pub fn end(out: &mut Vec<u8>, count: usize, directory: usize, size: usize) {
    out.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    le(out, 2, count as u64 & 0xffff);
    le(out, 2, count as u64 & 0xffff);
    le(out, 4, size as u64);
    le(out, 4, directory as u64);
    le(out, 2, 0);
}

/// A zip of those entries.
pub fn zip(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut directory = Vec::new();
    let mut count = 0;
    for entry in entries {
        let body = if entry.stored { entry.content.clone() } else { compress_to_vec(&entry.content, 6) };
        let place = out.len();
        let name = entry.local_name.as_ref().unwrap_or(&entry.name);
        out.extend_from_slice(b"PK\x03\x04\x14\0");
        fields(&mut out, entry, body.len());
        le(&mut out, 2, name.len() as u64);
        le(&mut out, 2, 0);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&body);
        if !entry.unlisted {
            central(&mut directory, entry, body.len(), place);
            count += 1;
        }
    }
    let at = out.len();
    out.extend_from_slice(&directory);
    let size = directory.len();
    end(&mut out, count, at, size);
    out
}

/// Many directory entries that all name one local entry.
pub fn overlapping(names: usize, content: &[u8]) -> Vec<u8> {
    let one = entry("kernel", content);
    let packed = compress_to_vec(content, 9);
    let mut out = b"PK\x03\x04\x14\0".to_vec();
    fields(&mut out, &one, packed.len());
    le(&mut out, 4, 6);
    out.extend_from_slice(b"kernel");
    out.extend_from_slice(&packed);
    let at = out.len();
    let mut directory = Vec::new();
    (0..names).for_each(|_| central(&mut directory, &one, packed.len(), 0));
    out.extend_from_slice(&directory);
    end(&mut out, names, at, directory.len());
    out
}

/// gzip around a raw deflate stream.
pub fn gzip_of(deflated: &[u8], name: &str) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, if name.is_empty() { 0 } else { 8 }, 0, 0, 0, 0, 0, 3];
    if !name.is_empty() {
        out.extend_from_slice(name.as_bytes());
        out.push(0);
    }
    out.extend_from_slice(deflated);
    out.extend_from_slice(&[0; 8]);
    out
}

pub fn gzip(content: &[u8], name: &str) -> Vec<u8> {
    gzip_of(&compress_to_vec(content, 6), name)
}

/// A raw deflate stream of `gib` GiB of zeros, about 1 MB for each: blocks of one repeated match, so that it is made at once.
pub fn zeros(gib: u64) -> Vec<u8> {
    // The stream of 1 MiB of zeros without its end: a compressor's output up to a sync point can be repeated.
    let piece = {
        let mut state =
            miniz_oxide::deflate::core::CompressorOxide::new(miniz_oxide::deflate::core::create_comp_flags_from_zip_params(9, 0, 0));
        let input = vec![0; 1 << 20];
        let mut out = vec![0; 1 << 16];
        let result = miniz_oxide::deflate::stream::deflate(&mut state, &input, &mut out, miniz_oxide::MZFlush::Full);
        assert_eq!(result.bytes_consumed, input.len());
        out.truncate(result.bytes_written);
        out
    };
    let mut out = piece.repeat((gib << 10) as usize);
    out.extend_from_slice(&[3, 0]);
    out
}

/// A ustar archive.
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, content) in files {
        let mut header = vec![0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[156] = b'0';
        header[257..263].copy_from_slice(b"ustar\0");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|octet| u32::from(*octet)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// The head of a Windows program: enough to be taken for one, not enough to be one.
pub fn program() -> Vec<u8> {
    let mut out = vec![0; 128];
    out[..2].copy_from_slice(b"MZ");
    out[60] = 64;
    out[64..68].copy_from_slice(b"PE\0\0");
    out
}
