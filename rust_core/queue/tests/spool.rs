//! The partition through its public face: states, schedules, recovery with and without a checkpoint, segments that come and go.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use gatepost_queue::{Change, LogError, MessageId, Options, QueueError, RecipientSpec, Spool, State, kind, new_message_id, now_us};
use proptest::prelude::*;

fn open(dir: &Path) -> Spool {
    Spool::open(dir, Options { segment_bytes: 64 << 10, ..Options::new(*b"SPOL") }).unwrap()
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

/// Waits for one ticket; returns names of destinations that became ready meanwhile.
fn wait(spool: &Spool, ticket: u64) -> (Result<(), LogError>, Vec<String>) {
    let (end, mut ready) = (Instant::now() + Duration::from_secs(10), Vec::new());
    let mut result = None;
    while Instant::now() < end {
        let (tickets, names) = spool.completions();
        ready.extend(names);
        for (number, error) in tickets {
            if number == ticket {
                result = Some(error.map_or(Ok(()), Err));
            }
        }
        match result {
            Some(result) => return (result, ready),
            None => std::thread::sleep(Duration::from_micros(200)),
        }
    }
    panic!("ticket {ticket} never came back");
}

fn body(id: &MessageId, size: usize) -> Vec<u8> {
    id.iter().cycle().map(|b| b'a' + b % 26).take(size).chain(*b"\r\n").collect()
}

fn commit(spool: &Spool, size: usize, recipients: Vec<RecipientSpec>) -> MessageId {
    let id = new_message_id();
    let mut incoming = spool.receive(id, b"P: 1\r\n", 0, false);
    incoming.feed_raw(&body(&id, size));
    incoming.finish();
    spool.commit(1, &mut incoming, "from@x".into(), recipients, b"meta".to_vec()).unwrap();
    wait(spool, 1).0.unwrap();
    id
}

/// Messages of 9,000 octets, each finished when the fifth after it is committed, the last at the end.
fn burst(spool: &Spool, count: usize) {
    let mut waiting = std::collections::VecDeque::new();
    for n in 0..count + 5 {
        if n < count {
            waiting.push_back(commit(spool, 9_000, vec![to("burst@b", "d0")]));
        }
        if n >= 5
            && let Some(id) = waiting.pop_front()
        {
            assert_eq!(change(spool, id, None, kind::DELIVERED, 0), 1);
        }
    }
    assert!(waiting.is_empty());
}

fn read(spool: &Spool, id: &MessageId) -> Vec<u8> {
    let mut reader = spool.read(id).unwrap();
    let mut out = vec![0; reader.size() as usize];
    assert_eq!(reader.read(&mut out).unwrap(), out.len());
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    out
}

fn change(spool: &Spool, id: MessageId, recipient: Option<u16>, kind: u8, next_us: u64) -> usize {
    spool.change(0, &[Change { id, recipient, kind, next_us, detail: vec![kind] }])
}

/// What a crash at one instant would leave: repeated when files came or went while it was taken.
fn copy_of(dir: &Path) -> tempfile::TempDir {
    let names = || {
        let entries = fs::read_dir(dir).unwrap().map(Result::unwrap).filter(|e| e.file_type().unwrap().is_file());
        entries.map(|e| e.file_name()).collect::<std::collections::BTreeSet<_>>()
    };
    loop {
        let (to, before) = (tempfile::tempdir().unwrap(), names());
        let copied = before.iter().all(|name| fs::copy(dir.join(name), to.path().join(name)).is_ok());
        if copied && names() == before {
            return to;
        }
    }
}

fn segments(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|x| x == "seg")).count()
}

