//! What must outlast time: the key of a delivery as long as a crash may repeat it, and UIDVALIDITY over an index that was lost.

use std::path::Path;
use std::sync::Arc;

use gatepost_store::{Delivery, Edit, Id, Source, Volume, VolumeOptions, new_id};
use rusqlite::Connection;

const DAY_MS: u64 = 86_400_000;

struct One;

impl Source for One {
    fn read(&self, _: &Id, _: &[Edit], _: usize, each: &mut dyn FnMut(&[u8]) -> gatepost_store::Result<()>) -> gatepost_store::Result<()> {
        each(b"Subject: x\r\n\r\ny\r\n")
    }
}

fn open(dir: &Path) -> Arc<Volume> {
    Arc::new(Volume::open(dir, &VolumeOptions { segment_bytes: 256 << 10, ..VolumeOptions::new("w0") }).unwrap())
}

/// An id as it was made so many days ago.
fn id_of_age(days: u64) -> Id {
    let mut id = new_id();
    let ms = id[..6].iter().fold(0, |ms, octet| ms << 8 | u64::from(*octet)) - days * DAY_MS;
    id[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
    id
}

fn deliver(volume: &Volume, mailbox: Id, message_id: Id) {
    let folder = "INBOX".to_owned();
    let one = Delivery { message_id, recipient: 0, mailbox, folder, prefix: Vec::new(), edits: Vec::new() };
    assert_eq!(volume.deliver(&One, &[one]), [Ok(())]);
}

#[test]
fn mail_that_was_held_for_months_is_not_delivered_twice_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let volume = open(dir.path());
    let mailbox = new_id();
    let held = id_of_age(90);
    deliver(&volume, mailbox, held);
    volume.maintain(true).unwrap();
    // The server died before the spool heard of the delivery: it comes again.
    deliver(&volume, mailbox, held);
    assert_eq!(volume.folder(&mailbox, "INBOX").unwrap().messages, 1);
}

#[test]
fn keys_go_when_thirty_days_are_over() {
    let dir = tempfile::tempdir().unwrap();
    let volume = open(dir.path());
    let mailbox = new_id();
    deliver(&volume, mailbox, id_of_age(90));
    let db = Connection::open(dir.path().join("index.db")).unwrap();
    db.execute("UPDATE delivery_late SET at = at - ?1", [31 * 86_400_000_000_i64]).unwrap();
    volume.maintain(true).unwrap();
    let count = |table: &str| db.query_row(&format!("SELECT count(*) FROM {table}"), [], |r| r.get::<_, i64>(0)).unwrap();
    assert_eq!((count("delivery"), count("delivery_late")), (0, 0));
}

#[test]
fn uidvalidity_grows_over_a_lost_index_though_the_clock_was_set_back() {
    let dir = tempfile::tempdir().unwrap();
    let mailbox = new_id();
    let before = {
        let volume = open(dir.path());
        deliver(&volume, mailbox, new_id());
        // As if the clock had been a year ahead when the next folder was made.
        let db = Connection::open(dir.path().join("index.db")).unwrap();
        db.execute("UPDATE meta SET value = value + 31536000 WHERE key = 'uid_validity'", []).unwrap();
        drop(db);
        volume.create_folder(&mailbox, "Later", "").unwrap();
        volume.folder(&mailbox, "Later").unwrap().uid_validity
    };
    for name in ["index.db", "index.db-wal", "index.db-shm"] {
        let _ = std::fs::remove_file(dir.path().join(name));
    }
    let volume = open(dir.path());
    for folder in ["INBOX", "Later"] {
        let after = volume.folder(&mailbox, folder).unwrap().uid_validity;
        assert!(after > before, "{folder}: {after} after {before}");
    }
}

#[test]
fn a_newer_file_of_the_highest_uidvalidity_is_refused_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let mailbox = new_id();
    deliver(&open(dir.path()), mailbox, new_id());
    std::fs::write(dir.path().join("uidvalidity"), "99 5\n").unwrap();
    std::fs::remove_file(dir.path().join("index.db")).unwrap();
    let refused = Volume::open(dir.path(), &VolumeOptions::new("w0")).err().unwrap().to_string();
    assert!(refused.contains("uidvalidity: format version 99"), "{refused}");
}
