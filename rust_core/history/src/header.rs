//! Subject and Message-ID out of the beginning of a stored message. One pass over the lines of the header section, nothing else of
//! the message is looked at.

use gatepost_mime::{decode, field};
use memchr::memchr;

/// Characters of a subject that are kept.
const SUBJECT: usize = 200;
/// Octets of a Message-ID that are kept (RFC 5322 2.1.1 has lines of at most 998).
const HEADER_ID: usize = 250;
/// Octets of a raw field that are looked at.
const FIELD: usize = 2000;

/// (subject with its RFC 2047 words decoded, Message-ID without angle brackets); the first field of each name counts.
pub fn scan(head: &[u8]) -> (String, String) {
    let (mut subject, mut header_id) = (None, None);
    let mut rest = head;
    while !rest.is_empty() && !rest.starts_with(b"\r\n") && (subject.is_none() || header_id.is_none()) {
        let end = memchr(b'\n', rest).map_or(rest.len(), |n| n + 1);
        match rest[0] | 0x20 {
            b's' if subject.is_none() => subject = value(rest, end, b"subject"),
            b'm' if header_id.is_none() => header_id = value(rest, end, b"message-id"),
            _ => {}
        }
        rest = &rest[end..];
    }
    let subject = subject.map(|raw| decode::header_text(&raw).chars().map(plain).take(SUBJECT).collect());
    let header_id = header_id.map(|raw| identifier(&String::from_utf8_lossy(&raw)).to_owned());
    (subject.unwrap_or_default(), header_id.unwrap_or_default())
}

/// A Message-ID as it is kept and searched: without angle brackets and white space, cut.
pub fn identifier(text: &str) -> &str {
    let text = text.trim().trim_start_matches('<').trim_end_matches('>').trim();
    let mut end = text.len().min(HEADER_ID);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn plain(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}

/// The unfolded value of the field that begins here, if it has this name. `end` is the end of its first line.
fn value(data: &[u8], mut end: usize, name: &[u8]) -> Option<Vec<u8>> {
    if !data.get(..name.len())?.eq_ignore_ascii_case(name) {
        return None;
    }
    let colon = data[name.len()..end].iter().position(|b| !matches!(b, b' ' | b'\t'))? + name.len();
    if data[colon] != b':' {
        return None;
    }
    while end < data.len() && end < FIELD && matches!(data[end], b' ' | b'\t') {
        end += memchr(b'\n', &data[end..]).map_or(data.len() - end, |n| n + 1);
    }
    Some(field::unfold(&data[colon + 1..end.min(colon + 1 + FIELD)]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folded_and_encoded_subjects_are_read() {
        let head = b"Received: by x\r\n\tSubject: not this\r\nsubject : =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n =?utf-8?b?ISE=?= all\r\nMESSAGE-ID:\r\n <a@b>\r\n\r\nSubject: nor this\r\n";
        assert_eq!(scan(head), ("Grüße!! all".into(), "a@b".into()));
    }

    #[test]
    fn any_octets_are_taken() {
        assert_eq!(scan(b""), Default::default());
        assert_eq!(scan(b"Subject"), Default::default());
        assert_eq!(scan(b"Subject:\xff\x00x\x07\r\nMessage-Id: <<>>"), ("\u{fffd}x ".into(), String::new()));
        let long = format!("Subject: {}\r\n", "ä".repeat(5000));
        assert!(scan(long.as_bytes()).0.chars().count() <= 200);
        assert_eq!(identifier(&"é".repeat(400)).len(), 250);
    }
}
