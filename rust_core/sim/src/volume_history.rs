//! Random histories of a mailbox volume whose logs are on the simulated disk: deliveries by two processes, flags, copies, moves, expunges, upkeep, faults
//! and crashes. The index is `SQLite` on real files; a power cut may throw it back, or lose it.
//!
//! After every opening: what was acknowledged is there, a delivery exactly once however often it was tried, octet for octet; an operation that failed was
//! carried out or not. Where life goes on after a failure, what is seen then stays so. Everything follows from the seed, but for ids and times.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use gatepost_store::{
    Delivery, Edit, FolderInfo, Id, Mode, Result as Stored, Source, StoreError, StoredMessage, Volume, VolumeOptions, new_id, parse_flags,
};

use crate::chaos::{Chaos, Crash};
use crate::disk::Disk;
use crate::history::{Diary, Limits};
use crate::rng::Rng;

mod folders;
mod index;

const STREAMS: [&str; 2] = ["w0", "w1"];
const FOLDERS: [&str; 2] = ["INBOX", "kept"];
/// The second of them is there.
const FOLDER: (usize, u64, BTreeSet<String>) = (1, 0, BTreeSet::new());
/// Fewer steps than the other histories have: each waits for `SQLite`.
const STEPS_SHARE: u64 = 4;

/// What is in the mailbox: folder, number of the message, flags. Copies stand there as often as they are. Number 0 says that the folder itself is there,
/// for the one that comes and goes.
type Mail = Vec<(usize, u64, BTreeSet<String>)>;

/// Not asked for, or not answered, deliveries.
struct Job {
    delivery: Delivery,
    number: u64,
}

/// The spool, as the volume sees it; and what happens to the mailbox while it is read.
struct Octets(BTreeMap<Id, Vec<u8>>, Mutex<Option<(Arc<Volume>, Id)>>);

impl Source for Octets {
    fn read(&self, id: &Id, _edits: &[Edit], limit: usize, each: &mut dyn FnMut(&[u8]) -> Stored<()>) -> Stored<()> {
        if let Some((volume, mailbox)) = self.1.lock().take() {
            volume.delete_mailbox(&mailbox)?;
        }
        self.0.get(id).map_or(Err(StoreError::NotFound("no such message".into())), |octets| octets.chunks(limit).try_for_each(each))
    }
}

struct Run<'a> {
    rng: Rng,
    disk: Disk,
    dir: PathBuf,
    chaos: Chaos,
    diary: &'a mut Diary,
    volumes: Vec<Arc<Volume>>,
    mailbox: Id,
    /// All states that are possible now; one, unless something failed.
    mail: Vec<Mail>,
    octets: Octets,
    jobs: Vec<Job>,
    count: u64,
    /// The index as it was once, since the last upkeep.
    former: Option<PathBuf>,
    /// The mailbox is to be deleted while the next message is read.
    deletes: bool,
    /// The index takes no change.
    index_refuses: bool,
    /// A log is closed for good: only an opening tells what became of what failed.
    broken: bool,
}

/// Runs one history. The error says what was wrong.
pub(crate) fn run(seed: u64, limits: &Limits, diary: &mut Diary) -> Result<(), String> {
    let root = Scratch::new()?;
    let mut rng = Rng::new(seed);
    let disk = Disk::new(rng.draw());
    let chaos = Chaos::new(&mut rng);
    let mut run = Run {
        rng,
        disk,
        dir: root.0.join("volume"),
        chaos,
        diary,
        volumes: Vec::new(),
        mailbox: new_id(),
        mail: vec![Mail::new()],
        octets: Octets(BTreeMap::new(), Mutex::default()),
        jobs: Vec::new(),
        count: 0,
        former: None,
        deletes: false,
        index_refuses: false,
        broken: false,
    };
    run.open()?;
    let steps = run.rng.below(limits.steps / STEPS_SHARE) + 1;
    for n in 0..steps.min(limits.cut) {
        run.diary.step(n);
        run.step()?;
    }
    run.end()
}

