//! The layout of the file. All numbers are little-endian; offsets count from the file's beginning.
//!
//! ```text
//! header      144 octets, see below
//! rules       a row of 32 octets each, by domain:   record u64 | first handler u64 | exact u32 | prefix u32 | suffix u32 | others u32
//! handlers    u64 each, the record's offset: by rule, then class (exact, prefix, suffix, others), then key
//! mailboxes   u64 each, by domain, then address
//! postmasters u64 each: the mailboxes named postmaster, by address
//! records     as in record.rs
//!
//! header: magic 8 | format u32 | CRC-32C of the header without this field u32 | CRC-32C of all behind the header u32 | directory u32
//!         | version u64 | its time u64 | counts of rules, handlers, mailboxes, postmasters u64 each
//!         | offsets of these four, of the records, and of the end u64 each | zeros
//! ```
//!
//! The key of a prefix is its pattern without the '*'; of a suffix the octets of its text backwards, so that both are found by their beginning;
//! of all others the pattern itself. "Others" are regular expressions and, behind them, '*'.

use std::path::Path;

use crate::error::RulesError;

/// The format that this code writes and reads.
pub const FORMAT: u32 = 1;
pub(crate) const MAGIC: [u8; 8] = *b"GPRULES\n";
pub(crate) const HEADER: usize = 144;
pub(crate) const RULE_ROW: usize = 32;
const CRC_AT: usize = 12;

/// What the file says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// Tells one directory, and one schema of it, from another.
    pub directory: u32,
    /// The rule set's version.
    pub version: u64,
    /// When that version came to be, in Unix microseconds; 0 for version 0.
    pub stamp: u64,
    /// How many domain rules.
    pub rules: u64,
    /// How many address handlers.
    pub handlers: u64,
    /// How many mailboxes.
    pub mailboxes: u64,
    /// How many mailboxes named postmaster.
    pub postmasters: u64,
    pub(crate) body_crc: u32,
    pub(crate) rules_at: u64,
    pub(crate) handlers_at: u64,
    pub(crate) mailboxes_at: u64,
    pub(crate) postmasters_at: u64,
    pub(crate) records_at: u64,
    pub(crate) end: u64,
}

impl Header {
    /// Works out where everything lies, given how many octets the records have.
    pub(crate) fn place(&mut self, records: u64) {
        self.rules_at = HEADER as u64;
        self.handlers_at = self.rules_at + self.rules * RULE_ROW as u64;
        self.mailboxes_at = self.handlers_at + self.handlers * 8;
        self.postmasters_at = self.mailboxes_at + self.mailboxes * 8;
        self.records_at = self.postmasters_at + self.postmasters * 8;
        self.end = self.records_at + records;
    }

    /// Whether the file was made of the directory that this text tells from all others.
    pub fn fits(&self, identity: &str) -> bool {
        self.directory == crc32c::crc32c(identity.as_bytes())
    }

    pub(crate) fn encode(&self) -> [u8; HEADER] {
        let mut made = [0; HEADER];
        made[..8].copy_from_slice(&MAGIC);
        made[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        made[16..20].copy_from_slice(&self.body_crc.to_le_bytes());
        made[20..24].copy_from_slice(&self.directory.to_le_bytes());
        for (n, value) in self.numbers().into_iter().enumerate() {
            made[24 + n * 8..32 + n * 8].copy_from_slice(&value.to_le_bytes());
        }
        let crc = crc32c::crc32c(&made);
        made[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        made
    }

    fn numbers(&self) -> [u64; 12] {
        [
            self.version,
            self.stamp,
            self.rules,
            self.handlers,
            self.mailboxes,
            self.postmasters,
            self.rules_at,
            self.handlers_at,
            self.mailboxes_at,
            self.postmasters_at,
            self.records_at,
            self.end,
        ]
    }

    /// Reads it; `octets` is the whole file, whose checksum is proved too.
    pub(crate) fn decode(path: &Path, octets: &[u8]) -> Result<Self, RulesError> {
        let damaged = |why| RulesError::damaged(path, why);
        if octets.len() < HEADER || octets[..8] != MAGIC {
            return Err(damaged("is not an index of rules"));
        }
        let format = u32_at(octets, 8);
        if format != FORMAT {
            return Err(RulesError::Version { path: path.to_owned(), found: format, known: FORMAT });
        }
        let mut head = [0; HEADER];
        head.copy_from_slice(&octets[..HEADER]);
        head[CRC_AT..CRC_AT + 4].fill(0);
        if crc32c::crc32c(&head) != u32_at(octets, CRC_AT) {
            return Err(damaged("its header is damaged"));
        }
        let number = |n: usize| u64_at(octets, 24 + n * 8);
        let mut made = Self {
            body_crc: u32_at(octets, 16),
            directory: u32_at(octets, 20),
            version: number(0),
            stamp: number(1),
            rules: number(2),
            handlers: number(3),
            mailboxes: number(4),
            postmasters: number(5),
            ..Self::default()
        };
        made.place(number(11).wrapping_sub(number(10)));
        if made.numbers() != std::array::from_fn(number) || made.end != octets.len() as u64 {
            return Err(damaged("is not as long as its header says"));
        }
        if crc32c::crc32c(&octets[HEADER..]) != made.body_crc {
            return Err(damaged("its contents are damaged"));
        }
        Ok(made)
    }
}

/// The number at a place that is known to be inside.
pub(crate) fn u32_at(octets: &[u8], at: usize) -> u32 {
    octets.get(at..at + 4).map_or(0, |four| u32::from_le_bytes(four.try_into().unwrap_or_default()))
}

/// As `u32_at`.
pub(crate) fn u64_at(octets: &[u8], at: usize) -> u64 {
    octets.get(at..at + 8).map_or(0, |eight| u64::from_le_bytes(eight.try_into().unwrap_or_default()))
}
