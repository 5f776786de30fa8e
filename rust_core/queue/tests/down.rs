//! A destination that is down: what is due for it waits with it, and nothing is written; what has to be told or given up is handed out.

use std::path::Path;
use std::time::{Duration, Instant};

use gatepost_queue::{BackOff, Change, MessageId, Options, RecipientSpec, Spool, State, kind, new_message_id, now_us};

const HOUR: u64 = 3_600_000_000;
const DOWN: &str = "smtp:down";
const REFUSED: &[u8] = br#"{"outcome":"deferred","enhanced":"4.4.1","reason":"connection refused"}"#;

fn open(dir: &Path) -> Spool {
    Spool::open(dir, Options { segment_bytes: 256 << 10, ..Options::new(*b"SPOL") }).unwrap()
}

fn to(destination: &str) -> RecipientSpec {
    let (address, original, route) = (format!("a@{destination}"), String::new(), b"route".to_vec());
    RecipientSpec { address, original, destination: destination.into(), notify: 0, route, next_us: 0, held: false }
}

/// Waits for a ticket. The names that were announced meanwhile.
fn settle(spool: &Spool, ticket: u64) -> Vec<String> {
    let end = Instant::now() + Duration::from_secs(10);
    let mut names = Vec::new();
    while Instant::now() < end {
        let (tickets, ready) = spool.completions();
        names.extend(ready);
        if tickets.iter().any(|(number, error)| *number == ticket && error.is_none()) {
            return names;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    panic!("ticket {ticket} never came back");
}

fn commit(spool: &Spool, recipients: Vec<RecipientSpec>) -> MessageId {
    let id = new_message_id();
    let mut incoming = spool.receive(id, b"P: 1\r\n", 0, false);
    incoming.feed_raw(b"body\r\n");
    incoming.finish();
    spool.commit(1, &mut incoming, "from@x".into(), recipients, b"meta".to_vec()).unwrap();
    settle(spool, 1);
    id
}

/// The destination is left alone for ten minutes.
fn policy(now_us: u64) -> BackOff {
    BackOff { now_us, until_us: now_us + HOUR / 6, expire_us: 10 * HOUR, notice_us: 4 * HOUR }
}

fn change(id: MessageId, kind: u8, next_us: u64) -> Change {
    Change { id, recipient: Some(0), kind, next_us, detail: b"{}".to_vec() }
}

#[test]
fn what_is_due_waits_for_the_destination_without_a_record_and_nobody_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let mut ids: Vec<_> = (0..300).map(|_| commit(&spool, vec![to(DOWN), to("smtp:up"), to(DOWN)])).collect();
    let how = policy(now_us());
    let tail = spool.tail().end();
    assert_eq!(spool.wait_for("smtp:unknown", &how, REFUSED, 8), (false, Vec::new()));
    assert_eq!(spool.wait_for(DOWN, &how, REFUSED, 8), (false, Vec::new()));
    assert_eq!((spool.ready(DOWN), spool.ready("smtp:up"), spool.tail().end()), (0, 300, tail));
    // What comes in later waits as well, and is not announced.
    ids.push(commit(&spool, vec![to(DOWN), to("smtp:up"), to(DOWN)]));
    spool.completions();
    spool.advance(now_us());
    assert!(spool.completions().1.is_empty());
    for id in &ids {
        let recipients = spool.get(id).unwrap().recipients;
        let (down, up) = (&recipients[2], &recipients[1]);
        assert_eq!((down.attempts, down.state, &down.last_detail[..], down.next_us), (0, State::Pending, REFUSED, how.until_us));
        assert_eq!((up.attempts, &up.last_detail[..]), (0, &b""[..]));
    }
    let (groups, recipients, messages) = spool.causes(10).unwrap();
    assert_eq!((groups.len(), recipients, messages, groups[0].next_us), (1, 602, 301, how.until_us));
    assert_eq!(groups[0].detail, REFUSED);
    // The time is over: announced; one tries it, the others go on waiting with what they are told next.
    assert_eq!(spool.advance(how.until_us - 1), how.until_us);
    assert_eq!((spool.advance(how.until_us), spool.completions().1), (0, vec![DOWN.to_owned()]));
    let probe = spool.take(DOWN, 1, 0);
    assert_eq!((probe[0].id, probe[0].recipients.len()), (ids[0], 2));
    spool.give_back(&ids[0], &[0, 2]);
    spool.done_waiting(DOWN);
    assert_eq!((spool.completions().1, spool.ready(DOWN)), (vec![DOWN.to_owned()], 602));
    let order: Vec<_> = spool.take(DOWN, 1000, 0).iter().map(|job| job.id).collect();
    assert_eq!((order.len(), &order[..]), (301, &ids[..]));
}

#[test]
fn after_a_restart_what_waited_is_due_and_no_attempt_was_counted() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let id = commit(&spool, vec![to(DOWN)]);
    spool.wait_for(DOWN, &policy(now_us()), REFUSED, 8);
    drop(spool);
    let spool = open(dir.path());
    let recipient = &spool.get(&id).unwrap().recipients[0];
    assert_eq!((recipient.attempts, recipient.state, spool.ready(DOWN)), (0, State::Pending, 1));
}

