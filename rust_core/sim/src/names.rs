//! The directories of the simulated disk. A change of names is durable once a directory it touches is synced; until then a power cut may undo it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use crate::rng::Rng;

/// What stands in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    File(u64),
    Dir,
}

/// A change that is not durable yet, in the order of the calls.
#[derive(Debug, Clone)]
enum Change {
    Add(PathBuf, Entry),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, u64),
}

/// Every name by its full path, as programs see them and as a power cut would leave them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    live: BTreeMap<PathBuf, Entry>,
    durable: BTreeMap<PathBuf, Entry>,
    dirty: Vec<Change>,
}

fn missing() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
}

impl Change {
    fn touches(&self, dir: &Path) -> bool {
        match self {
            Self::Add(path, _) | Self::Remove(path) => path.parent() == Some(dir),
            Self::Rename(from, to, _) => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Entry>) {
        match self {
            Self::Add(path, entry) => {
                names.insert(path.clone(), *entry);
            }
            Self::Remove(path) => {
                names.remove(path);
            }
            Self::Rename(from, to, inode) => {
                if names.get(from) == Some(&Entry::File(*inode)) {
                    names.remove(from);
                }
                names.insert(to.clone(), Entry::File(*inode));
            }
        }
    }
}

impl Names {
    pub fn find(&self, path: &Path) -> Option<u64> {
        match self.live.get(path) {
            Some(Entry::File(inode)) => Some(*inode),
            _ => None,
        }
    }

    pub fn check_dir(&self, dir: &Path) -> io::Result<()> {
        let root = dir.parent().is_none();
        if root || self.live.get(dir) == Some(&Entry::Dir) { Ok(()) } else { Err(missing()) }
    }

    fn carry_out(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.dirty.push(change);
    }

    pub fn create(&mut self, path: &Path, inode: u64) -> io::Result<()> {
        self.check_dir(path.parent().unwrap_or(path))?;
        if self.live.contains_key(path) {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        self.carry_out(Change::Add(path.to_owned(), Entry::File(inode)));
        Ok(())
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self.find(from).ok_or_else(missing)?;
        self.check_dir(to.parent().unwrap_or(to))?;
        self.carry_out(Change::Rename(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.find(path).ok_or_else(missing)?;
        self.carry_out(Change::Remove(path.to_owned()));
        Ok(())
    }

    pub fn make_dir(&mut self, dir: &Path) {
        if dir.parent().is_some() && !self.live.contains_key(dir) {
            self.make_dir(dir.parent().unwrap_or(dir));
            self.carry_out(Change::Add(dir.to_owned(), Entry::Dir));
        }
    }

    /// Names in a directory, ascending.
    pub fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if self.find(dir).is_some() {
            return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
        }
        self.check_dir(dir)?;
        let inside = self.live.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned()).collect())
    }

    /// Everything that was changed in `dir` is durable, a rename as a whole.
    pub fn sync(&mut self, dir: &Path) {
        for change in std::mem::take(&mut self.dirty) {
            if change.touches(dir) { change.apply(&mut self.durable) } else { self.dirty.push(change) }
        }
    }

    /// A journaling file system keeps the changes up to some point; others keep any of them.
    pub fn power_cut(&mut self, rng: &mut Rng) {
        let dirty = std::mem::take(&mut self.dirty);
        let (ordered, kept) = (rng.chance(50), rng.index(dirty.len() + 1));
        for (n, change) in dirty.iter().enumerate() {
            if if ordered { n < kept } else { rng.chance(50) } {
                change.apply(&mut self.durable);
            }
        }
        // What is in a directory that was lost is lost.
        let names = &self.durable;
        let rooted = |path: &Path| path.ancestors().skip(1).all(|dir| dir.parent().is_none() || names.get(dir) == Some(&Entry::Dir));
        self.live = names.iter().filter(|(path, _)| rooted(path)).map(|(path, entry)| (path.clone(), *entry)).collect();
        self.durable.clone_from(&self.live);
    }

    pub fn live_inodes(&self) -> BTreeSet<u64> {
        self.live.values().filter_map(Entry::inode).collect()
    }

    /// Files that have a name, or may have one again after a power cut.
    pub fn inodes(&self) -> BTreeSet<u64> {
        let dirty = self.dirty.iter().filter_map(|change| match change {
            Change::Add(_, entry) => entry.inode(),
            Change::Rename(_, _, inode) => Some(*inode),
            Change::Remove(_) => None,
        });
        self.live.values().chain(self.durable.values()).filter_map(Entry::inode).chain(dirty).collect()
    }
}

impl Entry {
    fn inode(&self) -> Option<u64> {
        match self {
            Self::File(inode) => Some(*inode),
            Self::Dir => None,
        }
    }
}
