//! Reading a partition's records behind its writers: order, places to go on from, segments that wait for the reader.

use std::path::Path;
use std::time::{Duration, Instant};

use gatepost_queue::{Change, Entry, Loc, MessageId, Options, RecipientSpec, Spool, Tail, kind, new_message_id};

const SEGMENT: u32 = 64 << 10;

fn open(dir: &Path) -> Spool {
    Spool::open_tailed(dir, Options { segment_bytes: SEGMENT, ..Options::new(*b"SPOL") }).unwrap()
}

/// Commits a message of about `size` octets and returns once it is durable.
fn commit(spool: &Spool, size: usize) -> MessageId {
    let id = new_message_id();
    let mut incoming = spool.receive(id, b"Received: here\r\n", 0, false);
    incoming.feed_raw(b"Subject: hello\r\n\r\n");
    incoming.feed_raw(&vec![b'x'; size]);
    incoming.finish();
    let to = RecipientSpec {
        address: "to@b".into(),
        original: String::new(),
        destination: "d".into(),
        notify: 0,
        route: Vec::new(),
        next_us: 0,
        held: false,
    };
    spool.commit(1, &mut incoming, "from@a".into(), vec![to], b"meta".to_vec()).unwrap();
    settle(spool, 1);
    id
}

fn deliver(spool: &Spool, id: MessageId) {
    let change = Change { id, recipient: Some(0), kind: kind::DELIVERED, next_us: 0, detail: b"{}".to_vec() };
    assert_eq!(spool.change(2, &[change]), 1);
    settle(spool, 2);
}

fn settle(spool: &Spool, ticket: u64) {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        if let Some((_, error)) = spool.completions().0.into_iter().find(|(number, _)| *number == ticket) {
            assert!(error.is_none());
            return;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    panic!("ticket {ticket} never came back");
}

/// What was read: (id, journal kind), accepted is kind 0; and where to go on.
fn read(tail: &Tail, mut from: Loc) -> (Vec<(MessageId, u8)>, Loc, bool) {
    let (mut seen, mut skipped) = (Vec::new(), false);
    loop {
        let got = tail.read(from, 3, &mut |entry| {
            // Compaction may be quicker than the test: what it moved was read before.
            if matches!(entry, Entry::Moved { .. }) {
                return true;
            }
            seen.push(match entry {
                Entry::Accepted { envelope, head } => {
                    assert!(head.starts_with(b"Received: here\r\nSubject: hello\r\n\r\n"));
                    (envelope.id, 0)
                }
                Entry::Journal { id, kind, finished, .. } => {
                    assert!(finished);
                    (id, kind)
                }
                Entry::Moved { .. } => unreachable!(),
            });
            true
        });
        let got = got.unwrap();
        let ended = got.next == from;
        (from, skipped) = (got.next, skipped || got.skipped);
        if ended {
            return (seen, from, skipped);
        }
    }
}

#[test]
fn every_record_is_read_once_in_order_also_across_segments_and_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut wanted = Vec::new();
    let mut spool = open(dir.path());
    let mut place = Loc::NONE;
    let mut got = Vec::new();
    for round in 0..3 {
        for size in [10, 9_000, 30_000, 100] {
            let id = commit(&spool, size);
            wanted.push((id, 0));
            if size != 100 {
                deliver(&spool, id);
                wanted.push((id, kind::DELIVERED));
            }
        }
        if round == 1 {
            spool.close().unwrap();
            spool = open(dir.path());
        }
        let (seen, next, skipped) = read(&spool.tail(), place);
        assert!(!skipped);
        place = next;
        got.extend(seen);
    }
    assert_eq!(got, wanted);
    assert!(place.segment > 2);
}

#[test]
fn a_segment_goes_only_when_it_was_read() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    for _ in 0..20 {
        let id = commit(&spool, 9_000);
        deliver(&spool, id);
    }
    std::thread::sleep(Duration::from_millis(300));
    let tail = spool.tail();
    assert!(tail.salt(1).is_some());
    let (seen, next, skipped) = read(&tail, Loc::NONE);
    assert_eq!((seen.len(), skipped), (40, false));
    tail.release(Some(next.segment));
    let end = Instant::now() + Duration::from_secs(10);
    while tail.salt(1).is_some() || tail.salt(2).is_some() {
        assert!(Instant::now() < end, "segments that were read are not freed");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_was_freed_before_it_was_read_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let first = commit(&spool, 9_000);
    let (_, place, _) = read(&spool.tail(), Loc::NONE);
    deliver(&spool, first);
    for _ in 0..20 {
        let id = commit(&spool, 9_000);
        deliver(&spool, id);
    }
    let tail = spool.tail();
    tail.release(None);
    let end = Instant::now() + Duration::from_secs(10);
    while tail.salt(place.segment).is_some() {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(read(&tail, place).2);
}

#[test]
fn the_header_of_a_message_in_chunks_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open_tailed(dir.path(), Options { segment_bytes: 4 << 20, ..Options::new(*b"SPOL") }).unwrap();
    let id = commit(&spool, 600_000);
    let (seen, ..) = read(&spool.tail(), Loc::NONE);
    assert_eq!(seen, [(id, 0)]);
}
