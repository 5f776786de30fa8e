//! Random histories on two streams, then a lost index tail or a lost index: the volume comes back as it was.
//!
//! Guards against effects that are lost, doubled or applied in the wrong order by replay (see `replay` for the three passes).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use gatepost_store::{
    Appender, Delivery, Edit, Id, Mode, Result, Source, StoreError, StoredMessage, Volume, VolumeOptions, new_id, parse_flags,
};

/// Flags and octets of each message, by folder name.
type State = Vec<(String, bool, Vec<Message>)>;
type Message = (Vec<String>, Vec<u8>);

struct Messages(HashMap<Id, Vec<u8>>);

impl Source for Messages {
    fn read(&self, id: &Id, _edits: &[Edit], limit: usize, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.0[id].chunks(limit).try_for_each(each)
    }
}

/// Small, repeatable randomness.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }
}

fn open(dir: &Path, stream: &str) -> Arc<Volume> {
    let options = VolumeOptions { segment_bytes: 128 << 10, ..VolumeOptions::new(stream) };
    Arc::new(Volume::open(dir, &options).unwrap())
}

fn state(volume: &Arc<Volume>, mailbox: &Id) -> State {
    let mut all = Vec::new();
    for folder in volume.folders(mailbox).unwrap() {
        let mut messages: Vec<Message> = Vec::new();
        for info in volume.messages(&folder.id, 0).unwrap() {
            let mut message = StoredMessage::open(volume, &folder.id, info.uid).unwrap();
            let mut octets = Vec::new();
            while let Some(piece) = Some(message.read(1 << 20).unwrap()).filter(|p| !p.is_empty()) {
                octets.extend(piece);
            }
            messages.push((info.flag_words(), octets));
        }
        messages.sort();
        let sum = |each: &dyn Fn(&Message) -> usize| i64::try_from(messages.iter().map(each).sum::<usize>()).unwrap();
        assert_eq!(folder.messages, sum(&|_| 1));
        assert_eq!(folder.octets, sum(&|(_, octets)| octets.len()));
        assert_eq!(folder.unseen, sum(&|(flags, _)| usize::from(!flags.iter().any(|word| word == "\\Seen"))));
        all.push((folder.name, folder.subscribed, messages));
    }
    all
}

fn deliver(volume: &Volume, mailbox: Id, folder: &str, chance: &mut Chance, number: &mut u32) {
    let mut source = Messages(HashMap::new());
    let mut batch = Vec::new();
    for _ in 0..=chance.below(4) {
        *number += 1;
        let id = new_id();
        let body = vec![b'x'; chance.below(8) * chance.below(40_000)];
        source.0.insert(id, [format!("Subject: {number}\r\n\r\n").as_bytes(), &body].concat());
        batch.push(Delivery { message_id: id, recipient: 0, mailbox, folder: folder.to_owned(), prefix: Vec::new(), edits: Vec::new() });
    }
    assert!(volume.deliver(&source, &batch).iter().all(std::result::Result::is_ok));
}

/// One random operation; refusals (a name that exists, a folder that is gone) are part of the history.
fn step(volume: &Arc<Volume>, mailbox: Id, chance: &mut Chance, number: &mut u32) {
    let folders = volume.folders(&mailbox).unwrap();
    let folder = folders[chance.below(folders.len())].clone();
    let other = folders[chance.below(folders.len())].clone();
    let uids: Vec<i64> = volume.uids(&folder.id).unwrap().iter().map(|u| i64::from(*u)).filter(|_| chance.below(2) == 0).collect();
    let names = ["a", "b", "a/x", "b/y/z", "c"];
    let name = names[chance.below(names.len())];
    let flags = [vec!["\\Seen".to_owned()], vec!["\\Deleted".to_owned(), "key".to_owned()]][chance.below(2)].clone();
    let flags = parse_flags(&flags).unwrap();
    let done = match chance.below(12) {
        0..=3 => {
            deliver(volume, mailbox, &folder.name, chance, number);
            Ok(())
        }
        4 => volume.create_folder(&mailbox, name, "").map(drop),
        5 => volume.rename_folder(&mailbox, &folder.name, name),
        6 => volume.delete_folder(&mailbox, &folder.name),
        7 => volume.store_flags(&folder.id, &uids, [Mode::Add, Mode::Remove, Mode::Set][chance.below(3)], &flags, None).map(drop),
        8 => volume.expunge(&folder.id, None).map(drop),
        9 => volume.copy(&folder.id, &uids, &other.id, chance.below(2) == 0).map(drop),
        10 => volume.subscribe(&mailbox, &folder.name, chance.below(2) == 0),
        _ => {
            *number += 1;
            let mut appender = Appender::new(volume, &folder.id, flags, 0).unwrap();
            appender.feed(format!("Subject: appended {number}\r\n\r\n").as_bytes()).unwrap();
            appender.commit().map(drop)
        }
    };
    assert!(matches!(done, Ok(()) | Err(StoreError::Exists(_) | StoreError::Invalid(_) | StoreError::NotFound(_))), "{done:?}");
}

fn drop_index(dir: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(dir.join(format!("index.db{suffix}")));
    }
}

fn history(seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let (mailbox, mut chance, mut number) = (new_id(), Chance(seed), 0);
    let mut kept = None;
    for session in 0..3 {
        let volumes = [open(dir.path(), "w0"), open(dir.path(), "w1")];
        volumes[0].ensure_mailbox(&mailbox).unwrap();
        for _ in 0..25 {
            step(&volumes[chance.below(2)], mailbox, &mut chance, &mut number);
            if chance.below(20) == 0 {
                volumes[chance.below(2)].maintain(chance.below(2) == 0).unwrap();
            }
        }
        let before = state(&volumes[0], &mailbox);
        drop(volumes);
        if session == 0 {
            kept = Some(std::fs::read(dir.path().join("index.db")).unwrap());
            continue;
        }
        let lost_tail = chance.below(2) == 0;
        drop_index(dir.path());
        if lost_tail && let Some(old) = kept.take() {
            std::fs::write(dir.path().join("index.db"), old).unwrap();
        }
        let volume = open(dir.path(), "w0");
        assert_eq!(state(&volume, &mailbox), before, "seed {seed}, session {session}, lost tail {lost_tail}");
        assert!(volume.recovery.damaged.is_empty());
        drop(volume);
        let volume = open(dir.path(), "w1");
        assert_eq!(state(&volume, &mailbox), before, "seed {seed}: opening again changes nothing");
        assert_eq!(volume.recovery.messages, 0);
    }
}

#[test]
fn random_histories_survive_a_lost_index() {
    for seed in 0..8 {
        history(seed);
    }
}
