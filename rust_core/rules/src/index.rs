//! Answers from a mapped index. A rule is found by its hash (`domains`); every other look-up is a binary search over rows whose records lie in
//! the order they were built in.
//!
//! Rules are known by their place (their rank among the domains), which holds for this file only. Nothing here fails once it is open.

use std::cmp::Ordering;
use std::ops::Range;
use std::path::Path;

use crate::domains::Domains;
use crate::error::RulesError;
use crate::layout::{Header, RULE_ROW, u32_at, u64_at};
use crate::map::Map;
use crate::record::{Class, Fields, Handler, Mailbox, RULE_NUMBERS, RULE_TEXTS, Rule};

/// A rule has handlers that are prefixes or suffixes.
pub const FITTING: u8 = 1;
/// A rule has handlers that are regular expressions.
pub const EXPRESSIONS: u8 = 2;
/// A rule has a handler for '*'.
pub const ANY: u8 = 4;

/// An open index.
pub struct Index {
    map: Map,
    header: Header,
    domains: Domains,
}

impl Index {
    /// Maps the file and proves its checksum.
    pub fn open(path: &Path) -> Result<Self, RulesError> {
        let map = Map::open(path)?;
        let header = Header::decode(path, map.octets())?;
        let domains = Domains::of(header.rules, |place| domain_at(map.octets(), &header, place));
        Ok(Self { map, header, domains })
    }

