//! What callers get to see of folders and messages, and the queries behind it.

use gatepost_log::Loc;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::content::Place;
use crate::error::{Result, StoreError};
use crate::id::{Id, hex};
use crate::records::{FLAG_NAMES, Flags};
use crate::volume::Volume;

/// A folder.
#[derive(Debug, Clone)]
pub struct FolderInfo {
    /// Number in the index.
    pub key: i64,
    /// Stable id.
    pub id: Id,
    /// Mailbox it belongs to.
    pub mailbox: Id,
    /// Full name.
    pub name: String,
    /// Special use or "".
    pub special: String,
    /// Subscribed.
    pub subscribed: bool,
    /// UIDVALIDITY
    pub uid_validity: i64,
    /// UIDNEXT
    pub uid_next: i64,
    /// Messages.
    pub messages: i64,
    /// Of them without `\Seen`.
    pub unseen: i64,
    /// Octets of them.
    pub octets: i64,
    /// HIGHESTMODSEQ
    pub modseq: i64,
    /// First UID nobody has claimed as recent.
    pub recent_from: i64,
}

/// A message in a folder.
#[derive(Debug, Clone)]
pub struct MessageInfo {
    /// UID
    pub uid: i64,
    /// Octets.
    pub octets: i64,
    /// Internal date, Unix microseconds.
    pub date: i64,
    /// MODSEQ
    pub modseq: i64,
    /// Flags.
    pub flags: Flags,
    /// Content id.
    pub email: Id,
    /// Id of this copy.
    pub msg: Id,
    stream: i64,
    at: Loc,
    pub(crate) first_segment: u32,
}

const FOLDER: &str =
    "SELECT key, id, mailbox, name, special, subscribed, uid_validity, uid_next, messages, unseen, octets, modseq, recent_from FROM folder";
const MESSAGE: &str = "SELECT uid, octets, date, modseq, flags, keywords, email, msg, stream, at, first_segment FROM message";

fn folder_row(r: &Row<'_>) -> rusqlite::Result<FolderInfo> {
    Ok(FolderInfo {
        key: r.get(0)?,
        id: r.get(1)?,
        mailbox: r.get(2)?,
        name: r.get(3)?,
        special: r.get(4)?,
        subscribed: r.get(5)?,
        uid_validity: r.get(6)?,
        uid_next: r.get(7)?,
        messages: r.get(8)?,
        unseen: r.get(9)?,
        octets: r.get(10)?,
        modseq: r.get(11)?,
        recent_from: r.get(12)?,
    })
}

fn message_row(r: &Row<'_>) -> rusqlite::Result<MessageInfo> {
    Ok(MessageInfo {
        uid: r.get(0)?,
        octets: r.get(1)?,
        date: r.get(2)?,
        modseq: r.get(3)?,
        flags: Flags { bits: r.get(4)?, keywords: r.get(5)? },
        email: r.get(6)?,
        msg: r.get(7)?,
        stream: r.get(8)?,
        at: Loc::unpack(r.get::<_, i64>(9)?.cast_unsigned()),
        first_segment: r.get(10)?,
    })
}

impl MessageInfo {
    /// Flags as IMAP words.
    pub fn flag_words(&self) -> Vec<String> {
        words(&self.flags)
    }

    /// Where the octets are.
    pub(crate) fn place(&self, volume: &Volume, db: &Connection) -> Result<Place> {
        Ok(Place { stream: volume.stream_name(db, self.stream)?, at: self.at, octets: self.octets.cast_unsigned() })
    }
}

/// Where a message is now; None when it is gone.
pub(crate) fn place_of(volume: &Volume, db: &Connection, msg: &Id) -> Result<Option<Place>> {
    let mut query = db.prepare_cached("SELECT stream, at, octets FROM message WHERE msg = ?1")?;
    let row = query.query_row([&msg[..]], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?, r.get::<_, i64>(2)?))).optional()?;
    let Some((stream, at, octets)) = row else { return Ok(None) };
    let at = Loc::unpack(at.cast_unsigned());
    Ok(Some(Place { stream: volume.stream_name(db, stream)?, at, octets: octets.cast_unsigned() }))
}

/// Flags as IMAP words, system flags first.
pub fn words(flags: &Flags) -> Vec<String> {
    let system = FLAG_NAMES.iter().filter(|(_, bit)| flags.bits & bit != 0).map(|(name, _)| (*name).to_owned());
    system.chain(flags.keywords.split(' ').filter(|k| !k.is_empty()).map(str::to_owned)).collect()
}

/// All folders of a mailbox by name.
pub(crate) fn folders(db: &Connection, mailbox: &Id) -> Result<Vec<FolderInfo>> {
    let mut query = db.prepare_cached(&format!("{FOLDER} WHERE mailbox = ?1 ORDER BY name"))?;
    Ok(query.query_map([&mailbox[..]], folder_row)?.collect::<rusqlite::Result<_>>()?)
}

/// A folder by its normalised name.
pub(crate) fn folder_by_name(db: &Connection, mailbox: &Id, name: &str) -> Result<Option<FolderInfo>> {
    let mut query = db.prepare_cached(&format!("{FOLDER} WHERE mailbox = ?1 AND name = ?2"))?;
    Ok(query.query_row(params![&mailbox[..], name], folder_row).optional()?)
}

/// A folder by id, or `NotFound`.
pub(crate) fn folder_by_id(db: &Connection, id: &Id) -> Result<FolderInfo> {
    let mut query = db.prepare_cached(&format!("{FOLDER} WHERE id = ?1"))?;
    let found = query.query_row([&id[..]], folder_row).optional()?;
    found.ok_or_else(|| StoreError::NotFound(format!("folder {}", hex(id))))
}

/// One message, if it is there.
pub(crate) fn message(db: &Connection, folder: i64, uid: i64) -> Result<Option<MessageInfo>> {
    let mut query = db.prepare_cached(&format!("{MESSAGE} WHERE folder = ?1 AND uid = ?2"))?;
    Ok(query.query_row([folder, uid], message_row).optional()?)
}

/// Messages changed after `since` (0 = all), in UID order.
pub(crate) fn messages_since(db: &Connection, folder: i64, since: i64) -> Result<Vec<MessageInfo>> {
    let condition = if since > 0 { "AND modseq > ?2" } else { "AND ?2 IS NOT NULL" };
    let mut query = db.prepare_cached(&format!("{MESSAGE} WHERE folder = ?1 {condition} ORDER BY uid"))?;
    Ok(query.query_map([folder, since], message_row)?.collect::<rusqlite::Result<_>>()?)
}

/// Messages that carry a flag bit, in UID order.
pub(crate) fn messages_with(db: &Connection, folder: i64, bit: u32) -> Result<Vec<MessageInfo>> {
    let mut query = db.prepare_cached(&format!("{MESSAGE} WHERE folder = ?1 AND flags & ?2 ORDER BY uid"))?;
    Ok(query.query_map([folder, i64::from(bit)], message_row)?.collect::<rusqlite::Result<_>>()?)
}
