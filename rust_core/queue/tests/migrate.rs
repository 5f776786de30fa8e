//! Directories of format version 1, written by Gatepost 0.1.0 (`data/v1`), open, say the same and live on; newer ones are refused by file and version.

use std::fs;
use std::path::Path;

use gatepost_queue::{Filter, LogError, Options, QueueError, Spool, State, kind};

/// A copy to work on.
fn fixture() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/v1");
    for entry in fs::read_dir(data).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

fn open(dir: &Path) -> Result<Spool, QueueError> {
    Spool::open(dir, Options { segment_bytes: 64 << 10, ..Options::new(*b"SPOL") })
}

/// Two messages: one held, one with three recipients in three states.
fn check(spool: &Spool) {
    assert!(spool.opening().damaged.is_empty());
    let ids = spool.ids(None, 10);
    assert_eq!(ids.len(), 2);
    let held = spool.get(&ids[0]).unwrap();
    assert_eq!((held.recipients[0].address.as_str(), held.recipients[0].held), ("held@x", true));
    assert_eq!(spool.read(&ids[0]).unwrap().header(1000).unwrap(), b"P: 1\r\nSubject: held\r\n\r\n");
    let kinds = |n: usize| spool.history(&ids[n]).unwrap().iter().map(|e| e.kind).collect::<Vec<_>>();
    assert_eq!(kinds(0), [kind::ACCEPTED, kind::HELD]);
    let many = spool.get(&ids[1]).unwrap();
    let states: Vec<_> = many.recipients.iter().map(|r| (r.address.as_str(), r.destination.as_str(), r.state, r.attempts)).collect();
    assert_eq!(states, [("a@x", "d1", State::Delivered, 1), ("b@x", "d1", State::Pending, 1), ("c@z", "d3", State::Pending, 0)]);
    assert_eq!((many.recipients[1].next_us, many.recipients[1].last_detail.as_slice()), (4_000_000_000_000_000, b"451 later".as_slice()));
    assert_eq!(kinds(1), [kind::ACCEPTED, kind::DELIVERED, kind::DEFERRED, kind::REROUTED, kind::NOTE]);
    for (domain, count) in [("x", (2, 3)), ("z", (1, 1)), ("y", (0, 0))] {
        assert_eq!(spool.count(&Filter { domain: domain.into(), ..Filter::default() }).unwrap(), count, "{domain}");
    }
}

#[test]
fn a_partition_of_version_1_opens_with_and_without_its_checkpoint() {
    for checkpoint in [true, false] {
        let dir = fixture();
        if !checkpoint {
            fs::remove_file(dir.path().join("checkpoint")).unwrap();
        }
        for _ in 0..3 {
            let spool = open(dir.path()).unwrap();
            check(&spool);
            spool.close().unwrap();
        }
    }
}

#[test]
fn a_newer_segment_and_a_newer_checkpoint_are_refused_by_file_and_version() {
    let newer = |octets: &mut [u8], copies: &[usize], covered: usize| {
        for at in copies {
            octets[at + 8] = 77;
            let crc = crc32c::crc32c(&octets[*at..at + covered]).to_le_bytes();
            octets[at + covered..at + covered + 4].copy_from_slice(&crc);
        }
    };
    let dir = fixture();
    let path = dir.path().join("00000009.seg");
    let mut octets = fs::read(&path).unwrap();
    newer(&mut octets, &[0, 64], 60);
    fs::write(&path, &octets).unwrap();
    match open(dir.path()).err() {
        Some(QueueError::Log(LogError::Version { file, found, known })) => {
            assert_eq!((file, found, known), (path.display().to_string(), 77, 2));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read(&path).unwrap(), octets, "a refused file is left as it is");
    let dir = fixture();
    let path = dir.path().join("checkpoint");
    let mut octets = fs::read(&path).unwrap();
    octets[8] = 77;
    fs::write(&path, &octets).unwrap();
    match open(dir.path()).err() {
        Some(QueueError::Version(text)) => assert!(text.contains("checkpoint") && text.contains("77"), "{text}"),
        other => panic!("{other:?}"),
    }
}
