//! What an operator asks the queue for, and whether a message is it. Pure: no I/O, no clock.
//!
//! A condition on recipients must hold together with all others for one and the same recipient. What the index knows (id, size, destination,
//! state, held) is looked at first, so that records are read only for what can still match. Texts are compared without regard to case.

use crate::codec::Cursor;
use crate::error::QueueError;
use crate::id::MessageId;
use crate::index::{HELD, Recipient};
use crate::query::{RecipientState, Summary};
use crate::transition::State;

/// Conditions; what is empty, None or at its bound is not asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Glob (`*`, `?`) on the reverse-path; the null one is called `<>`.
    pub sender: String,
    /// Glob on a recipient's final address.
    pub recipient: String,
    /// The part of a recipient's address behind its last `@`.
    pub domain: String,
    /// Glob on a recipient's destination.
    pub destination: String,
    /// A recipient's state.
    pub state: Option<State>,
    /// A recipient is held (and pending), or is not held.
    pub held: Option<bool>,
    /// Least and most octets, prefix included.
    pub size: (u64, u64),
    /// Accepted from and up to, Unix microseconds.
    pub received: (u64, u64),
    /// Part of what the last attempt at a recipient was told: code, enhanced code, text, reason, host.
    pub reply: String,
    /// First hexadecimal digits of the id.
    pub id_prefix: String,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            sender: String::new(),
            recipient: String::new(),
            domain: String::new(),
            destination: String::new(),
            state: None,
            held: None,
            size: (0, u64::MAX),
            received: (0, u64::MAX),
            reply: String::new(),
            id_prefix: String::new(),
        }
    }
}

/// A pattern of `*` (any text) and `?` (any character).
#[derive(Debug)]
struct Glob {
    pattern: String,
    /// No wildcard in it.
    literal: bool,
    /// `*`.
    any: bool,
}

impl Glob {
    fn new(pattern: &str) -> Option<Self> {
        let pattern = pattern.to_lowercase();
        let any = !pattern.is_empty() && pattern.bytes().all(|b| b == b'*');
        (!pattern.is_empty()).then(|| Self { literal: !pattern.contains(['*', '?']), any, pattern })
    }

    /// The domain of every address that it fits; empty when they may have several.
    fn domain(&self) -> &str {
        let domain = self.pattern.rfind('@').map_or("", |at| &self.pattern[at + 1..]);
        if domain.contains(['*', '?']) { "" } else { domain }
    }

    fn matches(&self, text: &str) -> bool {
        if self.any {
            return true;
        }
        let text = Lower::new(text);
        if self.literal { self.pattern == text.as_str() } else { glob(self.pattern.as_bytes(), text.as_str().as_bytes()) }
    }
}

/// A text in lower case, without a copy when it is so already.
enum Lower<'a> {
    Same(&'a str),
    Made(String),
}

impl<'a> Lower<'a> {
    fn new(text: &'a str) -> Self {
        let low = text.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase());
        if low { Self::Same(text) } else { Self::Made(text.to_lowercase()) }
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Same(text) => text,
            Self::Made(text) => text,
        }
    }
}

/// Octets of the UTF-8 character that begins with `first`.
fn width(first: u8) -> usize {
    match first {
        0..0xc0 => 1,
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    }
}

/// Does `pattern` fit the whole of `text`? Both UTF-8. Takes at most the product of their lengths.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last `*` does not fit: its place in the pattern, and how much of the text it has taken.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(b'?') => (p, t) = (p + 1, t + width(text[t])),
            Some(octet) if *octet == text[t] => (p, t) = (p + 1, t + 1),
            _ => {
                let Some((after, taken)) = star else { return false };
                let taken = taken + width(text[taken]);
                star = Some((after, taken));
                (p, t) = (after, taken);
            }
        }
    }
    pattern[p..].iter().all(|octet| *octet == b'*')
}

/// A filter made ready for many messages.
#[derive(Debug)]
pub(crate) struct Matcher {
    sender: Option<Glob>,
    recipient: Option<Glob>,
    domain: String,
    destination: Option<Glob>,
    state: Option<State>,
    held: Option<bool>,
    size: (u64, u64),
    received: (u64, u64),
    reply: String,
    /// Least and greatest id with the prefix.
    ids: (MessageId, MessageId),
}

impl Matcher {
    pub fn new(filter: &Filter) -> Result<Self, QueueError> {
        Ok(Self {
            sender: Glob::new(&filter.sender),
            recipient: Glob::new(&filter.recipient),
            domain: filter.domain.to_lowercase(),
            destination: Glob::new(&filter.destination),
            state: filter.state,
            held: filter.held,
            size: filter.size,
            received: filter.received,
            reply: filter.reply.to_lowercase(),
            ids: id_range(&filter.id_prefix)?,
        })
    }

    /// Least and greatest id that can match.
    pub fn ids(&self) -> (MessageId, MessageId) {
        self.ids
    }

    pub fn size(&self, size: u64) -> bool {
        (self.size.0..=self.size.1).contains(&size)
    }

    pub fn received(&self, received_us: u64) -> bool {
        (self.received.0..=self.received.1).contains(&received_us)
    }

