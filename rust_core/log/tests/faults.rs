//! What the log does when storage fails: a full disk passes and leaves nothing of the failed records, anything else closes the log for good.

use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use gatepost_log::{Class, Loc, Log, LogError, Options};
use gatepost_sim::{Call, Disk, Fault};

const DIR: &str = "/data/log";

struct Fixture {
    disk: Disk,
    log: Log,
    tokens: Receiver<(Vec<u64>, Result<(), LogError>)>,
}

impl Fixture {
    fn new() -> Self {
        let disk = Disk::new(1);
        let options = Options { segment_bytes: 64 << 10, keep_spares: 0, storage: disk.storage(), ..Options::new(*b"TEST") };
        let (tx, tokens) = channel();
        let done = move |tokens: &[u64], result: Result<(), &LogError>| {
            let _ = tx.send((tokens.to_vec(), result.map_err(Clone::clone)));
        };
        let log = Log::prepare(Path::new(DIR), options).unwrap().start(Box::new(done)).unwrap();
        Self { disk, log, tokens }
    }

    fn append(&self, token: u64, data: &[u8]) -> Result<Loc, LogError> {
        self.log.append(1, &[data], Class::Message, Some(token))
    }

    fn next(&self) -> (Vec<u64>, Result<(), LogError>) {
        self.tokens.recv_timeout(Duration::from_secs(5)).unwrap()
    }

    /// Payloads after closing and reopening on sound storage.
    fn reopened(self) -> Vec<Vec<u8>> {
        let _ = self.log.close();
        let mut seen = Vec::new();
        let options = Options { segment_bytes: 64 << 10, storage: self.disk.storage(), ..Options::new(*b"TEST") };
        let mut prepared = Log::prepare(Path::new(DIR), options).unwrap();
        let recovery = prepared
            .replay(Loc::NONE, &mut |_, _, payload| {
                seen.push(payload.to_vec());
                Ok(())
            })
            .unwrap();
        assert!(recovery.damaged.is_empty(), "{:?}", recovery.damaged);
        seen
    }
}

#[test]
fn a_full_disk_fails_the_append_and_nothing_of_it_remains() {
    for partial in [0, 20, 60, 300] {
        let f = Fixture::new();
        f.append(1, b"kept").unwrap();
        assert_eq!(f.next(), (vec![1], Ok(())));
        f.disk.fail(Fault { partial: Some(partial), ..Fault::new(Call::Write, libc::ENOSPC) });
        f.append(2, &[7; 30]).unwrap();
        let (tokens, result) = f.next();
        assert_eq!(tokens, [2]);
        assert!(result.unwrap_err().is_disk_full());
        f.disk.mend();
        let loc = f.append(3, b"after").unwrap();
        assert_eq!(f.next(), (vec![3], Ok(())));
        let mut out = Vec::new();
        f.log.read(loc, &mut out).unwrap();
        assert_eq!(out, b"after");
        assert_eq!(f.reopened(), [b"kept".to_vec(), b"after".to_vec()]);
    }
}

/// A checkpoint that named a later one as the end of the log passed over what the next opening had written under its number (spool history 8414868).
#[test]
fn after_a_full_disk_the_end_of_the_log_is_in_a_segment_that_exists() {
    let f = Fixture::new();
    f.disk.fail(Fault { name: "spare".into(), ..Fault::new(Call::Write, libc::ENOSPC) });
    let failed = (0..100).find(|n| f.append(*n, &[1; 1000]).is_err() || f.next().1.is_err());
    let end = f.log.tail();
    let there = f.log.segments().last().copied();
    assert!(failed.is_some());
    assert_eq!(Some((end.segment, u64::from(end.offset))), there);
    assert!(!f.log.free(end.segment));
}

#[test]
fn records_queued_behind_a_failed_write_fail_with_it() {
    let f = Fixture::new();
    f.disk.fail(Fault::new(Call::Write, libc::ENOSPC));
    let mut refused = 0;
    for n in 0..300 {
        match f.append(n, &[1; 500]) {
            Ok(_) => {}
            Err(error) => {
                assert!(error.is_disk_full());
                refused += 1;
            }
        }
    }
    let mut failed = 0;
    while failed + refused < 300 {
        let (tokens, result) = f.next();
        assert!(result.unwrap_err().is_disk_full());
        failed += tokens.len();
    }
    f.disk.mend();
    f.append(1000, b"after").unwrap();
    assert_eq!(f.next(), (vec![1000], Ok(())));
    assert_eq!(f.log.pending_bytes(), 0);
    assert_eq!(f.reopened(), [b"after".to_vec()]);
}

