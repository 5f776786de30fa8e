//! Messages that stay behind in mostly dead segments are moved: guards against a spool that keeps a segment for one message or one journal record, and
//! against a moved message that lost a state, a line of its journal or an octet, or that comes back after its end.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use gatepost_queue::{Change, MessageId, Options, RecipientSpec, Spool, State, Summary, kind, new_message_id, now_us};

const SEGMENT: u32 = 64 << 10;

fn open_with(dir: &Path, segment_bytes: u32) -> Spool {
    Spool::open(dir, Options { segment_bytes, ..Options::new(*b"SPOL") }).unwrap()
}

fn open(dir: &Path) -> Spool {
    open_with(dir, SEGMENT)
}

fn to(address: &str, destination: &str) -> RecipientSpec {
    RecipientSpec {
        address: address.into(),
        original: String::new(),
        destination: destination.into(),
        notify: 3,
        route: format!("route to {address}").into_bytes(),
        next_us: 0,
        held: false,
    }
}

fn held() -> RecipientSpec {
    RecipientSpec { held: true, ..to("stays@x", "held") }
}

fn eventually(what: &str, mut test: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !test() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn wait(spool: &Spool, ticket: u64) {
    eventually("the ticket comes back", || {
        spool.completions().0.iter().any(|(number, error)| {
            assert!(error.is_none(), "{error:?}");
            *number == ticket
        })
    });
}

fn body(id: &MessageId, size: usize) -> Vec<u8> {
    id.iter().cycle().map(|b| b'a' + b % 26).take(size).chain(*b"\r\n").collect()
}

fn append(spool: &Spool, size: usize, recipients: Vec<RecipientSpec>) -> MessageId {
    let id = new_message_id();
    let mut incoming = spool.receive(id, b"P: 1\r\n", 0, false);
    incoming.feed_raw(&body(&id, size));
    incoming.finish();
    spool.commit(1, &mut incoming, "from@x".into(), recipients, b"meta".to_vec()).unwrap();
    id
}

fn commit(spool: &Spool, size: usize, recipients: Vec<RecipientSpec>) -> MessageId {
    let id = append(spool, size, recipients);
    wait(spool, 1);
    id
}

fn change(spool: &Spool, id: MessageId, recipient: Option<u16>, kind: u8, next_us: u64, detail: &str) {
    assert_eq!(spool.change(0, &[Change { id, recipient, kind, next_us, detail: detail.into() }]), 1);
}

/// Mail that comes and goes, about `segments` of it.
fn traffic(spool: &Spool, segments: u32) {
    for _ in 0..segments * 7 {
        let id = commit(spool, 9_000 * (spool_segment(spool) / SEGMENT) as usize, vec![to("passing@x", "d0")]);
        change(spool, id, None, kind::DELIVERED, 0, "250");
    }
}

/// Like `traffic`, but one small message stays behind in every other segment: freeing alone cannot keep the partition small then.
fn traffic_with_leftovers(spool: &Spool, segments: u32) {
    for _ in 0..segments / 2 {
        commit(spool, 100, vec![held()]);
        traffic(spool, 2);
    }
}

fn spool_segment(spool: &Spool) -> u32 {
    u32::try_from(spool.segment_bytes()).unwrap()
}

fn read(spool: &Spool, id: &MessageId) -> Vec<u8> {
    let mut reader = spool.read(id).unwrap();
    let mut out = vec![0; reader.size() as usize];
    assert_eq!(reader.read(&mut out).unwrap(), out.len());
    out
}

fn whole(id: &MessageId, size: usize) -> Vec<u8> {
    [b"P: 1\r\n".to_vec(), body(id, size)].concat()
}

/// Closes and opens the partition: with its checkpoint, then again with none.
fn reopened(spool: Spool, dir: &Path, segment_bytes: u32, check: impl Fn(&Spool)) {
    spool.close().unwrap();
    drop(spool);
    for _ in 0..2 {
        let spool = open_with(dir, segment_bytes);
        assert!(spool.opening().damaged.is_empty());
        check(&spool);
        spool.close().unwrap();
        let _ = fs::remove_file(dir.join("checkpoint"));
    }
}

#[test]
fn one_message_in_a_hundred_left_behind_does_not_keep_its_segment() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let mut left = Vec::new();
    let mut passing = Vec::new();
    for n in 0..4_000 {
        let stays = n % 100 == 0;
        let id = append(&spool, 1_000, vec![if stays { held() } else { to("passing@x", "d0") }]);
        let list = if stays { &mut left } else { &mut passing };
        list.push(id);
        if n % 50 == 49 {
            spool.sync(2);
            wait(&spool, 2);
            passing.drain(..).for_each(|id| change(&spool, id, None, kind::DELIVERED, 0, "250"));
        }
    }
    let live = spool.stats().octets;
    eventually("the disk use falls to twice the live octets and four segments", || {
        spool.stats().log.disk_bytes <= 2 * live + 4 * u64::from(SEGMENT)
    });
    let check = |spool: &Spool| {
        assert_eq!(spool.ids(None, 1_000), left);
        assert!(left.iter().all(|id| read(spool, id) == whole(id, 1_000)));
        assert!(left.iter().all(|id| spool.get(id).unwrap().recipients[0].held));
    };
    check(&spool);
    reopened(spool, dir.path(), SEGMENT, check);
    let spool = open(dir.path());
    for id in &left {
        change(&spool, *id, None, kind::REMOVED, 0, "");
    }
    eventually("nothing is left", || spool.stats().log.segments == 1);
    reopened(spool, dir.path(), SEGMENT, |spool| assert_eq!(spool.stats().messages, 0));
}