    /// What the file says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    fn record(&self, offset: u64) -> Fields<'_> {
        Fields::at(self.map.octets(), offset)
    }

    /// The record that the entry of a section leads to.
    fn entry(&self, section: u64, place: u64) -> Fields<'_> {
        self.record(u64_at(self.map.octets(), (section + place * 8) as usize))
    }

    // ---- rules ---------------------------------------------------------------------------------------------------

    fn row(&self, rule: u64) -> usize {
        (self.header.rules_at + rule * RULE_ROW as u64) as usize
    }

    fn rule_record(&self, rule: u64) -> Fields<'_> {
        self.record(u64_at(self.map.octets(), self.row(rule)))
    }

    /// The place of the rule for exactly this domain.
    pub fn find_rule(&self, domain: &str) -> Option<u64> {
        self.domains.find(domain.as_bytes(), |place| domain_at(self.map.octets(), &self.header, place))
    }

    /// The place of the rule that decides a domain: the exact one, else the longest `*.suffix`, else `*`.
    pub fn rule_for(&self, domain: &str) -> Option<u64> {
        if let Some(found) = self.find_rule(domain) {
            return Some(found);
        }
        if !self.has_wildcards() {
            return None;
        }
        let mut dots = domain.bytes().enumerate().filter(|&(_, octet)| octet == b'.');
        let wild = dots.find_map(|(at, _)| self.find_rule(&format!("*{}", &domain[at..])));
        wild.or_else(|| self.find_rule("*"))
    }

    /// `*` sorts before every letter and digit: the first rules tell.
    fn has_wildcards(&self) -> bool {
        self.header.rules > 0 && self.rule_record(0).octets().first() == Some(&b'*')
    }

    /// The rule at a place below the count.
    pub fn rule(&self, rule: u64) -> Rule<'_> {
        self.rule_record(rule).rule()
    }

    /// The domain of the rule at a place, and the octets of its record that many rules share: all but domain and revision.
    pub fn outline(&self, rule: u64) -> (&str, &[u8]) {
        let mut record = self.rule_record(rule);
        let domain = std::str::from_utf8(record.octets()).unwrap_or_default();
        (domain, record.whole(RULE_TEXTS - 1, RULE_NUMBERS - 1))
    }

    /// The domain of the first rule of a kind, from a place on, that names one domain and no pattern.
    pub fn next_of_kind(&self, kind: &str, start: u64) -> Option<&str> {
        let mut rules = (start..self.header.rules).map(|place| self.rule(place).texts);
        rules.find(|texts| texts[1] == kind && !texts[0].starts_with('*')).map(|texts| texts[0])
    }

    /// How many handlers a rule has: exact, prefixes, suffixes, others.
    pub fn counts(&self, rule: u64) -> [u32; 4] {
        let row = self.row(rule);
        std::array::from_fn(|n| u32_at(self.map.octets(), row + 16 + n * 4))
    }

    /// What its patterns are: [`FITTING`] for prefixes and suffixes, [`EXPRESSIONS`], [`ANY`] for '*', added up.
    pub fn patterns(&self, rule: u64) -> u8 {
        let [_, prefixes, suffixes, others] = self.counts(rule);
        let any = self.any(rule).is_some();
        let expressions = others > u32::from(any);
        (if prefixes + suffixes > 0 { FITTING } else { 0 }) | (if expressions { EXPRESSIONS } else { 0 }) | (if any { ANY } else { 0 })
    }

    // ---- handlers ------------------------------------------------------------------------------------------------

    /// The entries of one class of a rule's handlers; regular expressions and '*' together.
    fn span(&self, rule: u64, class: Class) -> Range<u64> {
        let counts = self.counts(rule);
        let class = (class as usize).min(3);
        let first = u64_at(self.map.octets(), self.row(rule) + 8) + counts[..class].iter().map(|&n| u64::from(n)).sum::<u64>();
        first..first + u64::from(counts[class])
    }

    fn handler_at(&self, place: u64) -> Handler<'_> {
        self.entry(self.header.handlers_at, place).handler()
    }

    fn key_at(&self, place: u64, class: Class) -> &[u8] {
        class.key(self.entry(self.header.handlers_at, place).octets())
    }

    /// The handler of exactly this local part.
    pub fn exact(&self, rule: u64, local: &str) -> Option<Handler<'_>> {
        self.keyed(rule, Class::Exact, local.as_bytes()).map(|place| self.handler_at(place))
    }

    /// The handler with exactly this pattern.
    pub fn named(&self, rule: u64, pattern: &str) -> Option<Handler<'_>> {
        let class = Class::of(pattern.as_bytes());
        if class == Class::Any {
            return self.any(rule);
        }
        self.keyed(rule, class, class.key(pattern.as_bytes())).map(|place| self.handler_at(place))
    }

    fn keyed(&self, rule: u64, class: Class, key: &[u8]) -> Option<u64> {
        let span = self.span(rule, class);
        let end = span.end;
        let place = lower_bound(span, |n| class.compare(self.key_at(n, class), key));
        (place < end && self.key_at(place, class) == key).then_some(place)
    }

    /// The handler for '*'.
    pub fn any(&self, rule: u64) -> Option<Handler<'_>> {
        let span = self.span(rule, Class::Any);
        let last = span.end.checked_sub(1).filter(|last| span.contains(last))?;
        Some(self.handler_at(last)).filter(|one| one.texts[0] == "*")
    }

    /// The handlers that are regular expressions, in the order of their text.
    pub fn expressions(&self, rule: u64) -> impl Iterator<Item = Handler<'_>> {
        self.span(rule, Class::Regex).map(|place| self.handler_at(place)).filter(|one| one.texts[0] != "*")
    }

    /// Prefixes and suffixes that fit a local part, best first: the most characters; on a tie the prefix.
    pub fn fitting(&self, rule: u64, local: &str) -> Vec<Handler<'_>> {
        let mut found = Vec::new();
        self.beginning(rule, Class::Prefix, local.as_bytes(), &mut found);
        self.beginning(rule, Class::Suffix, local.as_bytes(), &mut found);
        found.sort_by_key(|one| std::cmp::Reverse(one.texts[0].chars().count()));
        found
    }

    /// Every key that `text` begins with (a suffix: ends with), longest first. Each step leads to a key or to a shorter text.
    fn beginning<'a>(&'a self, rule: u64, class: Class, text: &[u8], found: &mut Vec<Handler<'a>>) {
        let span = self.span(rule, class);
        let mut left = text.len();
        let mut end = span.end;
        while left > 0 && end > span.start {
            let part = part(class, text, left);
            end = lower_bound(span.start..end, |n| match class.compare(self.key_at(n, class), part) {
                Ordering::Equal => Ordering::Less, // the upper bound: an equal key is the one before it
                other => other,
            });
            let Some(place) = end.checked_sub(1).filter(|place| *place >= span.start) else { return };
            let key = self.key_at(place, class);
            let common = common(class, key, part);
            if common == key.len() {
                found.push(self.handler_at(place));
                end = place;
                left = key.len().saturating_sub(1);
            } else {
                left = common;
            }
        }
    }

    /// Handlers of a rule from the n-th on, by class and key.
    pub fn handlers(&self, rule: u64, start: u64, limit: u64) -> impl Iterator<Item = Handler<'_>> {
        let first = self.span(rule, Class::Exact).start;
        let count: u64 = self.counts(rule).iter().map(|&n| u64::from(n)).sum();
        (start.min(count)..count.min(start.saturating_add(limit))).map(move |n| self.handler_at(first + n))
    }

    // ---- mailboxes -----------------------------------------------------------------------------------------------

    /// The mailbox of an address (stored form).
    pub fn mailbox(&self, address: &str) -> Option<Mailbox<'_>> {
        let place = lower_bound(0..self.header.mailboxes, |n| self.compare_mailbox(n, domain_of(address.as_bytes()), address.as_bytes()));
        let found = (place < self.header.mailboxes).then(|| self.mailbox_at(place))?;
        (found.address == address).then_some(found)
    }

    /// The place of the first mailbox of a domain, or of the one where it would be.
    pub fn first_mailbox(&self, domain: &str) -> u64 {
        lower_bound(0..self.header.mailboxes, |n| self.compare_mailbox(n, domain.as_bytes(), b""))
    }

    fn compare_mailbox(&self, place: u64, domain: &[u8], address: &[u8]) -> Ordering {
        let here = self.entry(self.header.mailboxes_at, place).octets();
        domain_of(here).cmp(domain).then_with(|| here.cmp(address))
    }

    /// The mailbox at a place below the count: by domain, then address.
    pub fn mailbox_at(&self, place: u64) -> Mailbox<'_> {
        self.entry(self.header.mailboxes_at, place).mailbox()
    }

    /// The n-th of the mailboxes named postmaster, by address.
    pub fn postmaster_at(&self, place: u64) -> Mailbox<'_> {
        self.entry(self.header.postmasters_at, place).mailbox()
    }
}

