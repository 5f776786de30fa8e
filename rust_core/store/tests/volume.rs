//! A volume through its public surface: deliver, read back, change, reopen, rebuild.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use gatepost_store::{
    Appender, Delivery, Edit, FetchOptions, FetchStream, Flags, Id, Mode, Needle, Query, Source, StoreError, StoredMessage, Volume,
    VolumeOptions, new_id, parse_flags,
};

#[derive(Default)]
struct Messages(HashMap<Id, Vec<u8>>);

impl Source for Messages {
    fn read(
        &self,
        message_id: &Id,
        _edits: &[Edit],
        limit: usize,
        each: &mut dyn FnMut(&[u8]) -> gatepost_store::Result<()>,
    ) -> gatepost_store::Result<()> {
        let message = self.0.get(message_id).ok_or_else(|| StoreError::NotFound("no such message".into()))?;
        message.chunks(limit).try_for_each(each)
    }
}

fn open(dir: &Path, stream: &str) -> Arc<Volume> {
    let options = VolumeOptions { segment_bytes: 256 << 10, ..VolumeOptions::new(stream) };
    Arc::new(Volume::open(dir, &options).unwrap())
}

fn mail(subject: &str, body: &[u8]) -> Vec<u8> {
    [format!("Subject: {subject}\r\nFrom: a@b.test\r\n\r\n").as_bytes(), body].concat()
}

fn deliver(volume: &Volume, mailbox: Id, messages: &[Vec<u8>]) -> Vec<Id> {
    let mut source = Messages::default();
    let mut batch = Vec::new();
    for message in messages {
        let id = new_id();
        source.0.insert(id, message.clone());
        batch.push(Delivery {
            message_id: id,
            recipient: 0,
            mailbox,
            folder: "INBOX".into(),
            prefix: b"Delivered-To: x\r\n".to_vec(),
            edits: Vec::new(),
        });
    }
    for result in volume.deliver(&source, &batch) {
        result.unwrap();
    }
    batch.iter().map(|d| d.message_id).collect()
}

fn body(volume: &Arc<Volume>, folder: &Id, uid: i64) -> Vec<u8> {
    let mut message = StoredMessage::open(volume, folder, uid).unwrap();
    let mut all = Vec::new();
    loop {
        let piece = message.read(100_000).unwrap();
        if piece.is_empty() {
            return all;
        }
        all.extend(piece);
    }
}

fn fetch(volume: &Arc<Volume>, folder: &Id, targets: &[(u32, i64)], items: &[&str]) -> String {
    let items: Vec<String> = items.iter().map(|i| (*i).to_owned()).collect();
    let mut stream = FetchStream::new(volume, folder, targets, &items, FetchOptions { set_seen: true, ..FetchOptions::default() }).unwrap();
    let mut all = Vec::new();
    loop {
        let piece = stream.read(1_000).unwrap();
        if piece.is_empty() {
            return String::from_utf8(all).unwrap();
        }
        all.extend(piece);
    }
}

#[test]
fn a_delivered_message_is_read_back_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let volume = open(dir.path(), "w0");
    let mailbox = new_id();
    let large: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let messages = vec![mail("small", b"hello\r\n"), mail("large", &large)];
    deliver(&volume, mailbox, &messages);
    let inbox = volume.folder(&mailbox, "inbox").unwrap();
    assert_eq!((inbox.messages, inbox.unseen, inbox.uid_next), (2, 2, 3));
    for (uid, message) in [(1, &messages[0]), (2, &messages[1])] {
        assert_eq!(body(&volume, &inbox.id, uid), [b"Delivered-To: x\r\n".as_slice(), message].concat());
    }
    assert_eq!(volume.folders(&mailbox).unwrap().len(), 6);
}

#[test]
fn the_same_delivery_key_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let volume = open(dir.path(), "w0");
    let (mailbox, id) = (new_id(), new_id());
    let source = Messages(HashMap::from([(id, mail("x", b"y\r\n"))]));
    let one = Delivery { message_id: id, recipient: 3, mailbox, folder: "Nowhere".into(), prefix: Vec::new(), edits: Vec::new() };
    for _ in 0..2 {
        assert_eq!(volume.deliver(&source, &[one.clone(), one.clone()]), [Ok(()), Ok(())]);
    }
    assert_eq!(volume.folder(&mailbox, "INBOX").unwrap().messages, 1);
    let unknown = Delivery { message_id: new_id(), ..one };
    assert!(matches!(volume.deliver(&source, &[unknown])[0], Err(StoreError::NotFound(_))));
}

