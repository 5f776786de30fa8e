//! Mostly dead segments of a volume are emptied: guards against a volume that keeps a segment for one message, and against a moved message that is
//! lost, doubled or changed, in the index or when that is rebuilt. And: volumes of format 1 open.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use gatepost_store::{Delivery, Edit, Id, Mode, Result, Source, StoreError, StoredMessage, Volume, VolumeOptions, new_id, parse_flags};

const SEGMENT: u32 = 128 << 10;

#[derive(Default)]
struct Messages(HashMap<Id, Vec<u8>>);

impl Source for Messages {
    fn read(&self, id: &Id, _edits: &[Edit], limit: usize, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.0.get(id).ok_or_else(|| StoreError::NotFound("no such message".into()))?.chunks(limit).try_for_each(each)
    }
}

fn open(dir: &Path) -> Arc<Volume> {
    let options = VolumeOptions { segment_bytes: SEGMENT, ..VolumeOptions::new("w0") };
    Arc::new(Volume::open(dir, &options).unwrap())
}

fn octets(number: usize, size: usize) -> Vec<u8> {
    let text = format!("Subject: {number}\r\n\r\n").into_bytes();
    let body = (0..size).map(|n| b'a' + ((n * 7 + number) % 26) as u8);
    text.into_iter().chain(body).chain(*b"\r\n").collect()
}

fn delivery(id: Id, mailbox: Id) -> Delivery {
    Delivery { message_id: id, recipient: 0, mailbox, folder: "INBOX".into(), prefix: Vec::new(), edits: Vec::new() }
}

fn deliver(volume: &Volume, mailbox: Id, messages: &[Vec<u8>]) -> Vec<Delivery> {
    let ids: Vec<Id> = messages.iter().map(|_| new_id()).collect();
    let source = Messages(ids.iter().copied().zip(messages.iter().cloned()).collect());
    let batch: Vec<Delivery> = ids.iter().map(|id| delivery(*id, mailbox)).collect();
    volume.deliver(&source, &batch).into_iter().for_each(|r| r.unwrap());
    batch
}

fn body(volume: &Arc<Volume>, folder: &Id, uid: i64) -> Vec<u8> {
    let mut message = StoredMessage::open(volume, folder, uid).unwrap();
    let mut all = Vec::new();
    loop {
        let piece = message.read(50_000).unwrap();
        if piece.is_empty() {
            return all;
        }
        all.extend(piece);
    }
}

/// (folder, UID, modseq, flags, octets) of everything in the mailbox.
fn contents(volume: &Arc<Volume>, mailbox: &Id) -> Vec<(String, i64, Vec<String>, Vec<u8>)> {
    let mut all = Vec::new();
    for folder in volume.folders(mailbox).unwrap() {
        for m in volume.messages(&folder.id, 0).unwrap() {
            all.push((folder.name.clone(), m.uid, m.flag_words(), body(volume, &folder.id, m.uid)));
        }
    }
    all
}

fn figure(volume: &Volume, name: &str) -> i64 {
    volume.stats().unwrap().into_iter().find(|(n, _)| *n == name).unwrap().1
}

