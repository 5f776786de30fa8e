//! Removals with a grace, and operations undone: in memory, after a replay of the whole log, and after one from a checkpoint.
//! Guards against a removed message that cannot come back, one that comes back twice, and space that is never given back.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use gatepost_queue::{Change, MessageId, Options, RecipientSpec, Spool, State, Undone, kind, new_message_id, now_us};

const HOUR: u64 = 3_600_000_000;

fn open(dir: &Path) -> Spool {
    Spool::open(dir, Options { segment_bytes: 64 << 10, ..Options::new(*b"SPOL") }).unwrap()
}

/// As after a crash: the log alone, and then the log with its last checkpoint.
fn reopen(spool: Spool, dir: &Path, checkpoint: bool) -> Spool {
    drop(spool);
    if !checkpoint {
        fs::remove_file(dir.join("checkpoint")).unwrap();
    }
    open(dir)
}

fn to(address: &str, destination: &str) -> RecipientSpec {
    let route = format!("route to {address}").into_bytes();
    RecipientSpec {
        address: address.into(),
        original: String::new(),
        destination: destination.into(),
        notify: 3,
        route,
        next_us: 0,
        held: false,
    }
}

fn wait(spool: &Spool, ticket: u64) {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        for (number, error) in spool.completions().0 {
            if number == ticket {
                assert!(error.is_none(), "{error:?}");
                return;
            }
        }
        assert!(Instant::now() < end, "ticket {ticket} never came back");
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn commit(spool: &Spool, size: usize, recipients: Vec<RecipientSpec>) -> MessageId {
    let id = new_message_id();
    let mut incoming = spool.receive(id, b"P: 1\r\n", 0, false);
    incoming.feed_raw(&vec![b'x'; size]);
    incoming.feed_raw(b"\r\n");
    incoming.finish();
    spool.commit(1, &mut incoming, "from@x".into(), recipients, b"meta".to_vec()).unwrap();
    wait(spool, 1);
    id
}

fn op(name: &str) -> Vec<u8> {
    format!("{{\"by\":\"me\",\"op\":\"{name}\"}}").into_bytes()
}

fn undo_note(name: &str) -> Vec<u8> {
    format!("{{\"by\":\"me\",\"op\":\"undo-of-{name}\",\"undo\":\"{name}\"}}").into_bytes()
}

fn change(spool: &Spool, id: MessageId, recipient: Option<u16>, kind: u8, next_us: u64, name: &str) -> usize {
    let detail = if name.is_empty() { b"{}".to_vec() } else { op(name) };
    spool.change(0, &[Change { id, recipient, kind, next_us, detail }])
}

fn undo(spool: &Spool, name: &str, ids: &[MessageId]) -> Undone {
    let counts = spool.undo(9, name, ids, &undo_note(name));
    wait(spool, 9);
    counts
}

fn all(count: u64) -> Undone {
    Undone { undone: count, recipients: count, ..Undone::default() }
}

/// (state, held, due, address, destination) of every recipient.
fn states(spool: &Spool, id: &MessageId) -> Vec<(State, bool, u64, String, String)> {
    let summary = spool.get(id).unwrap();
    summary.recipients.into_iter().map(|r| (r.state, r.held, r.next_us, r.address, r.destination)).collect()
}

#[test]
fn a_removed_message_in_grace_is_neither_counted_nor_listed_nor_delivered_and_comes_back_as_it_was() {
    for checkpoint in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let spool = open(dir.path());
        let id = commit(&spool, 9_000, vec![to("a@b", "d"), to("c@b", "e")]);
        let due = now_us() + 3 * HOUR;
        change(&spool, id, Some(0), kind::DEFERRED, due, "");
        change(&spool, id, Some(1), kind::HELD, 0, "");
        let (before, figures) = (states(&spool, &id), spool.stats());
        assert_eq!(change(&spool, id, None, kind::REMOVED, now_us() + HOUR, "r1"), 1);
        let check = |spool: &Spool| {
            let s = spool.stats();
            assert_eq!((s.messages, s.recipients, s.held, s.octets, s.removed), (0, 0, 0, 0, 1));
            assert!(s.removed_octets > 9_000);
            assert!(spool.ids(None, 9).is_empty() && spool.destinations().is_empty());
            assert!(spool.take("d", 9, 0).is_empty() && spool.take("e", 9, 0).is_empty());
            assert_eq!(spool.advance(now_us() + 9 * HOUR), 0);
            assert!(states(spool, &id).iter().all(|s| s.0 == State::Removed));
        };
        check(&spool);
        let spool = reopen(spool, dir.path(), checkpoint);
        check(&spool);
        assert_eq!(undo(&spool, "r1", &[id]), Undone { undone: 1, recipients: 2, ..Undone::default() });
        assert_eq!(states(&spool, &id), before);
        let spool = reopen(spool, dir.path(), checkpoint);
        assert_eq!(states(&spool, &id), before);
        let now = spool.stats();
        assert_eq!((now.messages, now.recipients, now.held, now.octets), (1, 2, 1, figures.octets));
        assert_eq!(undo(&spool, "r1", &[id]), Undone { already: 1, ..Undone::default() });
        change(&spool, id, Some(1), kind::RELEASED, 0, "");
        assert_eq!(spool.take("e", 9, 0).len(), 1);
        spool.advance(due);
        assert_eq!(spool.take("d", 9, 0)[0].recipients[0].attempts, 1);
    }
}

