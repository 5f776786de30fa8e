//! Looking for mail by domain: what destinations know of their recipients' domains must say the same as the records do, whatever became of the mail.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use gatepost_queue::{Change, Filter, MessageId, Options, RecipientSpec, Spool, kind, new_message_id};

const FAR: u64 = 4_000_000_000_000_000;
/// Octets of a segment before its first record.
const HEADER: usize = 128;

fn open(dir: &Path) -> Spool {
    Spool::open(dir, Options { segment_bytes: 64 << 10, ..Options::new(*b"SPOL") }).unwrap()
}

fn commit(spool: &Spool, recipients: &[(&str, &str)]) -> MessageId {
    let id = new_message_id();
    let mut incoming = spool.receive(id, b"P: 1\r\n", 0, false);
    incoming.feed_raw(&[b'x'; 300]);
    incoming.finish();
    let to = |(address, destination): &(&str, &str)| RecipientSpec {
        address: (*address).into(),
        original: String::new(),
        destination: (*destination).into(),
        notify: 0,
        route: Vec::new(),
        next_us: FAR,
        held: false,
    };
    spool.commit(0, &mut incoming, "from@x".into(), recipients.iter().map(to).collect(), Vec::new()).unwrap();
    id
}

fn settle(spool: &Spool) {
    spool.sync(7);
    let end = Instant::now() + Duration::from_secs(20);
    while !spool.completions().0.iter().any(|(ticket, _)| *ticket == 7) {
        assert!(Instant::now() < end, "what was written never became durable");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn by_domain(domain: &str) -> Filter {
    Filter { domain: domain.into(), ..Filter::default() }
}

fn by_recipient(recipient: &str) -> Filter {
    Filter { recipient: recipient.into(), ..Filter::default() }
}

/// Each way to ask for a domain gives the messages whose records name it.
fn check(spool: &Spool) {
    let end = |address: &str| address.rsplit('@').next().unwrap_or_default().to_lowercase();
    for domain in ["one.test", "two.test", "three.test", "none.test"] {
        let told = |id: &MessageId| spool.get(id).unwrap().recipients.iter().filter(|r| end(&r.address) == domain).count() as u64;
        let wanted: Vec<MessageId> = spool.ids(None, 999).into_iter().filter(|id| told(id) > 0).collect();
        let recipients: u64 = wanted.iter().map(told).sum();
        let glob = by_recipient(&format!("*@{}", domain.to_uppercase()));
        let both = Filter { recipient: "?*".into(), ..by_domain(domain) };
        for filter in [by_domain(&domain.to_uppercase()), glob, both] {
            assert_eq!(spool.select(&filter, 999).unwrap(), wanted, "{filter:?}");
            assert_eq!(spool.count(&filter).unwrap(), (wanted.len() as u64, recipients), "{filter:?}");
        }
        let elsewhere = Filter { recipient: "*@four.test".into(), ..by_domain(domain) };
        assert_eq!(spool.count(&elsewhere).unwrap(), (0, 0));
    }
}

#[test]
fn mail_is_found_by_domain_whatever_became_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let mut ids = Vec::new();
    for n in 0..20 {
        ids.push(commit(&spool, &[("a@One.test", "smtp:one")]));
        ids.push(commit(&spool, &[("a@two.test", "smtp:two"), ("b@ONE.test", "smtp:one")]));
        ids.push(commit(&spool, &[("a@three.test", "shared"), ("a@two.test", "shared"), ("c@two.test", "smtp:two")]));
        if n == 10 {
            settle(&spool);
            spool.checkpoint().unwrap();
        }
    }
    settle(&spool);
    check(&spool);
    // To the destination of another domain, to one that nobody had, and with another address to its own.
    spool.reroute(0, &ids[0], 0, "a@one.test", "smtp:two", b"", b"").unwrap();
    spool.reroute(0, &ids[3], 0, "a@three.test", "smtp:three", b"", b"").unwrap();
    spool.reroute(0, &ids[6], 0, "a@two.test", "smtp:one", b"", b"").unwrap();
    let change = |id: MessageId, recipient, kind, next_us| Change { id, recipient, kind, next_us, detail: b"{}".to_vec() };
    spool.change(
        0,
        &[
            change(ids[1], Some(0), kind::DELIVERED, 0),
            change(ids[2], Some(1), kind::FAILED, 0),
            change(ids[4], Some(1), kind::REMOVED, FAR),
            change(ids[5], None, kind::HELD, 0),
            change(ids[9], None, kind::DELIVERED, 0),
        ],
    );
    settle(&spool);
    check(&spool);
    spool.close().unwrap();
    for checkpoint in [true, false, true] {
        if !checkpoint {
            fs::remove_file(dir.path().join("checkpoint")).unwrap();
        }
        let spool = open(dir.path());
        assert_eq!(spool.opening().checkpoint, checkpoint);
        check(&spool);
        commit(&spool, &[("d@three.test", "smtp:two")]);
        commit(&spool, &[("d@three.test", "new")]);
        settle(&spool);
        check(&spool);
        spool.close().unwrap();
    }
}

#[test]
fn a_destination_that_went_and_came_back_knows_only_its_new_mail() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let id = commit(&spool, &[("a@one.test", "relay")]);
    settle(&spool);
    spool.change(0, &[Change { id, recipient: None, kind: kind::DELIVERED, next_us: 0, detail: b"{}".to_vec() }]);
    commit(&spool, &[("a@two.test", "relay")]);
    settle(&spool);
    check(&spool);
    spool.checkpoint().unwrap();
    spool.close().unwrap();
    check(&open(dir.path()));
}

#[test]
fn a_search_by_domain_needs_no_record_of_a_destination_of_one_domain() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    for n in 0..3 {
        commit(&spool, &[(&format!("a{n}@one.test"), "smtp:one")]);
        commit(&spool, &[("a@two.test", "smtp:two")]);
    }
    spool.close().unwrap();
    let spool = open(dir.path());
    for entry in fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            let length = fs::metadata(&path).unwrap().len();
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &vec![0xaa; (length as usize).saturating_sub(HEADER)], HEADER as u64).unwrap();
        }
    }
    assert_eq!(spool.count(&by_domain("one.test")).unwrap(), (3, 3));
    assert_eq!(spool.count(&by_recipient("*@three.test")).unwrap(), (0, 0));
}
