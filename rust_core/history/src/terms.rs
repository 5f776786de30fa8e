//! Search terms: what of a message can be found without reading every row, each as a hash of its field and its value in lower case.
//!
//! A hash has 32 bits, so two values may share one; whoever finds a row by a term looks at the row itself afterwards.

use gatepost_queue::{kind, reroute_detail};
use memchr::memmem;

use crate::record::{Event, Message};

/// Words of a subject that are indexed.
const WORDS: usize = 32;

/// The field of a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Field {
    /// Whole reverse-path.
    Sender = b's',
    /// Its domain.
    SenderDomain = b'S',
    /// Whole recipient address, final, original or rerouted.
    Recipient = b'r',
    /// Its domain.
    RecipientDomain = b'R',
    /// Message-ID field.
    HeaderId = b'm',
    /// Client address, HELO name, host that answered an attempt.
    Host = b'h',
    /// A word of the subject.
    Word = b'w',
    /// Name of a final recipient state.
    Outcome = b'o',
}

/// The hash of a value, which must be in lower case.
pub fn hash(field: Field, value: &str) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&[field as u8]), value.as_bytes())
}

/// Calls `f` with every term of the message but those of its events.
pub fn of_head(m: &Message, f: &mut dyn FnMut(u32)) {
    address(Field::Sender, Field::SenderDomain, &m.sender, f);
    for r in &m.recipients {
        address(Field::Recipient, Field::RecipientDomain, &r.address, f);
        let original = original(&r.original);
        if !original.is_empty() && !original.eq_ignore_ascii_case(&r.address) {
            address(Field::Recipient, Field::RecipientDomain, original, f);
        }
        if r.destination.is_empty() {
            f(hash(Field::Outcome, "delivered"));
        }
    }
    if !m.header_id.is_empty() {
        lower(&m.header_id, |id| f(hash(Field::HeaderId, id)));
    }
    for host in origin_hosts(&m.meta) {
        lower(&host, |host| f(hash(Field::Host, host)));
    }
    words(&m.subject, &mut |word| f(hash(Field::Word, word)));
}

/// Calls `f` with every term of an event.
pub fn of_event(e: &Event, f: &mut dyn FnMut(u32)) {
    match e.kind {
        kind::DELIVERED => f(hash(Field::Outcome, "delivered")),
        kind::FAILED => f(hash(Field::Outcome, "failed")),
        kind::EXPIRED => f(hash(Field::Outcome, "expired")),
        kind::REMOVED => f(hash(Field::Outcome, "removed")),
        kind::REROUTED => {
            if let Some((to, ..)) = reroute_detail(&e.detail) {
                address(Field::Recipient, Field::RecipientDomain, &to, f);
            }
            return;
        }
        _ => {}
    }
    for host in event_hosts(e) {
        lower(&host, |host| f(hash(Field::Host, host)));
    }
}

/// The address of an ORCPT value.
pub fn original(orcpt: &str) -> &str {
    orcpt.split_once(';').map_or(orcpt, |(_, address)| address)
}

/// Part behind the last '@'; empty when there is none.
pub fn domain(address: &str) -> &str {
    address.rsplit_once('@').map_or("", |(_, domain)| domain)
}

fn address(whole: Field, part: Field, address: &str, f: &mut dyn FnMut(u32)) {
    lower(address, |address| {
        f(hash(whole, address));
        f(hash(part, domain(address)));
    });
}

/// Calls `f` with the value in lower case, without allocating for short ASCII values.
fn lower(value: &str, f: impl FnOnce(&str)) {
    let mut buffer = [0u8; 128];
    match buffer.get_mut(..value.len()) {
        Some(room) if value.is_ascii() => {
            room.copy_from_slice(value.as_bytes());
            room.make_ascii_lowercase();
            f(std::str::from_utf8(room).unwrap_or_default());
        }
        _ => f(&value.to_lowercase()),
    }
}

/// Words of a subject, in lower case, each run of letters and digits one word.
pub fn words(subject: &str, f: &mut dyn FnMut(&str)) {
    let words = subject.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    for word in words.take(WORDS) {
        lower(word, &mut *f);
    }
}