#[test]
fn operators_change_what_waits() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let ids: Vec<_> = (0..5).map(|_| commit(&spool, vec![to(DOWN)])).collect();
    let how = policy(now_us());
    spool.wait_for(DOWN, &how, REFUSED, 8);
    assert_eq!(
        spool
            .change(0, &[change(ids[0], kind::HELD, 0), change(ids[1], kind::REMOVED, 0), change(ids[2], kind::DEFERRED, now_us() + HOUR)]),
        3
    );
    spool.reroute(0, &ids[3], 0, "a@x", "smtp:up", b"route", b"{}").unwrap();
    assert_eq!((spool.ready("smtp:up"), spool.get(&ids[0]).unwrap().recipients[0].next_us < how.until_us), (1, true));
    spool.done_waiting(DOWN);
    assert_eq!(spool.take(DOWN, 10, 0).iter().map(|job| job.id).collect::<Vec<_>>(), [ids[4]]);
    spool.give_back(&ids[4], &[0]);
    spool.wait_for(DOWN, &how, REFUSED, 8);
    spool.change(0, &[change(ids[0], kind::RELEASED, 0)]);
    // Due already: a retry writes nothing about it, but it counts.
    let tail = spool.tail().end();
    assert_eq!((spool.change_all(0, &[ids[0], ids[4], ids[1]], kind::RETRY, 0, b"{}"), spool.tail().end()), (2, tail));
    spool.done_waiting(DOWN);
    assert_eq!(spool.take(DOWN, 10, 0).len(), 2);
}

#[test]
fn mail_whose_sender_is_to_be_told_is_handed_out_once_and_what_is_too_old_at_last() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let ids: Vec<_> = (0..20).map(|_| commit(&spool, vec![to(DOWN)])).collect();
    let received = |id: &MessageId| spool.get(id).unwrap().envelope.received_us;
    let now = now_us();
    let how = BackOff { until_us: now + 20 * HOUR, ..policy(now) };
    assert_eq!(spool.wait_for(DOWN, &how, REFUSED, 8), (false, Vec::new()));
    // Announced when the first of them is four hours old.
    let first = received(&ids[0]) + how.notice_us;
    assert_eq!((spool.advance(first - 1), spool.completions().1.len()), (first, 0));
    spool.advance(first);
    assert_eq!(spool.completions().1, [DOWN]);
    let late = BackOff { now_us: now + 5 * HOUR, ..how };
    let (more, jobs) = spool.wait_for(DOWN, &late, REFUSED, 8);
    assert_eq!((more, jobs.iter().map(|job| job.id).collect::<Vec<_>>()), (true, ids[..8].to_vec()));
    let (more, rest) = spool.wait_for(DOWN, &late, REFUSED, 80);
    assert_eq!((more, rest.len()), (false, 12));
    // The caller tells the sender, writes that down, and defers it itself.
    for id in &ids {
        assert_eq!(spool.change(0, &[change(*id, kind::NOTE, 0), change(*id, kind::DEFERRED, 0)]), 2);
    }
    spool.completions();
    assert_eq!(spool.wait_for(DOWN, &late, REFUSED, 80), (false, Vec::new()), "they were told of the delay before");
    let end = received(&ids[0]) + how.expire_us;
    assert_eq!(spool.advance(late.now_us), end);
    let over = BackOff { now_us: now + 11 * HOUR, ..how };
    assert_eq!(spool.wait_for(DOWN, &over, REFUSED, 80).1.len(), 20);
}
