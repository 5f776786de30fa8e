//! Random histories of the spool: messages received in pieces and committed, every transition there is, checkpoints, the keeper's work, faults, crashes
//! and decay, compared with a naive model (`model`).
//!
//! After every opening: an acknowledged message is there with its octets and in a state no older than the last acknowledged one, an unacknowledged one
//! is there as a whole or not at all, a finished one never again. Everything follows from the seed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use gatepost_queue::{Change as Asked, Incoming, LogError, MessageId, Options, QueueError, RecipientSpec, Spool, State, Work, kind};

use crate::chaos::{Chaos, Crash};
use crate::decay;
use crate::disk::Disk;
use crate::history::{Diary, Limits};
use crate::model::{Change, Fate, Message, Recipient, Step, finished};
use crate::operator::Operation;
use crate::rng::Rng;

/// A time that never comes, Unix microseconds.
pub(crate) const LATER: u64 = 4_000_000_000_000_000;
/// Messages being received at a time.
const STREAMS: usize = 3;

/// A message that is being received.
struct Stream {
    incoming: Incoming,
    number: u64,
    length: usize,
    fed: usize,
    /// Fed while something was wrong with the disk: it remembers what could not be written, also when all is well again.
    hurt: bool,
}

/// What a ticket stands for: the appends of these numbers.
struct Ticket {
    number: u64,
    to: u64,
}

pub(crate) struct Run<'a> {
    pub rng: Rng,
    pub disk: Disk,
    pub dir: PathBuf,
    pub chaos: Chaos,
    pub diary: &'a mut Diary,
    pub messages: Vec<Message>,
    /// Messages that are finished, or never came to be, for good.
    pub gone: BTreeSet<MessageId>,
    /// Messages whose past was damaged: they may come back.
    pub doubtful: BTreeSet<MessageId>,
    /// Where bits flipped or a page was lost: segment, offset, octets.
    pub flips: Vec<(u32, u64, u64)>,
    /// What was there is read in the background.
    pub loading: bool,
    /// A copy of a remain record was hit.
    pub remain_hit: bool,
    pub operations: Vec<Operation>,
    spool: Option<Spool>,
    streams: Vec<Stream>,
    tickets: Vec<Ticket>,
    segment_bytes: u32,
    /// Counts messages, tickets and appends.
    count: u64,
}

/// Runs one history. The error says what was wrong.
pub(crate) fn run(seed: u64, limits: &Limits, diary: &mut Diary) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let disk = Disk::new(rng.draw());
    let chaos = Chaos::new(&mut rng);
    let segment_bytes = if rng.chance(20) { 1 << 20 } else { 64 << 10 };
    let mut run = Run {
        rng,
        disk,
        dir: PathBuf::from("/data/spool/p0"),
        chaos,
        diary,
        messages: Vec::new(),
        gone: BTreeSet::new(),
        doubtful: BTreeSet::new(),
        flips: Vec::new(),
        loading: false,
        remain_hit: false,
        operations: Vec::new(),
        spool: None,
        streams: Vec::new(),
        tickets: Vec::new(),
        segment_bytes,
        count: 0,
    };
    run.open()?;
    let steps = run.rng.below(limits.steps) + 1;
    for n in 0..steps.min(limits.cut) {
        run.diary.step(n);
        run.step()?;
    }
    run.end()
}

/// The octets of a message.
pub(crate) fn body(number: u64, length: usize) -> Vec<u8> {
    let pattern: Vec<u8> = (0..509).map(|n| b'a' + ((number * 7 + n / 11 + n) % 26) as u8).collect();
    let mut body = pattern.repeat(length / pattern.len() + 1);
    body.truncate(length);
    body.extend_from_slice(b"\r\n");
    body
}

fn id_of(number: u64) -> MessageId {
    (u128::from(number) << 80 | 7 << 76 | 0b10 << 62).to_be_bytes()
}

