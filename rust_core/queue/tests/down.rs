//! A destination that is down: what is due for it is deferred in one call, each recipient by its own schedule; what has to be told is handed out.

use std::path::Path;
use std::time::{Duration, Instant};

use gatepost_queue::{BackOff, Change, MessageId, Options, RecipientSpec, Spool, State, kind, new_message_id, now_us};

const HOUR: u64 = 3_600_000_000;
const DOWN: &str = "smtp:down";

fn open(dir: &Path) -> Spool {
    Spool::open(dir, Options { segment_bytes: 256 << 10, ..Options::new(*b"SPOL") }).unwrap()
}

fn to(destination: &str) -> RecipientSpec {
    let (address, original, route) = (format!("a@{destination}"), String::new(), b"route".to_vec());
    RecipientSpec { address, original, destination: destination.into(), notify: 0, route, next_us: 0, held: false }
}

fn settle(spool: &Spool, ticket: u64) {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        if spool.completions().0.iter().any(|(number, error)| *number == ticket && error.is_none()) {
            return;
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

/// Waits of a minute, twice as long each time; the destination is left alone for ten.
fn policy(now_us: u64) -> BackOff {
    let (first_us, longest_us, until_us) = (60e6, 3600e6, now_us + HOUR / 6);
    BackOff { now_us, until_us, first_us, factor: 2.0, longest_us, jitter: 0.0, expire_us: 10 * HOUR, notice_us: 4 * HOUR }
}

#[test]
fn what_is_due_is_deferred_until_the_destination_is_tried_again_and_nobody_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let ids: Vec<_> = (0..300).map(|_| commit(&spool, vec![to(DOWN), to("smtp:up"), to(DOWN)])).collect();
    let how = policy(now_us());
    let detail = br#"{"outcome":"deferred","reason":"connection refused"}"#;
    assert_eq!(spool.defer_ready("smtp:unknown", &how, detail, 1000, 8), (0, Vec::new()));
    let (some, jobs) = spool.defer_ready(DOWN, &how, detail, 100, 8);
    assert!((100..600).contains(&some) && jobs.is_empty(), "{some}");
    let (rest, jobs) = spool.defer_ready(DOWN, &how, detail, 10_000, 8);
    assert_eq!((some + rest, jobs.len(), spool.ready(DOWN), spool.ready("smtp:up")), (600, 0, 0, 300));
    assert_eq!(spool.defer_ready(DOWN, &how, detail, 10_000, 8), (0, Vec::new()));
    spool.sync(2);
    settle(&spool, 2);
    drop(spool);
    let spool = open(dir.path());
    for id in &ids {
        let recipients = spool.get(id).unwrap().recipients;
        let (down, up) = (&recipients[2], &recipients[1]);
        assert_eq!((down.attempts, down.state, &down.last_detail[..]), (1, State::Pending, &detail[..]));
        assert!((how.until_us..=how.until_us + 1_000_000).contains(&down.next_us));
        assert_eq!((up.attempts, recipients[0].attempts), (0, 1));
    }
    assert_eq!(spool.take("smtp:up", 1000, 0).len(), 300);
}

#[test]
fn mail_that_is_too_old_or_whose_sender_is_to_be_told_is_handed_out_once() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let old = commit(&spool, vec![to(DOWN)]);
    let late = policy(now_us() + 5 * HOUR);
    let (deferred, jobs) = spool.defer_ready(DOWN, &late, b"{}", 10, 8);
    assert_eq!((deferred, jobs.iter().map(|job| job.id).collect::<Vec<_>>()), (0, vec![old]));
    // The caller tells the sender, writes that down, and defers it itself.
    let change = |kind, next_us| Change { id: old, recipient: Some(0), kind, next_us, detail: b"{}".to_vec() };
    assert_eq!(spool.change(3, &[change(kind::NOTE, 0), change(kind::RETRY, 0)]), 2);
    spool.give_back(&old, &[0]);
    settle(&spool, 3);
    drop(spool);
    let spool = open(dir.path());
    assert_eq!(spool.defer_ready(DOWN, &late, b"{}", 10, 8), (1, Vec::new()), "it was told of the delay before");
    spool.change(0, &[change(kind::RETRY, 0)]);
    let (deferred, jobs) = spool.defer_ready(DOWN, &policy(now_us() + 11 * HOUR), b"{}", 10, 8);
    assert_eq!((deferred, jobs.len()), (0, 1), "it is given up by the caller");
}
