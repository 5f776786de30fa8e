//! The history through its public face, over a real partition: what is found, exactly once, whatever happens to its files.

mod room;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gatepost_history::{Filter, Found, Scope};
use gatepost_queue::{MessageId, Options, Spool, State, kind, now_us};
use room::{Room, WAIT, by};

#[test]
fn a_message_is_found_by_everything_that_is_known_of_it_live_or_finished_sealed_or_not() {
    let mut room = Room::new(4 << 20);
    let failed = room.accept("Ann@a.example", &["bob@c.example", "eve@c.example"], "=?utf-8?q?Gr=C3=BC=C3=9Fe?= from the lab");
    room.change(failed, Some(0), kind::FAILED, r#"{"host":"mx.c.example","code":550,"text":"no such user"}"#);
    room.change(failed, Some(1), kind::DELIVERED, r#"{"host":"mx.c.example","code":250}"#);
    let live = room.accept("", &["zoe@d.example"], "report");
    room.change(live, Some(0), kind::DEFERRED, r#"{"host":"mx.d.example","code":451}"#);
    let header_id = format!("<{}@X>", u128::from_be_bytes(failed));
    for round in 0..3 {
        assert_eq!(room.ids(&by(|f| f.sender = "ann@A.example".into())), [failed]);
        assert_eq!(room.ids(&by(|f| f.sender = "ann@*".into())), [failed]);
        assert_eq!(room.ids(&by(|f| f.sender = "<>".into())), [live]);
        assert_eq!(room.ids(&by(|f| f.recipient = "eve@c.example".into())), [failed]);
        assert_eq!(room.ids(&by(|f| f.recipient = "d.example".into())), [live]);
        assert_eq!(room.ids(&by(|f| f.recipient = "z*@d.example".into())), [live]);
        assert_eq!(room.ids(&by(|f| f.recipient = "?V*@*".into())), [failed]);
        assert_eq!(room.ids(&by(|f| (f.recipient, f.sender) = ("*e@*.example".into(), "*".into()))), [failed, live]);
        assert_eq!(room.ids(&by(|f| (f.recipient, f.subject) = ("e*".into(), "LAB".into()))), [failed]);
        assert_eq!(room.ids(&by(|f| f.subject = "lab grüße".into())), [failed]);
        assert_eq!(room.ids(&by(|f| f.header_id = header_id.clone())), [failed]);
        assert_eq!(room.ids(&by(|f| f.host = "mx.c.example".into())), [failed]);
        assert_eq!(room.ids(&by(|f| (f.host, f.sender) = ("client.example".into(), "<>".into()))), [live]);
        assert_eq!(room.ids(&by(|f| f.outcome = Some(State::Failed))), [failed]);
        assert_eq!(room.ids(&by(|f| f.outcome = Some(State::Pending))), [live]);
        assert_eq!(room.ids(&by(|f| f.ids = Some((live, live)))), [live]);
        for none in ["bob@c", "c.example.org", "*@x", "nobody", "nobody*", "bob?@*"] {
            assert!(room.ids(&by(|f| f.recipient = none.into())).is_empty());
        }
        let found = room.find(&by(|f| f.ids = Some((failed, failed)))).remove(0);
        assert_eq!((found.message.subject.as_str(), found.message.events.len()), ("Grüße from the lab", 2));
        assert_eq!((found.views[0].state, found.views[1].state), (State::Failed, State::Delivered));
        match round {
            0 => drop(room.fill(3)),
            1 => (room.close(), room.open()).1,
            _ => {}
        }
    }
}

#[test]
fn pages_go_through_all_files_in_both_directions_without_gap_or_repetition() {
    let room = Room::new(4 << 20);
    let mut ids = room.fill(4);
    let live = room.accept("bulk@a.example", &["x@b.example"], "x");
    ids.push(live);
    for ascending in [true, false] {
        for filter in [Filter::default(), by(|f| f.sender = "a.example".into())] {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = room.page(&filter, Scope::All, after, 137, ascending);
                seen.extend(page.found.into_iter().map(|f| f.message.id));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            if !ascending {
                seen.reverse();
            }
            assert_eq!(seen, ids);
        }
    }
}

#[test]
fn a_message_that_goes_on_after_its_file_was_sealed_is_carried_and_counted_once() {
    let mut room = Room::new(4 << 20);
    let slow = room.accept("slow@a.example", &["x@b.example"], "slow");
    room.fill(2);
    room.change(slow, Some(0), kind::DEFERRED, r#"{"host":"mx1.b.example"}"#);
    room.fill(3);
    room.change(slow, Some(0), kind::DELIVERED, r#"{"host":"mx2.b.example"}"#);
    for _ in 0..2 {
        for filter in
            [by(|f| f.sender = "slow@a.example".into()), by(|f| f.host = "mx1.b.example".into()), by(|f| f.host = "mx2.b.example".into())]
        {
            let found = room.find(&filter);
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].message.events.iter().map(|e| e.kind).collect::<Vec<_>>(), [kind::DEFERRED, kind::DELIVERED]);
        }
        assert!(room.ids(&by(|f| f.outcome = Some(State::Pending))).is_empty());
        room.close();
        room.open();
    }
}

#[test]
fn old_files_are_unlinked_and_messages_in_the_queue_are_kept() {
    let mut room = Room::new(3 << 20);
    let live = room.accept("live@a.example", &["x@b.example"], "live");
    let gone = room.fill(2);
    while room.files().contains(&"00000001.db".to_owned()) {
        room.some();
    }
    assert!(room.follower.as_ref().unwrap().figures().octets < 4 << 20);
    assert_eq!(room.ids(&by(|f| f.sender = "live@a.example".into())), [live]);
    assert!(room.ids(&by(|f| f.ids = Some((gone[0], gone[0])))).is_empty());
    room.keep.age_seconds = 0;
    room.close();
    room.open();
    assert_eq!(room.ids(&by(|f| f.sender = "live@a.example".into())), [live]);
}

#[test]
fn the_queue_of_a_past_moment_and_what_two_moments_differ_in() {
    let mut room = Room::new(4 << 20);
    let tick = || {
        std::thread::sleep(Duration::from_millis(3));
        let now = now_us();
        std::thread::sleep(Duration::from_millis(3));
        now
    };
    let before = tick();
    let done = room.accept("a@a", &["x@b"], "done");
    let held = room.accept("b@a", &["x@b"], "held");
    let still = room.accept("c@a", &["x@b"], "still");
    let first = tick();
    room.change(done, Some(0), kind::DELIVERED, "{}");
    room.change(held, None, kind::HELD, r#"{"by":"uid 0"}"#);
    let passed = room.accept("d@a", &["x@b"], "passed");
    room.change(passed, None, kind::REMOVED, "{}");
    let fresh = room.accept("e@a", &["x@b"], "fresh");
    let second = tick();
    room.fill(3);
    for id in [held, still, fresh] {
        room.change(id, Some(0), kind::DELIVERED, "{}");
    }
    for _ in 0..2 {
        let at = |t| room.page(&Filter::default(), Scope::At(t), None, 1000, true).found;
        assert!(at(before).is_empty() && at(now_us()).is_empty());
        assert_eq!(at(first).iter().map(|f| f.message.id).collect::<Vec<_>>(), [done, held, still]);
        assert!(at(first).iter().all(|f| f.views[0].state == State::Pending && !f.views[0].held));
        assert_eq!(
            at(second).iter().map(|f| (f.message.id, f.views[0].held)).collect::<Vec<_>>(),
            [(held, true), (still, false), (fresh, false)]
        );
        let between = |passed| {
            let scope = Scope::Between { from: first, to: second, passed };
            room.page(&Filter::default(), scope, None, 1000, true).found
        };
        let ids = |found: Vec<Found>| found.iter().map(|f| f.message.id).collect::<Vec<_>>();
        assert_eq!(ids(between(false)), [done, held, fresh]);
        let diff = between(true);
        let diff: BTreeMap<_, _> = diff.iter().map(|f| (f.message.id, (f.views[0].state, f.later[0].state, f.later[0].held))).collect();
        let (p, d, r) = (State::Pending, State::Delivered, State::Removed);
        assert_eq!(diff, BTreeMap::from([(done, (p, d, false)), (held, (p, p, true)), (passed, (p, r, false)), (fresh, (p, p, false))]));
        room.close();
        room.open();
    }
}

#[test]
fn a_copy_of_the_files_of_any_moment_goes_on_with_nothing_missing_or_doubled() {
    let mut room = Room::new(4 << 20);
    let mut ids = Vec::new();
    for round in 0..8 {
        // As a process that is killed leaves them: no clean end, a write-ahead log.
        for n in 0..40 {
            let id = room.accept("a@a", &["x@b"], "s");
            if n % 3 != 0 {
                room.change(id, Some(0), kind::DELIVERED, "{}");
            }
            ids.push(id);
        }
        if round % 2 == 0 {
            room.caught_up();
        }
        let copy = room.dir.path().join(format!("copy{round}"));
        copy_dir(&room.history(), &copy);
        drop(room.follower.take());
        room.spool.take().unwrap().close().unwrap();
        fs::remove_dir_all(room.history()).unwrap();
        fs::rename(copy, room.history()).unwrap();
        room.open();
        let found = room.find(&Filter::default());
        assert_eq!(found.iter().map(|f| f.message.id).collect::<Vec<_>>(), ids);
        assert!(found.iter().enumerate().all(|(n, f)| f.message.events.len() == usize::from(n % 40 % 3 != 0)));
    }
}

#[test]
fn a_message_that_compaction_moved_comes_back_into_a_history_that_was_lost() {
    let mut room = Room::new(4 << 20);
    let live = room.accept("live@a", &["x@b", "y@b"], "still here");
    room.change(live, Some(0), kind::DEFERRED, r#"{"host":"mx.b.example"}"#);
    let first = room.dir.path().join("spool").join("00000001.log");
    let first = if first.exists() { first } else { oldest_segment(&room.dir.path().join("spool")) };
    let end = Instant::now() + WAIT;
    while first.exists() {
        room.some();
        assert!(Instant::now() < end, "the segment of the live message was never compacted");
    }
    room.close();
    fs::remove_dir_all(room.history()).unwrap();
    room.open();
    for _ in 0..2 {
        let found = room.find(&by(|f| f.sender = "live@a".into()));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].message.subject.as_str(), found[0].message.recipients.len()), ("still here", 2));
        assert_eq!(found[0].message.events.iter().map(|e| e.kind).collect::<Vec<_>>(), [kind::DEFERRED]);
        room.close();
        room.open();
    }
    room.change(live, None, kind::REMOVED, "{}");
    assert_eq!(room.find(&by(|f| f.outcome = Some(State::Removed)))[0].message.id, live);
}

#[test]
fn records_that_were_gone_before_they_were_read_leave_a_gap_and_no_lie() {
    let mut room = Room::new(4 << 20);
    let unlucky = room.accept("unlucky@a", &["x@b"], "s");
    let early = room.accept("early@a", &["x@b"], "s");
    room.change(early, Some(0), kind::DELIVERED, "{}");
    room.close();
    let before = now_us();
    // A run without a history: nothing is kept for it to read.
    let options = Options { segment_bytes: 256 << 10, ..Options::new(*b"SPOL") };
    room.spool = Some(Spool::open(&room.dir.path().join("spool"), options).unwrap());
    room.change(unlucky, Some(0), kind::DELIVERED, "{}");
    let detail = "filler ".repeat(500);
    for _ in 0..300 {
        let id = room.accept("a@a", &["x@b"], "unread");
        room.change(id, Some(0), kind::DELIVERED, &detail);
    }
    let end = Instant::now() + WAIT;
    while room.segments() > 2 {
        assert!(Instant::now() < end, "{} segments", room.segments());
        std::thread::sleep(Duration::from_millis(10));
    }
    let after = now_us();
    room.spool.take().unwrap().close().unwrap();
    room.open();
    for _ in 0..2 {
        let late = room.accept("late@a", &["x@b"], "s");
        let page = room.page(&by(|f| f.sender = "unlucky@a".into()), Scope::All, None, 10, true);
        assert_eq!(page.gaps.len(), 1, "{:?}", room.notices());
        let gap = page.gaps[0];
        assert!(gap.from_us <= before && gap.to_us > before && gap.to_us <= after.max(gap.from_us));
        let of = |f: &Found| (f.message.received_us, gatepost_history::left_us(f));
        let (received, left) = of(&page.found[0]);
        assert!(left.is_none() && gap.meets(received, left), "it left in the gap, so it may be told as pending only with that said");
        let (received, left) = of(&room.find(&by(|f| f.sender = "early@a".into()))[0]);
        assert!(left.is_some_and(|left| left <= gap.from_us) && gap.meets(received, left) == (left == Some(gap.from_us)));
        let (received, left) = of(&room.find(&by(|f| f.ids = Some((late, late))))[0]);
        assert!(!gap.meets(received, left));
        assert!(room.page(&by(|f| f.since_us = after + 1_000_000), Scope::All, None, 10, true).gaps.is_empty());
        room.close();
        room.open();
    }
}

#[test]
fn restarts_without_mail_leave_no_gap() {
    let mut room = Room::new(1 << 30);
    let all = |room: &Room| room.page(&Filter::default(), Scope::All, None, 10, false);
    for killed in [false, true, false] {
        room.caught_up();
        assert_eq!((all(&room).gaps, room.notices()), (Vec::new(), Vec::new()));
        if killed {
            // As after SIGKILL: nothing is said at the end of the last segment.
            let kept = room.dir.path().join("kept");
            copy_dir(&room.dir.path().join("spool"), &kept);
            room.close();
            fs::remove_dir_all(room.dir.path().join("spool")).unwrap();
            fs::rename(kept, room.dir.path().join("spool")).unwrap();
        } else {
            room.close();
        }
        room.open();
    }
    let id = room.accept("a@x", &["b@y"], "first");
    room.caught_up();
    room.close();
    room.open();
    room.caught_up();
    let page = all(&room);
    assert_eq!((page.gaps, page.found.len(), page.found[0].message.id), (Vec::new(), 1, id));
}

fn oldest_segment(spool: &Path) -> PathBuf {
    let mut logs: Vec<_> = fs::read_dir(spool).unwrap().map(|e| e.unwrap().path()).collect();
    logs.retain(|path| path.extension().is_some_and(|e| e == "seg"));
    logs.sort();
    logs.swap_remove(0)
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    // The write-ahead log first: a copy of it that is older than the file would not fit it.
    let mut names: Vec<_> = fs::read_dir(from).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort_by_key(|n| !n.to_string_lossy().ends_with("-wal"));
    for name in names.iter().filter(|n| !n.to_string_lossy().ends_with("-shm")) {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[test]
fn words_and_globs_that_nearly_all_mail_has_neither_hide_mail_nor_add_any() {
    let room = Room::new(16 << 20);
    let unsigned = room.accept("", &["r@b.example"], "weekly report of nobody");
    room.change(unsigned, None, kind::DELIVERED, "{}");
    let report = |n: usize| {
        let id = room.accept(&format!("s{}@a.example", n % 3), &["r@b.example"], &format!("weekly report {n} part {}", n % 100));
        room.change(id, None, kind::DELIVERED, "{}");
        id
    };
    let ids: Vec<MessageId> = (0..1100).map(report).collect();
    let bulk = room.fill(2);
    let chosen = |fits: &dyn Fn(usize) -> bool| (0..ids.len()).filter(|n| fits(*n)).map(|n| ids[n]).collect::<Vec<_>>();
    let subject = |text: &str| room.ids(&by(|f| f.subject = text.into()));
    assert_eq!(subject("report weekly")[1..], ids);
    assert_eq!(subject("report 1042"), [ids[1042]]);
    assert_eq!(subject("weekly 77 report"), chosen(&|n| n % 100 == 77));
    assert!(subject("weekly 1042 absent").is_empty() && subject("1042 bulk").is_empty());
    let with = |sender: &str, text: &str| room.ids(&by(|f| (f.sender, f.subject) = (sender.into(), text.into())));
    assert_eq!(with("*@*.example", ""), [&ids[..], &bulk].concat());
    assert_eq!(with("s?@*", "report"), ids);
    assert_eq!(with("s1@*", "report 7"), chosen(&|n| n % 3 == 1 && n % 100 == 7));
    assert_eq!(with("*", "nobody"), [unsigned]);
}