fn eventually(what: &str, mut test: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !test() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_message_is_invisible_until_its_commit_is_durable_and_then_ready() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let id = new_message_id();
    let mut incoming = spool.receive(id, b"P: 1\r\n", 0, false);
    incoming.feed(b"S: x\r\n\r\n..body\r\n.\r\n");
    assert_eq!(spool.get(&id).unwrap_err(), QueueError::NotFound(gatepost_queue::format_id(&id)));
    spool.commit(9, &mut incoming, "a@b".into(), vec![to("c@d", "smtp:d"), to("e@f", "")], b"m".to_vec()).unwrap();
    let (result, ready) = wait(&spool, 9);
    assert_eq!((result, ready), (Ok(()), vec!["smtp:d".to_owned()]));
    assert_eq!(read(&spool, &id), b"P: 1\r\nS: x\r\n\r\n.body\r\n");
    let jobs = spool.take("smtp:d", 10, 0);
    assert_eq!(jobs.len(), 1);
    assert_eq!((jobs[0].id, jobs[0].reverse_path.as_str(), jobs[0].recipients.len()), (id, "a@b", 1));
    assert_eq!(jobs[0].recipients[0].route, b"route to c@d");
    assert!(spool.take("smtp:d", 10, 0).is_empty());
    let summary = spool.get(&id).unwrap();
    assert!(summary.in_flight);
    assert_eq!(summary.recipients.iter().map(|r| r.state).collect::<Vec<_>>(), [State::Pending, State::Delivered]);
}

#[test]
fn an_incomplete_or_used_or_faulty_message_is_not_committed() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let attempt = |incoming: &mut gatepost_queue::Incoming| spool.commit(1, incoming, String::new(), vec![to("a@b", "d")], Vec::new());
    let mut incoming = spool.receive(new_message_id(), b"", 0, false);
    incoming.feed(b"x\r\n");
    assert!(matches!(attempt(&mut incoming), Err(QueueError::Invalid(_))));
    incoming.feed(b".\r\n");
    assert!(attempt(&mut incoming).is_ok());
    assert!(matches!(attempt(&mut incoming), Err(QueueError::Invalid(_))));
    let mut incoming = spool.receive(new_message_id(), b"", 0, false);
    incoming.feed(b"x\n.\r\n\r\n.\r\n");
    assert!(incoming.done() && matches!(attempt(&mut incoming), Err(QueueError::Invalid(_))));
    let mut incoming = spool.receive(new_message_id(), b"", 0, false);
    incoming.feed(b".\r\n");
    assert!(matches!(spool.commit(1, &mut incoming, String::new(), vec![], Vec::new()), Err(QueueError::Invalid(_))));
}

#[test]
fn a_deferred_recipient_is_ready_again_when_due_and_keeps_its_history() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let id = commit(&spool, 10, vec![to("a@b", "d")]);
    assert_eq!(spool.take("d", 1, 0).len(), 1);
    let due = now_us() + 60_000_000;
    assert_eq!(change(&spool, id, Some(0), kind::DEFERRED, due), 1);
    assert_eq!(spool.advance(due - 1), due);
    assert!(spool.take("d", 1, 0).is_empty());
    assert_eq!(spool.advance(due), 0);
    assert_eq!(spool.take("d", 1, 0)[0].recipients[0].attempts, 1);
    spool.give_back(&id, &[0]);
    assert_eq!(spool.stats().in_flight, 0);
    change(&spool, id, None, kind::NOTE, 0);
    let kinds: Vec<_> = spool.history(&id).unwrap().iter().map(|e| (e.kind, e.recipient)).collect();
    assert_eq!(kinds, [(kind::ACCEPTED, None), (kind::DEFERRED, Some(0)), (kind::NOTE, None)]);
    assert_eq!(spool.get(&id).unwrap().recipients[0].last_detail, [kind::DEFERRED]);
}

