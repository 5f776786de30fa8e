//! Mailboxes and folders: making, naming, deleting, listing.

use gatepost_log::Loc;
use rusqlite::Connection;

use crate::apply::new_mailbox;
use crate::error::{Result, StoreError};
use crate::id::{Id, hex, new_id};
use crate::info::{self, FolderInfo, MessageInfo};
use crate::lock::{FileLock, try_lock};
use crate::names;
use crate::records::{Op, Row};
use crate::volume::{Change, Volume};

/// Folders of one mailbox.
const FOLDERS_MAX: usize = 10_000;

impl Volume {
    /// Make the mailbox with INBOX and the special-use folders, if it does not exist.
    pub fn ensure_mailbox(&self, mailbox: &Id) -> Result<()> {
        if self.read(|db| info::folder_by_name(db, mailbox, "INBOX"))?.is_some() {
            return Ok(());
        }
        self.change(|change| {
            if info::folder_by_name(change.db(), mailbox, "INBOX")?.is_none() {
                for op in new_mailbox(mailbox) {
                    change.op(op)?;
                }
            }
            Ok(())
        })
    }

    /// Remove the mailbox and all its messages. A mailbox that does not exist is removed already.
    pub fn delete_mailbox(&self, mailbox: &Id) -> Result<()> {
        self.change(|change| {
            if info::folders(change.db(), mailbox)?.is_empty() {
                return Ok(());
            }
            change.op(Op::DeleteMailbox { mailbox: *mailbox })
        })
    }

    /// (octets, messages)
    pub fn mailbox_usage(&self, mailbox: &Id) -> Result<(i64, i64)> {
        let folders = self.read(|db| info::folders(db, mailbox))?;
        Ok(folders.iter().fold((0, 0), |(octets, messages), f| (octets + f.octets, messages + f.messages)))
    }

    /// POP3's exclusive lock (RFC 1939 4). `None` when another session, of this process or another, holds it.
    pub fn lock_mailbox(&self, mailbox: &Id) -> Result<Option<FileLock>> {
        self.check_open()?;
        try_lock(&self.dir.join("locks").join(hex(mailbox)))
    }

    /// All folders by name.
    pub fn folders(&self, mailbox: &Id) -> Result<Vec<FolderInfo>> {
        self.read(|db| info::folders(db, mailbox))
    }

    /// One folder by name.
    pub fn folder(&self, mailbox: &Id, name: &str) -> Result<FolderInfo> {
        let normal = names::normalise(name)?;
        self.read(|db| existing(db, mailbox, &normal))
    }

    /// Make a folder and its missing parents; returns its id.
    pub fn create_folder(&self, mailbox: &Id, name: &str, special: &str) -> Result<Id> {
        let normal = names::normalise(name)?;
        if !special.is_empty() && !names::SPECIAL.iter().any(|(_, s)| *s == special) {
            return Err(StoreError::Invalid(format!("special use {special:?}")));
        }
        self.change(|change| {
            let folders = info::folders(change.db(), mailbox)?;
            let exists = |name: &str| folders.iter().any(|f| f.name == name);
            if exists(&normal) {
                return Err(StoreError::Exists(normal.clone()));
            }
            if folders.len() >= FOLDERS_MAX {
                return Err(StoreError::Invalid("the mailbox has too many folders".into()));
            }
            for parent in names::parents(&normal).into_iter().filter(|p| !exists(p)) {
                change.op(create(mailbox, new_id(), parent, ""))?;
            }
            let id = new_id();
            change.op(create(mailbox, id, &normal, special))?;
            Ok(id)
        })
    }

    /// Rename a folder and those below it. Renaming INBOX moves its messages to the new folder and leaves it empty (RFC 3501 6.3.5).
    pub fn rename_folder(&self, mailbox: &Id, name: &str, new_name: &str) -> Result<()> {
        let (old, new) = (names::normalise(name)?, names::normalise(new_name)?);
        self.change(|change| {
            let folder = existing(change.db(), mailbox, &old)?;
            let folders = info::folders(change.db(), mailbox)?;
            if folders.iter().any(|f| f.name == new) {
                return Err(StoreError::Exists(new.clone()));
            }
            if new.strip_prefix(&old).is_some_and(|rest| rest.starts_with('/')) {
                return Err(StoreError::Invalid("a folder cannot be moved below itself".into()));
            }
            for parent in names::parents(&new).into_iter().filter(|p| !folders.iter().any(|f| f.name == **p)) {
                change.op(create(mailbox, new_id(), parent, ""))?;
            }
            if old == "INBOX" {
                return move_inbox(self, change, mailbox, &folder, &new);
            }
            change.op(Op::Rename { folder: folder.id, name: new.clone() })?;
            for below in &folders {
                if let Some(rest) = below.name.strip_prefix(&old).filter(|rest| rest.starts_with('/')) {
                    let moved = names::normalise(&format!("{new}{rest}"))?;
                    if folders.iter().any(|f| f.name == moved) {
                        return Err(StoreError::Exists(moved));
                    }
                    change.op(Op::Rename { folder: below.id, name: moved })?;
                }
            }
            Ok(())
        })
    }

    /// Delete a folder with its messages; those below it stay (RFC 3501 6.3.4). INBOX cannot be deleted (`Invalid`).
    pub fn delete_folder(&self, mailbox: &Id, name: &str) -> Result<()> {
        let normal = names::normalise(name)?;
        if normal == "INBOX" {
            return Err(StoreError::Invalid("INBOX cannot be deleted".into()));
        }
        self.change(|change| {
            let folder = existing(change.db(), mailbox, &normal)?;
            for message in info::messages_since(change.db(), folder.key, 0)? {
                change.op(Op::Expunge { msg: message.msg })?;
            }
            change.op(Op::DeleteFolder { folder: folder.id })
        })
    }

    /// Set whether a folder is subscribed.
    pub fn subscribe(&self, mailbox: &Id, name: &str, subscribed: bool) -> Result<()> {
        let normal = names::normalise(name)?;
        self.change(|change| {
            let folder = existing(change.db(), mailbox, &normal)?;
            if folder.subscribed == subscribed {
                return Ok(());
            }
            change.op(Op::Subscribe { folder: folder.id, subscribed })
        })
    }
}

fn create(mailbox: &Id, folder: Id, name: &str, special: &str) -> Op {
    Op::CreateFolder { mailbox: *mailbox, folder, name: name.to_owned(), special: special.to_owned(), subscribed: false }
}

fn existing(db: &Connection, mailbox: &Id, name: &str) -> Result<FolderInfo> {
    info::folder_by_name(db, mailbox, name)?.ok_or_else(|| StoreError::NotFound(format!("no folder {name}")))
}

fn move_inbox(volume: &Volume, change: &mut Change<'_>, mailbox: &Id, inbox: &FolderInfo, new: &str) -> Result<()> {
    let id = new_id();
    change.op(create(mailbox, id, new, ""))?;
    for message in info::messages_since(change.db(), inbox.key, 0)? {
        let row = copy_of(volume, change.db(), &message)?;
        change.op(Op::Insert { folder: id, row })?;
        change.op(Op::Expunge { msg: message.msg })?;
    }
    Ok(())
}

/// A new row for the same content.
pub(crate) fn copy_of(volume: &Volume, db: &Connection, message: &MessageInfo) -> Result<Row> {
    let place = message.place(volume, db)?;
    let at: Loc = place.at;
    Ok(Row {
        msg: new_id(),
        email: message.email,
        stream: place.stream,
        first_segment: message.first_segment,
        at,
        octets: place.octets,
        date: message.date,
        flags: message.flags.clone(),
    })
}
