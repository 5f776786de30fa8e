//! Decompression into memory that counts what really comes out. Every decoder of this crate ends here.
//!
//! [`Sink`] charges the budget for each piece and keeps the beginning up to the room there is; what does not fit is counted and dropped.

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bzip2_rs::DecoderReader;
use deflate64::Deflate64Decoder;
use lzma_rust2::{Lzma2Reader, LzmaReader};
use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZError, MZFlush, MZStatus};
use ruzstd::decoding::StreamingDecoder;

use crate::budget::{Budget, Stop};
use crate::bytes::{Cursor, le32};

const PIECE: usize = 64 << 10;

/// What came out.
#[derive(Debug, Default)]
pub struct Output {
    /// The beginning, or all of it.
    pub data: Vec<u8>,
    /// Octets that came out.
    pub total: u64,
    /// Octets of the input that were used, where the format tells.
    pub used: usize,
    /// It ended as the format wants.
    pub sound: bool,
}

impl Output {
    /// Everything that came out was kept.
    pub fn is_whole(&self) -> bool {
        self.data.len() as u64 == self.total
    }
}

/// Where decoders put their octets.
#[derive(Debug)]
pub struct Sink<'b> {
    budget: &'b mut Budget,
    input: u64,
    keep: usize,
    out: Output,
}

impl<'b> Sink<'b> {
    /// For a stream of `input` compressed octets.
    pub fn new(budget: &'b mut Budget, input: usize) -> Self {
        let keep = budget.room();
        Self { budget, input: input as u64, keep, out: Output::default() }
    }

    /// Take the next octets.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), Stop> {
        self.out.total += piece.len() as u64;
        let kept = piece.len().min(self.keep - self.out.data.len());
        self.reserve(kept);
        self.out.data.extend_from_slice(&piece[..kept]);
        self.budget.spend(piece.len(), self.input, self.out.total)
    }

    /// Double as `Vec` would, but never beyond what may be kept.
    fn reserve(&mut self, more: usize) {
        let data = &mut self.out.data;
        if data.capacity() - data.len() < more {
            let wanted = (data.capacity() * 2).max(data.len() + more).min(self.keep);
            data.reserve_exact(wanted - data.len());
        }
    }

    /// Read until the end or the first fault; `true` when it ended well.
    pub fn drain(&mut self, reader: &mut dyn Read) -> Result<bool, Stop> {
        let mut piece = vec![0; PIECE];
        loop {
            match guarded(|| reader.read(&mut piece)) {
                Some(Ok(0)) => return Ok(true),
                Some(Ok(count)) => self.push(&piece[..count])?,
                Some(Err(fault)) if fault.kind() == std::io::ErrorKind::Interrupted => {}
                Some(Err(_)) | None => return Ok(false),
            }
        }
    }

    /// Largest window a decoder may have.
    pub fn window(&self, wanted: u64) -> u32 {
        self.budget.window(wanted)
    }

    /// Ask the clock.
    pub fn tick(&self) -> Result<(), Stop> {
        self.budget.tick()
    }

    /// What was kept.
    pub fn done(mut self, used: usize, sound: bool) -> Output {
        (self.out.used, self.out.sound) = (used, sound);
        self.out
    }
}

/// Run other people's code on hostile octets; a panic in it is damage of one entry, and the rest of the tree is still looked at.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

/// Octets as they are. They count, too: a container may name the same ones many times.
pub fn stored(budget: &mut Budget, input: &[u8]) -> Result<(), Stop> {
    budget.spend(input.len(), input.len() as u64, input.len() as u64)
}

/// Raw deflate (RFC 1951), or zlib (RFC 1950).
pub fn deflate(budget: &mut Budget, input: &[u8], zlib: bool) -> Result<Output, Stop> {
    let format = if zlib { DataFormat::ZLibIgnoreChecksum } else { DataFormat::Raw };
    let mut state = InflateState::new_boxed(format);
    let mut sink = Sink::new(budget, input.len());
    let mut piece = vec![0; PIECE];
    let mut used = 0;
    loop {
        let step = inflate(&mut state, &input[used..], &mut piece, MZFlush::None);
        used += step.bytes_consumed;
        sink.push(&piece[..step.bytes_written])?;
        match step.status {
            Ok(MZStatus::StreamEnd) => return Ok(sink.done(used, true)),
            Ok(_) | Err(MZError::Buf) if step.bytes_written > 0 || step.bytes_consumed > 0 => {}
            _ => return Ok(sink.done(used, false)),
        }
    }
}

/// Deflate64, zip's method 9.
pub fn deflate64(budget: &mut Budget, input: &[u8]) -> Result<Output, Stop> {
    let mut sink = Sink::new(budget, input.len());
    let sound = sink.drain(&mut Deflate64Decoder::with_buffer(input))?;
    Ok(sink.done(input.len(), sound))
}

/// Streams of bzip2 that do not end well, after which no further ones are looked for.
const BROKEN_STREAMS_MAX: usize = 8;