#[test]
fn a_held_recipient_is_not_taken_until_released() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let id = commit(&spool, 10, vec![to("a@b", "d"), to("c@b", "d")]);
    for _ in 0..200 {
        assert_eq!(change(&spool, id, Some(1), kind::HELD, 0), 1);
        assert_eq!(change(&spool, id, Some(1), kind::HELD, 0), 0);
        assert_eq!(spool.stats().held, 1);
        assert_eq!(change(&spool, id, Some(1), kind::RELEASED, 0), 1);
        assert_eq!(change(&spool, id, Some(1), kind::RELEASED, 0), 0);
    }
    change(&spool, id, Some(1), kind::HELD, 0);
    assert_eq!(spool.take("d", 9, 0)[0].recipients.iter().map(|r| r.index).collect::<Vec<_>>(), [0]);
    change(&spool, id, None, kind::RELEASED, 0);
    assert_eq!(spool.take("d", 9, 0)[0].recipients.iter().map(|r| r.index).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_rerouted_recipient_goes_to_its_new_destination_with_its_new_route() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let id = commit(&spool, 10, vec![to("a@b", "old")]);
    spool.take("old", 1, 0);
    spool.reroute(5, &id, 0, "n@n", "new", b"new route", b"").unwrap();
    assert_eq!(wait(&spool, 5), (Ok(()), vec!["new".to_owned()]));
    assert_eq!(spool.destinations(), [("new".to_owned(), 1, 1, 0)]);
    drop(spool);
    let spool = open(dir.path());
    let job = spool.take("new", 1, 0).remove(0);
    assert_eq!((job.recipients[0].address.as_str(), &job.recipients[0].route[..]), ("n@n", &b"new route"[..]));
    assert!(matches!(spool.reroute(0, &id, 7, "x", "y", b"", b""), Err(QueueError::Invalid(_))));
    assert!(matches!(spool.reroute(0, &[0; 16], 0, "x", "y", b"", b""), Err(QueueError::NotFound(_))));
}

#[test]
fn a_message_of_many_chunks_reads_back_also_while_it_leaves_the_queue() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), Options { segment_bytes: 1 << 20, ..Options::new(*b"SPOL") }).unwrap();
    let id = commit(&spool, 3_000_000, vec![to("a@b", "d")]);
    let expected = [&b"P: 1\r\n"[..], &body(&id, 3_000_000)].concat();
    assert!(read(&spool, &id) == expected);
    let mut reader = spool.read(&id).unwrap();
    change(&spool, id, Some(0), kind::DELIVERED, 0);
    eventually("the segments of the message go", || segments(dir.path()) <= 2);
    let mut out = vec![0; expected.len()];
    reader.read(&mut out).unwrap();
    assert!(out == expected);
    let header = spool.read(&id);
    assert!(matches!(header, Err(QueueError::NotFound(_))));
}

#[test]
fn an_aborted_message_leaves_no_segment_behind() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), Options { segment_bytes: 1 << 20, ..Options::new(*b"SPOL") }).unwrap();
    let mut incoming = spool.receive(new_message_id(), b"", 0, false);
    incoming.feed_raw(&vec![b'x'; 5_000_000]);
    assert!(spool.stats().log.segments >= 4);
    drop(incoming);
    eventually("the chunks go", || spool.stats().log.segments <= 2);
    let mut incoming = spool.receive(new_message_id(), b"", 4_000_000, false);
    incoming.feed_raw(&vec![b'x'; 5_000_000]);
    assert_eq!(incoming.defect().map(gatepost_queue::Defect::name), Some("too-big"));
    eventually("the chunks go although the session goes on", || spool.stats().log.segments <= 2);
}

#[test]
fn jobs_are_given_oldest_first_within_the_bounds_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let ids: Vec<_> = (0..10).map(|_| commit(&spool, 1000, vec![to("a@b", "d")])).collect();
    let taken: Vec<_> = spool.take("d", 3, 0).iter().map(|j| j.id).collect();
    assert_eq!(taken, ids[..3]);
    assert_eq!(spool.take("d", 9, 2500).len(), 2);
    assert_eq!(spool.take("d", 9, 1).len(), 1);
    assert_eq!(spool.ids(Some(&ids[3]), 2), ids[4..6]);
}

#[test]
fn a_message_whose_record_is_damaged_is_held_with_the_reason() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let bad = commit(&spool, 100, vec![to("needle@b", "d")]);
    let good = commit(&spool, 100, vec![to("a@b", "d")]);
    let path = dir.path().join("00000001.seg");
    let bytes = fs::read(&path).unwrap();
    let at = bytes.windows(6).position(|w| w == b"needle").unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"N", at as u64).unwrap();
    // One at a time, as remote destinations are: what is behind the damaged one must not wait.
    assert_eq!(spool.take("d", 1, 0).iter().map(|j| j.id).collect::<Vec<_>>(), [good]);
    assert_eq!((spool.stats().held, spool.stats().in_flight), (1, 1));
    let seen = spool.get(&bad).unwrap();
    let one = &seen.recipients[0];
    assert_eq!((seen.envelope.id, one.held, one.destination.as_str()), (bad, true, "d"));
    assert!(String::from_utf8_lossy(&one.last_detail).contains("00000001.seg"));
    assert_eq!(spool.history(&bad).unwrap().iter().map(|e| e.kind).collect::<Vec<_>>(), [kind::ACCEPTED, kind::HELD]);
    assert!(matches!(spool.read(&bad).map(|_| ()), Err(QueueError::Damaged(_))));
    assert_eq!(change(&spool, bad, None, kind::REMOVED, 0), 1);
}