#[test]
fn flags_expunge_copy_and_move_change_what_they_should() {
    let dir = tempfile::tempdir().unwrap();
    let volume = open(dir.path(), "w0");
    let mailbox = new_id();
    deliver(&volume, mailbox, &[mail("1", b"a\r\n"), mail("2", b"b\r\n"), mail("3", b"c\r\n")]);
    let inbox = volume.folder(&mailbox, "INBOX").unwrap();
    let before = volume.poll(0).unwrap().0;
    let flags = parse_flags(&["\\Deleted".into(), "$Junk".into()]).unwrap();
    let (after, refused) = volume.store_flags(&inbox.id, &[2, 9], Mode::Add, &flags, None).unwrap();
    assert_eq!((after.len(), refused.len()), (1, 0));
    assert_eq!(after[0].flag_words(), ["\\Deleted", "$Junk"]);
    assert_eq!(volume.store_flags(&inbox.id, &[2], Mode::Add, &Flags::default(), Some(before)).unwrap().1, [2]);
    let trash = volume.folder(&mailbox, "Trash").unwrap();
    let (validity, pairs) = volume.copy(&inbox.id, &[1, 2], &trash.id, false).unwrap();
    assert_eq!((validity, pairs), (trash.uid_validity, vec![(1, 1), (2, 2)]));
    assert_eq!(volume.copy(&inbox.id, &[3], &trash.id, true).unwrap().1, [(3, 3)]);
    assert_eq!(volume.expunge(&inbox.id, None).unwrap(), [2]);
    let changes = volume.changes(&inbox.id, before).unwrap();
    assert_eq!(changes.expunged, [2, 3]);
    assert_eq!(volume.poll(before).unwrap().1.len(), 2);
    assert_eq!(body(&volume, &trash.id, 3), body(&volume, &trash.id, 3));
    assert_eq!(volume.uids(&inbox.id).unwrap(), [1]);
    assert_eq!(volume.mailbox_usage(&mailbox).unwrap().1, 4);
}

#[test]
fn folders_are_made_renamed_and_deleted_with_their_parents_and_children() {
    let dir = tempfile::tempdir().unwrap();
    let volume = open(dir.path(), "w0");
    let mailbox = new_id();
    deliver(&volume, mailbox, &[mail("1", b"a\r\n")]);
    volume.create_folder(&mailbox, "a/b/c", "").unwrap();
    assert!(matches!(volume.create_folder(&mailbox, "a/b", ""), Err(StoreError::Exists(_))));
    volume.rename_folder(&mailbox, "a/b", "x/y").unwrap();
    assert!(volume.folder(&mailbox, "x/y/c").is_ok() && volume.folder(&mailbox, "a/b").is_err());
    volume.delete_folder(&mailbox, "x").unwrap();
    assert!(volume.folder(&mailbox, "x").is_err() && volume.folder(&mailbox, "x/y/c").is_ok());
    volume.create_folder(&mailbox, "a/y/c", "").unwrap();
    volume.delete_folder(&mailbox, "a").unwrap();
    assert_eq!(volume.rename_folder(&mailbox, "x/y", "a"), Ok(()));
    volume.delete_folder(&mailbox, "a").unwrap();
    volume.create_folder(&mailbox, "q/c", "").unwrap();
    assert_eq!(volume.rename_folder(&mailbox, "q", "a"), Err(StoreError::Exists("a/c".into())));
    volume.rename_folder(&mailbox, "INBOX", "old").unwrap();
    assert_eq!(volume.folder(&mailbox, "old").unwrap().messages, 1);
    assert_eq!(volume.folder(&mailbox, "INBOX").unwrap().messages, 0);
    volume.subscribe(&mailbox, "old", true).unwrap();
    volume.delete_folder(&mailbox, "old").unwrap();
    volume.delete_mailbox(&mailbox).unwrap();
    assert!(volume.folders(&mailbox).unwrap().is_empty());
}

/// Flags and octets of each message of a folder.
type Contents = Vec<(Vec<String>, Vec<u8>)>;

