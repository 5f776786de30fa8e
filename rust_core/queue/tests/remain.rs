//! Messages that stay long keep their own segments and no others: guards against a spool that frees nothing while one message is held, and
//! against finished messages that come back, or live ones that go, when the segments that finished others are gone.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use gatepost_queue::{Change, MessageId, Options, RecipientSpec, Spool, Work, kind, new_message_id};
use gatepost_sim::{Call, Disk, Fault};

const DIR: &str = "/data/spool/p0";
const SIZE: usize = 3_000;
/// Rounds of work between two steps of a test; while writes fail there is always something to try again.
const SOME: usize = 8;
/// More rounds than it ever takes to do all.
const ALL: usize = 10_000;

fn open(disk: &Disk) -> Spool {
    let options = Options { segment_bytes: 64 << 10, storage: disk.storage(), threads: false, ..Options::new(*b"SPOL") };
    Spool::open(Path::new(DIR), options).unwrap()
}

fn body(id: &MessageId) -> Vec<u8> {
    id.iter().cycle().map(|b| b'a' + b % 26).take(SIZE).chain(*b"\r\n").collect()
}

fn read(spool: &Spool, id: &MessageId) -> Vec<u8> {
    let mut reader = spool.read(id).unwrap();
    let mut out = vec![0; reader.size() as usize];
    assert_eq!(reader.read(&mut out).unwrap(), out.len());
    out
}

fn recipient(held: bool) -> RecipientSpec {
    let (original, route) = (String::new(), Vec::new());
    RecipientSpec { address: "a@b".into(), original, destination: "d".into(), notify: 0, route, next_us: 0, held }
}

fn segments(disk: &Disk) -> BTreeSet<String> {
    let is_segment = |name: &String| name.strip_suffix(".seg").is_some();
    disk.files(Path::new(DIR)).into_iter().filter(is_segment).collect()
}

/// A spool in use, and what it has to hold should it crash now.
struct Bench {
    spool: Spool,
    disk: Disk,
    ticket: u64,
    /// Committed, told so, and not asked to finish.
    live: BTreeSet<MessageId>,
    /// Finished, and told that it is durable.
    finished: BTreeSet<MessageId>,
    /// Committed by the round before, to be finished by the next.
    last: Vec<MessageId>,
    crashes: usize,
}

impl Bench {
    fn new() -> Self {
        let disk = Disk::new(1);
        let (live, finished) = (BTreeSet::new(), BTreeSet::new());
        Self { spool: open(&disk), disk, ticket: 0, live, finished, last: Vec::new(), crashes: 0 }
    }

    /// Work that there is to do. Just before a segment goes, a crash is looked at.
    fn work(&mut self, rounds: usize) {
        for _ in 0..rounds {
            self.disk.pass(Duration::from_millis(10));
            while self.spool.step(Work::Commit) {}
            let files = segments(&self.disk);
            let doomed = files.len() as u64 > self.segments();
            let before = doomed.then(|| self.disk.fork());
            let busy = [Work::LogChore, Work::Tidy].map(|work| self.spool.step(work));
            if let Some(before) = before.filter(|_| !segments(&self.disk).is_superset(&files)) {
                self.check_crash(&before);
                self.crashes += 1;
            }
            if busy == [false; 2] {
                return;
            }
        }
    }

    /// A crash leaves what has to be there and nothing that is finished, with and without a checkpoint, with and without the page cache.
    fn check_crash(&self, crashed: &Disk) {
        for (checkpoint, power) in [(true, true), (true, false), (false, true), (false, false)] {
            let disk = crashed.fork();
            if !power {
                disk.power_cut();
            }
            if !checkpoint {
                disk.delete(&Path::new(DIR).join("checkpoint"));
            }
            let spool = open(&disk);
            let found: BTreeSet<MessageId> = spool.ids(None, usize::MAX).into_iter().collect();
            assert!(found.is_superset(&self.live), "{} live messages are gone", self.live.difference(&found).count());
            assert!(found.is_disjoint(&self.finished), "{} came back", found.intersection(&self.finished).count());
            assert!(self.live.iter().all(|id| read(&spool, id) == body(id)));
        }
    }

    /// The newest ticket came back without an error.
    fn told(&self) -> bool {
        let told = self.spool.completions().0;
        told.iter().any(|(ticket, error)| *ticket == self.ticket && error.is_none())
    }