#[test]
fn a_grace_that_is_over_frees_the_message_for_good_and_its_space() {
    for checkpoint in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let spool = open(dir.path());
        let ids: Vec<_> = (0..30).map(|_| commit(&spool, 9_000, vec![to("a@b", "d")])).collect();
        let (first, second) = (now_us() + HOUR, now_us() + 2 * HOUR);
        for id in &ids[..20] {
            change(&spool, *id, None, kind::REMOVED, first, "r1");
        }
        for id in &ids[20..] {
            change(&spool, *id, None, kind::REMOVED, second, "r2");
        }
        let disk = spool.stats().log.disk_bytes;
        assert_eq!(spool.purge(now_us(), 100), (first, 0));
        assert_eq!(spool.purge(first, 15), (first, 15));
        let spool = reopen(spool, dir.path(), checkpoint);
        assert_eq!(spool.stats().removed, 15);
        assert_eq!(spool.purge(first, 15), (second, 5));
        assert_eq!(undo(&spool, "r1", &ids[..20]), Undone { finished: 20, ..Undone::default() });
        assert_eq!(undo(&spool, "r2", &ids[20..]), all(10));
        assert_eq!(spool.purge(u64::MAX, 100), (0, 0));
        let end = Instant::now() + Duration::from_secs(10);
        while spool.stats().log.disk_bytes >= disk {
            assert!(Instant::now() < end, "the space never came back");
            std::thread::sleep(Duration::from_millis(5));
        }
        let spool = reopen(spool, dir.path(), checkpoint);
        assert_eq!((spool.stats().messages, spool.stats().removed), (10, 0));
    }
}

#[test]
fn without_a_grace_a_removal_is_final_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let (a, b) = (commit(&spool, 9, vec![to("a@b", "d")]), commit(&spool, 9, vec![to("a@b", "d")]));
    change(&spool, a, None, kind::REMOVED, 0, "r");
    change(&spool, b, None, kind::REMOVED, now_us() - 1, "r");
    assert!(spool.get(&a).is_err() && spool.get(&b).is_err());
    assert_eq!(undo(&spool, "r", &[a, b]), Undone { finished: 2, ..Undone::default() });
}

#[test]
fn hold_and_release_are_undone_for_exactly_the_recipients_they_changed() {
    for checkpoint in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let spool = open(dir.path());
        let id = commit(&spool, 9, vec![to("a@b", "d"), to("b@b", "d"), to("c@b", "d")]);
        change(&spool, id, Some(1), kind::HELD, 0, "");
        change(&spool, id, Some(2), kind::DELIVERED, 0, "");
        let before = states(&spool, &id);
        assert_eq!(change(&spool, id, None, kind::HELD, 0, "h1"), 1);
        assert_eq!(spool.stats().held, 2);
        let spool = reopen(spool, dir.path(), checkpoint);
        assert_eq!(undo(&spool, "h1", &[id]), all(1));
        assert_eq!(states(&spool, &id), before);
        assert_eq!(change(&spool, id, None, kind::RELEASED, 0, "h2"), 1);
        assert_eq!(spool.stats().held, 0);
        assert_eq!(undo(&spool, "h2", &[id]), all(1));
        assert_eq!(states(&spool, &id), before);
    }
}