/// Client address and HELO name: the second and fourth value of the origin, the first list in the meta (message/envelope.py).
pub fn origin_hosts(meta: &[u8]) -> impl Iterator<Item = String> + '_ {
    let mut strings = Vec::new();
    let mut rest = meta.strip_prefix(b"[[").unwrap_or_default();
    for place in 0..4 {
        let Some((value, after)) = json_value(rest) else { break };
        if matches!(place, 1 | 3) && !value.is_empty() {
            strings.push(value);
        }
        rest = after;
    }
    strings.into_iter()
}

/// The host that answered an attempt, by name and by address: deliveries note it as `name[address]:port`.
pub fn event_hosts(e: &Event) -> impl Iterator<Item = String> {
    let noted = event_host(e).unwrap_or_default();
    let (name, address) = match noted.split_once('[') {
        Some((name, rest)) => (name.to_owned(), rest.split(']').next().unwrap_or_default().to_owned()),
        None => (noted, String::new()),
    };
    let second = if address.eq_ignore_ascii_case(&name) { String::new() } else { address };
    [name, second].into_iter().filter(|host| !host.is_empty())
}

/// The host as it was noted.
fn event_host(e: &Event) -> Option<String> {
    const KEY: &[u8] = b"\"host\":";
    // A quote inside of a value is escaped, so this cannot stand in one.
    let at = memmem::find(&e.detail, KEY)?;
    json_value(&e.detail[at + KEY.len()..]).map(|(host, _)| host).filter(|host| !host.is_empty())
}

/// A JSON text or number at the front, and what follows it and its comma.
fn json_value(data: &[u8]) -> Option<(String, &[u8])> {
    if data.first() != Some(&b'"') {
        let end = data.iter().position(|b| matches!(b, b',' | b']' | b'}'))?;
        return Some((String::from_utf8_lossy(&data[..end]).into_owned(), &data[(end + 1).min(data.len())..]));
    }
    let mut out = Vec::new();
    let mut at = 1;
    loop {
        match data.get(at)? {
            b'"' => break,
            b'\\' => {
                at += 1;
                match data.get(at)? {
                    b'u' => {
                        let code = u32::from_str_radix(std::str::from_utf8(data.get(at + 1..at + 5)?).ok()?, 16).ok()?;
                        let c = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                        at += 4;
                    }
                    other => out.push(*other),
                }
            }
            other => out.push(*other),
        }
        at += 1;
    }
    Some((String::from_utf8_lossy(&out).into_owned(), data.get(at + 2..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found_in_what_python_wrote() {
        let meta = br#"[["ESMTPS","192.0.2.1",4711,"h\u00e9lo\"x","","TLSv1.3","smtp"],"","","7BIT",false,3]"#;
        assert_eq!(origin_hosts(meta).collect::<Vec<_>>(), ["192.0.2.1", "hélo\"x"]);
        assert_eq!(origin_hosts(b"junk").count(), 0);
        let event = |detail: &[u8]| Event { time_us: 0, next_us: 0, recipient: 0, kind: 1, finished: false, detail: detail.to_vec() };
        let detail = br#"{"t":1,"text":"say \"host\":\"no\"","host":"mx.example.org","code":250}"#;
        assert_eq!(event_host(&event(detail)).as_deref(), Some("mx.example.org"));
        assert_eq!(event_host(&event(br#"{"host":""#)), None);
        let remote = event(br#"{"host":"mx.example.net[192.0.2.9]:25"}"#);
        assert_eq!(event_hosts(&remote).collect::<Vec<_>>(), ["mx.example.net", "192.0.2.9"]);
    }

    #[test]
    fn words_are_runs_of_letters_and_digits_in_lower_case() {
        let mut seen = Vec::new();
        words("Re: [list-7] GRÜSSE, Welt!", &mut |w| seen.push(w.to_owned()));
        assert_eq!(seen, ["re", "list", "7", "grüsse", "welt"]);
    }
}