#[test]
fn a_message_deferred_many_times_keeps_no_segment_per_attempt_and_its_whole_journal() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let id = commit(&spool, 2_000, vec![to("slow@x", "d1")]);
    for n in 0..40u64 {
        change(&spool, id, None, kind::DEFERRED, now_us() + 3_600_000_000, &format!("451 attempt {n} {}", "x".repeat(900)));
        traffic(&spool, 1);
    }
    eventually("few segments are kept", || spool.stats().log.segments <= 4);
    let check = |spool: &Spool| {
        let summary = spool.get(&id).unwrap();
        let recipient = &summary.recipients[0];
        assert_eq!((recipient.attempts, recipient.state), (40, State::Pending));
        assert!(recipient.last_detail.starts_with(b"451 attempt 39 "));
        let history = spool.history(&id).unwrap();
        assert_eq!(history.len(), 41);
        assert_eq!(history[0].kind, kind::ACCEPTED);
        for (n, entry) in history[1..].iter().enumerate() {
            assert!(entry.kind == kind::DEFERRED && entry.detail.starts_with(format!("451 attempt {n} ").as_bytes()));
        }
        assert!(history.windows(2).all(|w| w[0].time_us <= w[1].time_us));
        assert_eq!(read(spool, &id), whole(&id, 2_000));
    };
    check(&spool);
    reopened(spool, dir.path(), SEGMENT, check);
}

#[test]
fn a_large_message_moves_with_its_chunks() {
    const LARGE: u32 = 2 << 20;
    let dir = tempfile::tempdir().unwrap();
    let spool = open_with(dir.path(), LARGE);
    let size = 700_000;
    let id = commit(&spool, size, vec![held()]);
    for n in 0..6 {
        change(&spool, id, None, kind::NOTE, 0, &format!("note {n}"));
        traffic(&spool, 1);
    }
    eventually("few segments are kept", || spool.stats().log.segments <= 4);
    assert!(!dir.path().join("00000001.seg").exists());
    let check = |spool: &Spool| {
        assert!(read(spool, &id) == whole(&id, size));
        assert_eq!(spool.history(&id).unwrap().len(), 7);
    };
    check(&spool);
    reopened(spool, dir.path(), LARGE, check);
}

