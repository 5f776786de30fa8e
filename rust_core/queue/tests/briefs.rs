//! Briefs of older segments: a filter that asks for envelopes or replies is answered out of them without reading the log, and says the same without them.

use std::path::Path;

use gatepost_log::parse_segment_name;
use gatepost_queue::{Change, Filter, MessageId, Options, RecipientSpec, Spool, Work, kind, new_message_id};
use gatepost_sim::{Call, Disk};

const DIR: &str = "/data/spool/p0";
const FAR: u64 = 4_000_000_000_000_000;

fn open(disk: &Disk) -> Spool {
    let options = Options { segment_bytes: 64 << 10, storage: disk.storage(), threads: false, ..Options::new(*b"SPOL") };
    Spool::open(Path::new(DIR), options).unwrap()
}

fn settle(spool: &Spool) {
    while [Work::Commit, Work::LogChore, Work::Tidy].map(|work| spool.step(work)) != [false; 3] {}
}

/// A message of 3 KB from one of seven senders to two recipients.
fn commit(spool: &Spool, n: usize) -> MessageId {
    let id = new_message_id();
    let mut incoming = spool.receive(id, b"P: 1\r\n", 0, false);
    incoming.feed_raw(&[b'x'; 3000]);
    incoming.finish();
    let to = |address: String, destination: &str| RecipientSpec {
        address,
        original: String::new(),
        destination: destination.into(),
        notify: 0,
        route: b"a route".to_vec(),
        next_us: FAR,
        held: false,
    };
    let recipients = vec![to(format!("user{n}@One.test"), "shared"), to(format!("other{}@two.test", n % 3), "shared")];
    spool.commit(0, &mut incoming, format!("news{}@sender.test", n % 7), recipients, b"some meta".to_vec()).unwrap();
    id
}

/// A deep queue at rest: 400 messages, every fourth deferred.
fn fill(spool: &Spool) -> Vec<MessageId> {
    let mut ids = Vec::new();
    for n in 0..400 {
        ids.push(commit(spool, n));
        if n % 4 == 0 {
            settle(spool);
            let detail = format!("{{\"code\":451,\"text\":\"greylisted {}\"}}", n % 8).into_bytes();
            spool.change(0, &[Change { id: ids[n], recipient: Some(1), kind: kind::DEFERRED, next_us: FAR, detail }]);
        }
    }
    settle(spool);
    ids
}

fn questions() -> Vec<(Filter, (u64, u64))> {
    let any = Filter::default;
    vec![
        (Filter { sender: "news3@*".into(), ..any() }, (57, 114)),
        (Filter { sender: "nobody@*".into(), ..any() }, (0, 0)),
        (Filter { recipient: "user7?@one.test".into(), ..any() }, (10, 10)),
        (Filter { recipient: "other1@*".into(), sender: "*7@sender.test".into(), ..any() }, (0, 0)),
        (Filter { domain: "two.test".into(), ..any() }, (400, 400)),
        (Filter { reply: "greylisted 4".into(), ..any() }, (50, 50)),
        (Filter { reply: "greylisted".into(), sender: "news0@*".into(), recipient: "other*".into(), ..any() }, (15, 15)),
    ]
}

fn check(spool: &Spool) {
    for (filter, found) in questions() {
        assert_eq!(spool.count(&filter).unwrap(), found, "{filter:?}");
        assert_eq!(spool.select(&filter, 999).unwrap().len() as u64, found.0, "{filter:?}");
    }
}

fn briefs(disk: &Disk) -> Vec<String> {
    disk.files(Path::new(DIR)).into_iter().filter(|name| name.starts_with("brief-")).collect()
}

fn newest(disk: &Disk) -> u32 {
    disk.files(Path::new(DIR)).iter().filter_map(|name| parse_segment_name(name)).max().unwrap()
}

#[test]
fn the_log_of_older_segments_is_not_read_to_count_by_sender_recipient_or_reply() {
    let disk = Disk::new(1);
    let spool = open(&disk);
    fill(&spool);
    assert!(briefs(&disk).len() >= 10, "{:?}", briefs(&disk));
    check(&spool);
    // The active segment, and the newest that are sealed.
    let fresh = newest(&disk) - 5;
    for (filter, _) in questions() {
        disk.trace();
        spool.count(&filter).unwrap();
        let older = |name: &str| parse_segment_name(name).is_some_and(|n| n <= fresh);
        let read = disk.traced().into_iter().filter(|t| t.call == Call::Read && older(&t.name)).count();
        assert_eq!(read, 0, "{filter:?} read the log");
    }
}

#[test]
fn a_brief_that_is_gone_or_damaged_changes_no_answer_and_is_made_again() {
    let disk = Disk::new(2);
    let spool = open(&disk);
    fill(&spool);
    let before = briefs(&disk);
    spool.close().unwrap();
    drop(spool);
    disk.power_cut();
    for (n, name) in before.iter().enumerate() {
        let path = Path::new(DIR).join(name);
        match n % 3 {
            0 => disk.delete(&path),
            1 => disk.flip(&path, 3 + 40 * n as u64, 4),
            _ => {}
        }
    }
    let spool = open(&disk);
    check(&spool);
    settle(&spool);
    check(&spool);
    settle(&spool);
    assert!(briefs(&disk).len() >= before.len());
    disk.trace();
    check(&spool);
    let first = |t: &gatepost_sim::Traced| t.call == Call::Read && parse_segment_name(&t.name) == Some(2);
    assert!(!disk.traced().iter().any(first), "the brief of an old segment was not made again");
}

#[test]
fn briefs_go_with_their_segments() {
    let disk = Disk::new(3);
    let spool = open(&disk);
    let ids = fill(&spool);
    assert!(!briefs(&disk).is_empty());
    let done = |id: &MessageId| Change { id: *id, recipient: None, kind: kind::DELIVERED, next_us: 0, detail: Vec::new() };
    spool.change(0, &ids.iter().map(done).collect::<Vec<_>>());
    settle(&spool);
    assert_eq!(briefs(&disk), Vec::<String>::new());
}

#[test]
fn a_disk_without_room_for_briefs_costs_nothing_but_time() {
    let disk = Disk::new(4);
    disk.fail(gatepost_sim::Fault { name: "brief".into(), ..gatepost_sim::Fault::new(Call::Write, libc::ENOSPC) });
    let spool = open(&disk);
    fill(&spool);
    assert!(briefs(&disk).is_empty());
    check(&spool);
}