#[test]
fn a_reroute_is_undone_with_address_way_due_time_and_hold_flag() {
    for checkpoint in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let spool = open(dir.path());
        let id = commit(&spool, 9, vec![to("a@b", "old"), to("x@b", "old")]);
        let due = now_us() + HOUR;
        change(&spool, id, Some(0), kind::DEFERRED, due, "");
        change(&spool, id, Some(0), kind::HELD, 0, "");
        let (first, job) = (states(&spool, &id), spool.get(&id).unwrap().recipients[0].route.clone());
        spool.reroute(2, &id, 0, "n@n", "new", b"new route", &op("w1")).unwrap();
        change(&spool, id, Some(0), kind::RELEASED, 0, "w1");
        let second = states(&spool, &id);
        spool.reroute(2, &id, 0, "m@m", "newer", b"newer route", &op("w2")).unwrap();
        wait(&spool, 2);
        let spool = reopen(spool, dir.path(), checkpoint);
        assert_eq!(undo(&spool, "w1", &[id]), Undone { changed: 1, ..Undone::default() });
        assert_eq!(undo(&spool, "w2", &[id]), all(1));
        let after = states(&spool, &id);
        assert_eq!(after[0].3, "n@n");
        assert_eq!(after, second);
        // What stood in the way is undone itself, but it was a change all the same.
        assert_eq!(undo(&spool, "w1", &[id]), Undone { changed: 1, ..Undone::default() });

        let id = commit(&spool, 9, vec![to("a@b", "old"), to("x@b", "old")]);
        change(&spool, id, Some(0), kind::DEFERRED, due, "");
        change(&spool, id, Some(0), kind::HELD, 0, "");
        spool.reroute(2, &id, 0, "n@n", "third", b"new route", &op("w3")).unwrap();
        change(&spool, id, Some(0), kind::RELEASED, 0, "w3");
        // An attempt at the new place does not stand in the way.
        assert_eq!(spool.take("third", 9, 0).len(), 1);
        change(&spool, id, Some(0), kind::DEFERRED, due + HOUR, "");
        let spool = reopen(spool, dir.path(), checkpoint);
        assert_eq!(undo(&spool, "w3", &[id]), all(1));
        let restored = states(&spool, &id);
        assert_eq!((&restored[0], &restored[1].3), (&first[0], &first[1].3));
        assert_eq!(spool.get(&id).unwrap().recipients[0].route, job);
        assert!(spool.destinations().iter().all(|d| d.0 != "third"));
    }
}

#[test]
fn what_was_delivered_meanwhile_or_changed_later_or_not_reached_is_counted_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let ids: Vec<_> = (0..6).map(|_| commit(&spool, 9, vec![to("a@b", "d"), to("b@b", "d")])).collect();
    for id in &ids {
        change(&spool, *id, None, kind::HELD, 0, "");
    }
    for id in &ids[..5] {
        change(&spool, *id, None, kind::RELEASED, 0, "r");
    }
    change(&spool, ids[0], Some(0), kind::DELIVERED, 0, "");
    change(&spool, ids[0], Some(1), kind::DELIVERED, 0, "");
    change(&spool, ids[1], Some(0), kind::DELIVERED, 0, "");
    change(&spool, ids[2], None, kind::RETRY, 0, "later");
    change(&spool, ids[3], None, kind::DEFERRED, now_us() + HOUR, "");
    change(&spool, ids[4], Some(0), kind::NOTE, 0, "");
    let expected = Undone { undone: 2, partly: 1, finished: 1, changed: 1, untouched: 1, recipients: 5, ..Undone::default() };
    assert_eq!(undo(&spool, "r", &ids), expected);
    assert!(states(&spool, &ids[2]).iter().all(|s| !s.1));
    assert_eq!(undo(&spool, "nobody", &ids), Undone { finished: 1, untouched: 5, ..Undone::default() });
    assert_eq!(undo(&spool, "r", &[[7; 16]]), Undone { finished: 1, ..Undone::default() });
}