    /// Ids of what was taken: all, unless the disk refused something.
    fn commit(&mut self, count: usize, held: bool) -> Vec<MessageId> {
        let mut ids = Vec::new();
        for _ in 0..count {
            let id = new_message_id();
            let mut incoming = self.spool.receive(id, b"", 0, false);
            incoming.feed_raw(&body(&id));
            incoming.finish();
            match self.spool.commit(self.ticket + 1, &mut incoming, "from@x".into(), vec![recipient(held)], Vec::new()) {
                Ok(()) => {
                    self.ticket += 1;
                    ids.push(id);
                }
                Err(error) => assert!(self.disk.hits() > 0, "{error}"),
            }
        }
        while self.spool.step(Work::Commit) {}
        // They may have been in several batches, of which any may be lost.
        ids.retain(|id| self.spool.get(id).is_ok());
        self.live.extend(&ids);
        self.work(SOME);
        ids
    }

    fn finish(&mut self, ids: &[MessageId]) {
        self.live.retain(|id| !ids.contains(id));
        let change = |id: &MessageId| Change { id: *id, recipient: None, kind: kind::DELIVERED, next_us: 0, detail: b"250".to_vec() };
        self.spool.completions();
        self.ticket += 1;
        assert_eq!(self.spool.change(self.ticket, &ids.iter().map(change).collect::<Vec<_>>()), ids.len());
        while self.spool.step(Work::Commit) {}
        if self.told() {
            self.finished.extend(ids);
        }
        self.work(SOME);
    }

    /// Messages come, those of the round before go: always some of every segment finish in the next.
    fn churn(&mut self, rounds: usize) {
        for _ in 0..rounds {
            let new = self.commit(10, false);
            let old = std::mem::replace(&mut self.last, new);
            self.finish(&old);
        }
    }

    fn finish_last(&mut self) {
        let last = std::mem::take(&mut self.last);
        self.finish(&last);
        self.work(ALL);
    }

    fn segments(&self) -> u64 {
        self.spool.stats().log.segments
    }
}

#[test]
fn one_held_message_keeps_its_own_segment_and_a_handful_more() {
    let mut bench = Bench::new();
    let held = bench.commit(1, true)[0];
    bench.churn(60);
    bench.spool.checkpoint().unwrap();
    bench.churn(140);
    bench.finish_last();
    assert!(bench.segments() <= 6, "{}", bench.segments());
    assert!(bench.spool.stats().log.appended >= 4001);
    assert!(bench.crashes > 60, "{}", bench.crashes);

    bench.spool.close().unwrap();
    let closed = bench.disk.fork();
    for checkpoint in [true, false] {
        let disk = closed.fork();
        if !checkpoint {
            disk.delete(&Path::new(DIR).join("checkpoint"));
        }
        bench.spool = open(&disk);
        bench.disk = disk;
        assert_eq!((bench.spool.opening().checkpoint, bench.spool.ids(None, 9)), (checkpoint, vec![held]));
        assert!(read(&bench.spool, &held) == body(&held));
        bench.live.clear();
        let change = |kind| Change { id: held, recipient: None, kind, next_us: 0, detail: Vec::new() };
        assert_eq!(bench.spool.change(0, &[change(kind::RELEASED), change(kind::DELIVERED)]), 2);
        bench.work(ALL);
        assert_eq!(bench.segments(), 1);
    }
}

#[test]
fn held_messages_in_many_segments_keep_only_these() {
    let mut bench = Bench::new();
    let mut held = Vec::new();
    for _ in 0..12 {
        held.extend(bench.commit(1, true));
        bench.churn(16);
    }
    bench.finish_last();
    assert!(bench.segments() <= 12 + 5, "{}", bench.segments());
    // What was written down of a segment is written anew when more of it is finished, and counts with what is finished later.
    for ids in held.chunks(2) {
        bench.finish(ids);
        bench.churn(8);
    }
    bench.finish_last();
    assert_eq!(bench.segments(), 1);
}

#[test]
fn no_segment_goes_while_the_record_of_what_is_left_or_moved_is_not_on_the_disk() {
    let mut bench = Bench::new();
    let held = bench.commit(1, true)[0];
    // Neither the record of what is left nor the one that moves the message gets through.
    bench.disk.fail(Fault { needle: held.to_vec(), ..Fault::new(Call::Write, libc::ENOSPC) });
    bench.churn(24);
    assert!(bench.disk.hits() > 0);
    assert!(bench.segments() > 8, "{}", bench.segments());
    bench.check_crash(&bench.disk.fork());
    bench.disk.mend();
    bench.churn(20);
    bench.finish_last();
    assert!(bench.segments() <= 6, "{}", bench.segments());
    assert!(bench.crashes > 8, "{}", bench.crashes);
    assert_eq!(bench.spool.ids(None, 9), [held]);
}