fn state(volume: &Arc<Volume>, mailbox: &Id) -> Vec<(String, bool, Contents)> {
    let folders = volume.folders(mailbox).unwrap();
    let messages = |id: &Id| {
        let mut all: Vec<_> = volume.messages(id, 0).unwrap().iter().map(|m| (m.flag_words(), body(volume, id, m.uid))).collect();
        all.sort();
        all
    };
    folders.iter().map(|f| (f.name.clone(), f.subscribed, messages(&f.id))).collect()
}

fn busy_history(volume: &Arc<Volume>, mailbox: Id) {
    deliver(volume, mailbox, &(0..20).map(|n| mail(&format!("m{n}"), &vec![b'x'; n * 20_000])).collect::<Vec<_>>());
    let inbox = volume.folder(&mailbox, "INBOX").unwrap().id;
    volume.create_folder(&mailbox, "work/now", "").unwrap();
    let work = volume.folder(&mailbox, "work/now").unwrap().id;
    volume.copy(&inbox, &[1, 2, 3], &work, false).unwrap();
    volume.copy(&inbox, &[4, 5], &work, true).unwrap();
    volume.rename_folder(&mailbox, "work/now", "work/then").unwrap();
    volume.create_folder(&mailbox, "work/now", "").unwrap();
    let flags = parse_flags(&["\\Seen".into(), "key".into()]).unwrap();
    volume.store_flags(&work, &[1, 2], Mode::Add, &flags, None).unwrap();
    volume.remove(&inbox, &[1, 6, 7]).unwrap();
    let mut appender = Appender::new(volume, &work, flags, 1_000_000).unwrap();
    appender.feed(b"Subject: appended\r\n\r\n").unwrap();
    appender.commit().unwrap();
    volume.delete_folder(&mailbox, "Archive").unwrap();
}

#[test]
fn reopening_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mailbox = new_id();
    let volume = open(dir.path(), "w0");
    busy_history(&volume, mailbox);
    let before = state(&volume, &mailbox);
    drop(volume);
    let volume = open(dir.path(), "w0");
    assert_eq!((volume.recovery.messages, volume.recovery.rebuilt), (0, false));
    assert_eq!(state(&volume, &mailbox), before);
}

#[test]
fn a_deleted_index_is_rebuilt_from_the_logs_of_all_streams() {
    let dir = tempfile::tempdir().unwrap();
    let mailbox = new_id();
    let volume = open(dir.path(), "w0");
    let other = open(dir.path(), "w1");
    busy_history(&volume, mailbox);
    deliver(&other, mailbox, &[mail("from w1", b"z\r\n")]);
    let inbox = volume.folder(&mailbox, "INBOX").unwrap();
    let last = *volume.uids(&inbox.id).unwrap().last().unwrap();
    other.remove(&inbox.id, &[8]).unwrap();
    volume.store_flags(&inbox.id, &[i64::from(last)], Mode::Add, &parse_flags(&["\\Flagged".into()]).unwrap(), None).unwrap();
    let before = state(&volume, &mailbox);
    drop((volume, other));
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(dir.path().join(format!("index.db{suffix}")));
    }
    let volume = open(dir.path(), "w2");
    assert!(volume.recovery.rebuilt && volume.recovery.damaged.is_empty());
    assert_eq!(state(&volume, &mailbox), before);
    assert!(volume.folder(&mailbox, "INBOX").unwrap().uid_validity > inbox.uid_validity);
}

#[test]
fn dead_segments_are_freed_and_a_rebuild_still_finds_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mailbox = new_id();
    let volume = open(dir.path(), "w0");
    busy_history(&volume, mailbox);
    let inbox = volume.folder(&mailbox, "INBOX").unwrap().id;
    deliver(&volume, mailbox, &(0..40).map(|n| mail(&format!("n{n}"), &vec![b'y'; 50_000])).collect::<Vec<_>>());
    let uids: Vec<i64> = volume.uids(&inbox).unwrap().iter().map(|u| i64::from(*u)).collect();
    volume.remove(&inbox, &uids).unwrap();
    let full = segments(dir.path());
    volume.maintain(false).unwrap();
    deliver(&volume, mailbox, &[mail("after", b"z\r\n")]);
    let before = state(&volume, &mailbox);
    drop(volume);
    assert!(segments(dir.path()) * 2 < full, "{} of {full}", segments(dir.path()));
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(dir.path().join(format!("index.db{suffix}")));
    }
    let volume = open(dir.path(), "w0");
    assert!(volume.recovery.rebuilt && volume.recovery.snapshot);
    assert_eq!(state(&volume, &mailbox), before);
}

