//! What one inspection may cost, counted on what really came out of decoders. One object goes down the whole tree.
//!
//! Nobody resets it: an archive of archives spends from the same purse. [`Stop`] ends the inspection at once.

use std::time::{Duration, Instant};

/// Upper bounds of one inspection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Octets out of all decoders together.
    pub bytes: u64,
    /// Entries in the tree.
    pub entries: u32,
    /// Containers within containers.
    pub depth: u32,
    /// Octets out per octet in, of the whole and of one stream, once `ratio_floor` octets have come out.
    pub ratio: u64,
    /// Output that is never called a bomb for its ratio alone.
    pub ratio_floor: u64,
    /// Decoded octets kept in memory at a time, and the largest window of a decoder.
    pub memory: usize,
    /// Wall-clock time.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 512 << 20,
            entries: 20_000,
            depth: 16,
            ratio: 200,
            ratio_floor: 16 << 20,
            memory: 32 << 20,
            time: Duration::from_secs(2),
        }
    }
}

/// The limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// [`Limits::bytes`]
    Bytes,
    /// [`Limits::entries`]
    Entries,
    /// [`Limits::depth`]
    Depth,
    /// [`Limits::ratio`]
    Ratio,
    /// [`Limits::time`]
    Time,
}

impl Stop {
    /// The word used in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Entries => "entries",
            Self::Depth => "depth",
            Self::Ratio => "ratio",
            Self::Time => "time",
        }
    }
}

/// What is left of the limits.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    deadline: Instant,
    input: u64,
    produced: u64,
    entries: u32,
    held: usize,
}

impl Budget {
    /// A fresh one for an input of that many octets; the clock starts.
    pub fn new(limits: Limits, input: usize) -> Self {
        let deadline = Instant::now() + limits.time;
        Self { limits, deadline, input: input as u64, produced: 0, entries: 0, held: 0 }
    }

    /// Octets that came out of decoders so far.
    pub fn produced(&self) -> u64 {
        self.produced
    }

    /// One more entry, `depth` containers down.
    pub fn enter(&mut self, depth: u32) -> Result<(), Stop> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(Stop::Entries);
        }
        if depth > self.limits.depth {
            return Err(Stop::Depth);
        }
        self.tick()
    }

    /// Ask the clock; for loops whose work is not counted in octets.
    pub fn tick(&self) -> Result<(), Stop> {
        if Instant::now() >= self.deadline { Err(Stop::Time) } else { Ok(()) }
    }

    /// `count` octets came out of a decoder whose stream gave `stream_out` so far for `stream_in`.
    pub fn spend(&mut self, count: usize, stream_in: u64, stream_out: u64) -> Result<(), Stop> {
        self.produced += count as u64;
        if self.produced > self.limits.bytes {
            return Err(Stop::Bytes);
        }
        let beyond = |octets: u64, of: u64| octets > self.limits.ratio_floor && octets / of.max(1) >= self.limits.ratio;
        if beyond(stream_out, stream_in) || beyond(self.produced, self.input) {
            return Err(Stop::Ratio);
        }
        self.tick()
    }

    /// Decoded octets that may still be kept in memory.
    pub fn room(&self) -> usize {
        self.limits.memory.saturating_sub(self.held)
    }

    /// `count` decoded octets are kept from now on.
    pub fn hold(&mut self, count: usize) {
        self.held += count;
    }

    /// They are no longer.
    pub fn release(&mut self, count: usize) {
        self.held = self.held.saturating_sub(count);
    }

    /// The window a decoder may have when the stream asks for `wanted`. A smaller one than asked for decodes what does not look back further.
    pub fn window(&self, wanted: u64) -> u32 {
        wanted.min(self.limits.memory as u64 / 2).min(u64::from(u32::MAX)) as u32
    }
}
