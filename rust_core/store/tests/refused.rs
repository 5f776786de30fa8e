//! What a caller was told had failed, or had come before, stays so when the index is lost afterwards and is made anew from the logs.
//!
//! Guards against changes that are carried out much later, over what happened since, and against mail that goes with a mailbox it came after.

use std::path::Path;
use std::sync::Arc;

use gatepost_store::{Appender, Delivery, Edit, Flags, Id, Mode, Result, Source, Volume, VolumeOptions, new_id, parse_flags};

/// The octets of every message; before they are read something happens.
struct Letter<'a>(&'a (dyn Fn() + Sync + Send));

impl Source for Letter<'_> {
    fn read(&self, _: &Id, _: &[Edit], _: usize, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        (self.0)();
        each(b"Subject: kept\r\n\r\nHello\r\n")
    }
}

fn open(dir: &Path) -> Arc<Volume> {
    Arc::new(Volume::open(dir, &VolumeOptions { segment_bytes: 64 << 10, ..VolumeOptions::new("w0") }).unwrap())
}

/// Opens the volume again after its index, and what might be in its place, is gone.
fn rebuilt(dir: &Path, volume: Arc<Volume>) -> Arc<Volume> {
    volume.close().unwrap();
    drop(volume);
    for name in ["index.db", "index.db-wal", "index.db-shm", "snapshot.db"] {
        let _ = std::fs::remove_file(dir.join(name));
    }
    let volume = open(dir);
    assert!(volume.recovery.rebuilt && volume.recovery.damaged.is_empty());
    volume
}

fn delivery(mailbox: Id) -> Delivery {
    Delivery { message_id: new_id(), recipient: 0, mailbox, folder: "INBOX".to_owned(), prefix: Vec::new(), edits: Vec::new() }
}

fn put(volume: &Volume, one: &Delivery) -> bool {
    volume.deliver(&Letter(&|| ()), std::slice::from_ref(one)).iter().all(std::result::Result::is_ok)
}

fn flags(words: &[&str]) -> Flags {
    parse_flags(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).unwrap()
}

/// Flags of each message of a folder.
fn mail(volume: &Volume, mailbox: &Id, folder: &str) -> Vec<Vec<String>> {
    let id = volume.folder(mailbox, folder).unwrap().id;
    volume.messages(&id, 0).unwrap().iter().map(gatepost_store::MessageInfo::flag_words).collect()
}

/// While it runs no transaction of the index comes about that has records in the log.
fn with_failing_index(dir: &Path, work: impl FnOnce()) {
    let db = rusqlite::Connection::open(dir.join("index.db")).unwrap();
    db.execute_batch("CREATE TRIGGER refuse BEFORE UPDATE OF applied ON stream BEGIN SELECT RAISE(ABORT, 'refused'); END").unwrap();
    work();
    db.execute_batch("DROP TRIGGER refuse").unwrap();
}

#[test]
fn an_expunge_that_failed_is_not_carried_out_by_a_rebuild_after_the_flag_was_taken_back() {
    let (root, mailbox) = (tempfile::tempdir().unwrap(), new_id());
    let volume = open(root.path());
    assert!(put(&volume, &delivery(mailbox)));
    let inbox = volume.folder(&mailbox, "INBOX").unwrap().id;
    volume.store_flags(&inbox, &[1], Mode::Add, &flags(&["\\Deleted"]), None).unwrap();
    with_failing_index(root.path(), || assert!(volume.expunge(&inbox, None).is_err()));
    assert!(!volume.owes());
    volume.store_flags(&inbox, &[1], Mode::Remove, &flags(&["\\Deleted"]), None).unwrap();
    let volume = rebuilt(root.path(), volume);
    assert_eq!(mail(&volume, &mailbox, "INBOX"), [Vec::<String>::new()]);
}

#[test]
fn a_delivery_that_failed_and_was_made_again_keeps_its_flags_after_a_rebuild() {
    let (root, mailbox, one) = (tempfile::tempdir().unwrap(), new_id(), delivery(new_id()));
    let one = Delivery { mailbox, ..one };
    let volume = open(root.path());
    volume.ensure_mailbox(&mailbox).unwrap();
    with_failing_index(root.path(), || assert!(!put(&volume, &one)));
    assert!(put(&volume, &one));
    let inbox = volume.folder(&mailbox, "INBOX").unwrap().id;
    volume.store_flags(&inbox, &[1], Mode::Add, &flags(&["\\Seen"]), None).unwrap();
    let volume = rebuilt(root.path(), volume);
    assert_eq!(mail(&volume, &mailbox, "INBOX"), [["\\Seen"]]);
}

