//! Why mail waits: pending recipients with a failed attempt, or of a destination that is down, grouped by the cause of the last failure.
//!
//! The index is copied in slices; the journal records that tell are read without its lock, so nobody waits for this but the caller. A cause is a class of
//! failure, the status, the host and the text with all that differs from message to message replaced. Details are JSON as queue/ writes it; one that is not
//! gives a cause of class "other". Memory is bounded by the number of causes kept.

use std::collections::HashMap;
use std::sync::Arc;

use gatepost_log::{Loc, Segment};

use crate::codec::{ALL, Journal, KIND_JOURNAL, decode_journal};
use crate::error::QueueError;
use crate::id::MessageId;
use crate::index::{HELD, Index};
use crate::spool::{Core, Spool};
use crate::transition::kind;

/// Messages copied while the index is locked once.
const SLICE: usize = 4096;
/// Octets read of a journal record at first.
const GUESS: usize = 512;
/// Different details remembered.
const SEEN: usize = 8192;
/// Causes told apart; what comes beyond them is one more.
const MAX_CAUSES: usize = 20_000;
/// Characters of a normalised text.
const MAX_TEXT: usize = 160;
/// Stands for what differs.
const BLANK: &str = "…";

/// What the recipients of one group have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Cause {
    /// Kind of failure: see [`classify`].
    pub class: &'static str,
    /// RFC 3463 status, or empty.
    pub enhanced: String,
    /// Reply code, 0 when nobody replied.
    pub code: u16,
    /// Host that answered, or the destination.
    pub host: String,
    /// Normalised.
    pub text: String,
}

/// One group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// What they share.
    pub cause: Cause,
    /// Recipients in it.
    pub recipients: u64,
    /// Of these, held ones.
    pub held: u64,
    /// Messages in it.
    pub messages: u64,
    /// Oldest message.
    pub oldest: MessageId,
    /// Earliest next attempt of a recipient that is not held, Unix microseconds; 0 for none.
    pub next_us: u64,
    /// A recipient's place in the oldest message.
    pub recipient: u16,
    /// Its address; empty when the message is gone.
    pub address: String,
    /// Detail of its last attempt.
    pub detail: Vec<u8>,
}

struct Waiting {
    id: MessageId,
    head: Loc,
    accepted: Loc,
    recipients: Vec<(u16, u64, bool, u32)>,
    /// Of these, those that wait for their destination.
    down: Vec<u16>,
}

/// What is known of the destinations of a slice: their names, and what is wrong with those that are down.
type Names = HashMap<u32, (String, Box<[u8]>)>;

/// Groups being filled.
#[derive(Default)]
struct Groups {
    list: Vec<Group>,
    by_cause: HashMap<Cause, usize>,
    /// Groups of details that were seen before, but for what differs in each: a host says the same thing many times.
    seen: HashMap<Box<[u8]>, usize>,
    key: Vec<u8>,
}

/// Reads records; keeps the segment it read last open.
struct Records<'a> {
    core: &'a Core,
    segment: Option<Arc<Segment>>,
    buffer: Vec<u8>,
}

impl Spool {
    /// The `limit` largest groups, and how many recipients and messages all of them have. Reads the disk.
    pub fn causes(&self, limit: usize) -> Result<(Vec<Group>, u64, u64), QueueError> {
        let mut groups = Groups::default();
        let mut records = Records { core: &self.core, segment: None, buffer: Vec::new() };
        let mut after = None;
        loop {
            let (slice, names, next) = self.core.waiting(after.as_ref());
            for message in &slice {
                records.judge(message, &names, &mut groups);
            }
            if next.is_none() {
                break;
            }
            after = next;
        }
        let mut all = groups.list;
        let (recipients, messages) = all.iter().fold((0, 0), |(r, m), g| (r + g.recipients, m + g.messages));
        all.sort_by(|a, b| b.recipients.cmp(&a.recipients).then_with(|| a.oldest.cmp(&b.oldest)));
        all.truncate(limit);
        for group in &mut all {
            let known = self.get(&group.oldest).ok();
            group.address =
                known.and_then(|s| s.recipients.into_iter().nth(usize::from(group.recipient))).map_or(String::new(), |r| r.address);
        }
        Ok((all, recipients, messages))
    }
}

