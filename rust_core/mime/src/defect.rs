//! What is wrong with a message: a kind and the offset where it shows. Collected by the indexer and the analysis; the list is bounded.

/// Defects kept per message; beyond, only the fact counts.
pub const DEFECTS_MAX: usize = 1_000;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// The kind of a defect. Its name is stable: policies, tests and the catalogue (docs/mime.md) use it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DefectKind { $($(#[$doc])* $variant,)* }

        impl DefectKind {
            /// Every kind, in the order of the catalogue.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name shown to people and matched by policies.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

kinds! {
    /// A carriage return without line feed (RFC 5322 2.2).
    BareCr => "bare-cr",
    /// Both CRLF and bare LF end lines.
    MixedLineEnds => "mixed-line-ends",
    /// An octet 0.
    Nul => "nul",
    /// A header line that is no field and no continuation.
    NotAField => "not-a-field",
    /// A line of white space only within a header block.
    SpaceLine => "space-line-in-header",
    /// The header block ends without its blank line.
    HeaderNotEnded => "header-not-ended",
    /// A header block that begins with a continuation line or an empty line before fields.
    HeaderStart => "odd-header-start",
    /// A field name with spaces or octets that RFC 5322 2.2 forbids, close to one that MIME knows.
    OddFieldName => "odd-field-name",
    /// Octets above 127 in a MIME field.
    EightBitHeader => "eight-bit-header",
    /// More than one Content-Type, all alike.
    RepeatedType => "repeated-content-type",
    /// More than one Content-Type, not alike.
    ConflictingType => "conflicting-content-type",
    /// Content-Type without type/subtype.
    BadType => "bad-content-type",
    /// Something like a multipart that is none by the letter, or boundary on another type.
    OddType => "odd-content-type",
    /// More than one Content-Transfer-Encoding, all alike.
    RepeatedEncoding => "repeated-transfer-encoding",
    /// More than one Content-Transfer-Encoding, not alike.
    ConflictingEncoding => "conflicting-transfer-encoding",
    /// The encoding's field holds more than the encoding's name.
    OddEncoding => "odd-transfer-encoding",
    /// An encoding that no standard knows.
    UnknownEncoding => "unknown-transfer-encoding",
    /// A multipart or message in an encoding that RFC 2045 6.4 forbids for it.
    EncodedComposite => "encoded-composite",
    /// More than one Content-Disposition.
    RepeatedDisposition => "repeated-content-disposition",
    /// A parameter given more than once.
    RepeatedParameter => "repeated-parameter",
    /// A comment in a MIME field.
    Comment => "comment-in-field",
    /// Quoting or separation of a parameter that readers undo differently.
    MalformedParameter => "malformed-parameter",
    /// A boundary in RFC 2231 form.
    ExtendedBoundary => "extended-boundary",
    /// RFC 2231 sections that are missing, out of order, or compete with a plain parameter.
    OddExtended => "odd-extended-parameter",
    /// RFC 2047 words in a place that has none by the standard.
    EncodedWord => "encoded-word-in-parameter",
    /// White space at an end of the boundary.
    BoundarySpace => "boundary-edge-space",
    /// A boundary of more than 70 characters (RFC 2046 5.1.1).
    LongBoundary => "long-boundary",
    /// A multipart without boundary, or with an empty one.
    NoBoundary => "no-boundary",
    /// A multipart whose boundary never comes.
    NoDelimiter => "no-delimiter",
    /// The close-delimiter never comes.
    Unclosed => "missing-close-delimiter",
    /// A line that begins with a delimiter and goes on.
    DelimiterPrefix => "delimiter-prefix",
    /// A delimiter within a line.
    DelimiterInLine => "delimiter-in-line",
    /// A line that is a delimiter but for upper and lower case.
    DelimiterCase => "delimiter-case",
    /// White space behind a delimiter.
    DelimiterSpace => "delimiter-space",
    /// A delimiter of two open multiparts.
    SharedBoundary => "shared-boundary",
    /// A delimiter after the close-delimiter.
    AfterClose => "delimiter-after-close",
    /// base64 goes on after its padding.
    Base64AfterPadding => "base64-data-after-padding",
    /// Octets outside the base64 alphabet.
    Base64Invalid => "base64-invalid-octet",
    /// base64 that stops within a group.
    Base64Incomplete => "base64-incomplete",
    /// `=` followed by no hexadecimal number.
    QuotedPrintableInvalid => "quoted-printable-invalid",
    /// Readers would show different file names.
    ConflictingNames => "conflicting-names",
    /// A file within text (uuencode).
    Uuencode => "uuencoded-text",
    /// TNEF (winmail.dat) that ends early or lies about its lengths.
    BadTnef => "bad-tnef",
    /// Cap: parts.
    TooManyParts => "too-many-parts",
    /// Cap: nesting.
    TooDeep => "too-deep",
    /// Cap: octets of header blocks.
    HeaderTooLarge => "header-too-large",
    /// Cap: header fields.
    TooManyFields => "too-many-fields",
    /// Cap: parameters of a field.
    TooManyParameters => "too-many-parameters",
    /// Cap: octets of a boundary; the multipart stays opaque.
    BoundaryTooLong => "boundary-too-long",
    /// Cap: readings; there are more than were looked at.
    TooManyReadings => "too-many-readings",
    /// Cap: decoded octets of encoded messages that are looked into.
    DecodedTooLarge => "decoded-too-large",
}

impl DefectKind {
    /// True when a cap was reached, so that a part of the message was not looked at: no verdict can rest on the parts alone.
    pub const fn incomplete(self) -> bool {
        self as u8 >= Self::TooManyParts as u8
    }
}

/// One defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Defect {
    /// Where in the message it shows, in octets.
    pub offset: usize,
    /// What it is.
    pub kind: DefectKind,
}