/// The domain of the rule at a place.
fn domain_at<'a>(octets: &'a [u8], header: &Header, place: u64) -> &'a [u8] {
    let record = u64_at(octets, (header.rules_at + place * RULE_ROW as u64) as usize);
    Fields::at(octets, record).octets()
}

fn domain_of(address: &[u8]) -> &[u8] {
    address.iter().rposition(|&octet| octet == b'@').map_or(&[], |at| &address[at + 1..])
}

/// The first (a suffix: last) `length` octets.
fn part(class: Class, text: &[u8], length: usize) -> &[u8] {
    if class == Class::Suffix { &text[text.len() - length..] } else { &text[..length] }
}

/// How many octets two keys share from where they are compared on.
fn common(class: Class, one: &[u8], other: &[u8]) -> usize {
    if class == Class::Suffix {
        one.iter().rev().zip(other.iter().rev()).take_while(|(a, b)| a == b).count()
    } else {
        one.iter().zip(other).take_while(|(a, b)| a == b).count()
    }
}

/// The first place that is not less, given how each compares with what is looked for.
fn lower_bound(mut span: Range<u64>, compare: impl Fn(u64) -> Ordering) -> u64 {
    while span.start < span.end {
        let middle = span.start + (span.end - span.start) / 2;
        if compare(middle) == Ordering::Less {
            span.start = middle + 1;
        } else {
            span.end = middle;
        }
    }
    span.start
}