impl Core {
    /// Messages of one slice that wait after an attempt, the names of their destinations, and where to go on.
    fn waiting(&self, after: Option<&MessageId>) -> (Vec<Waiting>, Names, Option<MessageId>) {
        let (mut found, mut names, mut last, mut seen) = (Vec::new(), Names::new(), None, 0);
        let index = self.shared.index.lock();
        for (id, slot) in index.visible(after, &MessageId::default()) {
            if seen == SLICE {
                return (found, names, last);
            }
            (seen, last) = (seen + 1, Some(id));
            let message = index.message(slot);
            let (mut recipients, mut down) = (Vec::new(), Vec::new());
            for (n, r) in message.recipients.as_slice().iter().enumerate() {
                let outage = index.waits_for(r);
                if r.pending() && (r.attempts > 0 || outage.is_some()) {
                    names.entry(r.destination).or_insert_with(|| name(&index, r.destination));
                    down.extend(outage.map(|_| n as u16));
                    recipients.push((
                        n as u16,
                        outage.map_or(r.next_us, |outage| r.next_us.max(outage.until_us)),
                        r.has(HELD),
                        r.destination,
                    ));
                }
            }
            if !recipients.is_empty() {
                found.push(Waiting { id, head: message.head, accepted: message.accepted, recipients, down });
            }
        }
        (found, names, None)
    }
}

fn name(index: &Index, number: u32) -> (String, Box<[u8]>) {
    let detail = index.outage(number).map_or_else(Box::default, |outage| outage.detail.clone());
    (index.destination_name(number).to_owned(), detail)
}

impl Records<'_> {
    /// Finds the last failure of each recipient, newest record first.
    fn judge(&mut self, message: &Waiting, names: &Names, groups: &mut Groups) {
        let (mut open, mut counted) = (Vec::new(), Vec::new());
        let known = |number: u32| names.get(&number).map_or(("", &b""[..]), |(name, detail)| (name, detail));
        for one in &message.recipients {
            if message.down.contains(&one.0) {
                let (name, detail) = known(one.3);
                let group = groups.of(detail, one.3, name);
                groups.add(group, message, one, detail, &mut counted);
            } else {
                open.push(*one);
            }
        }
        let mut at = message.head;
        let mut tell = |journal: &Journal, open: &mut Vec<(u16, u64, bool, u32)>| {
            if journal.kind != kind::DEFERRED {
                return;
            }
            open.retain(|one| {
                let mine = journal.recipient == ALL || journal.recipient == one.0;
                if mine {
                    let group = groups.of(&journal.detail, one.3, known(one.3).0);
                    groups.add(group, message, one, &journal.detail, &mut counted);
                }
                !mine
            });
        };
        while !open.is_empty() && at > message.accepted {
            if self.read(at) != Some(KIND_JOURNAL) {
                // A record about many messages: whoever walks the journal knows them.
                self.core.chain(at, message.accepted).unwrap_or_default().iter().for_each(|journal| tell(journal, &mut open));
                break;
            }
            let Some(journal) = decode_journal(&self.buffer).filter(|j| j.previous < at) else { break };
            tell(&journal, &mut open);
            at = journal.previous;
        }
        // A message that was moved brought its journal with it.
        if !open.is_empty() {
            for journal in self.core.carried(message.accepted).unwrap_or_default().iter().rev() {
                tell(journal, &mut open);
            }
        }
        for one in &open {
            let cause = Cause { class: "other", text: "the journal cannot be read".into(), ..Cause::default() };
            let group = groups.by(cause);
            groups.add(group, message, one, b"", &mut counted);
        }
    }

    fn read(&mut self, loc: Loc) -> Option<u8> {
        if self.segment.as_ref().is_none_or(|segment| segment.number() != loc.segment) {
            self.segment = self.core.segment(loc).ok();
        }
        let written = self.segment.as_ref().and_then(|segment| segment.read_ahead(loc.offset, GUESS, &mut self.buffer).ok());
        // What is not written yet is in the log's memory.
        written.or_else(|| self.core.log.read(loc, &mut self.buffer).ok())
    }
}