    pub fn asks_received(&self) -> bool {
        self.received != (0, u64::MAX)
    }

    /// Messages of which only the grace of a removal is left are looked for as well.
    pub fn asks_removed(&self) -> bool {
        self.state == Some(State::Removed)
    }

    pub fn asks_sender(&self) -> bool {
        self.sender.is_some()
    }

    pub fn asks_address(&self) -> bool {
        self.recipient.is_some() || !self.domain.is_empty()
    }

    pub fn asks_destination(&self) -> bool {
        self.destination.is_some()
    }

    pub fn asks_reply(&self) -> bool {
        !self.reply.is_empty()
    }

    pub fn sender(&self, reverse_path: &str) -> bool {
        self.sender.as_ref().is_none_or(|g| g.matches(if reverse_path.is_empty() { "<>" } else { reverse_path }))
    }

    pub fn destination(&self, name: &str) -> bool {
        self.destination.as_ref().is_none_or(|g| g.matches(name))
    }

    /// What the index knows of a recipient, but its destination.
    pub fn status(&self, r: &Recipient) -> bool {
        self.state_and_held(r.state, r.has(HELD))
    }

    fn state_and_held(&self, state: State, held: bool) -> bool {
        self.state.is_none_or(|wanted| wanted == state)
            && self.held.is_none_or(|wanted| wanted == held && (state == State::Pending || !wanted))
    }

    pub fn address(&self, address: &str) -> bool {
        (self.domain.is_empty() || Lower::new(domain_of(address)).as_str() == self.domain)
            && self.recipient.as_ref().is_none_or(|glob| glob.matches(address))
    }

    /// What `address` says of any address of this domain, which is in lower case; None when it depends on more than that.
    pub fn home(&self, domain: &str) -> Option<bool> {
        let fits = |wanted: &str| wanted.is_empty() || wanted == domain;
        if !fits(&self.domain) || !fits(self.recipient.as_ref().map_or("", Glob::domain)) {
            return Some(false);
        }
        self.recipient.is_none().then_some(true)
    }

    pub fn reply(&self, detail: &[u8]) -> bool {
        self.reply.is_empty() || reply_text(detail).to_lowercase().contains(&self.reply)
    }

    /// How many recipients of a message match, all of them when recipients are not asked for; 0: the message does not match.
    pub fn summary(&self, summary: &Summary) -> usize {
        let e = &summary.envelope;
        if !(self.ids.0..=self.ids.1).contains(&e.id)
            || !self.size(e.size)
            || !self.received(e.received_us)
            || !self.sender(&e.reverse_path)
        {
            return 0;
        }
        summary.recipients.iter().filter(|r| self.recipient(r)).count()
    }

    fn recipient(&self, r: &RecipientState) -> bool {
        self.state_and_held(r.state, r.held) && self.destination(&r.destination) && self.address(&r.address) && self.reply(&r.last_detail)
    }
}

/// The part of an address behind its last `@`; all of it when there is none.
pub(crate) fn domain_of(address: &str) -> &str {
    address.rfind('@').map_or(address, |at| &address[at + 1..])
}

fn id_range(prefix: &str) -> Result<(MessageId, MessageId), QueueError> {
    let digits: Vec<u8> = prefix.bytes().filter(|b| *b != b'-').collect();
    let (mut low, mut high) = ([0; 16], [0xff; 16]);
    if digits.len() > 32 {
        return Err(QueueError::Invalid("an id has 32 hexadecimal digits".into()));
    }
    for (n, digit) in digits.iter().enumerate() {
        let value = char::from(*digit).to_digit(16).ok_or_else(|| QueueError::Invalid("an id has hexadecimal digits".into()))? as u8;
        let (shift, rest) = if n % 2 == 0 { (4, 0x0f) } else { (0, 0) };
        low[n / 2] |= value << shift;
        high[n / 2] = low[n / 2] | rest;
    }
    Ok((low, high))
}

/// Fields of an attempt's detail that tell what the other side said, in this order.
const TOLD: [&str; 5] = ["code", "enhanced", "text", "reason", "host"];

/// What a detail tells, as one line. A detail that is no JSON object is taken as it is.
fn reply_text(detail: &[u8]) -> String {
    if detail.is_empty() {
        return " ".repeat(TOLD.len() - 1);
    }
    let Some(values) = Json(Cursor(detail)).told() else {
        return format!("  {}  ", String::from_utf8_lossy(detail));
    };
    values.join(" ")
}

/// Reads one JSON object (RFC 8259), of which only top-level texts and plain values matter.
struct Json<'a>(Cursor<'a>);