impl Run<'_> {
    pub fn spool(&self) -> &Spool {
        self.spool.as_ref().expect("open between steps")
    }

    /// What happened up to now is acknowledged when this ticket is.
    pub fn promise(&mut self, number: u64) {
        self.tickets.push(Ticket { number, to: self.count });
    }

    pub fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    fn step(&mut self) -> Result<(), String> {
        if self.rng.chance(self.chaos.crowded) {
            self.chaos.trouble(&mut self.rng, &self.disk, self.diary);
        }
        match self.rng.below(100) {
            0..8 => self.stream(),
            8..24 => self.receive()?,
            24..46 => self.change()?,
            46..48 => self.reroute()?,
            48..50 => self.take()?,
            50..51 => self.purge(),
            51..53 => self.bulk()?,
            53..55 => self.undo()?,
            55..76 => drop(self.spool().step(Work::Commit)),
            76..83 => drop(self.spool().step(Work::LogChore)),
            83..90 => drop(self.spool().step(Work::Tidy)),
            90..91 => self.checkpoint()?,
            91..93 => self.compare()?,
            93..94 => self.reopen()?,
            94..96 => self.chaos.trouble(&mut self.rng, &self.disk, self.diary),
            96..98 => self.disk.pass(Duration::from_millis(self.rng.below(700))),
            _ => {
                let crash = Crash::any(&mut self.rng);
                self.crash(crash)?;
            }
        }
        if self.loading && self.rng.chance(40) {
            self.load()?;
        }
        self.hear()?;
        if self.disk.dead() {
            self.crash(Crash::PowerCut)?;
        } else if let Some(error) = self.spool().fatal() {
            if !self.chaos.excuses(&self.disk) {
                return Err(format!("the log failed without a fault: {error}"));
            }
            self.crash(Crash::Kill)?;
        }
        Ok(())
    }

    /// A piece of the recovery in the background.
    fn load(&mut self) -> Result<(), String> {
        self.spool().step(Work::Load);
        if self.spool().recovered() && !self.disk.dead() && self.spool().fatal().is_none() {
            self.hear()?;
            self.chaos.calm(&self.disk);
            // A disk that was full is believed to be so for a moment longer.
            self.disk.pass(Duration::from_millis(600));
            return self.recovered();
        }
        Ok(())
    }

    // ---- messages in

    /// Begins a message, or goes on with one.
    fn stream(&mut self) {
        if self.streams.len() < STREAMS && self.rng.chance(40) {
            let number = self.next();
            let length = match self.rng.below(10) {
                0..8 => self.rng.index(12_000),
                _ if self.segment_bytes > 64 << 10 => self.rng.index(900_000),
                _ => self.rng.index(45_000),
            };
            let incoming = self.spool().receive(id_of(number), b"", 0, false);
            self.streams.push(Stream { incoming, number, length, fed: 0, hurt: false });
        }
        let n = self.rng.index(self.streams.len());
        if self.streams.get(n).is_some() && self.rng.chance(4) {
            self.streams.swap_remove(n);
            return;
        }
        let more = self.rng.index(300_000);
        let troubled = self.chaos.excuses(&self.disk);
        if let Some(stream) = self.streams.get_mut(n) {
            let body = body(stream.number, stream.length);
            let end = (stream.fed + more).min(body.len());
            stream.incoming.feed_raw(&body[stream.fed..end]);
            stream.fed = end;
            stream.hurt |= troubled;
        }
    }

    /// Commits a message that was begun, fed to its end.
    fn receive(&mut self) -> Result<(), String> {
        if self.streams.is_empty() {
            self.stream();
        }
        let n = self.rng.index(self.streams.len());
        if n >= self.streams.len() {
            return Ok(());
        }
        let mut stream = self.streams.swap_remove(n);
        stream.incoming.feed_raw(&body(stream.number, stream.length)[stream.fed..]);
        stream.incoming.finish();
        let recipients: Vec<Recipient> = (0..=self.rng.below(3)).map(|n| self.recipient(n)).collect();
        let specs = recipients.iter().map(spec).collect();
        let sequence = self.next();
        let id = id_of(stream.number);
        // Longer than free space is believed.
        self.disk.pass(Duration::from_millis(300));
        let free = self.disk.free();
        self.disk.most_told();
        let committed = self.spool().commit(sequence, &mut stream.incoming, "from@x".into(), specs, b"meta".to_vec());
        // What was owed may have taken a segment first.
        self.reserves(free, self.disk.free(), &committed)?;
        match committed {
            Ok(()) => {
                self.diary.note(|| format!("commit {} of {} octets, ticket {sequence}", stream.number, stream.length));
                self.tickets.push(Ticket { number: sequence, to: sequence });
                if recipients.iter().any(Recipient::pending) {
                    let (length, number) = (stream.length, stream.number);
                    let message = Message {
                        id,
                        length,
                        number,
                        base: recipients,
                        fate: Fate::Open,
                        sequence,
                        steps: Vec::new(),
                        now: None,
                        damaged: false,
                        entries: 0,
                        hidden: false,
                        mark: None,
                    };
                    self.messages.push(message);
                }
                Ok(())
            }
            Err(error) if stream.hurt || self.chaos.excuses(&self.disk) => {
                self.diary.note(|| format!("commit of {} refused: {error}", stream.number));
                self.gone.insert(id);
                Ok(())
            }
            Err(error) => Err(format!("commit failed without a fault: {error}")),
        }
    }

    /// Mail is refused below the limit, and taken again at the second one.
    fn reserves(&self, free: u64, after: u64, committed: &Result<(), QueueError>) -> Result<(), String> {
        let (stop, resume) = self.chaos.least_free;
        let refused = matches!(committed, Err(QueueError::Log(LogError::DiskFull(why))) if why.contains("octets free"));
        match committed {
            // The look at the free space may have failed.
            _ if self.disk.dead() => Ok(()),
            // Paying what was owed may have given space back before the look.
            Ok(()) if free.max(self.disk.most_told()) < stop => Err(format!("mail was taken with {free} octets free")),
            Err(_) if refused && free.min(after) >= resume => Err(format!("mail was refused with {free} octets free")),
            _ => Ok(()),
        }
    }

    fn recipient(&mut self, n: u64) -> Recipient {
        let discarded = self.rng.chance(10);
        let destination = if discarded { String::new() } else { format!("d{}", self.rng.below(4)) };
        let state = if discarded { State::Delivered } else { State::Pending };
        let next_us = if self.rng.chance(30) { LATER } else { 0 };
        let held = !discarded && self.rng.chance(20);
        Recipient { state, grace: false, held, attempts: 0, next_us: Some(next_us), destination, address: format!("r{n}@x") }
    }

    // ---- changes

    /// Numbers of messages that can be seen.
    pub fn visible(&self) -> Vec<usize> {
        self.visible_or_damaged().into_iter().filter(|n| !self.messages[*n].damaged).collect()
    }

    pub fn visible_or_damaged(&self) -> Vec<usize> {
        (0..self.messages.len()).filter(|n| self.messages[*n].now.is_some()).collect()
    }

    fn change(&mut self) -> Result<(), String> {
        let visible = self.visible();
        let ticket = self.next();
        let (mut asked, mut expected, mut count) = (Vec::new(), 0, 0);
        for _ in 0..=self.rng.below(3) {
            let Some(n) = self.rng.pick(&visible).copied() else { return Ok(()) };
            let change = self.any_change();
            let m = &self.messages[n];
            let detail = format!("{{\"n\":{ticket}}}").into_bytes();
            asked.push(Asked { id: m.id, recipient: change.recipient, kind: change.kind, next_us: change.next_us, detail });
            self.diary.note(|| format!("change {} by kind {} of {:?}, ticket {ticket}", m.number, change.kind, change.recipient));
            expected += usize::from(self.carry_out(n, change));
            count += 1;
        }
        let done = self.spool().change(ticket, &asked);
        self.promise(ticket);
        if done == expected { Ok(()) } else { Err(format!("{done} of {count} changes were carried out, not {expected}")) }
    }

    fn any_change(&mut self) -> Change {
        use kind::{DEFERRED, DELIVERED, EXPIRED, FAILED, HELD, NOTE, PURGED, RELEASED, REMOVED, RESTORED, RETRY};
        if self.rng.chance(40) {
            return Change { recipient: None, kind: DELIVERED, next_us: 0, destination: String::new(), address: String::new() };
        }
        let kinds =
            [DELIVERED, DELIVERED, DELIVERED, DEFERRED, FAILED, EXPIRED, REMOVED, REMOVED, HELD, RELEASED, RETRY, NOTE, RESTORED, PURGED];
        let kind = kinds[self.rng.index(kinds.len())];
        let recipient = if self.rng.chance(50) { None } else { Some(self.rng.below(3) as u16) };
        let next_us = match kind {
            REMOVED if self.rng.chance(50) => 0,
            _ => LATER + self.rng.below(3),
        };
        Change { recipient, kind, next_us, destination: String::new(), address: String::new() }
    }

    /// In the model. False when it is illegal.
    pub fn carry_out(&mut self, n: usize, change: Change) -> bool {
        let sequence = self.next();
        let m = &mut self.messages[n];
        let Some(list) = m.now.as_mut().filter(|list| change.legal(list)) else { return false };
        change.apply(list);
        let finished = finished(list);
        if finished {
            m.now = None;
        }
        // Undoing is predicted only of what an operation was the last to change.
        m.mark = None;
        m.steps.push(Step { change, finished, fate: Fate::Open, sequence });
        true
    }

    /// Takes due messages, gives some back. Only while the disk can be read: the spool puts off by itself what it cannot read.
    fn take(&mut self) -> Result<(), String> {
        if self.chaos.excuses(&self.disk) {
            return Ok(());
        }
        let destination = format!("d{}", self.rng.below(5));
        let most = 1 + self.rng.index(3);
        for job in self.spool().take(&destination, most, 0) {
            if self.doubtful.contains(&job.id) {
                continue;
            }
            let Some(m) = self.messages.iter().find(|m| m.id == job.id) else { return Err(format!("{:?} was never committed", job.id)) };
            for r in &job.recipients {
                let known = m.now.as_ref().and_then(|list| list.get(usize::from(r.index)));
                if !m.damaged && !known.is_some_and(|k| k.pending() && !k.held && k.destination == destination && k.address == r.address) {
                    return Err(format!("recipient {} of {} was handed out and is {known:?}", r.index, m.number));
                }
            }
            if self.rng.chance(50) {
                let indexes: Vec<u16> = job.recipients.iter().map(|r| r.index).collect();
                self.spool().give_back(&job.id, &indexes);
            }
        }
        Ok(())
    }

    // ---- what becomes of it

    /// Takes note of tickets that came back.
    pub fn hear(&mut self) -> Result<(), String> {
        let (told, _) = self.spool().completions();
        for (number, error) in told {
            let at = self.tickets.iter().position(|t| t.number == number).ok_or(format!("ticket {number} is unknown"))?;
            let ticket = self.tickets.swap_remove(at);
            self.diary.note(|| format!("told {number}: {error:?}"));
            if error.is_some() && !self.chaos.excuses(&self.disk) {
                return Err(format!("ticket {number} failed without a fault: {error:?}"));
            }
            self.settle(&ticket, error.as_ref());
        }
        Ok(())
    }

    fn settle(&mut self, ticket: &Ticket, error: Option<&LogError>) {
        let full = error.is_some_and(LogError::is_disk_full);
        // Of messages of an earlier life it says nothing.
        for m in self.messages.iter_mut().filter(|m| !m.hidden) {
            if m.sequence == ticket.number {
                m.fate = if full { Fate::Lost } else { m.fate };
                m.now = error.is_none().then(|| m.base.clone());
            }
            // What is acknowledged proves all before it: a change that found no room is written before any later one, and a message that found
            // none was given up, and that told.
            if error.is_none() && m.sequence <= ticket.to && m.fate != Fate::Lost {
                m.fate = Fate::Sure;
            }
            for step in m.steps.iter_mut().filter(|s| s.sequence <= ticket.to && error.is_none()) {
                step.fate = Fate::Sure;
            }
        }
    }

    fn checkpoint(&mut self) -> Result<(), String> {
        let result = self.spool().checkpoint();
        self.diary.note(|| format!("checkpoint: {result:?}"));
        self.expect(result)
    }

    fn expect(&self, result: Result<(), QueueError>) -> Result<(), String> {
        match result {
            Err(error) if !self.chaos.excuses(&self.disk) => Err(format!("failed without a fault: {error}")),
            _ => Ok(()),
        }
    }

    fn reopen(&mut self) -> Result<(), String> {
        self.streams.clear();
        let result = self.spool().close();
        let owed = self.spool().owed();
        self.diary.note(|| format!("close: {result:?}, {owed} changes owed"));
        self.hear()?;
        if result.is_ok() && owed == 0 {
            self.settle(&Ticket { number: 0, to: u64::MAX }, None);
        }
        self.expect(result)?;
        self.crash(Crash::Kill)
    }

    /// The process ends without a word.
    fn crash(&mut self, crash: Crash) -> Result<(), String> {
        self.diary.note(|| format!("crash: {crash:?} after {} calls", self.disk.calls()));
        crash.strike(&self.disk);
        self.streams.clear();
        self.spool = None;
        self.tickets.clear();
        decay::decay(self);
        if self.rng.chance(40) {
            self.diary.note(|| "the checkpoint is gone".into());
            self.disk.delete(&self.dir.join("checkpoint"));
        }
        self.open()
    }

    /// Opens until it works, with faults and crashes on the way, and compares.
    fn open(&mut self) -> Result<(), String> {
        for attempt in 0.. {
            self.chaos.before_open(&mut self.rng, &self.disk, attempt, self.diary);
            let (segment_bytes, storage) = (self.segment_bytes, self.disk.storage());
            let (min_free_bytes, resume_free_bytes) = self.chaos.least_free;
            let options = Options { segment_bytes, storage, threads: false, min_free_bytes, resume_free_bytes, ..Options::new(*b"SPOL") };
            for m in &mut self.messages {
                (m.hidden, m.now) = (true, None);
            }
            let behind = self.rng.chance(25);
            let opened = if behind { Spool::begin(&self.dir, options, false) } else { Spool::open(&self.dir, options) };
            match opened {
                Ok(spool) if !self.disk.dead() => {
                    self.spool = Some(spool);
                    self.chaos.opened(&self.disk);
                    self.loading = true;
                    self.diary.note(|| format!("opened, recovery behind: {behind}"));
                    return if behind { Ok(()) } else { self.recovered() };
                }
                Ok(spool) => drop(spool),
                Err(error) if !self.chaos.excuses(&self.disk) => return Err(format!("open failed without a fault: {error}")),
                Err(error) => self.diary.note(|| format!("open: {error}")),
            }
            let crash = Crash::any(&mut self.rng);
            crash.strike(&self.disk);
        }
        Ok(())
    }

    /// Works off everything there is to do.
    fn settle_down(&self) {
        for _ in 0..10_000 {
            let busy = [Work::Commit, Work::LogChore, Work::Tidy].map(|work| self.spool().step(work));
            if busy == [false; 3] {
                return;
            }
        }
    }

    /// A last crash, then everything is finished: all space is given back, and nothing is there any more.
    fn end(&mut self) -> Result<(), String> {
        self.diary.note(|| "the end".into());
        self.crash(Crash::PowerCut)?;
        self.chaos.calm(&self.disk);
        while self.loading && self.spool().fatal().is_none() {
            self.load()?;
        }
        self.compare()?;
        self.spool().purge(u64::MAX, usize::MAX);
        let all = self.spool().ids(None, usize::MAX);
        let done = |id: &MessageId| Asked { id: *id, recipient: None, kind: kind::DELIVERED, next_us: 0, detail: Vec::new() };
        self.spool().change(0, &all.iter().map(done).collect::<Vec<_>>());
        self.settle_down();
        let stats = self.spool().stats();
        let clean = self.doubtful.is_empty() && !self.messages.iter().any(|m| m.damaged);
        if clean && (stats.messages > 0 || stats.log.segments > 1) {
            return Err(format!("nothing is left to do, but there are {} messages in {} segments", stats.messages, stats.log.segments));
        }
        self.gone.extend(self.messages.drain(..).map(|m| m.id));
        self.crash(Crash::PowerCut)
    }
}

fn spec(r: &Recipient) -> RecipientSpec {
    RecipientSpec {
        address: r.address.clone(),
        original: String::new(),
        destination: r.destination.clone(),
        notify: 0,
        route: b"route".to_vec(),
        next_us: r.next_us.unwrap_or(0),
        held: r.held,
    }
}
