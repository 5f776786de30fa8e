//! Random histories of the log alone: records of all sizes, syncs, frees, faults, crashes and decay, compared with a list of what was appended.
//!
//! After every opening: what was acknowledged is there octet for octet, what was given up is not, what is left of a life is a prefix of it, damage is
//! reported where a bit was flipped and nowhere else. Everything follows from the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gatepost_log::{Class, Damage, Loc, Log, LogError, Options, RECORD_HEADER, Recovery, parse_segment_name};
use parking_lot::Mutex;

use crate::chaos::{Chaos, Crash};
use crate::disk::Disk;
use crate::history::{Diary, Limits};
use crate::rng::Rng;

const SEGMENT: u32 = 64 << 10;
/// Octets that are lost as one.
const PAGE: u64 = 4096;

/// What is known of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Appended; nothing was heard of it.
    Open,
    /// Acknowledged, or seen after an opening: it stays.
    Sure,
    /// Given up for want of space: it is never seen.
    Lost,
}

struct Record {
    loc: Loc,
    kind: u8,
    payload: Vec<u8>,
    token: Option<u64>,
    fate: Fate,
    life: u32,
    /// Its segment was given back: it may be there or not.
    freed: bool,
    /// A bit of it was flipped.
    damaged: bool,
}

type Told = Arc<Mutex<Vec<(Vec<u64>, Option<LogError>)>>>;
type Replayed = Vec<(Loc, u8, Vec<u8>)>;

struct Run<'a> {
    rng: Rng,
    disk: Disk,
    dir: PathBuf,
    chaos: Chaos,
    log: Option<Log>,
    told: Told,
    records: Vec<Record>,
    next_token: u64,
    life: u32,
    /// The log's losses at some moment, and the number of records then.
    since: (u64, usize),
    /// Something was given up in this life.
    lossy: bool,
    /// Segments whose header was destroyed.
    beheaded: BTreeSet<u32>,
    diary: &'a mut Diary,
}

/// Runs one history. The error says what was wrong.
pub(crate) fn run(seed: u64, limits: &Limits, diary: &mut Diary) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let disk = Disk::new(rng.draw());
    let chaos = Chaos::new(&mut rng);
    let mut run = Run {
        rng,
        disk,
        dir: PathBuf::from("/data/spool/p0"),
        chaos,
        log: None,
        told: Told::default(),
        records: Vec::new(),
        next_token: 1,
        life: 0,
        since: (0, 0),
        lossy: false,
        beheaded: BTreeSet::new(),
        diary,
    };
    run.open()?;
    let steps = run.rng.below(limits.steps) + 1;
    for n in 0..steps.min(limits.cut) {
        run.diary.step(n);
        run.step()?;
    }
    run.diary.note(|| "the end".into());
    run.crash(Crash::PowerCut)?;
    run.disk.set_capacity(None);
    run.leave()
}