/// A directory of its own, in memory where there is such a place.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, String> {
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let path = root.join(format!("gatepost-sim-{:032x}", u128::from_be_bytes(new_id())));
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn text(number: u64, length: usize) -> Vec<u8> {
    let mut text = format!("Subject: {number}\r\n\r\n").into_bytes();
    text.extend((0..length).map(|n| b'a' + ((number as usize * 7 + n / 11 + n) % 26) as u8));
    text
}

impl Run<'_> {
    fn volume(&mut self) -> Arc<Volume> {
        let n = self.rng.index(self.volumes.len());
        Arc::clone(&self.volumes[n])
    }

    fn step(&mut self) -> Result<(), String> {
        match self.rng.below(100) {
            0..74 => self.change()?,
            74..80 => self.remember()?,
            80..86 => self.look()?,
            86..92 => self.chaos.trouble(&mut self.rng, &self.disk, self.diary),
            _ => {
                let crash = Crash::any(&mut self.rng);
                self.crash(crash)?;
            }
        }
        if self.disk.dead() {
            self.crash(Crash::PowerCut)?;
        } else if self.mail.len() > 1 && !self.lives_on()? {
            let crash = Crash::any(&mut self.rng);
            self.crash(crash)?;
        }
        Ok(())
    }

    fn change(&mut self) -> Result<(), String> {
        let kind = self.rng.below(74);
        // Not during upkeep: the snapshot would refuse as well.
        self.index_refuses = kind < 69 && self.rng.chance(5);
        if self.index_refuses {
            self.refuse_in_index()?;
        }
        let done = match kind {
            0..34 => self.deliver(),
            34..49 => self.flags(),
            49..58 => self.copy(),
            58..66 => self.expunge(),
            66..69 => self.folders(),
            _ => {
                self.upkeep();
                Ok(())
            }
        };
        if std::mem::take(&mut self.index_refuses) {
            self.accept_in_index()?;
        }
        done
    }

    /// Some new messages and some that were tried before, perhaps with success.
    fn deliver(&mut self) -> Result<(), String> {
        for _ in 0..=self.rng.below(3) {
            self.count += 1;
            let (number, id) = (self.count, new_id());
            let length = if self.rng.chance(15) { self.rng.index(120_000) } else { self.rng.index(9_000) };
            self.octets.0.insert(id, text(number, length));
            let folder = FOLDERS[self.rng.index(2)].to_owned();
            self.jobs.push(Job {
                delivery: Delivery { message_id: id, recipient: 0, mailbox: self.mailbox, folder, prefix: Vec::new(), edits: Vec::new() },
                number,
            });
        }
        let chosen: Vec<usize> = (0..self.jobs.len()).filter(|n| *n + 4 >= self.jobs.len() || self.rng.chance(10)).collect();
        let batch: Vec<Delivery> = chosen.iter().map(|n| self.jobs[*n].delivery.clone()).collect();
        self.delete_meanwhile();
        let results = self.volume().deliver(&self.octets, &batch);
        self.deleted_meanwhile();
        self.diary.note(|| format!("deliver {:?}: {results:?}", chosen.iter().map(|n| self.jobs[*n].number).collect::<Vec<_>>()));
        let failed = results.iter().any(std::result::Result::is_err);
        self.broken |= results.iter().any(|result| matches!(result, Err(StoreError::SyncFailed(_))));
        self.excused(failed, "a delivery")?;
        for (n, result) in chosen.into_iter().zip(results) {
            self.arrive(n, result.is_ok());
        }
        Ok(())
    }

    /// Job `n` was answered. One that succeeded stays in the list, to be tried again now and then.
    fn arrive(&mut self, n: usize, sure: bool) {
        let job = &self.jobs[n];
        let folder = FOLDERS.iter().position(|name| *name == job.delivery.folder).unwrap_or(0);
        let entry = |mail: &Mail| (if folder == 0 || mail.contains(&FOLDER) { folder } else { 0 }, job.number, BTreeSet::new());
        let known = |mail: &Mail| mail.iter().any(|(_, number, _)| *number == job.number);
        let ever = self.known(job.number);
        let mut more = Vec::new();
        for mail in &mut self.mail {
            if ever || known(mail) {
                continue;
            }
            let without = mail.clone();
            mail.push(entry(&without));
            mail.sort();
            if !sure {
                more.push(without);
            }
        }
        self.mail.append(&mut more);
        if sure {
            self.octets.0.entry(job_mark(job.number)).or_default();
        }
    }

    /// It was delivered for sure once; what became of it since is in the model.
    fn known(&self, number: u64) -> bool {
        self.octets.0.contains_key(&job_mark(number))
    }

    fn excused(&self, failed: bool, what: &str) -> Result<(), String> {
        if failed && !self.index_refuses && !self.chaos.excuses(&self.disk) {
            Err(format!("{what} failed without a fault"))
        } else {
            Ok(())
        }
    }

    /// An operation for which the model knows the state after: that, or the one before if it failed.
    fn done(&mut self, what: &str, result: &Result<(), StoreError>, after: Mail) -> Result<(), String> {
        self.diary.note(|| format!("{what}: {result:?}"));
        self.excused(result.is_err(), what)?;
        self.broken |= matches!(result, Err(StoreError::SyncFailed(_)));
        if result.is_ok() {
            self.mail.clear();
        }
        self.mail.push(after);
        Ok(())
    }

    fn folder(&self, volume: &Volume, n: usize) -> Option<FolderInfo> {
        volume.folders(&self.mailbox).ok()?.into_iter().find(|folder| folder.name == FOLDERS[n])
    }

    /// Some messages of a folder: their UIDs and the numbers in them.
    fn some(&mut self, volume: &Arc<Volume>, folder: &FolderInfo) -> Option<Vec<(i64, u64)>> {
        let mut found = Vec::new();
        for info in volume.messages(&folder.id, 0).ok()? {
            if self.rng.chance(40) {
                found.push((info.uid, number_of(&octets_of(volume, &folder.id, info.uid).ok()?)?));
            }
        }
        Some(found).filter(|found| !found.is_empty())
    }

    fn flags(&mut self) -> Result<(), String> {
        let (volume, n) = (self.volume(), self.rng.index(2));
        let Some(folder) = self.folder(&volume, n) else { return Ok(()) };
        let flag = ["\\Seen", "\\Deleted", "key"][self.rng.index(3)].to_owned();
        // Of copies of one message it could not be said which is meant.
        let Some(chosen) = self.some(&volume, &folder) else { return Ok(()) };
        let single = |number: u64| self.mail[0].iter().filter(|(f, other, _)| *f == n && *other == number).count() == 1;
        let chosen: Vec<(i64, u64)> = chosen.into_iter().filter(|(_, number)| single(*number)).collect();
        let uids: Vec<i64> = chosen.iter().map(|(uid, _)| *uid).collect();
        let parsed = parse_flags(std::slice::from_ref(&flag)).map_err(|error| error.to_string())?;
        let mut after = self.mail[0].clone();
        for (f, number, flags) in &mut after {
            if *f == n && chosen.iter().any(|(_, other)| other == number) {
                flags.insert(flag.clone());
            }
        }
        after.sort();
        let result = volume.store_flags(&folder.id, &uids, Mode::Add, &parsed, None).map(drop);
        self.done(&format!("{flag} for {chosen:?}"), &result, after)
    }

    fn copy(&mut self) -> Result<(), String> {
        let (volume, n, moving) = (self.volume(), self.rng.index(2), self.rng.chance(50));
        let (Some(from), Some(to)) = (self.folder(&volume, n), self.folder(&volume, 1 - n)) else { return Ok(()) };
        let Some(chosen) = self.some(&volume, &from) else { return Ok(()) };
        let mut after = self.mail[0].clone();
        let single = |number: u64| after.iter().filter(|(f, other, _)| *f == n && *other == number).count() == 1;
        let chosen: Vec<(i64, u64)> = chosen.into_iter().filter(|(_, number)| single(*number)).collect();
        for (_, number) in &chosen {
            let Some(at) = after.iter().position(|(f, other, _)| *f == n && other == number) else { continue };
            let mut copy = if moving { after.remove(at) } else { after[at].clone() };
            copy.0 = 1 - n;
            after.push(copy);
        }
        after.sort();
        let uids: Vec<i64> = chosen.iter().map(|(uid, _)| *uid).collect();
        let result = volume.copy(&from.id, &uids, &to.id, moving).map(drop);
        self.done(&format!("copy {chosen:?}, moving: {moving}"), &result, after)
    }

    fn expunge(&mut self) -> Result<(), String> {
        let (volume, n) = (self.volume(), self.rng.index(2));
        let Some(folder) = self.folder(&volume, n) else { return Ok(()) };
        let mut after = self.mail[0].clone();
        after.retain(|(f, _, flags)| *f != n || !flags.contains("\\Deleted"));
        let result = volume.expunge(&folder.id, None).map(drop);
        self.done("expunge", &result, after)
    }

    fn upkeep(&mut self) {
        let (volume, force) = (self.volume(), self.rng.chance(50));
        let result = volume.maintain(force);
        self.diary.note(|| format!("upkeep, forced: {force}: {result:?}"));
        // It may have brought the index onto the disk.
        self.former = None;
    }

    /// The index as it is now may be what a power cut throws it back to.
    fn remember(&mut self) -> Result<(), String> {
        let to = self.dir.with_file_name("former");
        let _ = std::fs::remove_dir_all(&to);
        std::fs::create_dir_all(&to).map_err(|error| error.to_string())?;
        copy_index(&self.dir, &to)?;
        self.former = Some(to);
        Ok(())
    }

    fn crash(&mut self, crash: Crash) -> Result<(), String> {
        let choice = self.rng.below(3);
        self.diary.note(|| format!("crash: {crash:?} after {} calls, index {choice}", self.disk.calls()));
        crash.strike(&self.disk);
        self.volumes.clear();
        self.broken = false;
        match (crash, choice, self.former.take()) {
            (Crash::PowerCut, 0, Some(former)) => copy_index(&former, &self.dir)?,
            (_, 1, _) => forget_index(&self.dir),
            _ => {}
        }
        self.open()
    }

    /// Opens both until it works, with faults and crashes on the way, and compares.
    fn open(&mut self) -> Result<(), String> {
        for attempt in 0.. {
            self.chaos.before_open(&mut self.rng, &self.disk, attempt, self.diary);
            match self.try_open() {
                Ok(()) if !self.disk.dead() => {
                    self.chaos.opened(&self.disk);
                    return self.recovered();
                }
                Ok(()) => {}
                Err(error) if !self.chaos.excuses(&self.disk) => return Err(format!("open failed without a fault: {error}")),
                Err(error) => self.diary.note(|| format!("open: {error}")),
            }
            Crash::any(&mut self.rng).strike(&self.disk);
            self.volumes.clear();
        }
        Ok(())
    }

    fn try_open(&mut self) -> Result<(), StoreError> {
        let mut streams = STREAMS.to_vec();
        if self.rng.chance(50) {
            streams.reverse();
        }
        if self.rng.chance(25) {
            // The other's worker is gone.
            streams.truncate(1);
        }
        for stream in streams {
            let storage = self.disk.storage();
            let options = VolumeOptions { segment_bytes: 64 << 10, storage, threads: false, ..VolumeOptions::new(stream) };
            self.volumes.push(Arc::new(Volume::open(&self.dir, &options)?));
        }
        self.volumes[0].ensure_mailbox(&self.mailbox)?;
        match self.volumes[0].create_folder(&self.mailbox, FOLDERS[1], "") {
            Err(error) if !matches!(error, StoreError::Exists(_)) => Err(error),
            _ => Ok(()),
        }
    }

    /// What there is, is one of the states that may be.
    fn recovered(&mut self) -> Result<(), String> {
        for volume in &self.volumes {
            if let Some(damage) = volume.recovery.damaged.first() {
                return Err(format!("damage that never happened: {damage}"));
            }
        }
        let seen = self.seen()?;
        self.diary.note(|| format!("open: {} messages", seen.len()));
        for mail in self.mail.iter_mut().filter(|mail| !mail.contains(&FOLDER)) {
            // Opening makes it.
            mail.push(FOLDER);
            mail.sort();
        }
        self.is(seen)
    }

    /// All that is seen: one of the states that may be, and from now on the only one.
    fn is(&mut self, seen: Mail) -> Result<(), String> {
        if !self.mail.contains(&seen) {
            return Err(format!("there is {seen:?}, none of {:?}", self.mail));
        }
        for (_, number, _) in &seen {
            self.octets.0.entry(job_mark(*number)).or_default();
        }
        self.mail = vec![seen];
        Ok(())
    }

    /// All there is, with its octets compared.
    fn seen(&self) -> Result<Mail, String> {
        let told = |error: StoreError| error.to_string();
        let volume = self.volumes.last().ok_or("no volume is open")?;
        let mut seen = Mail::new();
        for folder in volume.folders(&self.mailbox).map_err(told)? {
            // Every mailbox has some more, into which nothing is put.
            let Some(n) = FOLDERS.iter().position(|name| *name == folder.name) else { continue };
            seen.extend((n == FOLDER.0).then_some(FOLDER));
            for info in volume.messages(&folder.id, 0).map_err(told)? {
                let octets = octets_of(volume, &folder.id, info.uid).map_err(told)?;
                let number = number_of(&octets).ok_or("octets that nobody delivered")?;
                if !self.octets.0.values().any(|known| *known == octets) {
                    return Err(format!("{number} reads back otherwise"));
                }
                seen.push((n, number, info.flag_words().into_iter().filter(|word| word != "\\Recent").collect()));
            }
        }
        seen.sort();
        Ok(seen)
    }

    fn look(&mut self) -> Result<(), String> {
        if self.chaos.excuses(&self.disk) || self.mail.len() > 1 {
            return Ok(());
        }
        let seen = self.seen()?;
        if self.mail[0] == seen { Ok(()) } else { Err(format!("there is {seen:?}, not {:?}", self.mail[0])) }
    }

    /// A last crash; everything is delivered again, then all goes, and with it all space but what a stream keeps.
    fn end(&mut self) -> Result<(), String> {
        self.diary.note(|| "the end".into());
        self.crash(Crash::PowerCut)?;
        self.chaos.calm(&self.disk);
        let batch: Vec<Delivery> = self.jobs.iter().map(|job| job.delivery.clone()).collect();
        let results = self.volume().deliver(&self.octets, &batch);
        for (n, result) in results.into_iter().enumerate() {
            result.map_err(|error| format!("at the end: {error}"))?;
            self.arrive(n, true);
        }
        self.look()
    }
}

/// Under this id the octets of nothing stand for: this number was delivered.
fn job_mark(number: u64) -> Id {
    let mut id = [0xff; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    id
}

fn octets_of(volume: &Arc<Volume>, folder: &Id, uid: i64) -> Stored<Vec<u8>> {
    let mut message = StoredMessage::open(volume, folder, uid)?;
    let mut octets = Vec::new();
    loop {
        let piece = message.read(1 << 20)?;
        if piece.is_empty() {
            return Ok(octets);
        }
        octets.extend(piece);
    }
}

fn number_of(octets: &[u8]) -> Option<u64> {
    let line = octets.split(|octet| *octet == b'\r').next()?;
    std::str::from_utf8(line).ok()?.strip_prefix("Subject: ")?.parse().ok()
}

fn forget_index(dir: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(dir.join(format!("index.db{suffix}")));
    }
}

fn copy_index(from: &Path, to: &Path) -> Result<(), String> {
    forget_index(to);
    for name in ["index.db", "index.db-wal"] {
        match std::fs::copy(from.join(name), to.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(format!("copy {name}: {error}")),
            _ => {}
        }
    }
    Ok(())
}