#[test]
fn the_outcome_of_an_attempt_that_was_under_way_when_its_message_was_removed_counts() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let ids: Vec<_> = (0..3).map(|_| commit(&spool, 9, vec![to("a@b", "d")])).collect();
    assert_eq!(spool.take("d", 9, 0).len(), 3);
    for id in &ids {
        change(&spool, *id, None, kind::REMOVED, now_us() + HOUR, "r");
    }
    assert_eq!(spool.stats().in_flight, 3);
    assert_eq!(change(&spool, ids[0], Some(0), kind::DELIVERED, 0, ""), 1);
    assert_eq!(change(&spool, ids[1], Some(0), kind::DEFERRED, now_us() + HOUR, ""), 0);
    assert_eq!(spool.stats().in_flight, 1);
    assert_eq!(undo(&spool, "r", &ids), Undone { undone: 2, finished: 1, recipients: 2, ..Undone::default() });
    // The one that is still under way is not given out a second time.
    assert_eq!(spool.take("d", 9, 0).iter().map(|job| job.id).collect::<Vec<_>>(), [ids[1]]);
    assert_eq!(change(&spool, ids[2], Some(0), kind::DELIVERED, 0, ""), 1);
    let spool = reopen(spool, dir.path(), false);
    assert_eq!(spool.ids(None, 9), [ids[1]]);
}

#[test]
fn a_recipient_removed_twice_and_restored_between_has_one_grace() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let id = commit(&spool, 9, vec![to("a@b", "d"), to("b@b", "e")]);
    let (first, second) = (now_us() + HOUR, now_us() + 2 * HOUR);
    change(&spool, id, Some(0), kind::REMOVED, first, "r1");
    assert_eq!((spool.stats().messages, spool.stats().removed), (1, 0));
    assert_eq!(undo(&spool, "r1", &[id]), all(1));
    change(&spool, id, Some(0), kind::REMOVED, second, "r2");
    assert_eq!(spool.purge(first, 9), (second, 0));
    // The other one is delivered: the message is kept for the first.
    change(&spool, id, Some(1), kind::DELIVERED, 0, "");
    assert_eq!((spool.stats().messages, spool.stats().removed), (0, 1));
    let spool = reopen(spool, dir.path(), false);
    assert_eq!(spool.purge(second, 9), (0, 1));
    assert!(spool.get(&id).is_err());
    assert_eq!((spool.stats().messages, spool.stats().removed, spool.stats().octets), (0, 0, 0));
}

#[test]
fn an_operation_on_a_thousand_messages_is_undone_with_each_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let ids: Vec<MessageId> = (0..1000).map(|n| commit(&spool, n * 3 % 700, vec![to(&format!("a{n}@x"), "d")])).collect();
    let some = |every: usize| ids.iter().step_by(every).copied().collect::<Vec<_>>();
    spool.change_all(0, &some(3), kind::HELD, 0, &op("held"));
    assert_eq!(spool.change_all(0, &ids, kind::REMOVED, now_us() + HOUR, &op("gone")), 1000);
    for id in some(10) {
        // An attempt that was under way got through.
        change(&spool, id, Some(0), kind::DELIVERED, 0, "");
    }
    let counts = undo(&spool, "gone", &ids);
    assert_eq!(counts, Undone { undone: 900, finished: 100, recipients: 900, ..Undone::default() });
    let check = |spool: &Spool| {
        for (n, id) in ids.iter().enumerate() {
            let state = spool.get(id).ok().map(|summary| (summary.recipients[0].state, summary.recipients[0].held));
            assert_eq!(state, (n % 10 != 0).then_some((State::Pending, n % 3 == 0)), "{n}");
        }
    };
    check(&spool);
    assert_eq!(undo(&spool, "gone", &ids), Undone { already: 900, finished: 100, ..Undone::default() });
    check(&spool);
    check(&reopen(spool, dir.path(), false));
}