impl Groups {
    /// The group of a detail.
    fn of(&mut self, detail: &[u8], number: u32, destination: &str) -> usize {
        // Before the host stand the time and how long it took.
        let same = memchr::memmem::find(detail, b"\"host\":").map_or(detail, |at| &detail[at..]);
        self.key.clear();
        self.key.extend_from_slice(&number.to_le_bytes());
        self.key.extend_from_slice(same);
        if let Some(group) = self.seen.get(self.key.as_slice()) {
            return *group;
        }
        let group = self.by(cause(detail, destination));
        if self.seen.len() < SEEN {
            self.seen.insert(self.key.as_slice().into(), group);
        }
        group
    }

    /// The group of a cause, which may be new.
    fn by(&mut self, cause: Cause) -> usize {
        let full = self.by_cause.len() >= MAX_CAUSES && !self.by_cause.contains_key(&cause);
        let cause = if full { Cause { class: "other", text: "further causes".into(), ..Cause::default() } } else { cause };
        *self.by_cause.entry(cause).or_insert_with_key(|cause| {
            self.list.push(Group { cause: cause.clone(), ..Group::default() });
            self.list.len() - 1
        })
    }

    fn add(&mut self, number: usize, message: &Waiting, one: &(u16, u64, bool, u32), detail: &[u8], counted: &mut Vec<usize>) {
        let (n, next_us, held, _) = *one;
        let group = &mut self.list[number];
        if group.recipients == 0 {
            (group.oldest, group.recipient, group.detail) = (message.id, n, detail.to_vec());
        }
        group.recipients += 1;
        group.held += u64::from(held);
        if !held && (group.next_us == 0 || next_us < group.next_us) {
            group.next_us = next_us;
        }
        if !counted.contains(&number) {
            group.messages += 1;
            counted.push(number);
        }
    }
}

/// The cause that the detail of an attempt tells.
fn cause(detail: &[u8], destination: &str) -> Cause {
    let detail = std::str::from_utf8(detail).unwrap_or_default();
    let code = field(detail, "code").and_then(|code| code.parse().ok()).unwrap_or(0);
    let enhanced = field(detail, "enhanced").unwrap_or_default();
    let told = if code > 0 { field(detail, "text") } else { None };
    let text = told.or_else(|| field(detail, "reason")).unwrap_or_default();
    let host = field(detail, "host").filter(|host| !host.is_empty()).unwrap_or(destination);
    let text = normal(text);
    Cause { class: classify(code, enhanced, &text), enhanced: enhanced.to_owned(), code, host: host.to_lowercase(), text }
}

/// Value of a key in flat JSON without blanks, as queue/ writes it: a number, or a text with its escapes.
fn field<'a>(detail: &'a str, key: &str) -> Option<&'a str> {
    let mut from = 0;
    loop {
        let at = from + detail[from..].find(key)?;
        let rest = &detail[at + key.len()..];
        // Within a text the quote would be escaped.
        if detail[..at].ends_with(['"']) && rest.starts_with("\":") {
            let value = &rest[2..];
            return match value.strip_prefix('"') {
                Some(text) => Some(&text[..end_of_text(text)]),
                None => value.split([',', '}']).next(),
            };
        }
        from = at + key.len();
    }
}

/// Where the closing quote is.
fn end_of_text(text: &str) -> usize {
    let mut escaped = false;
    for (at, octet) in text.bytes().enumerate() {
        match octet {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at,
            _ => {}
        }
    }
    text.len()
}

/// Lower case, with every word that looks like a number, time, address, id or URL replaced.
fn normal(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(MAX_TEXT));
    let text = text.replace("\\n", " ").replace("\\\"", "'");
    for word in text.split_ascii_whitespace() {
        let word = if differs(word) { BLANK } else { word };
        let counted = out.ends_with(BLANK);
        if word == BLANK && counted {
            continue;
        }
        if !out.is_empty() {
            out.push(' ');
        }
        let word = if counted { unit(word) } else { word };
        out.extend(word.chars().flat_map(char::to_lowercase));
        if out.len() >= MAX_TEXT {
            let end = (0..=MAX_TEXT).rev().find(|n| out.is_char_boundary(*n)).unwrap_or(0);
            out.truncate(end);
            break;
        }
    }
    out
}

