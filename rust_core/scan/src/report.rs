//! The answer: a flat tree of entries, parents before children, and one verdict.

use gatepost_mime::transfer::Method;

use crate::budget::Stop;
use crate::kind::Kind;

/// A set of properties of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u32);

impl Flags {
    /// Others can be inside.
    pub const CONTAINER: Self = Self(1);
    /// Needs a password.
    pub const ENCRYPTED: Self = Self(1 << 1);
    /// Carries macros (VBA, Excel 4.0, Basic).
    pub const MACRO: Self = Self(1 << 2);
    /// A macro or action that runs when the document is opened.
    pub const AUTORUN: Self = Self(1 << 3);
    /// A script, or a document with script inside (HTML, PDF, SVG).
    pub const SCRIPT: Self = Self(1 << 4);
    /// A program, installer, or shortcut that starts one.
    pub const EXECUTABLE: Self = Self(1 << 5);
    /// Starts a program or fetches code when opened (PDF Launch, remote template, DDE, shortcut).
    pub const LAUNCH: Self = Self(1 << 6);
    /// A document with files inside (PDF attachment, OLE package).
    pub const EMBEDS: Self = Self(1 << 7);
    /// HTML that builds a file in the browser.
    pub const SMUGGLES: Self = Self(1 << 8);
    /// The content is not what the name's extension says.
    pub const MISNAMED: Self = Self(1 << 9);
    /// The extension is one that Outlook or Gmail block.
    pub const BLOCKED_NAME: Self = Self(1 << 10);
    /// The name deceives: see the entry's signs.
    pub const DECEPTIVE_NAME: Self = Self(1 << 11);
    /// A message that readers take in different ways.
    pub const AMBIGUOUS: Self = Self(1 << 12);

    const NAMES: [(Self, &'static str); 13] = [
        (Self::CONTAINER, "container"),
        (Self::ENCRYPTED, "encrypted"),
        (Self::MACRO, "macro"),
        (Self::AUTORUN, "autorun"),
        (Self::SCRIPT, "script"),
        (Self::EXECUTABLE, "executable"),
        (Self::LAUNCH, "launch"),
        (Self::EMBEDS, "embeds"),
        (Self::SMUGGLES, "smuggles"),
        (Self::MISNAMED, "misnamed"),
        (Self::BLOCKED_NAME, "blocked-name"),
        (Self::DECEPTIVE_NAME, "deceptive-name"),
        (Self::AMBIGUOUS, "ambiguous"),
    ];

    /// Whether all of `other` are set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Set those of `other`, too.
    pub fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// The words used in reports.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(flag, _)| self.has(*flag)).map(|(_, name)| name)
    }
}

/// What is wrong with an entry's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// Its structure does not add up; what could be read was.
    Damaged,
    /// It ends early.
    Truncated,
    /// A compression or format that is not opened.
    Unsupported,
    /// Only its beginning was looked at.
    TooLarge,
    /// It came out in another size than declared.
    SizeDiffers,
    /// Directory and local header disagree: two readers see two files.
    NamesDiffer,
    /// Entries share octets of the container.
    Overlap,
    /// An entry that the directory does not list.
    Unlisted,
    /// The container does not begin where the file begins.
    Prepended,
    /// More follows behind the container's end.
    Trailing,
    /// The name points out of the directory it is unpacked in.
    Escapes,
    /// The inspection itself panicked; the rest was not looked at.
    Panicked,
}

impl Defect {
    /// The word used in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Truncated => "truncated",
            Self::Unsupported => "unsupported",
            Self::TooLarge => "too-large",
            Self::SizeDiffers => "size-differs",
            Self::NamesDiffer => "names-differ",
            Self::Overlap => "overlap",
            Self::Unlisted => "unlisted",
            Self::Prepended => "prepended",
            Self::Trailing => "trailing",
            Self::Escapes => "escapes",
            Self::Panicked => "panicked",
        }
    }

    /// Whether something may have stayed unseen because of it.
    fn hides(self) -> bool {
        matches!(self, Self::Damaged | Self::Truncated | Self::Unsupported | Self::TooLarge | Self::Panicked)
    }
}

/// Where a part of the message asked about stands in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its header block.
    pub header: usize,
    /// Its body, still encoded.
    pub body: usize,
    /// Behind it.
    pub end: usize,
    /// How this entry's content comes out of the body.
    pub coding: Method,
}

/// One file: the one asked about, or one found inside another.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Index of the container.
    pub parent: Option<u32>,
    /// 0 for the one asked about.
    pub depth: u32,
    /// Its name as its container gives it, at most 1,024 octets.
    pub name: String,
    /// The media type it claims.
    pub declared: String,
    /// What it is by content; `None` when nothing of the content could be had.
    pub kind: Option<Kind>,
    /// Octets that really came out (as far as counted), or were declared when nothing could be opened.
    pub size: u64,
    /// Properties.
    pub flags: Flags,
    /// What was found, in words: `macro:AutoOpen`, `pdf:javascript`, `name:double-extension`.
    pub signs: Vec<String>,
    /// What is wrong.
    pub defects: Vec<Defect>,
    /// SHA-256 of the whole content, when it was whole.
    pub sha256: Option<[u8; 32]>,
    /// Of a part of the message asked about; parts of messages within it included, if those are not encoded.
    pub place: Option<Place>,
}

/// Signs kept per entry.
const SIGNS_MAX: usize = 32;

impl Entry {
    /// Note a defect once.
    pub fn defect(&mut self, defect: Defect) {
        if !self.defects.contains(&defect) {
            self.defects.push(defect);
        }
    }

    /// Note something found, once, and as long as there are not too many.
    pub fn sign(&mut self, sign: impl Into<String>) {
        let mut sign: String = sign.into();
        if sign.len() > 200 {
            let end = (0..=200).rev().find(|&at| sign.is_char_boundary(at)).unwrap_or(0);
            sign.truncate(end);
        }
        if self.signs.len() < SIGNS_MAX && !self.signs.contains(&sign) {
            self.signs.push(sign);
        }
    }
}

/// The outcome in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything was looked at.
    Complete,
    /// Something stayed closed: encrypted, damaged, of an unknown compression, or too large.
    Partial,
    /// A limit on octets, entries, depth or ratio was reached.
    Bomb,
    /// The time was over.
    Timeout,
}

impl Verdict {
    /// The word used in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Partial => "partial",
            Self::Bomb => "bomb",
            Self::Timeout => "timeout",
        }
    }
}

/// The whole answer.
#[derive(Clone, Debug)]
pub struct Report {
    /// The file asked about is the first.
    pub entries: Vec<Entry>,
    /// In one word.
    pub verdict: Verdict,
    /// Which limit ended it.
    pub stop: Option<Stop>,
    /// Octets that came out of decoders.
    pub produced: u64,
}

impl Report {
    /// All properties of all entries.
    pub fn flags(&self) -> Flags {
        let mut all = Flags::default();
        self.entries.iter().for_each(|entry| all.set(entry.flags));
        all
    }

    /// Derive the verdict from limit and entries.
    pub(crate) fn settle(&mut self) {
        let closed = |entry: &Entry| entry.flags.has(Flags::ENCRYPTED) || entry.defects.iter().any(|defect| defect.hides());
        self.verdict = match self.stop {
            Some(Stop::Time) => Verdict::Timeout,
            Some(_) => Verdict::Bomb,
            None if self.entries.iter().any(closed) => Verdict::Partial,
            None => Verdict::Complete,
        };
    }
}