impl Run<'_> {
    fn log(&self) -> &Log {
        self.log.as_ref().expect("open between steps")
    }

    fn step(&mut self) -> Result<(), String> {
        match self.rng.below(100) {
            0..38 => self.append()?,
            38..66 => drop(self.log().step(false)),
            66..80 => drop(self.log().step(true)),
            80..84 => self.sync(),
            84..87 => self.free(),
            87..90 => self.read()?,
            90..92 => self.reopen()?,
            92..96 => self.chaos.trouble(&mut self.rng, &self.disk, self.diary),
            96..98 => self.disk.pass(Duration::from_millis(self.rng.below(700))),
            _ => {
                let crash = Crash::any(&mut self.rng);
                self.crash(crash)?;
            }
        }
        if self.disk.dead() {
            self.crash(Crash::PowerCut)?;
        }
        self.hear()?;
        if self.log().fatal().is_some() {
            if !self.chaos.excuses(&self.disk) {
                return Err(format!("the log failed without a fault: {:?}", self.log().fatal()));
            }
            self.crash(Crash::Kill)?;
        }
        Ok(())
    }

    fn size(&mut self) -> usize {
        match self.rng.below(20) {
            0..12 => self.rng.index(200),
            12..17 => self.rng.index(3_000),
            17..19 => self.rng.index(30_000),
            _ => self.log().max_payload() - self.rng.index(40),
        }
    }

    fn append(&mut self) -> Result<(), String> {
        let (size, kind) = (self.size(), 1 + self.rng.below(200) as u8);
        let fill = self.rng.draw();
        let payload: Vec<u8> = (0..size).map(|n| (fill >> (n % 8 * 8)) as u8 ^ (n / 251) as u8).collect();
        let class = if self.rng.chance(60) { Class::Message } else { Class::Journal };
        let token = self.rng.chance(60).then_some(self.next_token);
        self.next_token += 1;
        let split = self.rng.index(size + 1);
        match self.log().append(kind, &[&payload[..split], &payload[split..]], class, token) {
            Ok(loc) => {
                self.diary.note(|| format!("append {loc} {size} octets, token {token:?}"));
                let life = self.life;
                self.records.push(Record { loc, kind, payload, token, fate: Fate::Open, life, freed: false, damaged: false });
                Ok(())
            }
            Err(error) if self.chaos.excuses(&self.disk) => {
                self.diary.note(|| format!("append of {size} refused: {error}"));
                Ok(())
            }
            Err(error) => Err(format!("append failed without a fault: {error}")),
        }
    }

    /// Takes note of what the committer said.
    fn hear(&mut self) -> Result<(), String> {
        for (tokens, error) in std::mem::take(&mut *self.told.lock()) {
            for token in tokens {
                let record = self.records.iter_mut().rev().find(|r| r.token == Some(token)).ok_or(format!("token {token} is unknown"))?;
                record.token = None;
                match &error {
                    None => record.fate = Fate::Sure,
                    Some(error) if error.is_disk_full() => record.fate = Fate::Lost,
                    Some(_) => {}
                }
                if error.is_some() && !self.chaos.excuses(&self.disk) {
                    return Err(format!("token {token} failed without a fault: {error:?}"));
                }
                self.diary.note(|| format!("told {token}: {error:?}"));
            }
        }
        let losses = self.log().losses();
        if losses != self.since.0 {
            self.since = (losses, self.records.len());
            self.lossy = true;
        }
        Ok(())
    }

    fn sync(&mut self) {
        let result = self.log().sync_since(self.since.0);
        self.diary.note(|| format!("sync: {result:?}"));
        if result.is_ok() {
            self.all_durable();
        }
    }

    /// Everything appended since the last loss is on the disk.
    fn all_durable(&mut self) {
        for record in &mut self.records[self.since.1..] {
            record.fate = Fate::Sure;
        }
    }

    fn free(&mut self) {
        let segments = self.log().segments();
        let Some((number, _)) = self.rng.pick(&segments[..segments.len() - 1]).copied() else { return };
        let freed = self.log().free(number);
        self.diary.note(|| format!("free {number}: {freed}"));
        if freed {
            self.records.iter_mut().filter(|r| r.loc.segment == number).for_each(|r| r.freed = true);
        }
    }

    fn read(&mut self) -> Result<(), String> {
        let n = self.rng.index(self.records.len());
        let Some(record) = self.records.get(n).filter(|r| r.fate == Fate::Sure && !r.freed && !r.damaged) else { return Ok(()) };
        let mut out = Vec::new();
        match self.log().read(record.loc, &mut out) {
            Ok(kind) if kind == record.kind && out == record.payload => Ok(()),
            Ok(_) => Err(format!("{} reads back otherwise", record.loc)),
            Err(_) if self.chaos.excuses(&self.disk) => Ok(()),
            Err(error) => Err(format!("{} cannot be read: {error}", record.loc)),
        }
    }

    fn close(&mut self) -> Result<(), String> {
        let closed = self.log().close();
        self.diary.note(|| format!("close: {closed:?}"));
        self.hear()?;
        match closed {
            Ok(()) => self.all_durable(),
            Err(_) if self.chaos.excuses(&self.disk) => {}
            Err(error) => return Err(format!("close failed without a fault: {error}")),
        }
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), String> {
        self.close()?;
        self.log = None;
        if self.disk.dead() {
            self.disk.power_cut();
        } else {
            self.disk.kill();
        }
        self.open()
    }

    /// The process ends without a word.
    fn crash(&mut self, crash: Crash) -> Result<(), String> {
        self.diary.note(|| format!("crash: {crash:?} after {} calls", self.disk.calls()));
        crash.strike(&self.disk);
        self.log = None;
        self.told.lock().clear();
        self.decay();
        self.open()
    }

    /// Flips a bit of a record in a segment that has a successor, or loses a page of it.
    fn decay(&mut self) {
        if !self.chaos.decays(&mut self.rng) {
            return;
        }
        let files = self.disk.files(&self.dir);
        let numbers: Vec<u32> = files.iter().filter_map(|n| parse_segment_name(n)).collect();
        let sealed = &numbers[..numbers.len().saturating_sub(1)];
        if let Some(number) = self.rng.pick(sealed).copied().filter(|_| self.rng.chance(10)) {
            self.diary.note(|| format!("header of {number} is destroyed"));
            for copy in 0..2 {
                self.disk.flip(&self.dir.join(gatepost_log::segment_name(number)), copy * 64 + self.rng.below(64), 1);
            }
            self.beheaded.insert(number);
            return;
        }
        let n = self.rng.index(self.records.len());
        let Some(record) = self.records.get_mut(n) else { return };
        let whole = record.fate == Fate::Sure && !record.freed && !record.damaged;
        if whole && sealed.contains(&record.loc.segment) && !self.beheaded.contains(&record.loc.segment) {
            let offset = u64::from(record.loc.offset) + self.rng.below(u64::from(RECORD_HEADER) + record.payload.len() as u64);
            if self.rng.chance(30) {
                let segment = record.loc.segment;
                return self.spoil(segment, offset / PAGE * PAGE);
            }
            self.diary.note(|| format!("a bit of {} flips at {offset}", record.loc));
            self.disk.flip(&self.dir.join(gatepost_log::segment_name(record.loc.segment)), offset, 1 << self.rng.below(8));
            record.damaged = true;
        }
    }

    /// A page without the segment's header cannot be read any more.
    fn spoil(&mut self, segment: u32, page: u64) {
        if page == 0 {
            return;
        }
        self.diary.note(|| format!("the page at {page} of {segment} cannot be read any more"));
        self.disk.spoil(&self.dir.join(gatepost_log::segment_name(segment)), page);
        for record in self.records.iter_mut().filter(|r| r.loc.segment == segment && r.fate != Fate::Lost) {
            let (start, end) = (u64::from(record.loc.offset), u64::from(record.loc.offset + RECORD_HEADER) + record.payload.len() as u64);
            record.damaged |= start < page + PAGE && end > page;
        }
    }

    /// Opens until it works, with faults and crashes on the way, and compares.
    fn open(&mut self) -> Result<(), String> {
        for attempt in 0.. {
            self.chaos.before_open(&mut self.rng, &self.disk, attempt, self.diary);
            match self.try_open() {
                Ok((log, seen, recovery)) if !self.disk.dead() => {
                    self.log = Some(log);
                    self.chaos.opened(&self.disk);
                    return self.compare(&seen, &recovery.damaged);
                }
                Ok(opened) => drop(opened),
                Err(error) if !self.chaos.excuses(&self.disk) => return Err(format!("open failed without a fault: {error}")),
                Err(error) => self.diary.note(|| format!("open: {error}")),
            }
            let crash = Crash::any(&mut self.rng);
            crash.strike(&self.disk);
        }
        Ok(())
    }

    fn try_open(&mut self) -> Result<(Log, Replayed, Recovery), LogError> {
        let options = Options { segment_bytes: SEGMENT, storage: self.disk.storage(), threads: false, ..Options::new(*b"TEST") };
        let mut seen = Vec::new();
        let mut prepared = Log::prepare(&self.dir, options)?;
        let recovery = prepared.replay(Loc::NONE, &mut |loc, kind, payload| {
            seen.push((loc, kind, payload.to_vec()));
            Ok(())
        })?;
        self.told = Told::default();
        let told = Arc::clone(&self.told);
        let log = prepared.start(Box::new(move |tokens, result| told.lock().push((tokens.to_vec(), result.err().cloned()))))?;
        Ok((log, seen, recovery))
    }

    fn compare(&mut self, seen: &Replayed, damaged: &[Damage]) -> Result<(), String> {
        self.diary.note(|| format!("open: {} records, {} damaged places", seen.len(), damaged.len()));
        let known: BTreeMap<Loc, usize> =
            self.records.iter().enumerate().filter(|(_, r)| r.fate != Fate::Lost).map(|(n, r)| (r.loc, n)).collect();
        let mut there = vec![false; self.records.len()];
        let mut last = Loc::NONE;
        for (loc, kind, payload) in seen {
            let n = *known.get(loc).ok_or(format!("{loc}: a record that was never appended, or was given up"))?;
            let record = &self.records[n];
            if record.kind != *kind || record.payload != *payload {
                return Err(format!("{loc} comes back otherwise"));
            }
            if last >= *loc {
                return Err(format!("{loc} comes after {last}"));
            }
            (last, there[n]) = (*loc, true);
        }
        self.complete(&there)?;
        self.damage(&there, damaged)?;
        let mut there = there.into_iter();
        self.records.retain(|r| there.next() == Some(true) || r.damaged);
        for record in &mut self.records {
            (record.fate, record.token) = (Fate::Sure, None);
        }
        self.life += 1;
        (self.since, self.lossy) = ((0, self.records.len()), false);
        Ok(())
    }

    /// Nothing acknowledged is missing, and what is left of the last life is a prefix of it.
    fn complete(&self, there: &[bool]) -> Result<(), String> {
        let mut gap = None;
        for (record, there) in self.records.iter().zip(there) {
            if record.freed || record.damaged || self.beheaded.contains(&record.loc.segment) || record.fate == Fate::Lost {
                continue;
            }
            if record.fate == Fate::Sure && !there {
                return Err(format!("{} was acknowledged and is gone", record.loc));
            }
            if !there && record.life == self.life {
                gap.get_or_insert(record.loc);
            }
            if let Some(gap) = gap.filter(|_| *there && !self.lossy) {
                return Err(format!("{} is there and {gap} before it is not", record.loc));
            }
        }
        Ok(())
    }

    /// Every flip is reported, and nothing else.
    fn damage(&self, there: &[bool], damaged: &[Damage]) -> Result<(), String> {
        for (record, there) in self.records.iter().zip(there).filter(|(r, _)| r.damaged && !r.freed) {
            if *there {
                return Err(format!("{} is damaged and came back", record.loc));
            }
            if !damaged.iter().any(|d| covers(d, record)) && !self.beheaded.contains(&record.loc.segment) {
                return Err(format!("damage of {} is not reported", record.loc));
            }
        }
        for number in &self.beheaded {
            let file = gatepost_log::segment_name(*number);
            if !damaged.iter().any(|d| d.file == file && d.offset == 0) {
                return Err(format!("{file} cannot be read and is not reported"));
            }
        }
        let flipped = |d: &Damage| self.records.iter().any(|r| r.damaged && covers(d, r));
        let beheaded = |d: &Damage| parse_segment_name(&d.file).is_some_and(|n| self.beheaded.contains(&n));
        match damaged.iter().find(|d| !flipped(d) && !beheaded(d)) {
            Some(damage) => Err(format!("damage that never happened: {damage}")),
            None => Ok(()),
        }
    }

    /// At the end: a clean close, and all of it is there.
    fn leave(&mut self) -> Result<(), String> {
        self.chaos.calm(&self.disk);
        self.reopen()?;
        self.close()
    }
}

fn covers(damage: &Damage, record: &Record) -> bool {
    let (start, end) = (u64::from(record.loc.offset), u64::from(record.loc.offset + RECORD_HEADER) + record.payload.len() as u64);
    parse_segment_name(&damage.file) == Some(record.loc.segment) && damage.offset < end && start < damage.offset + damage.length
}
