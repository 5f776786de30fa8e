//! The index against the tables it was built of: every rule, handler and mailbox is found, nothing else is, and a file that is not whole is
//! refused.

// Counts in tests are small.
#![allow(clippy::cast_possible_wrap, clippy::cast_sign_loss, clippy::needless_for_each)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use gatepost_rules::{Index, RulesError, build};
use rusqlite::{Connection, params};
use tempfile::TempDir;

const TABLES: &str = "
    PRAGMA synchronous = OFF;
    CREATE TABLE state (key TEXT PRIMARY KEY, value TEXT);
    INSERT INTO state VALUES ('revision', '1'), ('pepper', 'abcd');
    CREATE TABLE alembic_version (version_num TEXT);
    INSERT INTO alembic_version VALUES ('0005');
    CREATE TABLE rule_versions (version INTEGER PRIMARY KEY, created_at INTEGER);
    CREATE TABLE domain_rules (id INTEGER PRIMARY KEY, domain TEXT UNIQUE, kind TEXT, host TEXT, port INTEGER, tls TEXT, implicit_tls BOOLEAN,
        lmtp BOOLEAN, username TEXT, password_ref TEXT, text TEXT, accept_untrusted BOOLEAN, revision INTEGER, policy TEXT, settings TEXT);
    CREATE TABLE handlers (id INTEGER PRIMARY KEY, rule_id INTEGER, pattern TEXT, kind TEXT, targets TEXT, text TEXT, policy TEXT, options TEXT);
    CREATE TABLE users (id INTEGER PRIMARY KEY, address TEXT UNIQUE, domain TEXT, mailbox_id BLOB, volume TEXT, enabled BOOLEAN);
";

struct Place {
    home: TempDir,
    tables: Connection,
}

impl Place {
    fn new() -> Self {
        let home = TempDir::new().unwrap();
        let tables = Connection::open(home.path().join("directory.db")).unwrap();
        tables.execute_batch(TABLES).unwrap();
        Self { home, tables }
    }

    fn rule(&self, id: i64, domain: &str, kind: &str) {
        let values = params![id, domain, kind];
        let query = "INSERT INTO domain_rules VALUES (?1, ?2, ?3, 'mx.test', 2525, 'required', 1, 0, 'u', 'ref', 't', 1, 7, 'p', '{}')";
        self.tables.execute(query, values).unwrap();
    }

    fn handler(&self, rule: i64, pattern: &str) {
        let query =
            "INSERT INTO handlers (rule_id, pattern, kind, targets, text, policy, options) VALUES (?1, ?2, 'forward', ?3, '', '', '')";
        self.tables.execute(query, params![rule, pattern, format!("{rule}@far.test\nb@far.test")]).unwrap();
    }

    fn user(&self, address: &str, enabled: bool) {
        let domain = address.split_once('@').unwrap().1;
        let query = "INSERT INTO users (address, domain, mailbox_id, volume, enabled) VALUES (?1, ?2, ?3, 'main', ?4)";
        self.tables.execute(query, params![address, domain, vec![7u8; 16], enabled]).unwrap();
    }

    fn target(&self) -> PathBuf {
        self.home.path().join("rules.index")
    }

    fn built(&self) -> Index {
        build(&self.home.path().join("directory.db"), &self.target()).unwrap();
        Index::open(&self.target()).unwrap()
    }

