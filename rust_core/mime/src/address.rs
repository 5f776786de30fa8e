//! Address lists as ENVELOPE wants them (RFC 3501 7.4.2): raw display names, routes, groups. Lenient, linear, capped.

use crate::field::Scanner;

/// Entries kept per field.
const ENTRIES_MAX: usize = 10_000;

/// One element of an address list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A mailbox.
    Address(Address),
    /// `name:` begins a group (RFC 5322 3.4).
    GroupStart(Vec<u8>),
    /// `;` ends it.
    GroupEnd,
}

/// One mailbox; RFC 2047 words in `name` are left as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// Display name, or the trailing comment in the old style.
    pub name: Option<Vec<u8>>,
    /// Source route `@a,@b`.
    pub route: Option<Vec<u8>>,
    /// Local part without quoting.
    pub local: Vec<u8>,
    /// Domain; empty when missing.
    pub domain: Vec<u8>,
}

#[derive(Default)]
struct Pending {
    words: Vec<(Vec<u8>, bool)>,
    comment: Option<Vec<u8>>,
    angle: Option<Address>,
}

/// Parse an unfolded value.
pub fn parse(value: &[u8]) -> Vec<Entry> {
    let mut scanner = Scanner::new(value);
    let mut entries = Vec::new();
    let mut pending = Pending::default();
    let mut in_group = false;
    let mut spaced = false;
    while let Some(byte) = scanner.peek() {
        if entries.len() >= ENTRIES_MAX {
            break;
        }
        let was_spaced = std::mem::take(&mut spaced);
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {
                scanner.bump();
                spaced = true;
            }
            b'(' => {
                pending.comment = Some(scanner.comment());
                spaced = true;
            }
            b'"' => pending.words.push((scanner.quoted(), was_spaced)),
            b'<' => pending.angle = Some(angle(&mut scanner)),
            b',' => {
                scanner.bump();
                pending.flush(&mut entries);
            }
            b';' => {
                scanner.bump();
                pending.flush(&mut entries);
                if std::mem::take(&mut in_group) {
                    entries.push(Entry::GroupEnd);
                }
            }
            b':' if !in_group && pending.angle.is_none() => {
                scanner.bump();
                in_group = true;
                entries.push(Entry::GroupStart(phrase(&pending.words)));
                pending = Pending::default();
            }
            b'@' | b':' | b'>' | b')' => {
                scanner.bump();
                pending.words.push((vec![byte], was_spaced));
            }
            b'[' => pending.words.push((domain_literal(&mut scanner), was_spaced)),
            _ => pending.words.push((atom(&mut scanner), was_spaced)),
        }
    }
    pending.flush(&mut entries);
    if in_group {
        entries.push(Entry::GroupEnd);
    }
    entries
}

impl Pending {
    fn flush(&mut self, entries: &mut Vec<Entry>) {
        let pending = std::mem::take(self);
        let comment = pending.comment.filter(|c| !c.is_empty());
        if let Some(mut address) = pending.angle {
            address.name = Some(phrase(&pending.words)).filter(|n| !n.is_empty()).or(comment);
            entries.push(Entry::Address(address));
        } else if !pending.words.is_empty() {
            let (local, domain) = split_at_sign(&pending.words);
            entries.push(Entry::Address(Address { name: comment, route: None, local, domain }));
        }
    }
}

fn atom(scanner: &mut Scanner<'_>) -> Vec<u8> {
    scanner
        .until(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n' | b'(' | b')' | b'"' | b'<' | b'>' | b',' | b';' | b':' | b'@' | b'['))
        .to_vec()
}

fn domain_literal(scanner: &mut Scanner<'_>) -> Vec<u8> {
    let mut text = scanner.until(|b| b == b']').to_vec();
    if scanner.take(b']') {
        text.push(b']');
    }
    text
}

/// `<@route:local@domain>` with the read position on `<`.
fn angle(scanner: &mut Scanner<'_>) -> Address {
    scanner.bump();
    scanner.skip_space();
    let mut route = None;
    if scanner.peek() == Some(b'@') {
        route = Some(scanner.until(|b| matches!(b, b':' | b'>')).trim_ascii().to_vec());
        scanner.take(b':');
    }
    let mut words = Vec::new();
    while let Some(byte) = scanner.peek() {
        match byte {
            b'>' => {
                scanner.bump();
                break;
            }
            b'"' => words.push((scanner.quoted(), false)),
            b'(' => drop(scanner.comment()),
            b'[' => words.push((domain_literal(scanner), false)),
            b' ' | b'\t' | b'\r' | b'\n' => scanner.bump(),
            b'@' | b',' | b';' | b':' | b')' | b'<' => {
                scanner.bump();
                words.push((vec![byte], false));
            }
            _ => words.push((atom(scanner), false)),
        }
    }
    let (local, domain) = split_at_sign(&words);
    Address { name: None, route, local, domain }
}

/// Words joined as a display name: one space where there was white space.
fn phrase(words: &[(Vec<u8>, bool)]) -> Vec<u8> {
    let mut text = Vec::new();
    for (word, spaced) in words {
        if *spaced && !text.is_empty() {
            text.push(b' ');
        }
        text.extend_from_slice(word);
    }
    text
}

fn split_at_sign(words: &[(Vec<u8>, bool)]) -> (Vec<u8>, Vec<u8>) {
    let join = |words: &[(Vec<u8>, bool)]| words.iter().flat_map(|(w, _)| w.iter().copied()).collect::<Vec<u8>>();
    match words.iter().rposition(|(w, _)| w == b"@") {
        Some(at) => (join(&words[..at]), join(&words[at + 1..])),
        None => (join(words), Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(value: &str) -> Address {
        match parse(value.as_bytes()).as_slice() {
            [Entry::Address(a)] => a.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn display_names_keep_their_words_and_lose_their_quotes() {
        let a = one("\"Joe Q. \\\"X\\\" Public\" <john.q.public@example.com>");
        assert_eq!(a.name.as_deref(), Some(&b"Joe Q. \"X\" Public"[..]));
        assert_eq!((a.local.as_slice(), a.domain.as_slice()), (&b"john.q.public"[..], &b"example.com"[..]));
        assert_eq!(one("Mary Smith <mary@x.test>").name.as_deref(), Some(&b"Mary Smith"[..]));
    }

    #[test]
    fn a_comment_is_the_name_in_the_old_style() {
        let a = one("jdoe@one.test (John (the) Doe)");
        assert_eq!(a.name.as_deref(), Some(&b"John (the) Doe"[..]));
        assert_eq!(a.domain, b"one.test");
    }

    #[test]
    fn groups_have_a_start_and_an_end() {
        let list = parse(b"A Group:Ed Jones <c@a.test>,joe@where.test;, x@y");
        assert_eq!(list.len(), 5);
        assert_eq!(list[0], Entry::GroupStart(b"A Group".to_vec()));
        assert_eq!(list[3], Entry::GroupEnd);
        assert_eq!(parse(b"Undisclosed recipients:;").len(), 2);
    }

    #[test]
    fn routes_quoted_local_parts_and_literals() {
        let a = one("<@a.test,@b.test:\"odd name\"@[192.0.2.1]>");
        assert_eq!(a.route.as_deref(), Some(&b"@a.test,@b.test"[..]));
        assert_eq!((a.local.as_slice(), a.domain.as_slice()), (&b"odd name"[..], &b"[192.0.2.1]"[..]));
    }
}
