//! What goes wrong in a history, and when: shared by the histories of the log and of the spool.

use crate::disk::{Call, Disk, Fault};
use crate::history::Diary;
use crate::rng::Rng;

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The process dies, the machine does not.
    Kill,
    PowerCut,
}

impl Crash {
    pub fn any(rng: &mut Rng) -> Self {
        if rng.chance(40) { Self::Kill } else { Self::PowerCut }
    }

    pub fn strike(self, disk: &Disk) {
        match self {
            Self::Kill => disk.kill(),
            Self::PowerCut => disk.power_cut(),
        }
    }
}

/// Which troubles this history has. Each is left out of many histories, so that strict expectations are tested too.
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct Chaos {
    errors: bool,
    full: bool,
    decay: bool,
    /// Percent of the steps in which something more goes wrong, for want of space.
    pub crowded: u64,
    /// Free octets below which mail is to be refused, and at which it is to be taken again; or 0.
    pub least_free: (u64, u64),
    /// Faults or a limit were set since the last opening, so calls may fail.
    troubled: bool,
}

/// Calls and error numbers with which they fail in practice.
const TROUBLES: [(Call, i32); 18] = [
    (Call::Write, libc::EIO),
    (Call::Sync, libc::EIO),
    (Call::SyncDir, libc::EIO),
    (Call::Rename, libc::EIO),
    (Call::Remove, libc::EIO),
    (Call::Read, libc::EIO),
    (Call::Open, libc::EIO),
    (Call::Open, libc::EMFILE),
    (Call::Create, libc::EIO),
    (Call::Create, libc::EMFILE),
    (Call::Allocate, libc::EIO),
    (Call::Truncate, libc::EIO),
    (Call::List, libc::EIO),
    (Call::Len, libc::EIO),
    (Call::Write, libc::ENOSPC),
    (Call::Allocate, libc::ENOSPC),
    (Call::Create, libc::ENOSPC),
    (Call::Rename, libc::ENOSPC),
];
const FULL_FROM: usize = 14;

impl Chaos {
    pub fn new(rng: &mut Rng) -> Self {
        let (errors, full, decay) = (rng.chance(50), rng.chance(50), rng.chance(30));
        let crowded = if full && rng.chance(50) { 8 } else { 0 };
        let least_free = if full && rng.chance(50) { (96 << 10, 150 << 10) } else { (0, 0) };
        Self { errors, full, decay, crowded, least_free, troubled: false }
    }

    /// An error may be the fault of the disk.
    pub fn excuses(&self, disk: &Disk) -> bool {
        self.troubled || disk.dead()
    }

    pub fn decays(&self, rng: &mut Rng) -> bool {
        self.decay && rng.chance(50)
    }

    /// Something bad begins, or all that was bad ends.
    pub fn trouble(&mut self, rng: &mut Rng, disk: &Disk, diary: &mut Diary) {
        match rng.below(4) {
            0 => {
                let calls = 1 + rng.below(40);
                diary.note(|| format!("power goes in {calls} calls"));
                disk.cut_power_at(Some(calls));
                self.troubled = true;
            }
            1 if self.errors || self.full => self.fault(rng, disk, diary),
            2 | 3 if self.full && (rng.chance(50) || self.crowded > 0) => {
                let room = rng.below(300 << 10);
                diary.note(|| format!("room for {room} more octets"));
                disk.set_capacity(Some(disk.used() + room));
                self.troubled = true;
            }
            _ => {
                diary.note(|| "the disk is sound again".into());
                disk.mend();
                disk.set_capacity(None);
            }
        }
    }

    fn fault(&mut self, rng: &mut Rng, disk: &Disk, diary: &mut Diary) {
        let choice = match (self.errors, self.full) {
            (true, true) => &TROUBLES[..],
            (true, false) => &TROUBLES[..FULL_FROM],
            _ => &TROUBLES[FULL_FROM..],
        };
        let (call, errno) = choice[rng.index(choice.len())];
        let (after, times) = (rng.below(6), 1 + rng.below(3));
        diary.note(|| format!("{call:?} fails with {errno}, {times} times after {after}"));
        disk.fail(Fault { after, times, ..Fault::new(call, errno) });
        self.troubled = true;
    }

    /// The next opening may go wrong as well, but not for ever.
    pub fn before_open(&mut self, rng: &mut Rng, disk: &Disk, attempt: u32, diary: &mut Diary) {
        self.calm(disk);
        if attempt < 3 && rng.chance(20) {
            match rng.below(2) {
                0 => {
                    let calls = 1 + rng.below(30);
                    diary.note(|| format!("power goes in {calls} calls of the opening"));
                    disk.cut_power_at(Some(calls));
                    self.troubled = true;
                }
                _ if self.errors || self.full => self.fault(rng, disk, diary),
                _ => {}
            }
        }
    }

    /// The log is open: what failed on the way there fails no more.
    pub fn opened(&mut self, disk: &Disk) {
        self.calm(disk);
    }

    /// Nothing goes wrong from now on.
    pub fn calm(&mut self, disk: &Disk) {
        disk.mend();
        disk.cut_power_at(None);
        disk.set_capacity(None);
        self.troubled = false;
    }
}