#[test]
fn records_that_belong_together_fail_when_an_earlier_one_was_given_up() {
    let f = Fixture::new();
    let losses = f.log.losses();
    f.disk.fail(Fault::new(Call::Write, libc::ENOSPC));
    f.log.append(1, &[b"first half"], Class::Message, None).unwrap();
    assert!(f.log.sync().unwrap_err().is_disk_full());
    f.disk.mend();
    f.append(9, b"of another").unwrap();
    assert_eq!(f.next(), (vec![9], Ok(())));
    assert_eq!(f.log.sync(), Ok(()));
    assert!(f.log.append_after(losses, 1, &[b"second half"], Class::Message, None).unwrap_err().is_disk_full());
    assert!(f.log.sync_since(losses).unwrap_err().is_disk_full());
    let losses = f.log.losses();
    f.log.append_after(losses, 1, &[b"whole"], Class::Message, None).unwrap();
    assert_eq!(f.log.sync_since(losses), Ok(()));
    assert_eq!(f.reopened(), [b"of another".to_vec(), b"whole".to_vec()]);
}

#[test]
fn a_segment_that_cannot_be_preallocated_refuses_mail_while_the_reserve_serves_the_journal() {
    let f = Fixture::new();
    f.disk.fail(Fault::new(Call::Allocate, libc::ENOSPC));
    let mut taken = 0;
    let error = loop {
        match f.append(taken, &[1; 1000]) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(error.is_disk_full());
    assert!((50..64).contains(&taken), "{taken}");
    for _ in 0..3 {
        f.log.append(1, &[&[2; 1000]], Class::Journal, None).unwrap();
    }
    f.log.sync().unwrap();
    f.disk.mend();
    f.disk.pass(Duration::from_millis(600));
    f.append(taken, &[1; 1000]).unwrap();
    f.log.sync().unwrap();
    assert_eq!(f.reopened().len() as u64, taken + 4);
}

#[test]
fn a_failed_sync_closes_the_log_for_good_and_is_never_retried() {
    let f = Fixture::new();
    f.append(1, b"kept").unwrap();
    assert_eq!(f.next(), (vec![1], Ok(())));
    f.disk.fail(Fault::new(Call::Sync, libc::EIO));
    f.append(2, b"unknown").unwrap();
    assert!(matches!(f.next(), (_, Err(LogError::Fatal(_)))));
    f.disk.mend();
    f.disk.trace();
    assert!(matches!(f.append(3, b"no"), Err(LogError::Fatal(_))));
    assert!(matches!(f.log.sync(), Err(LogError::Fatal(_))));
    assert!(matches!(f.log.close(), Err(LogError::Fatal(_))));
    assert!(!f.disk.traced().iter().any(|t| t.call == Call::Sync));
    assert_eq!(f.reopened()[0], b"kept");
}

#[test]
fn a_write_that_fails_with_an_input_output_error_closes_the_log() {
    let f = Fixture::new();
    f.disk.fail(Fault::new(Call::Write, libc::EIO));
    f.append(1, b"x").unwrap();
    assert!(matches!(f.next(), (_, Err(LogError::Fatal(_)))));
    assert!(matches!(f.log.fatal(), Some(LogError::Fatal(_))));
}

#[test]
fn new_names_and_removals_are_made_durable_one_by_one() {
    let f = Fixture::new();
    f.disk.trace();
    for n in 0..400 {
        f.append(n, &[1; 500]).unwrap();
    }
    f.log.sync().unwrap();
    assert!(f.log.free(1) && f.log.free(2));
    f.log.wait_for_removals();
    let mut calls = f.disk.traced();
    calls.retain(|t| [Call::Rename, Call::Remove, Call::SyncDir].contains(&t.call));
    for (n, traced) in calls.iter().enumerate().filter(|(_, t)| t.name.contains(".seg")) {
        assert_eq!(calls.get(n + 1).map(|t| t.call), Some(Call::SyncDir), "after {traced:?}");
    }
    let removed = |name: &str| calls.iter().position(|t| t.call == Call::Remove && t.name == name).unwrap();
    assert!(removed("00000001.seg") < removed("00000002.seg"));
}

#[test]
fn a_segment_that_cannot_be_removed_holds_up_those_freed_after_it() {
    let f = Fixture::new();
    for n in 0..400 {
        f.append(n, &[1; 500]).unwrap();
    }
    f.log.sync().unwrap();
    f.disk.fail(Fault { name: "00000001".into(), ..Fault::new(Call::Remove, libc::EIO) });
    assert!(f.log.free(1) && f.log.free(2));
    f.log.wait_for_removals();
    assert!(f.disk.files(Path::new(DIR)).contains(&"00000002.seg".to_owned()));
    f.disk.mend();
    f.disk.pass(Duration::from_secs(1));
    assert!(f.log.free(3));
    f.log.wait_for_removals();
    assert!(!f.disk.files(Path::new(DIR)).iter().any(|name| ["00000001.seg", "00000002.seg", "00000003.seg"].contains(&name.as_str())));
}
