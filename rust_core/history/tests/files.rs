//! The history's files: deleted, damaged, of other versions, of another queue, on a disk that takes nothing. Mail goes on, and history says so.

mod room;

use std::fs;
use std::time::{Duration, Instant};

use gatepost_history::{Filter, Scope};
use gatepost_queue::{kind, now_us};
use room::{Room, WAIT, by};

#[test]
fn files_that_are_deleted_or_damaged_cost_history_and_nothing_else() {
    let mut room = Room::new(4 << 20);
    room.fill(3);
    let live = room.accept("live@a", &["x@b"], "s");
    room.caught_up();
    // A sealed file that says nothing any more: what the others say is still found.
    fs::write(room.history().join("00000001.db"), vec![7; 50_000]).unwrap();
    room.close();
    room.open();
    room.caught_up();
    assert!(room.notices().iter().any(|n| n.contains("damaged")));
    assert_eq!(room.ids(&by(|f| f.sender = "live@a".into())), [live]);
    // All of them gone while the server runs.
    fs::remove_dir_all(room.history()).unwrap();
    let next = room.accept("next@a", &["x@b"], "s");
    let end = Instant::now() + WAIT;
    while room.ids(&by(|f| f.sender = "next@a".into())) != [next] {
        assert!(Instant::now() < end, "{:?}", room.notices());
    }
    assert!(room.notices().iter().any(|n| n.contains("anew")));
    // The newest turns to dust: the next one takes over.
    let newest = room.history().join(room.files().last().unwrap());
    room.close();
    fs::write(&newest, b"dust").unwrap();
    room.open();
    let last = room.accept("last@a", &["x@b"], "s");
    assert_eq!(room.ids(&by(|f| f.sender = "last@a".into())), [last]);
    // How many files follow it depends on how much of the log is still there to be read again.
    let notices = room.notices();
    assert!(notices.iter().any(|n| n.contains("set aside")), "{notices:?}");
    let aside = format!("{}.damaged", newest.display());
    assert_eq!(fs::read(aside).unwrap(), b"dust");
}

#[test]
fn files_of_the_first_layout_are_read_on() {
    let mut room = Room::new(4 << 20);
    let live = room.accept("live@a.example", &["x@b.example"], "s");
    let ids = room.fill(3);
    let moment = now_us();
    room.close();
    for name in room.files() {
        let path = room.history().join(name);
        let db = rusqlite::Connection::open(&path).unwrap();
        let sealed: i64 = db.query_row("SELECT count(*) FROM meta WHERE key='rows'", [], |r| r.get(0)).unwrap();
        let index = if sealed == 1 { "CREATE INDEX by_ended ON message (ended);" } else { "" };
        db.execute_batch(&format!(
            "DROP TABLE span; DROP TABLE address; DROP TABLE void; ALTER TABLE message DROP COLUMN last;
             CREATE TABLE ids (block INTEGER PRIMARY KEY, data BLOB NOT NULL); {index}
             DELETE FROM meta WHERE key IN ('blocks', 'seen', 'gaps'); PRAGMA user_version=1;"
        ))
        .unwrap();
    }
    room.open();
    room.change(live, Some(0), kind::DELIVERED, "{}");
    let all = room.ids(&Filter::default());
    assert_eq!((all.len(), all[0]), (ids.len() + 1, live));
    assert_eq!(room.ids(&by(|f| f.recipient = "n*@b.example".into())).len(), ids.len());
    let then = room.page(&Filter::default(), Scope::At(moment), None, 10, true).found;
    assert_eq!(then.iter().map(|f| f.message.id).collect::<Vec<_>>(), [live]);
}

#[test]
fn a_file_of_a_newer_program_is_told_once_with_what_to_do() {
    let mut room = Room::new(4 << 20);
    room.accept("a@a", &["x@b"], "s");
    room.close();
    let path = room.history().join(room.files().last().unwrap());
    rusqlite::Connection::open(&path).unwrap().execute_batch("PRAGMA user_version=99;").unwrap();
    room.open();
    let tried_again = || room.follower.as_ref().unwrap().catch_up(Duration::from_millis(100));
    assert!(!tried_again());
    let told: Vec<String> = room.notices().into_iter().filter(|n| n.contains(path.to_str().unwrap())).collect();
    assert!(told.iter().any(|n| n.contains("format version 99") && n.contains("move the file away")), "{told:?}");
    for _ in 0..3 {
        assert!(!tried_again());
        assert_eq!(room.notices(), [""; 0]);
    }
    drop(room.follower.take());
}

#[test]
fn a_history_of_another_queue_begins_again_with_the_one_that_is_there() {
    let mut room = Room::new(4 << 20);
    let old = room.accept("old@a", &["x@b"], "s");
    room.change(old, Some(0), kind::DELIVERED, "{}");
    room.close();
    fs::remove_dir_all(room.dir.path().join("spool")).unwrap();
    room.open();
    let new = room.accept("new@a", &["x@b"], "s");
    assert_eq!(room.ids(&Filter::default()), [old, new]);
}

#[test]
fn a_directory_that_cannot_be_written_stops_no_mail_and_is_caught_up_with_later() {
    let room = Room::new(4 << 20);
    room.caught_up();
    fs::remove_dir_all(room.history()).unwrap();
    fs::write(room.history(), b"in the way").unwrap();
    let id = room.accept("a@a", &["x@b"], "s");
    room.change(id, Some(0), kind::DELIVERED, "{}");
    assert!(!room.follower.as_ref().unwrap().catch_up(Duration::from_millis(300)));
    assert!(room.notices().iter().any(|n| n.contains("mail goes on")));
    fs::remove_file(room.history()).unwrap();
    assert_eq!(room.ids(&Filter::default()), [id]);
}

#[test]
fn when_space_is_short_nothing_is_written_and_no_segment_is_kept_to_be_read() {
    let mut room = Room::new(4 << 20);
    room.close();
    room.spool = Some(room.open_spool());
    let detail = "filler ".repeat(500);
    for _ in 0..400 {
        let id = room.accept("a@a", &["x@b"], "unread");
        room.change(id, Some(0), kind::DELIVERED, &detail);
    }
    let kept = room.segments();
    assert!(kept > 4, "{kept}");
    room.spool.take().unwrap().close().unwrap();
    room.min_free_bytes = u64::MAX;
    room.open();
    let end = Instant::now() + WAIT;
    while room.segments() > 3 {
        assert!(Instant::now() < end, "{} segments are kept, {:?}", room.segments(), room.notices());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!room.follower.as_ref().unwrap().catch_up(Duration::from_millis(100)));
    assert_eq!(room.follower.as_ref().unwrap().figures().messages, 0);
    assert!(room.notices().iter().any(|n| n.contains("mail goes first")));
    drop(room.follower.take());
    room.spool.take().unwrap().close().unwrap();
    room.min_free_bytes = 0;
    room.open();
    let next = room.accept("next@a", &["x@b"], "s");
    assert_eq!(room.ids(&by(|f| f.sender = "next@a".into())), [next]);
}
