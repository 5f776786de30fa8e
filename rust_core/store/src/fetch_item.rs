//! FETCH items: parsing their words (RFC 3501 6.4.5, RFC 9051 6.4.5) and what each of them needs to be answered.

use gatepost_mime::section::{Section, What};

use crate::error::{Result, StoreError};

/// One thing asked of each message.
#[derive(Debug, Clone)]
pub enum Item {
    /// `UID`
    Uid,
    /// `FLAGS`
    Flags,
    /// `INTERNALDATE`
    InternalDate,
    /// `RFC822.SIZE`
    Size,
    /// `MODSEQ`
    Modseq,
    /// `EMAILID`
    EmailId,
    /// `ENVELOPE`
    Envelope,
    /// `BODY` or `BODYSTRUCTURE`
    Structure { extended: bool },
    /// `BODY[…]`, `BINARY[…]`, `RFC822…`
    Section(SectionItem),
    /// `BINARY.SIZE[…]`
    BinarySize { label: String, section: Section },
}

/// A request for octets.
#[derive(Debug, Clone)]
pub struct SectionItem {
    /// What the response calls it.
    pub label: String,
    /// Which octets.
    pub section: Section,
    /// First octet and number of octets.
    pub partial: Option<(u64, u64)>,
    /// Does not set `\Seen`.
    pub peek: bool,
    /// Transfer encoding is to be undone.
    pub binary: bool,
}

/// How much of a message has to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The index row.
    Row,
    /// The octets, unparsed.
    Octets,
    /// The message's header block.
    Header,
    /// The full MIME structure.
    Structure,
}

impl Item {
    /// Parse one word, e.g. `BODY.PEEK[1.MIME]<0.100>`.
    pub fn parse(word: &str) -> Result<Self> {
        let whole = |what, label: &str, peek| {
            Self::Section(SectionItem {
                label: label.to_owned(),
                section: Section { path: Vec::new(), what },
                partial: None,
                peek,
                binary: false,
            })
        };
        Ok(match word {
            "UID" => Self::Uid,
            "FLAGS" => Self::Flags,
            "INTERNALDATE" => Self::InternalDate,
            "RFC822.SIZE" => Self::Size,
            "MODSEQ" => Self::Modseq,
            "EMAILID" => Self::EmailId,
            "ENVELOPE" => Self::Envelope,
            "BODY" => Self::Structure { extended: false },
            "BODYSTRUCTURE" => Self::Structure { extended: true },
            "RFC822" => whole(What::Content, word, false),
            "RFC822.HEADER" => whole(What::Header, word, true),
            "RFC822.TEXT" => whole(What::Text, word, false),
            _ => return Self::parse_section(word).ok_or_else(|| StoreError::Invalid(format!("fetch item {word}"))),
        })
    }

    fn parse_section(word: &str) -> Option<Self> {
        let (keyword, rest) = word.split_once('[')?;
        let (text, tail) = rest.rsplit_once(']')?;
        let section = Section::parse(text)?;
        let partial = if tail.is_empty() { None } else { Some(parse_partial(tail)?) };
        let origin = partial.map(|(from, _)| format!("<{from}>")).unwrap_or_default();
        let (name, peek, binary) = match keyword {
            "BODY" => ("BODY", false, false),
            "BODY.PEEK" => ("BODY", true, false),
            "BINARY" => ("BINARY", false, true),
            "BINARY.PEEK" => ("BINARY", true, true),
            "BINARY.SIZE" if partial.is_none() && section.what == What::Content => {
                return Some(Self::BinarySize { label: format!("BINARY.SIZE[{text}]"), section });
            }
            _ => return None,
        };
        if binary && section.what != What::Content {
            return None;
        }
        Some(Self::Section(SectionItem { label: format!("{name}[{text}]{origin}"), section, partial, peek, binary }))
    }

    /// True when fetching it marks the message as seen.
    pub fn sets_seen(&self) -> bool {
        matches!(self, Self::Section(s) if !s.peek)
    }

    /// What it takes to answer.
    pub fn need(&self) -> Need {
        match self {
            Self::Uid | Self::Flags | Self::InternalDate | Self::Size | Self::Modseq | Self::EmailId => Need::Row,
            Self::Envelope => Need::Header,
            Self::Structure { .. } => Need::Structure,
            Self::Section(SectionItem { section, .. }) | Self::BinarySize { section, .. } => {
                if !section.path.is_empty() {
                    Need::Structure
                } else if section.what == What::Content {
                    Need::Octets
                } else {
                    Need::Header
                }
            }
        }
    }
}

fn parse_partial(text: &str) -> Option<(u64, u64)> {
    let (from, count) = text.strip_prefix('<')?.strip_suffix('>')?.split_once('.')?;
    let (from, count): (u32, u32) = (from.parse().ok()?, count.parse().ok()?);
    (count > 0).then_some((u64::from(from), u64::from(count)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_keep_their_text_in_the_label_and_lose_peek() {
        let Item::Section(item) = Item::parse("BODY.PEEK[HEADER.FIELDS (FROM TO)]<10.20>").unwrap() else { panic!() };
        assert_eq!(item.label, "BODY[HEADER.FIELDS (FROM TO)]<10>");
        assert_eq!(item.partial, Some((10, 20)));
        assert!(item.peek);
    }

    #[test]
    fn bad_items_are_refused() {
        for word in
            ["BODY[", "BODY[0]", "BODY[MIME]", "BODY[]<1>", "BODY[]<1.0>", "BINARY[HEADER]", "X", "BODY[1..2]", "BODY[HEADER.FIELDS ()]"]
        {
            assert!(Item::parse(word).is_err(), "{word}");
        }
    }
}