#[test]
fn dead_segments_of_a_stream_without_a_process_are_freed_by_those_who_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let mailbox = new_id();
    let gone = open(dir.path(), "w0");
    deliver(&gone, mailbox, &(0..40).map(|n| mail(&format!("n{n}"), &vec![b'y'; 50_000])).collect::<Vec<_>>());
    drop(gone);
    let volume = open(dir.path(), "w1");
    let inbox = volume.folder(&mailbox, "INBOX").unwrap().id;
    let uids: Vec<i64> = volume.uids(&inbox).unwrap().iter().map(|u| i64::from(*u)).collect();
    volume.remove(&inbox, &uids[1..]).unwrap();
    let before = (segments(dir.path()), state(&volume, &mailbox));
    volume.maintain(true).unwrap();
    assert!(before.0 > 4 && segments(dir.path()) <= 2, "{} of {}", segments(dir.path()), before.0);
    assert_eq!(state(&volume, &mailbox), before.1);
    drop(volume);
    assert_eq!(state(&open(dir.path(), "w1"), &mailbox), before.1);
}

fn segments(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir.join("log/w0")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|n| gatepost_log::parse_segment_name(n).is_some()).count()
}

#[test]
fn a_lost_index_tail_is_replayed_from_the_log_once() {
    let dir = tempfile::tempdir().unwrap();
    let mailbox = new_id();
    let volume = open(dir.path(), "w0");
    deliver(&volume, mailbox, &[mail("1", b"a\r\n")]);
    volume.close().unwrap();
    let old = std::fs::read(dir.path().join("index.db")).unwrap();
    drop(volume);
    let volume = open(dir.path(), "w0");
    busy_history(&volume, mailbox);
    let before = state(&volume, &mailbox);
    drop(volume);
    // What a power failure leaves: an older index, consistent, and the whole log.
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(dir.path().join(format!("index.db{suffix}")));
    }
    std::fs::write(dir.path().join("index.db"), old).unwrap();
    let volume = open(dir.path(), "w0");
    assert!(volume.recovery.messages > 0 && !volume.recovery.rebuilt);
    assert_eq!(state(&volume, &mailbox), before);
}

#[test]
fn fetch_answers_are_well_formed() {
    let dir = tempfile::tempdir().unwrap();
    let volume = open(dir.path(), "w0");
    let mailbox = new_id();
    deliver(&volume, mailbox, &[mail("one", b"hello\r\n")]);
    let inbox = volume.folder(&mailbox, "INBOX").unwrap().id;
    assert_eq!(
        fetch(&volume, &inbox, &[(1, 1), (2, 5)], &["UID", "FLAGS", "RFC822.SIZE"]),
        "* 1 FETCH (UID 1 FLAGS () RFC822.SIZE 56)\r\n"
    );
    assert_eq!(
        fetch(&volume, &inbox, &[(1, 1)], &["BODY.PEEK[HEADER.FIELDS (SUBJECT)]", "BODY.PEEK[TEXT]<1.3>", "BODY.PEEK[2]"]),
        "* 1 FETCH (BODY[HEADER.FIELDS (SUBJECT)] {16}\r\nSubject: one\r\n\r\n BODY[TEXT]<1> {3}\r\nell BODY[2] NIL)\r\n"
    );
    assert_eq!(
        fetch(&volume, &inbox, &[(1, 1)], &["BODY[1]", "BINARY.SIZE[1]"]),
        "* 1 FETCH (BODY[1] {7}\r\nhello\r\n BINARY.SIZE[1] 7 FLAGS (\\Seen))\r\n"
    );
    let found = fetch(&volume, &inbox, &[(1, 1)], &["ENVELOPE", "BODYSTRUCTURE", "INTERNALDATE", "EMAILID", "MODSEQ"]);
    assert!(found.contains("ENVELOPE (NIL \"one\" ((NIL NIL \"a\" \"b.test\"))"), "{found}");
    assert!(
        found.contains("BODYSTRUCTURE (\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL \"7bit\" 7 1 NIL NIL NIL NIL)"),
        "{found}"
    );
}