#[test]
fn a_reader_opened_before_the_move_reads_on_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let id = commit(&spool, 20_000, vec![held()]);
    let mut reader = spool.read(&id).unwrap();
    let mut out = vec![0; reader.size() as usize];
    assert_eq!(reader.read(&mut out[..100]).unwrap(), 100);
    traffic_with_leftovers(&spool, 12);
    eventually("the first segment goes", || !dir.path().join("00000001.seg").exists());
    let rest = reader.read(&mut out[100..]).unwrap();
    assert_eq!(rest, out.len() - 100);
    assert_eq!(out, whole(&id, 20_000));
    assert_eq!(read(&spool, &id), out);
}

/// What operators see, without what differs by itself.
fn seen(spool: &Spool, id: &MessageId) -> (Summary, String) {
    (spool.get(id).unwrap(), format!("{:?}", spool.history(id).unwrap()))
}

#[test]
fn every_state_of_a_recipient_survives_the_move() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let later = now_us() + 3_600_000_000;
    let names = ["a@x", "b@x", "c@x", "d@x", "e@x", "f@x"];
    let id = commit(&spool, 500, names.iter().map(|name| to(name, "d1")).collect());
    change(&spool, id, Some(0), kind::DELIVERED, 0, "250 ok");
    change(&spool, id, Some(1), kind::DEFERRED, later, "451 later");
    change(&spool, id, Some(2), kind::HELD, 0, "by hand");
    change(&spool, id, Some(3), kind::FAILED, 0, "550 no");
    spool.reroute(9, &id, 4, "e@elsewhere", "d2", b"new route", b"").unwrap();
    wait(&spool, 9);
    change(&spool, id, Some(5), kind::REMOVED, later, "with a grace");
    let before = seen(&spool, &id);
    traffic_with_leftovers(&spool, 12);
    eventually("the first segment goes", || !dir.path().join("00000001.seg").exists());
    assert_eq!(seen(&spool, &id), before);
    reopened(spool, dir.path(), SEGMENT, |spool| assert_eq!(seen(spool, &id), before));
    let spool = open(dir.path());
    let job = spool.take("d2", 1, 0).remove(0);
    assert_eq!((job.recipients[0].address.as_str(), job.recipients[0].route.as_slice()), ("e@elsewhere", b"new route".as_slice()));
    change(&spool, id, Some(5), kind::RESTORED, later, "");
    assert_eq!(spool.get(&id).unwrap().recipients[5].state, State::Pending);
    traffic(&spool, 12);
    assert_eq!(spool.get(&id).unwrap().recipients[5].destination, "d1");
}

#[test]
fn mail_goes_on_while_messages_are_moved_and_finished() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let mut live = std::collections::VecDeque::new();
    for n in 0..3_000u64 {
        let id = append(&spool, 2_000, vec![to("a@x", &format!("d{}", n % 7))]);
        wait(&spool, 1);
        // One in five stays for a while and is touched now and then; it ends while others move.
        if n % 5 == 0 {
            live.push_back(id);
        } else {
            change(&spool, id, None, kind::DELIVERED, 0, "250");
        }
        if let Some(old) = live.get((n % 40) as usize).filter(|_| n % 3 == 0) {
            change(&spool, *old, None, kind::DEFERRED, now_us() + 3_600_000_000, "451");
        }
        if live.len() > 60
            && let Some(old) = live.pop_front()
        {
            change(&spool, old, None, kind::DELIVERED, 0, "250");
        }
    }
    let live: Vec<_> = live.into_iter().collect();
    let states = |spool: &Spool| live.iter().map(|id| spool.get(id).unwrap().recipients[0].attempts).collect::<Vec<_>>();
    let before = states(&spool);
    let check = |spool: &Spool| {
        assert_eq!(spool.ids(None, 1_000), live);
        assert_eq!(states(spool), before);
        assert!(live.iter().all(|id| read(spool, id) == whole(id, 2_000)));
    };
    check(&spool);
    reopened(spool, dir.path(), SEGMENT, check);
}