#[test]
fn one_message_in_fifty_left_behind_does_not_keep_its_segment() {
    let dir = tempfile::tempdir().unwrap();
    let volume = open(dir.path());
    let mailbox = new_id();
    let mut batches = Vec::new();
    for n in 0..40 {
        // Two of those that stay are longer than a segment.
        let size = |k: usize| if k == 49 && n % 20 == 0 { 200_000 } else { 3_000 };
        let messages: Vec<_> = (0..50).map(|k| octets(n * 50 + k, size(k))).collect();
        batches.push((deliver(&volume, mailbox, &messages), messages));
    }
    let inbox = volume.folder(&mailbox, "INBOX").unwrap();
    let archive = volume.folder(&mailbox, "Archive").unwrap();
    let stays = |uid: &i64| uid % 50 == 0;
    volume.copy(&inbox.id, &[50], &archive.id, false).unwrap();
    volume.store_flags(&inbox.id, &[100, 150], Mode::Add, &parse_flags(&["\\Seen".into(), "kept".into()]).unwrap(), None).unwrap();
    let gone: Vec<i64> = (1..=2_000).filter(|uid| !stays(uid)).collect();
    volume.remove(&inbox.id, &gone).unwrap();
    let before = contents(&volume, &mailbox);
    let modseq = volume.poll(0).unwrap().0;
    let known = volume.changes(&inbox.id, 0).unwrap().modseq;
    let mut reading = StoredMessage::open(&volume, &inbox.id, 2_000).unwrap();
    for _ in 0..4 {
        volume.maintain(false).unwrap();
    }
    let live = figure(&volume, "octets");
    let disk = figure(&volume, "disk_bytes");
    assert!(disk <= 2 * live + 4 * i64::from(SEGMENT), "{disk} octets of disk for {live}");
    assert_eq!(contents(&volume, &mailbox), before);
    assert_eq!(reading.read(1 << 20).unwrap(), octets(1_999, 3_000));
    assert_eq!(volume.changes(&inbox.id, 0).unwrap().modseq, known, "clients see no change");
    assert!(volume.poll(modseq).unwrap().1.is_empty());

    // What was delivered once is known, whether it stayed or not.
    let (batch, messages) = &batches[3];
    let source = Messages(batch.iter().map(|d| d.message_id).zip(messages.iter().cloned()).collect());
    volume.deliver(&source, batch).into_iter().for_each(|r| r.unwrap());
    assert_eq!(contents(&volume, &mailbox), before);
    volume.close().unwrap();

    let volume = open(dir.path());
    assert_eq!(contents(&volume, &mailbox), before);
    volume.close().unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(dir.path().join(format!("index.db{suffix}")));
    }
    let volume = open(dir.path());
    assert!(volume.recovery.rebuilt && volume.recovery.snapshot && volume.recovery.damaged.is_empty());
    let without_uids = |all: Vec<(String, i64, Vec<String>, Vec<u8>)>| {
        let mut all: Vec<_> = all.into_iter().map(|(folder, _, flags, octets)| (folder, flags, octets)).collect();
        all.sort();
        all
    };
    assert_eq!(without_uids(contents(&volume, &mailbox)), without_uids(before.clone()));
    volume.deliver(&source, batch).into_iter().for_each(|r| r.unwrap());
    assert_eq!(contents(&volume, &mailbox).len(), before.len());
    for _ in 0..3 {
        volume.maintain(true).unwrap();
    }
    assert_eq!(without_uids(contents(&volume, &mailbox)), without_uids(before));
}

fn fixture() -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/v1"), dir.path());
    dir
}

#[test]
fn a_volume_of_format_1_opens_with_its_index_or_without_and_is_of_format_2_then() {
    for missing in [&[][..], &["index.db"], &["index.db", "snapshot.db"]] {
        let dir = fixture();
        for name in missing {
            fs::remove_file(dir.path().join(name)).unwrap();
        }
        for _ in 0..2 {
            let volume = open(dir.path());
            assert!(volume.recovery.damaged.is_empty());
            let mailbox = [7; 16];
            let found: Vec<_> = contents(&volume, &mailbox).into_iter().map(|(folder, _, flags, octets)| (folder, flags, octets)).collect();
            let text = |n: u8| format!("Delivered-To: x\r\nSubject: {n}\r\n\r\nbody {n}\r\n").into_bytes();
            let flags = || vec!["\\Seen".to_owned(), "$Junk".to_owned()];
            let last = b"Subject: appended\r\n\r\nlast\r\n".to_vec();
            let mut expected =
                vec![("INBOX", flags(), text(1)), ("INBOX", vec![], text(2)), ("Sent", flags(), text(1)), ("Sent", vec![], last)];
            let mut found: Vec<_> = found.iter().map(|(folder, flags, octets)| (folder.as_str(), flags.clone(), octets.clone())).collect();
            found.sort();
            expected.sort();
            assert_eq!(found, expected);
            volume.close().unwrap();
        }
        assert_eq!(fs::read_to_string(dir.path().join("format")).unwrap(), "gatepost volume 2\n");
    }
}

#[test]
fn a_volume_of_a_newer_format_is_refused_and_left_as_it_is() {
    let dir = fixture();
    fs::write(dir.path().join("format"), "gatepost volume 3\n").unwrap();
    let options = VolumeOptions { segment_bytes: SEGMENT, ..VolumeOptions::new("w0") };
    match Volume::open(dir.path(), &options).err() {
        Some(StoreError::Version(text)) => {
            assert!(text.contains("format") && text.contains("volume 3") && text.contains("volume 2"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read_to_string(dir.path().join("format")).unwrap(), "gatepost volume 3\n");
}