#[test]
fn a_finished_message_never_comes_back_even_without_checkpoint_and_with_segments_gone() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let keep = commit(&spool, 10, vec![to("keep@b", "d")]);
    let gone: Vec<_> = (0..40).map(|_| commit(&spool, 9_000, vec![to("a@b", "d"), to("b@b", "d")])).collect();
    for id in &gone {
        change(&spool, *id, Some(0), kind::DELIVERED, 0);
    }
    for _ in 0..20 {
        change(&spool, commit(&spool, 9_000, vec![to("x@b", "d")]), None, kind::REMOVED, 0);
    }
    for id in &gone {
        change(&spool, *id, Some(1), kind::FAILED, 0);
    }
    for _ in 0..20 {
        change(&spool, commit(&spool, 9_000, vec![to("x@b", "d")]), None, kind::REMOVED, 0);
    }
    spool.sync(4);
    wait(&spool, 4).0.unwrap();
    eventually("segments are freed", || spool.stats().log.segments < 8);
    let stays = commit(&spool, 10, vec![to("stays@b", "d")]);
    burst(&spool, 100);
    spool.sync(5);
    wait(&spool, 5).0.unwrap();
    eventually("segments are freed although the ones before them stay", || spool.stats().log.segments < 8);
    let crashed = copy_of(dir.path());
    let _ = fs::remove_file(crashed.path().join("checkpoint"));
    let spool = open(crashed.path());
    assert!(!spool.opening().checkpoint);
    assert_eq!(spool.ids(None, 100), [keep, stays]);
}

#[test]
fn opening_reports_a_bad_checkpoint_as_none_and_a_newer_one_as_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let id = commit(&open(dir.path()), 10, vec![to("a@b", "d")]);
    let path = dir.path().join("checkpoint");
    let sound = fs::read(&path).unwrap();
    let mut flipped = sound.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for bad in [&flipped[..], b"", &sound[..20]] {
        fs::write(&path, bad).unwrap();
        let spool = open(dir.path());
        assert_eq!((spool.opening().checkpoint, spool.ids(None, 9)), (false, vec![id]));
    }
    let mut newer = sound;
    newer[8] = 99;
    fs::write(&path, newer).unwrap();
    assert!(matches!(Spool::open(dir.path(), Options::new(*b"SPOL")), Err(QueueError::Version(_))));
}

#[test]
fn a_refused_commit_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), Options { min_free_bytes: u64::MAX, ..Options::new(*b"SPOL") }).unwrap();
    let mut incoming = spool.receive(new_message_id(), b"", 0, false);
    incoming.feed(b"x\r\n.\r\n");
    let error = spool.commit(1, &mut incoming, String::new(), vec![to("a@b", "d")], Vec::new()).unwrap_err();
    assert!(matches!(error, QueueError::Log(LogError::DiskFull(_))));
    assert!(spool.low_space());
    assert_eq!((spool.stats().messages, spool.destinations().len()), (0, 0));
}

// ---- random histories against a model

#[derive(Debug, Clone)]
enum Op {
    Commit {
        size: usize,
        recipients: usize,
    },
    Change {
        message: usize,
        recipient: Option<u16>,
        kind: u8,
    },
    /// Messages come and go, each finished a while after the next came.
    Burst(usize),
    Take,
    Checkpoint,
    Reopen,
    Crash {
        checkpoint: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0usize..9_000, 1usize..4).prop_map(|(size, recipients)| Op::Commit { size, recipients }),
        8 => (0usize..50, proptest::option::of(0u16..4), 1u8..10).prop_map(|(message, recipient, kind)| Op::Change { message, recipient, kind }),
        1 => (10usize..40).prop_map(Op::Burst),
        1 => Just(Op::Take),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::Reopen),
        1 => any::<bool>().prop_map(|checkpoint| Op::Crash { checkpoint }),
    ]
}