/// bzip2: one stream, or several behind each other, which are found by their mark.
pub fn bzip2(budget: &mut Budget, input: &[u8]) -> Result<Output, Stop> {
    let mut sink = Sink::new(budget, input.len());
    let (mut sound, mut failed) = (false, 0);
    for at in memchr::memmem::find_iter(input, b"1AY&SY") {
        let Some(start) = at.checked_sub(4).filter(|start| input[*start..].starts_with(b"BZh")) else { continue };
        sink.tick()?;
        sound = sink.drain(&mut DecoderReader::new(&input[start..]))?;
        failed += usize::from(!sound);
        // Marks that begin nothing cost time, and unpackers stop at the first.
        if failed > BROKEN_STREAMS_MAX {
            break;
        }
    }
    Ok(sink.done(input.len(), sound))
}

/// LZMA without header: properties octet, dictionary, and the size if the container knows it.
pub fn lzma(budget: &mut Budget, input: &[u8], properties: u8, dictionary: u32, size: u64) -> Result<Output, Stop> {
    let mut sink = Sink::new(budget, input.len());
    let window = sink.window(u64::from(dictionary).min(size.max(4_096)));
    let sound = match guarded(|| LzmaReader::new_with_props(input, size, properties, window, None)) {
        Some(Ok(mut reader)) => sink.drain(&mut reader)?,
        _ => false,
    };
    Ok(sink.done(input.len(), sound))
}

/// The `.lzma` file format: properties, dictionary, size, data.
pub fn lzma_alone(budget: &mut Budget, input: &[u8]) -> Result<Output, Stop> {
    let mut cursor = Cursor::new(input);
    let header = (|| Some((cursor.u8()?, cursor.u32()?, cursor.u64()?)))();
    match header {
        Some((properties, dictionary, size)) => lzma(budget, cursor.rest(), properties, dictionary, size),
        None => Ok(Output::default()),
    }
}

/// lzip: members of a header of six octets and LZMA with an end mark, found by their marks.
pub fn lzip(budget: &mut Budget, input: &[u8]) -> Result<Output, Stop> {
    let mut sink = Sink::new(budget, input.len());
    let (mut sound, mut failed) = (false, 0);
    for at in memchr::memmem::find_iter(input, b"LZIP\x01") {
        let Some(&size) = input.get(at + 5) else { break };
        let base = 1u64 << (size & 31);
        let window = sink.window((base - base / 16 * u64::from(size >> 5)).max(4_096));
        // Three bits of literal context and two of position: the format has no others.
        sound = match guarded(|| LzmaReader::new_with_props(&input[at + 6..], u64::MAX, 0x5d, window, None)) {
            Some(Ok(mut reader)) => sink.drain(&mut reader)?,
            _ => false,
        };
        failed += usize::from(!sound);
        if failed > BROKEN_STREAMS_MAX {
            break;
        }
    }
    Ok(sink.done(input.len(), sound))
}

/// LZMA2 into a sink; how much of the input it took, and whether it ended well.
pub fn lzma2_into(sink: &mut Sink<'_>, input: &[u8], dictionary: u64) -> Result<(usize, bool), Stop> {
    let mut left = input;
    let window = sink.window(dictionary.max(4_096));
    let sound = sink.drain(&mut Lzma2Reader::new(&mut left, window, None))?;
    Ok((input.len() - left.len(), sound))
}

/// LZMA2 without container.
pub fn lzma2(budget: &mut Budget, input: &[u8], dictionary: u64) -> Result<Output, Stop> {
    let mut sink = Sink::new(budget, input.len());
    let (used, sound) = lzma2_into(&mut sink, input, dictionary)?;
    Ok(sink.done(used, sound))
}

/// The dictionary size that LZMA2 writes in one octet.
pub fn lzma2_dictionary(octet: u8) -> Option<u64> {
    match octet {
        0..=39 => Some((2 | u64::from(octet & 1)) << (octet / 2 + 11)),
        40 => Some(0xffff_ffff),
        _ => None,
    }
}

/// Zstandard (RFC 8878): all frames, skipping those that are to be skipped.
pub fn zstd(budget: &mut Budget, input: &[u8]) -> Result<Output, Stop> {
    let mut sink = Sink::new(budget, input.len());
    let mut left = input;
    let mut sound = !input.is_empty();
    while sound && !left.is_empty() {
        let magic = le32(left, 0).unwrap_or(0);
        if magic & 0xffff_fff0 == 0x184d_2a50 {
            let length = le32(left, 4).unwrap_or(u32::MAX) as usize;
            sound = left.len() >= 8 && length <= left.len() - 8;
            left = left.get(length.saturating_add(8)..).unwrap_or(&[]);
        } else if magic == 0xfd2f_b528 {
            sound = zstd_frame(&mut sink, &mut left)?;
        } else {
            break;
        }
    }
    let used = input.len() - left.len();
    Ok(sink.done(used, sound))
}

fn zstd_frame(sink: &mut Sink<'_>, left: &mut &[u8]) -> Result<bool, Stop> {
    let most = u64::from(sink.window(u64::MAX));
    match guarded(|| StreamingDecoder::new_with_max_window_size(&mut *left, most)) {
        Some(Ok(mut reader)) => sink.drain(&mut reader),
        _ => Ok(false),
    }
}
