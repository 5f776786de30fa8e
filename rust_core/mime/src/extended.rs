//! RFC 2231: parameters in sections (`name*0`, `name*1*` …) with charset and percent-encoding. Sections may come in any order; what is
//! missing or competes is told, and the other plausible joins are given too.

use crate::decode;

/// Sections of one parameter that are looked at.
const SECTIONS_MAX: usize = 64;

struct Section<'a> {
    number: Option<u32>,
    encoded: bool,
    value: &'a [u8],
}

/// A parameter put together from its sections.
#[derive(Debug, PartialEq, Eq)]
pub struct Extended {
    /// As the standard joins them: by number from 0 on, up to the first gap. Percent-encoding undone, charset not.
    pub octets: Vec<u8>,
    /// Charset out of the first section, if any.
    pub charset: Option<Vec<u8>>,
    /// All sections in the order of the message.
    pub as_they_come: Vec<u8>,
    /// All sections by number, gaps or not.
    pub by_number: Vec<u8>,
    /// Sections in the order of their numbers, joined first and percent-decoded then, where that gives something else: an escape may be
    /// split between two sections.
    pub decoded_whole: Option<Vec<u8>>,
    /// True when sections are missing, repeated, out of order or wrongly numbered.
    pub odd: bool,
}

impl Extended {
    /// The parameter `name` if it is given in sections; `None` when it is not.
    pub fn find(parameters: &[(Vec<u8>, Vec<u8>)], name: &str) -> Option<Self> {
        let mut sections: Vec<Section<'_>> =
            parameters.iter().filter_map(|(n, value)| section(n, value, name)).take(SECTIONS_MAX).collect();
        if sections.is_empty() {
            return None;
        }
        let mut charset = None;
        let mut as_they_come = Vec::new();
        for (n, section) in sections.iter().enumerate() {
            append(&mut as_they_come, section, n == 0, &mut charset);
        }
        let numbers: Vec<Option<u32>> = sections.iter().map(|s| s.number).collect();
        let regular = numbers == [None] || numbers.iter().enumerate().all(|(n, number)| *number == Some(n as u32));
        sections.sort_by_key(|s| s.number);
        let (mut octets, mut by_number) = (Vec::new(), Vec::new());
        for (n, section) in sections.iter().enumerate() {
            append(&mut by_number, section, n == 0, &mut charset);
        }
        for (n, section) in sections.iter().enumerate() {
            // A gap ends the value (RFC 2231 3); a lone unnumbered section stands first.
            if section.number.is_some_and(|number| number != n as u32) && n > 0 {
                break;
            }
            append(&mut octets, section, n == 0, &mut charset);
        }
        let decoded_whole = decoded_whole(&sections).filter(|whole| *whole != octets && *whole != by_number);
        Some(Self { octets, charset, as_they_come, by_number, decoded_whole, odd: !regular })
    }

    /// As text.
    pub fn text(&self) -> String {
        self.to_text(&self.octets)
    }

    /// The octets in this parameter's charset; without one they are guessed.
    pub fn to_text(&self, octets: &[u8]) -> String {
        match &self.charset {
            Some(charset) if !charset.is_empty() => decode::charset(Some(charset), octets),
            _ => decode::guess(octets),
        }
    }
}

fn section<'a>(attribute: &[u8], value: &'a [u8], name: &str) -> Option<Section<'a>> {
    let rest = attribute.get(name.len()..).filter(|_| attribute[..name.len()].eq_ignore_ascii_case(name.as_bytes()))?;
    let rest = rest.strip_prefix(b"*")?;
    let (digits, encoded) = rest.strip_suffix(b"*").map_or((rest, rest.is_empty()), |digits| (digits, true));
    let number = if digits.is_empty() { None } else { Some(std::str::from_utf8(digits).ok()?.parse().ok()?) };
    Some(Section { number, encoded, value })
}

fn append(out: &mut Vec<u8>, section: &Section<'_>, first: bool, charset: &mut Option<Vec<u8>>) {
    if !section.encoded {
        out.extend_from_slice(section.value);
        return;
    }
    let mut value = section.value;
    if first && let Some((name, rest)) = split_charset(value) {
        *charset = Some(name.to_vec());
        value = rest;
    }
    percent(out, value);
}

fn decoded_whole(sections: &[Section<'_>]) -> Option<Vec<u8>> {
    if sections.len() < 2 || !sections.iter().any(|s| memchr::memchr(b'%', s.value).is_some()) {
        return None;
    }
    let joined: Vec<u8> = sections.iter().flat_map(|s| s.value).copied().collect();
    let mut out = Vec::new();
    percent(&mut out, split_charset(&joined).map_or(&joined[..], |(_, rest)| rest));
    Some(out)
}

/// `charset'language'rest`
fn split_charset(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let one = memchr::memchr(b'\'', value)?;
    let two = memchr::memchr(b'\'', &value[one + 1..])? + one + 1;
    Some((&value[..one], &value[two + 1..]))
}

fn percent(out: &mut Vec<u8>, value: &[u8]) {
    let mut at = 0;
    while at < value.len() {
        let digits = value.get(at + 1..at + 3).filter(|_| value[at] == b'%');
        let number = digits.and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u8::from_str_radix(d, 16).ok());
        out.push(number.unwrap_or(value[at]));
        at += if number.is_some() { 3 } else { 1 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(parameters: &[(&str, &str)]) -> Extended {
        let list: Vec<_> = parameters.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec())).collect();
        Extended::find(&list, "filename").unwrap()
    }

    #[test]
    fn sections_are_joined_by_number_and_decoded() {
        let found = find(&[("filename*0*", "iso-8859-1''caf%E9"), ("FileName*1", "-50%25.txt")]);
        assert_eq!((found.text().as_str(), found.odd), ("café-50%25.txt", false));
        assert_eq!(find(&[("filename*", "UTF-8'de'%e2%82%ac.exe")]).text(), "€.exe");
    }

    #[test]
    fn an_escape_that_two_sections_share_is_undone_in_the_whole() {
        let found = find(&[("filename*0*", "utf-8''p%2"), ("filename*1*", "Eexe")]);
        assert_eq!((found.text().as_str(), found.decoded_whole.as_deref()), ("p%2Eexe", Some(&b"p.exe"[..])));
        assert_eq!(find(&[("filename*0*", "utf-8''a%2E"), ("filename*1*", "exe")]).decoded_whole, None);
    }

    #[test]
    fn gaps_and_disorder_are_told_and_the_other_join_is_kept() {
        let found = find(&[("filename*1", "exe"), ("filename*0", "a.")]);
        assert_eq!((found.text().as_str(), found.as_they_come.as_slice(), found.odd), ("a.exe", &b"exea."[..], true));
        let found = find(&[("filename*0", "a.txt"), ("filename*2", ".exe")]);
        assert_eq!((found.text().as_str(), found.as_they_come.as_slice()), ("a.txt", &b"a.txt.exe"[..]));
    }
}