/// (state, held, attempts) per recipient.
type Model = BTreeMap<MessageId, (usize, Vec<(State, bool, u16)>)>;

fn apply(model: &mut Model, id: MessageId, recipient: Option<u16>, what: u8) -> usize {
    let (_, list) = model.get_mut(&id).unwrap();
    if recipient.is_some_and(|n| usize::from(n) >= list.len()) {
        return 0;
    }
    let mut changed = usize::from(what == kind::NOTE);
    for (n, (state, held, attempts)) in list.iter_mut().enumerate() {
        if recipient.is_some_and(|wanted| usize::from(wanted) != n) || *state != State::Pending {
            continue;
        }
        let before = (*held, *attempts, *state);
        match what {
            kind::DELIVERED => (*state, *attempts) = (State::Delivered, *attempts + 1),
            kind::FAILED => (*state, *attempts) = (State::Failed, *attempts + 1),
            kind::DEFERRED => *attempts += 1,
            kind::EXPIRED => *state = State::Expired,
            kind::REMOVED => *state = State::Removed,
            kind::HELD => *held = true,
            kind::RELEASED => *held = false,
            _ => {}
        }
        if *state != State::Pending {
            *held = false;
        }
        changed |= usize::from(what == kind::RETRY || before != (*held, *attempts, *state));
    }
    if list.iter().all(|(state, ..)| *state != State::Pending) {
        model.remove(&id);
    }
    changed
}

fn compare(spool: &Spool, model: &Model) {
    assert_eq!(spool.ids(None, 1000), model.keys().copied().collect::<Vec<_>>());
    for (id, (size, expected)) in model {
        let found: Vec<_> = spool.get(id).unwrap().recipients.iter().map(|r| (r.state, r.held, r.attempts)).collect();
        assert_eq!(&found, expected);
        assert!(read(spool, id) == [&b"P: 1\r\n"[..], &body(id, *size)].concat());
    }
    let stats = spool.stats();
    let pending = |held: bool| model.values().flat_map(|(_, l)| l).filter(|r| r.0 == State::Pending && r.1 == held).count() as u64;
    assert_eq!(stats.held, pending(true));
    let (waiting, flying) = spool.destinations().iter().fold((0, 0), |sum, d| (sum.0 + u64::from(d.1), sum.1 + u64::from(d.3)));
    assert_eq!((waiting, flying), (pending(true) + pending(false), stats.in_flight));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_survive_reopening_and_crashes(ops in proptest::collection::vec(op(), 1..120)) {
        let mut dir = tempfile::tempdir().unwrap();
        let mut spool = open(dir.path());
        let mut model = Model::new();
        for op in ops {
            match op {
                Op::Commit { size, recipients } => {
                    let list = (0..recipients).map(|n| to(&format!("r{n}@b"), &format!("d{}", n % 2))).collect();
                    let id = commit(&spool, size, list);
                    model.insert(id, (size, vec![(State::Pending, false, 0); recipients]));
                }
                Op::Change { message, recipient, kind } => {
                    let Some(id) = model.keys().nth(message % model.len().max(1)).copied() else { continue };
                    let expected = apply(&mut model, id, recipient, kind);
                    prop_assert_eq!(change(&spool, id, recipient, kind, 0), expected);
                }
                Op::Burst(count) => burst(&spool, count),
                Op::Take => {
                    spool.take("d0", 3, 0);
                    spool.take("d1", 1, 0);
                }
                Op::Checkpoint => spool.checkpoint().unwrap(),
                Op::Reopen => {
                    spool.close().unwrap();
                    drop(spool);
                    spool = open(dir.path());
                }
                Op::Crash { checkpoint } => {
                    spool.sync(77);
                    wait(&spool, 77).0.unwrap();
                    let copy = copy_of(dir.path());
                    if !checkpoint {
                        let _ = fs::remove_file(copy.path().join("checkpoint"));
                    }
                    drop(spool);
                    dir = copy;
                    spool = open(dir.path());
                    prop_assert!(spool.opening().damaged.is_empty());
                }
            }
            compare(&spool, &model);
        }
    }
}
