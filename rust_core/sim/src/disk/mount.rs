//! The simulated disk as one process sees it: the calls of the storage seam, each judged by `disk` before it is carried out. Handles and locks of a
//! process that was killed fail, or do nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use gatepost_log::{LockGuard, Storage, StorageFile};

use super::{Call, Disk, Inner, Verdict, error, name_of};
use crate::inode::Inode;

/// What the caller is told of a call that was carried out.
fn told<T>(heard: bool, value: T) -> io::Result<T> {
    if heard { Ok(value) } else { Err(error(libc::EIO)) }
}

struct SimFile {
    disk: Disk,
    inode: u64,
    life: u64,
    path: PathBuf,
}

impl SimFile {
    fn open(disk: &Disk, inner: &mut Inner, inode: u64, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        inner.inode(inode)?.handles += 1;
        Ok(Box::new(Self { disk: disk.clone(), inode, life: inner.life, path: path.to_owned() }))
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut inner = self.disk.0.lock();
        if inner.life == self.life {
            if let Some(inode) = inner.inodes.get_mut(&self.inode) {
                inode.handles -= 1;
            }
            inner.drop_nameless();
        }
    }
}

impl StorageFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut inner = self.disk.0.lock();
        let heard = inner.gate(self.life, Call::Read, &self.path)?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let inode = inner.inode(self.inode)?;
        if inode.spoilt(offset, buf.len()) {
            return Err(error(libc::EIO));
        }
        let n = inode.read(buf, offset);
        told(heard, n)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut guard = self.disk.0.lock();
        let inner = &mut *guard;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let (mut through, mut outcome) = match inner.judge(self.life, Call::Write, &name_of(&self.path), data) {
            Verdict::Fine => (data.len(), Ok(())),
            Verdict::Fails(e, partial) => (partial.unwrap_or_else(|| inner.rng.index(data.len() + 1)).min(data.len()), Err(e)),
            Verdict::Last => (inner.rng.index(data.len() + 1), Err(error(libc::EIO))),
        };
        let len = inner.inode(self.inode)?.len();
        if let Err(full) = inner.room((offset + through).saturating_sub(len) as u64) {
            // As much as fits: what was there already, and a part of what is free.
            through = through.min(len.saturating_sub(offset));
            outcome = Err(full);
        }
        inner.inode(self.inode)?.write(&data[..through], offset);
        outcome
    }

    fn sync(&self) -> io::Result<()> {
        let mut guard = self.disk.0.lock();
        let inner = &mut *guard;
        let rng = &mut inner.rng.clone();
        inner.rng.draw();
        match inner.judge(self.life, Call::Sync, &name_of(&self.path), &[]) {
            Verdict::Fine => inner.inode(self.inode)?.sync(),
            // The power cut decides about what is dirty.
            Verdict::Last => return Err(error(libc::EIO)),
            Verdict::Fails(e, _) => {
                if self.life == inner.life && !inner.dead {
                    inner.inode(self.inode)?.fail_sync(rng);
                }
                return Err(e);
            }
        }
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut inner = self.disk.0.lock();
        let heard = inner.gate(self.life, Call::Allocate, &self.path)?;
        let now = inner.inode(self.inode)?.len() as u64;
        inner.room(len.saturating_sub(now))?;
        if len > now {
            inner.inode(self.inode)?.set_len(usize::try_from(len).unwrap_or(usize::MAX));
        }
        told(heard, ())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut inner = self.disk.0.lock();
        let heard = inner.gate(self.life, Call::Truncate, &self.path)?;
        inner.inode(self.inode)?.set_len(usize::try_from(len).unwrap_or(usize::MAX));
        told(heard, ())
    }

    fn len(&self) -> io::Result<u64> {
        let mut inner = self.disk.0.lock();
        let heard = inner.gate(self.life, Call::Len, &self.path)?;
        let len = inner.inode(self.inode)?.len() as u64;
        told(heard, len)
    }
}

struct SimLock {
    disk: Disk,
    path: PathBuf,
    life: u64,
}

impl LockGuard for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut inner = self.disk.0.lock();
        if inner.life == self.life {
            inner.locks.remove(&self.path);
        }
    }
}

/// The disk as one process sees it.
pub(super) struct Mount {
    disk: Disk,
    life: u64,
}

impl Mount {
    pub fn new(disk: &Disk, life: u64) -> Self {
        Self { disk: disk.clone(), life }
    }
}

impl Storage for Mount {
    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        let mut inner = self.disk.0.lock();
        let life = self.life;
        let heard = inner.gate(life, Call::Create, path)?;
        let number = inner.next_inode;
        inner.names.create(path, number)?;
        inner.next_inode += 1;
        inner.inodes.insert(number, Inode::default());
        let file = SimFile::open(&self.disk, &mut inner, number, path)?;
        drop(inner);
        told(heard, file)
    }

    fn open(&self, path: &Path, _write: bool) -> io::Result<Box<dyn StorageFile>> {
        let mut inner = self.disk.0.lock();
        let life = self.life;
        let heard = inner.gate(life, Call::Open, path)?;
        let number = inner.names.find(path).ok_or_else(|| error(libc::ENOENT))?;
        let file = SimFile::open(&self.disk, &mut inner, number, path)?;
        drop(inner);
        told(heard, file)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.disk.0.lock();
        let life = self.life;
        let heard = inner.gate(life, Call::Rename, to)?;
        inner.names.rename(from, to)?;
        inner.drop_nameless();
        told(heard, ())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.disk.0.lock();
        let life = self.life;
        let heard = inner.gate(life, Call::Remove, path)?;
        inner.names.remove(path)?;
        inner.drop_nameless();
        told(heard, ())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut inner = self.disk.0.lock();
        let life = self.life;
        let heard = inner.gate(life, Call::List, dir)?;
        let names = inner.names.list(dir)?;
        told(heard, names)
    }

    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.disk.0.lock();
        let life = self.life;
        let heard = inner.gate(life, Call::MakeDir, dir)?;
        inner.names.make_dir(dir);
        told(heard, ())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.disk.0.lock();
        let life = self.life;
        let heard = inner.gate(life, Call::SyncDir, dir)?;
        inner.names.check_dir(dir)?;
        inner.names.sync(dir);
        inner.drop_nameless();
        told(heard, ())
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let mut inner = self.disk.0.lock();
        let life = self.life;
        let heard = inner.gate(life, Call::FreeBytes, dir)?;
        let free = inner.capacity.map_or(1 << 40, |capacity| capacity.saturating_sub(inner.used()));
        inner.most_told = inner.most_told.max(free);
        told(heard, free)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        let mut inner = self.disk.0.lock();
        let life = self.life;
        let heard = inner.gate(life, Call::Lock, path)?;
        if !inner.locks.insert(path.to_owned()) {
            return Err(error(libc::EWOULDBLOCK));
        }
        if inner.names.find(path).is_none() {
            let number = inner.next_inode;
            inner.next_inode += 1;
            inner.names.create(path, number)?;
            inner.inodes.insert(number, Inode::default());
        }
        drop(inner);
        told(heard, Box::new(SimLock { disk: self.disk.clone(), path: path.to_owned(), life }) as Box<dyn LockGuard>)
    }

    fn now(&self) -> Instant {
        let inner = self.disk.0.lock();
        inner.start + inner.elapsed
    }
}