#[test]
fn search_finds_decoded_text() {
    let dir = tempfile::tempdir().unwrap();
    let volume = open(dir.path(), "w0");
    let mailbox = new_id();
    let encoded = b"Subject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\r\nDate: Fri, 21 Nov 1997 09:55:06 -0600\r\nContent-Transfer-Encoding: base64\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\r\nY2Fm6Q==\r\n";
    deliver(&volume, mailbox, &[mail("plain", b"nothing\r\n"), encoded.to_vec()]);
    let inbox = volume.folder(&mailbox, "INBOX").unwrap().id;
    let search = |query| volume.search(&inbox, &[1, 2], query).unwrap();
    assert_eq!(search(Query::Header("Subject".into(), Needle::new("GRÜSSE"))), [] as [i64; 0]);
    assert_eq!(search(Query::Header("Subject".into(), Needle::new("grüße"))), [2]);
    assert_eq!(search(Query::Body(Needle::new("CAFÉ"))), [2]);
    assert_eq!(search(Query::Sent(gatepost_store::When::On, (1997, 11, 21))), [2]);
    assert_eq!(search(Query::Not(Box::new(Query::Text(Needle::new("nothing"))))), [2]);
    assert_eq!(search(Query::Header("Date".into(), Needle::new(""))), [2]);
}

#[test]
fn a_damaged_message_costs_only_its_own_octets() {
    let dir = tempfile::tempdir().unwrap();
    let volume = open(dir.path(), "w0");
    let mailbox = new_id();
    deliver(&volume, mailbox, &[mail("1", b"needle-one\r\n"), mail("2", b"needle-two\r\n")]);
    let inbox = volume.folder(&mailbox, "INBOX").unwrap().id;
    let path = dir.path().join("log/w0/00000001.seg");
    let mut octets = std::fs::read(&path).unwrap();
    let at = octets.windows(10).position(|w| w == b"needle-one").unwrap();
    octets[at] ^= 1;
    std::fs::write(&path, octets).unwrap();
    assert!(matches!(StoredMessage::open(&volume, &inbox, 1), Err(StoreError::Damaged(_))));
    let items = ["UID".to_owned(), "BODY.PEEK[TEXT]".to_owned()];
    let mut stream = FetchStream::new(&volume, &inbox, &[(1, 1), (2, 2)], &items, FetchOptions::default()).unwrap();
    let text = String::from_utf8(stream.read(10_000).unwrap()).unwrap();
    assert_eq!(text, "* 1 FETCH (UID 1)\r\n* 2 FETCH (UID 2 BODY[TEXT] {12}\r\nneedle-two\r\n)\r\n");
    assert!(matches!(stream.read(10_000), Err(StoreError::Damaged(_))));
    assert!(stream.read(10_000).unwrap().is_empty());
}

#[test]
fn pop3_text_is_dot_stuffed_and_top_counts_body_lines() {
    let dir = tempfile::tempdir().unwrap();
    let volume = open(dir.path(), "w0");
    let mailbox = new_id();
    deliver(&volume, mailbox, &[mail("1", b".one\r\ntwo\r\n..three\r\nend")]);
    let inbox = volume.folder(&mailbox, "INBOX").unwrap().id;
    let read = |limit| {
        let mut message = StoredMessage::open(&volume, &inbox, 1).unwrap();
        let mut all = Vec::new();
        loop {
            let piece = message.read_dotted(5, limit).unwrap();
            if piece.is_empty() {
                return String::from_utf8(all).unwrap();
            }
            all.extend(piece);
        }
    };
    let header = "Delivered-To: x\r\nSubject: 1\r\nFrom: a@b.test\r\n\r\n";
    assert_eq!(read(-1), format!("{header}..one\r\ntwo\r\n...three\r\nend\r\n.\r\n"));
    assert_eq!(read(0), format!("{header}.\r\n"));
    assert_eq!(read(2), format!("{header}..one\r\ntwo\r\n.\r\n"));
}

#[test]
fn the_stream_and_the_mailbox_lock_are_exclusive() {
    let dir = tempfile::tempdir().unwrap();
    let volume = open(dir.path(), "w0");
    let options = VolumeOptions { segment_bytes: 256 << 10, ..VolumeOptions::new("w0") };
    assert!(matches!(Volume::open(dir.path(), &options), Err(StoreError::Locked(_))));
    let mailbox = new_id();
    let lock = volume.lock_mailbox(&mailbox).unwrap();
    assert!(lock.is_some() && volume.lock_mailbox(&mailbox).unwrap().is_none());
    drop(lock);
    assert!(volume.lock_mailbox(&mailbox).unwrap().is_some());
}