#[test]
fn an_append_that_failed_does_not_appear_after_a_rebuild() {
    let (root, mailbox) = (tempfile::tempdir().unwrap(), new_id());
    let volume = open(root.path());
    volume.ensure_mailbox(&mailbox).unwrap();
    let inbox = volume.folder(&mailbox, "INBOX").unwrap().id;
    with_failing_index(root.path(), || {
        let mut append = Appender::new(&volume, &inbox, Flags::default(), 1).unwrap();
        append.feed(b"Subject: no\r\n\r\n").unwrap();
        assert!(append.commit().is_err());
    });
    let volume = rebuilt(root.path(), volume);
    assert!(mail(&volume, &mailbox, "INBOX").is_empty());
}

#[test]
fn mail_that_came_after_its_mailbox_was_deleted_is_there_after_a_rebuild() {
    let (root, mailbox) = (tempfile::tempdir().unwrap(), new_id());
    let volume = open(root.path());
    assert!(put(&volume, &delivery(mailbox)) && put(&volume, &delivery(mailbox)));
    volume.delete_mailbox(&mailbox).unwrap();
    assert!(put(&volume, &delivery(mailbox)));
    let volume = rebuilt(root.path(), volume);
    assert_eq!(mail(&volume, &mailbox, "INBOX").len(), 1);
    assert_eq!(volume.folders(&mailbox).unwrap().iter().filter(|folder| folder.messages > 0).count(), 1);
}

#[test]
fn mail_whose_mailbox_is_deleted_while_it_comes_is_kept_moved_and_found_after_a_rebuild() {
    let (root, mailbox) = (tempfile::tempdir().unwrap(), new_id());
    let volume = open(root.path());
    assert!(put(&volume, &delivery(mailbox)));
    let deleted = || volume.delete_mailbox(&mailbox).unwrap();
    assert!(volume.deliver(&Letter(&deleted), &[delivery(mailbox)]).iter().all(std::result::Result::is_ok));
    let inbox = volume.folder(&mailbox, "INBOX").unwrap().id;
    let drafts = volume.folder(&mailbox, "Drafts").unwrap().id;
    assert_eq!(mail(&volume, &mailbox, "INBOX").len(), 1);
    assert_eq!(volume.copy(&inbox, &[1], &drafts, true).unwrap().1, [(1, 1)]);
    assert_eq!(volume.copy(&drafts, &[1], &inbox, true).unwrap().1, [(1, 2)]);
    let volume = rebuilt(root.path(), volume);
    assert_eq!(mail(&volume, &mailbox, "INBOX").len(), 1);
    assert_eq!(volume.folders(&mailbox).unwrap().iter().map(|folder| folder.messages).sum::<i64>(), 1);
}

#[test]
fn a_snapshot_of_a_newer_program_is_refused_by_name_and_nothing_is_touched() {
    let (root, mailbox) = (tempfile::tempdir().unwrap(), new_id());
    let volume = open(root.path());
    assert!(put(&volume, &delivery(mailbox)));
    volume.close().unwrap();
    drop(volume);
    let (index, snapshot) = (root.path().join("index.db"), root.path().join("snapshot.db"));
    std::fs::copy(&index, &snapshot).unwrap();
    rusqlite::Connection::open(&snapshot).unwrap().pragma_update(None, "user_version", 99).unwrap();
    std::fs::write(&index, b"no index any more").unwrap();
    let options = VolumeOptions { segment_bytes: 64 << 10, ..VolumeOptions::new("w0") };
    let refusal = Volume::open(root.path(), &options).err().unwrap().to_string();
    assert!(refusal.contains(snapshot.to_str().unwrap()) && refusal.contains("99"), "{refusal}");
    assert_eq!(std::fs::read(&index).unwrap(), b"no index any more");
    std::fs::remove_file(&snapshot).unwrap();
    assert_eq!(mail(&open(root.path()), &mailbox, "INBOX"), [Vec::<String>::new()]);
}