/// May this word differ from one message to the next, for the same cause?
fn differs(word: &str) -> bool {
    const NAMES: [&str; 19] = [
        "mon", "tue", "wed", "thu", "fri", "sat", "sun", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ];
    let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
    if word.contains('@') || word.contains("://") {
        return true;
    }
    if bare.bytes().any(|b| b.is_ascii_digit()) {
        return !is_status(bare) && !is_reason(word);
    }
    if is_host(bare) || is_random(bare) {
        return true;
    }
    // "may" is a month only with a capital letter.
    bare.len() == 3 && bare.starts_with(|c: char| c.is_ascii_uppercase()) && NAMES.iter().any(|name| bare.eq_ignore_ascii_case(name))
}

/// "5 minutes" and "1 minute" are the same cause.
fn unit(word: &str) -> &str {
    const UNITS: [&str; 9] = ["second", "minute", "hour", "day", "sec", "min", "message", "recipient", "connection"];
    let bare = word.trim_end_matches(|c: char| !c.is_alphanumeric());
    UNITS.into_iter().find(|unit| bare.strip_suffix('s') == Some(unit)).unwrap_or(word)
}

/// A code in brackets that the server's operator gave a reason: "[TSS04]", "(S775)".
fn is_reason(word: &str) -> bool {
    let word = word.trim_end_matches(['.', ',', ';', ':']);
    let inner = word.strip_prefix('[').and_then(|w| w.strip_suffix(']')).or_else(|| word.strip_prefix('(')?.strip_suffix(')'));
    inner.is_some_and(|code| {
        let letters = code.trim_end_matches(|c: char| c.is_ascii_digit());
        let named = letters.len() <= 5 && letters.starts_with(|c: char| c.is_ascii_uppercase());
        named && code.len() - letters.len() <= 6 && letters.bytes().all(|b| b.is_ascii_uppercase() || b == b':')
    })
}

/// The name of a host or a domain.
fn is_host(word: &str) -> bool {
    let (name, last) = word.rsplit_once('.').unwrap_or(("", ""));
    let label = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && last.len() >= 2 && last.chars().all(char::is_alphabetic) && word.chars().all(label)
}

/// An id that happens to have no digit: hexadecimal, or capital and small letters all mixed up.
fn is_random(word: &str) -> bool {
    if word.len() < 8 || !word.bytes().all(|b| b.is_ascii_alphabetic()) {
        return false;
    }
    let upper = word.bytes().filter(u8::is_ascii_uppercase).count();
    let turns = word.as_bytes().windows(2).filter(|pair| pair[0].is_ascii_uppercase() != pair[1].is_ascii_uppercase()).count();
    word.bytes().all(|b| b.is_ascii_hexdigit()) || upper * 4 >= word.len() && upper * 4 <= word.len() * 3 && turns >= 4
}

/// A reply code or an enhanced status: what a cause is told by.
fn is_status(word: &str) -> bool {
    let parts: Vec<&str> = word.split('.').collect();
    let short = parts.iter().all(|part| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit()));
    short && word.starts_with(['2', '4', '5']) && (parts.len() == 3 && parts[0].len() == 1 || parts.len() == 1 && word.len() == 3)
}

