//! A dialect is one way to read a message. Readers differ in a handful of choices; a dialect fixes an option for each of them, and
//! the pass tells which choices it met. `readings` combines them. All zero is the baseline, which IMAP shows.

/// A point where real readers differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// What ends a line.
    Line,
    /// What an octet 0 does.
    Nul,
    /// What ends a header block.
    HeaderEnd,
    /// Which field names count.
    FieldName,
    /// Which of several Content-Type fields counts.
    TypeField,
    /// What is a multipart.
    TypeForm,
    /// Which of several parameters of one name counts.
    Parameter,
    /// What a comment is.
    Comment,
    /// How a parameter's value is cut out and unquoted.
    Value,
    /// RFC 2231 sections of a boundary.
    Extended,
    /// RFC 2047 words within structured fields.
    Words,
    /// White space at the ends of a boundary.
    Trim,
    /// A multipart without boundary.
    NoBoundary,
    /// What line is a delimiter.
    Match,
    /// Whose delimiter a line is when it fits two multiparts.
    Order,
    /// What follows a close-delimiter.
    AfterClose,
    /// A multipart that is not closed.
    Unclosed,
}

/// Number of choices.
pub const CHOICES: usize = 17;

impl Choice {
    /// All of them.
    pub const ALL: [Self; CHOICES] = [
        Self::Line,
        Self::Nul,
        Self::HeaderEnd,
        Self::FieldName,
        Self::TypeField,
        Self::TypeForm,
        Self::Parameter,
        Self::Comment,
        Self::Value,
        Self::Extended,
        Self::Words,
        Self::Trim,
        Self::NoBoundary,
        Self::Match,
        Self::Order,
        Self::AfterClose,
        Self::Unclosed,
    ];

    /// What a reader that takes each option does; the first is the baseline. Shown as the name of a reading.
    pub const fn options(self) -> &'static [&'static str] {
        match self {
            Self::Line => &["", "a bare CR ends a line", "only CRLF ends a line"],
            Self::Nul => &["", "octets 0 are dropped from lines", "a line ends at its octet 0"],
            Self::HeaderEnd => &[
                "",
                "a line of spaces ends the header",
                "a line that is no field ends the header",
                "empty lines before the header are skipped",
            ],
            Self::FieldName => &["", "only exact field names count", "field names count without foreign octets"],
            Self::TypeField => &["", "the last Content-Type counts"],
            Self::TypeForm => &["", "whatever has a boundary or is called multipart is one"],
            Self::Parameter => &["", "the last of repeated parameters counts"],
            Self::Comment => &["", "comments vanish and their neighbours join", "comments are plain text"],
            Self::Value => &[
                "",
                "a parameter reaches to the semicolon, backslashes stay",
                "quoted and unquoted pieces of a parameter join",
                "semicolons separate even within quotes",
                "boundary= is looked for anywhere",
            ],
            Self::Extended => &["", "RFC 2231 parameters win", "RFC 2231 parameters are unknown", "RFC 2231 sections join as they come"],
            Self::Words => &["", "encoded words are decoded in structured fields"],
            Self::Trim => &["", "spaces around a boundary are cut", "spaces of a boundary count"],
            Self::NoBoundary => &["", "the first line with two dashes is the delimiter", "the empty boundary is one"],
            Self::Match => &[
                "",
                "a line that begins with a delimiter is one",
                "delimiters match in any case",
                "a delimiter has no space behind it",
                "a delimiter stands anywhere in a line",
            ],
            Self::Order => &["", "the outermost multipart takes its delimiter first"],
            Self::AfterClose => &["", "parts go on after the close-delimiter"],
            Self::Unclosed => &["", "a multipart that is not closed is plain text"],
        }
    }
}

/// An option for each choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Dialect([u8; CHOICES]);

impl Dialect {
    /// The option taken.
    pub fn get(&self, choice: Choice) -> u8 {
        self.0[choice as usize]
    }

    /// This dialect with another option.
    #[must_use]
    pub fn with(mut self, choice: Choice, option: u8) -> Self {
        self.0[choice as usize] = option;
        self
    }

    /// True when all is as in the baseline.
    pub fn is_baseline(&self) -> bool {
        *self == Self::default()
    }

    /// True when Content-Type values are to be read otherwise than by the standard.
    pub(crate) fn reads_values_apart(&self) -> bool {
        [Choice::Comment, Choice::Value, Choice::Words, Choice::Parameter].iter().any(|&c| self.get(c) != 0)
    }

    /// What a reader of this dialect does differently, joined by "; ". Empty for the baseline.
    pub fn label(&self) -> String {
        let named = Choice::ALL.iter().filter(|&&c| self.get(c) != 0).map(|&c| c.options()[self.get(c) as usize]);
        named.collect::<Vec<_>>().join("; ")
    }
}

/// A set of choices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choices(u32);

impl Choices {
    /// Put one in.
    pub fn add(&mut self, choice: Choice) {
        self.0 |= 1 << choice as u32;
    }

    /// Put all of another set in.
    pub fn merge(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// True when it is in.
    pub fn has(self, choice: Choice) -> bool {
        self.0 >> (choice as u32) & 1 == 1
    }

    /// True when all of `other` are in.
    pub fn covers(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// True when there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}