impl Json<'_> {
    fn told(mut self) -> Option<[String; TOLD.len()]> {
        let mut values = [const { String::new() }; TOLD.len()];
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            self.expect(b'}')?;
            return self.ended().then_some(values);
        }
        loop {
            let key = self.text()?;
            self.expect(b':')?;
            let value = self.value(0)?;
            if let Some(n) = TOLD.iter().position(|told| *told == key) {
                values[n] = value;
            }
            match self.next()? {
                b',' => {}
                b'}' => return self.ended().then_some(values),
                _ => return None,
            }
        }
    }

    /// The next octet that is no white space; stays.
    fn peek(&mut self) -> Option<u8> {
        while self.0.0.first().is_some_and(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n')) {
            self.0.u8()?;
        }
        self.0.0.first().copied()
    }

    fn next(&mut self) -> Option<u8> {
        self.peek()?;
        self.0.u8()
    }

    fn expect(&mut self, octet: u8) -> Option<()> {
        (self.next()? == octet).then_some(())
    }

    fn ended(&mut self) -> bool {
        self.peek().is_none()
    }

    /// Text as it means, plain values as Python names them, nested ones as nothing.
    fn value(&mut self, depth: u8) -> Option<String> {
        match self.peek()? {
            b'"' => self.text(),
            open @ (b'{' | b'[') => self.skip(open, depth),
            _ => self.plain(),
        }
    }

    fn plain(&mut self) -> Option<String> {
        let end = self.0.0.iter().position(|b| !(b.is_ascii_alphanumeric() || b"+-.".contains(b))).unwrap_or(self.0.0.len());
        let word = std::str::from_utf8(self.0.take(end)?).ok()?;
        match word {
            "true" => Some("True".into()),
            "false" => Some("False".into()),
            "null" => Some("None".into()),
            number => number.parse::<f64>().ok().map(|_| number.to_owned()),
        }
    }

    fn skip(&mut self, open: u8, depth: u8) -> Option<String> {
        if depth > 32 {
            return None;
        }
        self.expect(open)?;
        let close = open + 2;
        if self.peek()? == close {
            return self.next().map(|_| String::new());
        }
        loop {
            if open == b'{' {
                self.text()?;
                self.expect(b':')?;
            }
            self.value(depth + 1)?;
            match self.next()? {
                b',' => {}
                octet if octet == close => return Some(String::new()),
                _ => return None,
            }
        }
    }

    fn text(&mut self) -> Option<String> {
        self.expect(b'"')?;
        let mut out = Vec::new();
        loop {
            let end = self.0.0.iter().position(|b| *b == b'"' || *b == b'\\')?;
            out.extend_from_slice(self.0.take(end)?);
            if self.0.u8()? == b'"' {
                return String::from_utf8(out).ok();
            }
            let c = self.escaped()?;
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }

    fn escaped(&mut self) -> Option<char> {
        Some(match self.0.u8()? {
            b'n' => '\n',
            b't' => '\t',
            b'r' => '\r',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'u' => {
                let high = self.unit()?;
                if (0xd800..0xdc00).contains(&high) && self.0.0.starts_with(b"\\u") {
                    self.0.take(2)?;
                    let low = self.unit()?;
                    char::decode_utf16([high, low]).next()?.unwrap_or(char::REPLACEMENT_CHARACTER)
                } else {
                    char::from_u32(u32::from(high)).unwrap_or(char::REPLACEMENT_CHARACTER)
                }
            }
            octet @ (b'"' | b'\\' | b'/') => char::from(octet),
            _ => return None,
        })
    }

    fn unit(&mut self) -> Option<u16> {
        u16::from_str_radix(std::str::from_utf8(self.0.take(4)?).ok()?, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, text: &str) -> bool {
        Glob::new(pattern).is_none_or(|g| g.matches(text))
    }

    #[test]
    fn globs_match_whole_texts_without_regard_to_case() {
        for (pattern, text) in
            [("*", ""), ("a*", "A"), ("*@x.test", "ÄB@X.Test"), ("a?c", "aÄc"), ("**b?", "abäbä"), ("[a]", "[A]"), ("", "x")]
        {
            assert!(fits(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("?", ""), ("a", "ab"), ("*a", "ab"), ("a??", "aä"), ("[a]", "a"), ("*?@x", "@x")] {
            assert!(!fits(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn a_hostile_glob_takes_no_exponential_time() {
        assert!(!fits(&format!("{}c", "a*".repeat(200)), &format!("{}b", "a".repeat(500))));
    }

    #[test]
    fn a_detail_tells_code_text_reason_and_host() {
        let detail = br#"{"t":1,"host":"mx\u0041","code":451,"enhanced":"4.7.1","text":"Grey\"listed \ud83d\ude00","x":[1,{"y":null}],"reason":null}"#;
        assert_eq!(reply_text(detail), "451 4.7.1 Grey\"listed \u{1f600} None mxA");
        assert_eq!(reply_text(b"plain"), "  plain  ");
        assert_eq!(reply_text(b"{\"text\":"), "  {\"text\":  ");
        assert_eq!(reply_text(b"{}"), "    ");
    }

    #[test]
    fn an_id_prefix_is_a_range_of_ids() {
        let (low, high) = id_range("01AB-3").unwrap();
        assert_eq!((&low[..3], &high[..3]), (&[1, 0xab, 0x30][..], &[1, 0xab, 0x3f][..]));
        assert_eq!(id_range("").unwrap(), ([0; 16], [0xff; 16]));
        assert!(id_range("xy").is_err() && id_range(&"0".repeat(33)).is_err());
    }
}
