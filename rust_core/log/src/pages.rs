//! Pages of a file that the disk cannot read, told from a disk that does not answer. Used by recovery and by readers behind the writer.
//!
//! A read that fails is repeated page by page. A page counts as lost when it fails each time while the file's first page, which was read when the
//! segment was opened, is read from the disk in between; zeroes stand for it, which are no record. Anything else is the disk's failure: the error goes to
//! the caller, who must not take what is there for gone. However many pages are lost, the others are read.

use std::path::Path;

use crate::error::LogError;
use crate::format::{SEGMENT_HEADER, segment_name};
use crate::segment::Segment;
use crate::storage::StorageFile;

/// What a damage says whose octets cannot be read.
pub(crate) const UNREADABLE: &str = "cannot be read from the disk";
/// Octets that a disk loses as one, at most, and a multiple of what it loses at least.
pub(crate) const PAGE: u64 = 4096;
/// Times that a page must fail.
const TRIES: usize = 4;
/// Times that it must when so many of the same read are lost already: a disk takes its time for each.
const TRIES_MORE: usize = 2;
const MANY: usize = 16;

/// Is this what a read says of a place that is gone? `EUCLEAN` and `EBADMSG` come from file systems with checksums.
pub(crate) fn of_place(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EUCLEAN | libc::EBADMSG))
}

/// Lost stretches of one file, ascending.
#[derive(Debug, Default)]
pub(crate) struct Lost(Vec<(u64, u64)>);

impl Lost {
    /// Reads up to `buf.len()` octets at `offset`, zeroes for what is lost; fewer only at the end of the file.
    pub fn read(&mut self, segment: &Segment, buf: &mut [u8], offset: u64) -> Result<usize, LogError> {
        let failed = |e: &std::io::Error| LogError::io("read", Path::new(&segment_name(segment.number())), e);
        match segment.file().read_at(buf, offset) {
            Ok(n) => return Ok(n),
            Err(error) if !of_place(&error) => return Err(failed(&error)),
            Err(_) => {}
        }
        let len = segment.file().len().map_err(|e| failed(&e))?;
        let stop = len.min(offset + buf.len() as u64).max(offset);
        let (mut at, mut lost) = (offset, 0);
        while at < stop {
            let end = ((at / PAGE + 1) * PAGE).min(stop);
            let page = &mut buf[usize::try_from(at - offset).unwrap_or(0)..usize::try_from(end - offset).unwrap_or(0)];
            let tries = if lost < MANY { TRIES } else { TRIES_MORE };
            if !page_is_there(segment, page, at, tries).map_err(|e| failed(&e))? {
                page.fill(0);
                self.add(at / PAGE * PAGE, (at / PAGE + 1) * PAGE);
                lost += 1;
            }
            at = end;
        }
        Ok(usize::try_from(stop - offset).unwrap_or(0))
    }

    /// Something was lost.
    pub fn any(&self) -> bool {
        !self.0.is_empty()
    }

    fn add(&mut self, from: u64, to: u64) {
        if let Err(at) = self.0.binary_search(&(from, to)) {
            self.0.insert(at, (from, to));
        }
    }

    /// End of the last lost page that lies in `from..to` or reaches into it.
    pub fn last_within(&self, from: u64, to: u64) -> Option<u64> {
        self.0.iter().filter(|(start, end)| *start < to && *end > from).map(|(_, end)| *end).max()
    }

    /// The stretches of `from..to` that are not lost.
    pub fn readable(&self, from: u64, to: u64) -> Vec<(u64, u64)> {
        let (mut found, mut at) = (Vec::new(), from);
        for (start, end) in self.0.iter().filter(|(start, end)| *start < to && *end > from) {
            if *start > at {
                found.push((at, *start));
            }
            at = (*end).min(to);
        }
        if at < to {
            found.push((at, to));
        }
        found
    }
}

/// Reads a page. False when it is lost; an error when the disk does not answer.
fn page_is_there(segment: &Segment, page: &mut [u8], at: u64, tries: usize) -> std::io::Result<bool> {
    for _ in 0..tries {
        match segment.file().read_at(page, at) {
            Ok(n) if n == page.len() => return Ok(true),
            Ok(_) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Err(error) if !of_place(&error) => return Err(error),
            Err(_) => {}
        }
        // Out of the system's memory it would tell nothing of the disk.
        segment.file().forget_read(0, PAGE);
        segment.file().read_at(&mut [0; SEGMENT_HEADER as usize], 0)?;
    }
    Ok(false)
}

/// Is the first page of a file lost? Its second page is read in between; a file that has none tells nothing.
pub(crate) fn head_is_lost(file: &dyn StorageFile) -> bool {
    let lost = |at| file.read_at(&mut [0; SEGMENT_HEADER as usize], at).is_err_and(|error| of_place(&error));
    let there = |at| file.read_at(&mut [0; SEGMENT_HEADER as usize], at).is_ok_and(|n| n > 0);
    (0..TRIES).all(|_| lost(0) && there(PAGE))
}
