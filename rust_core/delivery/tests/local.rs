//! Rounds against a real spool and a real volume.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gatepost_delivery::{Round, Targets};
use gatepost_queue::{Options, RecipientSpec, Spool, new_message_id};
use gatepost_store::{Volume, VolumeOptions};

const DESTINATION: &str = "local:main";
const MAILBOX: [u8; 16] = [7; 16];

fn lab(dir: &Path) -> (Arc<Spool>, Volume, Targets) {
    let spool = Spool::open(&dir.join("spool"), Options::new(*b"SPOL")).unwrap();
    let options = VolumeOptions { segment_bytes: 1 << 20, ..VolumeOptions::new("w0") };
    let targets = Targets::default();
    targets.learn(b"inbox", MAILBOX, "INBOX");
    (Arc::new(spool), Volume::open(&dir.join("volume"), &options).unwrap(), targets)
}

fn commit(spool: &Spool, routes: &[&[u8]], notify: u8) {
    let mut incoming = spool.receive(new_message_id(), b"", 0, false);
    incoming.feed(b"Subject: x\r\n\r\nbody\r\n.\r\n");
    let recipient = |route: &&[u8]| RecipientSpec {
        address: "a@here.test".into(),
        original: String::new(),
        destination: DESTINATION.into(),
        notify,
        route: route.to_vec(),
        next_us: 0,
        held: false,
    };
    spool.commit(1, &mut incoming, "s@here.test".into(), routes.iter().map(recipient).collect(), Vec::new()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while spool.completions().0.is_empty() {
        assert!(Instant::now() < deadline, "the commit does not come back");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_is_known_is_stored_and_journaled_and_the_rest_is_handed_back_untried() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, volume, targets) = lab(dir.path());
    commit(&spool, &[b"inbox"], 0);
    commit(&spool, &[b"inbox", b"elsewhere"], 0);
    commit(&spool, &[b"inbox"], 2);
    let round = Round::run(&spool, &volume, &targets, DESTINATION, 10);
    assert_eq!((round.taken, round.delivered), (3, 1));
    let left: Vec<_> = round.left.iter().map(|l| (l.job.recipients.len(), l.results.is_none())).collect();
    assert_eq!(left, [(2, true), (1, true)]);
    assert_eq!(volume.mailbox_usage(&MAILBOX).unwrap().1, 1);
    assert_eq!((spool.stats().messages, spool.stats().in_flight), (2, 3));
}

#[test]
fn a_fault_of_the_volume_comes_back_with_the_job_and_nothing_is_journaled() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, volume, targets) = lab(dir.path());
    commit(&spool, &[b"inbox"], 0);
    volume.close().unwrap();
    let round = Round::run(&spool, &volume, &targets, DESTINATION, 10);
    assert_eq!((round.taken, round.delivered), (1, 0));
    assert!(round.left[0].results.as_ref().unwrap()[0].is_err());
    assert_eq!((spool.stats().messages, spool.stats().in_flight), (1, 1));
}
