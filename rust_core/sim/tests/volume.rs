//! What a mailbox volume does when the disk fails while it opens. Each case guards against a loss that a random history found.

use std::path::Path;

use gatepost_sim::{Call, Disk, Fault};
use gatepost_store::{Delivery, Edit, Id, Result, Source, StoreError, Volume, VolumeOptions, new_id};

struct Letter;

impl Source for Letter {
    fn read(&self, _: &Id, _: &[Edit], _: usize, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        each(b"Subject: kept\r\n\r\nHello\r\n")
    }
}

fn open(dir: &Path, stream: &str, disk: &Disk) -> Result<Volume> {
    let options = VolumeOptions { segment_bytes: 64 << 10, storage: disk.storage(), threads: false, ..VolumeOptions::new(stream) };
    Volume::open(dir, &options)
}

fn put(volume: &Volume, mailbox: Id, count: usize) {
    let one =
        || Delivery { message_id: new_id(), recipient: 0, mailbox, folder: "INBOX".to_owned(), prefix: Vec::new(), edits: Vec::new() };
    let batch: Vec<Delivery> = (0..count).map(|_| one()).collect();
    assert!(volume.deliver(&Letter, &batch).iter().all(std::result::Result::is_ok));
}

/// The index was rebuilt without the mail of the other process, whose directory could not be listed at that moment (EIO, or no descriptor left).
#[test]
fn a_stream_that_cannot_be_listed_is_not_passed_over_when_the_index_is_rebuilt() {
    let (disk, root, mailbox) = (Disk::new(1), tempfile::tempdir().unwrap(), new_id());
    let dir = root.path().join("volume");
    let (first, second) = (open(&dir, "w0", &disk).unwrap(), open(&dir, "w1", &disk).unwrap());
    first.ensure_mailbox(&mailbox).unwrap();
    put(&first, mailbox, 2);
    put(&second, mailbox, 3);
    drop((first, second));
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(dir.join(format!("index.db{suffix}")));
    }
    for errno in [libc::EIO, libc::EMFILE] {
        disk.fail(Fault { name: "w1".to_owned(), ..Fault::once(Call::List, errno) });
        assert!(matches!(open(&dir, "w0", &disk), Err(StoreError::Io(text)) if text.contains("log/w1")));
    }
    let volume = open(&dir, "w0", &disk).unwrap();
    assert_eq!(volume.mailbox_usage(&mailbox).unwrap().1, 5);
}