/// refused, timeout, unreachable, dns, tls, dropped, greylisted, over-quota, policy, reply, local, other.
fn classify(code: u16, enhanced: &str, text: &str) -> &'static str {
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let subject = enhanced.split('.').nth(1).unwrap_or_default();
    if code > 0 {
        return match () {
            () if says(&["greylist", "graylist", "grey list", "gray list", "greylisted", "postgrey"]) => "greylisted",
            () if enhanced.ends_with(".2.2") || says(&["quota", "mailbox full", "mailbox is full", "insufficient storage"]) => "over-quota",
            () if says(&["tls", "starttls"]) => "tls",
            () if subject == "7"
                || says(&["rate limit", "limit exceeded", "too many", "throttl", "blocked", "reputation", "blacklist", "denied"]) =>
            {
                "policy"
            }
            () => "reply",
        };
    }
    match () {
        () if says(&["refused"]) => "refused",
        () if says(&["tls", "certificate", "ssl", "handshake"]) => "tls",
        () if says(&["timed out", "timeout", "no answer", "took longer", "in time"]) => "timeout",
        () if says(&["unreachable", "no route"]) => "unreachable",
        () if matches!(enhanced, "4.4.3" | "4.4.4") || says(&["dns", "name server", "resolv"]) => "dns",
        () if enhanced == "4.4.2" || says(&["lost", "reset", "closed", "broken"]) => "dropped",
        () if matches!(subject, "2" | "3") => "local",
        () => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_between_messages_does_not_split_a_cause() {
        let one = r#"{"t":1,"outcome":"deferred","ms":3,"host":"MX.b","code":450,"enhanced":"4.2.0","text":"<a@b>: Greylisted, try in 31 s, id A1B2; Sun, 22 Nov 2026 14:00:00 see http://x/y?1","reason":"x"}"#;
        let two = r#"{"t":2,"outcome":"deferred","ms":9,"host":"mx.b","code":450,"enhanced":"4.2.0","text":"<c@d>: Greylisted, try in 7 s, id ZZ99; Mon, 23 Nov 2026 14:00:01 see http://x/z","reason":"y"}"#;
        assert_eq!(cause(one.as_bytes(), "d"), cause(two.as_bytes(), "e"));
        let cause = cause(one.as_bytes(), "d");
        assert_eq!((cause.class, cause.code, cause.host.as_str()), ("greylisted", 450, "mx.b"));
        assert_eq!(cause.text, "… greylisted, try in … s, id … see …");
    }

    #[test]
    fn replies_in_the_form_of_known_servers_fall_into_the_groups_that_an_operator_would_make() {
        let lines = include_str!("../tests/data/replies.tsv").lines().filter(|line| !line.starts_with('#'));
        let mut groups: HashMap<&str, Cause> = HashMap::new();
        let mut count = 0;
        for line in lines {
            let fields: Vec<&str> = line.split('\t').collect();
            let [group, class, code, enhanced, text] = fields[..] else { panic!("not five fields: {line}") };
            let key = if code == "0" { "reason" } else { "text" };
            let detail = format!(r#"{{"t":{count},"host":"mx","code":{code},"enhanced":"{enhanced}","{key}":"{text}"}}"#);
            let cause = cause(detail.as_bytes(), "d");
            assert_eq!(cause.class, class, "{line}");
            let known = groups.entry(group).or_insert_with(|| cause.clone());
            assert_eq!(*known, cause, "{line}");
            count += 1;
        }
        let mut causes: Vec<&Cause> = groups.values().collect();
        causes.sort_by_key(|cause| (cause.code, cause.enhanced.clone(), cause.text.clone()));
        for pair in causes.windows(2) {
            assert_ne!(pair[0], pair[1], "two groups are one cause");
        }
        assert!(count >= 60, "{count}");
    }

    #[test]
    fn faults_are_classified_by_what_they_say() {
        let class = |code, enhanced, text| classify(code, enhanced, &normal(text));
        assert_eq!(class(0, "4.4.1", "mx.b[192.0.2.1]:25: connection refused"), "refused");
        assert_eq!(class(0, "4.4.1", "mx.b[192.0.2.1]: connection timed out after 30 s"), "timeout");
        assert_eq!(class(0, "4.4.3", "no answer from the resolver"), "timeout");
        assert_eq!(class(0, "4.4.3", "SERVFAIL for b"), "dns");
        assert_eq!(class(0, "4.7.5", "certificate has expired"), "tls");
        assert_eq!(class(0, "4.3.1", "the mail store is full"), "local");
        assert_eq!(class(452, "4.2.2", "over quota"), "over-quota");
        assert_eq!(class(421, "4.7.0", "try later"), "policy");
        assert_eq!(class(451, "4.3.0", "try later"), "reply");
        assert_eq!(class(0, "", ""), "other");
    }

    #[test]
    fn any_detail_gives_a_cause() {
        for detail in [
            "",
            "{",
            "\"code\":",
            r#"{"code":99999999999,"text":"#,
            r#"{"reason":"a\"code\":5","code":421,"text":"\\"}"#,
            "\u{1f600}",
            r#"{"host":"h""#,
        ] {
            cause(detail.as_bytes(), "d");
        }
        assert_eq!(cause(r#"{"reason":"say \"code\":5"}"#.as_bytes(), "d").code, 0);
        assert_eq!(cause(&[0xff, b'{'], "Dest").host, "dest");
        assert!(normal(&"ä ".repeat(9000)).len() <= MAX_TEXT);
        assert!(normal(&"x".repeat(9000)).len() <= MAX_TEXT);
    }
}