    fn files(&self) -> BTreeSet<String> {
        std::fs::read_dir(self.home.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn domain(index: &Index, asked: &str) -> Option<String> {
    index.rule_for(asked).map(|place| index.rule(place).texts[0].to_owned())
}

#[test]
fn an_empty_directory_gives_an_index_that_finds_nothing() {
    let index = Place::new().built();
    assert_eq!((index.rule_for("a.test"), index.mailbox("a@a.test"), index.header().version), (None, None, 0));
    assert_eq!(index.next_of_kind("hosted", 0), None);
}

#[test]
fn a_rule_holds_what_its_row_holds() {
    let place = Place::new();
    place.rule(9, "a.test", "gateway");
    let index = place.built();
    let rule = index.rule(index.find_rule("a.test").unwrap());
    assert_eq!(rule.texts, ["a.test", "gateway", "mx.test", "required", "u", "ref", "t", "p", "{}"]);
    assert_eq!((rule.port, rule.flags, rule.revision), (2525, 5, 7));
}

#[test]
fn the_exact_rule_decides_before_the_longest_wildcard_and_that_before_the_default() {
    let place = Place::new();
    for (id, name) in ["*", "*.test", "*.b.test", "a.b.test"].iter().enumerate() {
        place.rule(id as i64, name, "mx");
    }
    let index = place.built();
    for (asked, wanted) in [
        ("a.b.test", "a.b.test"),
        ("x.b.test", "*.b.test"),
        ("b.test", "*.test"),
        ("x.y.b.test", "*.b.test"),
        ("a.example", "*"),
        ("", "*"),
    ] {
        assert_eq!(domain(&index, asked).as_deref(), Some(wanted), "{asked}");
    }
}

#[test]
fn without_wildcards_an_unknown_domain_has_no_rule() {
    let place = Place::new();
    place.rule(1, "b.test", "mx");
    assert_eq!(domain(&place.built(), "a.b.test"), None);
}

#[test]
fn every_handler_of_many_rules_is_found_and_no_other() {
    let place = Place::new();
    for rule in 0..40 {
        place.rule(100 - rule, &format!("d{rule}.test"), "hosted");
        for n in 0..rule {
            place.handler(100 - rule, &format!("user{n}"));
        }
    }
    let index = place.built();
    for rule in 0..40 {
        let here = index.find_rule(&format!("d{rule}.test")).unwrap();
        assert_eq!(index.counts(here), [rule as u32, 0, 0, 0]);
        for n in 0..40 {
            let found = index.exact(here, &format!("user{n}"));
            assert_eq!(found.map(|one| one.texts[2].to_owned()), (n < rule).then(|| format!("{}@far.test\nb@far.test", 100 - rule)));
        }
        assert_eq!(index.handlers(here, 0, 1000).count(), rule as usize);
    }
    assert_eq!(index.header().handlers, 780);
}

#[test]
fn patterns_fit_as_a_comparison_of_each_with_the_text_says() {
    let patterns = ["a*", "ab*", "abc*", "b*", "abd*", "é*", "*c", "*bc", "*abc", "*é", "*x", "abc", "*", "/a.+/", "/b/", "zz*", "*a"];
    let place = Place::new();
    place.rule(1, "a.test", "hosted");
    place.rule(2, "b.test", "hosted");
    place.handler(2, "q*");
    patterns.iter().for_each(|pattern| place.handler(1, pattern));
    let index = place.built();
    let rule = index.find_rule("a.test").unwrap();
    for local in ["abc", "a", "", "xabc", "abcx", "é", "ééé", "abdc", "bc", "c", "zzzabc", "aé", "q"] {
        let fits = |pattern: &&str| match pattern.strip_suffix('*') {
            _ if *pattern == "*" || pattern.starts_with('/') => false,
            Some(prefix) => local.starts_with(prefix),
            None => pattern.strip_prefix('*').is_some_and(|suffix| local.ends_with(suffix)),
        };
        let mut wanted: Vec<&str> = patterns.iter().filter(|one| fits(one)).copied().collect();
        wanted.sort_by_key(|one| (std::cmp::Reverse(one.chars().count()), one.starts_with('*')));
        let found: Vec<&str> = index.fitting(rule, local).iter().map(|one| one.texts[0]).collect();
        assert_eq!(found, wanted, "{local}");
    }
    assert_eq!(index.expressions(rule).map(|one| one.texts[0]).collect::<Vec<_>>(), ["/a.+/", "/b/"]);
    patterns.iter().for_each(|pattern| assert_eq!(index.named(rule, pattern).unwrap().texts[0], *pattern));
    assert_eq!((index.named(rule, "q*"), index.named(rule, "/c/"), index.exact(rule, "a*")), (None, None, None));
    assert_eq!(index.any(index.find_rule("b.test").unwrap()), None);
}

#[test]
fn mailboxes_are_found_and_stand_by_domain_and_address() {
    let place = Place::new();
    for address in ["b@a.test", "a.b@a.test", "a@a.test", "postmaster@b.test", "postmaster@a.test", "z@0.test"] {
        place.user(address, address != "a@a.test");
    }
    let index = place.built();
    assert!(!index.mailbox("a@a.test").unwrap().enabled);
    assert_eq!(index.mailbox("c@a.test"), None);
    let first = index.first_mailbox("a.test");
    let names: Vec<&str> = (first..index.header().mailboxes).map(|n| index.mailbox_at(n).address).collect();
    assert_eq!(names, ["a.b@a.test", "a@a.test", "b@a.test", "postmaster@a.test", "postmaster@b.test"]);
    assert_eq!((index.postmaster_at(0).address, index.header().postmasters), ("postmaster@a.test", 2));
}

#[test]
fn the_version_and_its_time_stand_in_the_file_and_its_directory_can_be_told() {
    let place = Place::new();
    place.tables.execute_batch("INSERT INTO rule_versions VALUES (3, 30), (12, 120)").unwrap();
    let index = place.built();
    assert_eq!((index.header().version, index.header().stamp), (12, 120));
    assert!(index.header().fits("0005 abcd") && !index.header().fits("0006 abcd") && !index.header().fits("0005 abce"));
}

fn refusal(path: &Path) -> RulesError {
    Index::open(path).err().unwrap()
}

#[test]
fn a_file_cut_anywhere_or_with_any_octet_changed_is_refused() {
    let place = Place::new();
    place.rule(1, "a.test", "hosted");
    place.handler(1, "a");
    drop(place.built());
    let whole = std::fs::read(place.target()).unwrap();
    for length in 0..whole.len() {
        std::fs::write(place.target(), &whole[..length]).unwrap();
        assert!(matches!(refusal(&place.target()), RulesError::Damaged { .. }), "{length}");
    }
    for at in 0..whole.len() {
        let mut other = whole.clone();
        other[at] ^= 0x41;
        std::fs::write(place.target(), &other).unwrap();
        assert!(matches!(refusal(&place.target()), RulesError::Damaged { .. } | RulesError::Version { .. }), "{at}");
    }
    std::fs::write(place.target(), [&whole[..], b"x"].concat()).unwrap();
    assert!(matches!(refusal(&place.target()), RulesError::Damaged { .. }));
}

#[test]
fn a_file_of_a_newer_format_is_told_from_a_damaged_one() {
    let place = Place::new();
    drop(place.built());
    let mut octets = std::fs::read(place.target()).unwrap();
    octets[8] = 99;
    std::fs::write(place.target(), &octets).unwrap();
    assert!(matches!(refusal(&place.target()), RulesError::Version { found: 99, .. }));
}

#[test]
fn what_cannot_be_built_leaves_the_file_that_was_there_and_nothing_beside_it() {
    let place = Place::new();
    place.rule(1, "a.test", "hosted");
    drop(place.built());
    let before = (std::fs::read(place.target()).unwrap(), place.files());
    place.tables.execute_batch("INSERT INTO handlers (rule_id, pattern) VALUES (1, x'ff')").unwrap();
    assert!(matches!(build(&place.home.path().join("directory.db"), &place.target()), Err(RulesError::Sqlite(_))));
    assert!(build(&place.home.path().join("none.db"), &place.target()).is_err());
    assert_eq!((std::fs::read(place.target()).unwrap(), place.files()), before);
}

#[test]
fn an_open_index_stays_readable_when_a_new_one_takes_its_place() {
    let place = Place::new();
    place.rule(1, "a.test", "hosted");
    let old = place.built();
    place.rule(2, "b.test", "hosted");
    let new = place.built();
    assert_eq!((old.header().rules, new.header().rules), (1, 2));
    assert_eq!(old.rule(old.find_rule("a.test").unwrap()).texts[0], "a.test");
}
