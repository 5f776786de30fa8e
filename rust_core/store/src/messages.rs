//! Messages of a folder: listing, changes, flags, expunge, copy and move.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, params};

use crate::error::{Result, StoreError};
use crate::folders::copy_of;
use crate::id::Id;
use crate::info::{self, FolderInfo, MessageInfo};
use crate::records::{DELETED, FLAG_NAMES, Flags, Op, SEEN};
use crate::schema;
use crate::volume::Volume;

/// Keywords of one message, and octets of one keyword.
const KEYWORDS_MAX: usize = 64;
const KEYWORD_MAX: usize = 100;
/// Gaps told when the memory of expunged UIDs does not reach back far enough.
const GAPS_MAX: usize = 1_000_000;

/// How flags change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `+FLAGS`
    Add,
    /// `-FLAGS`
    Remove,
    /// `FLAGS`
    Set,
}

/// What happened in a folder since a modseq.
#[derive(Debug)]
pub struct Changes {
    /// HIGHESTMODSEQ now.
    pub modseq: i64,
    /// New and changed messages.
    pub changed: Vec<MessageInfo>,
    /// UIDs that are gone.
    pub expunged: Vec<i64>,
}

/// Flags from IMAP words; `\Recent` cannot be stored and is passed over. Unknown system flags and odd keywords are `Invalid`.
pub fn parse_flags(words: &[String]) -> Result<Flags> {
    let mut flags = Flags::default();
    let mut keywords: Vec<&str> = Vec::new();
    for word in words {
        if let Some((_, bit)) = FLAG_NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)) {
            flags.bits |= bit;
        } else if word.starts_with('\\') {
            if !word.eq_ignore_ascii_case("\\Recent") {
                return Err(StoreError::Invalid(format!("flag {word}")));
            }
        } else if word.is_empty() || word.len() > KEYWORD_MAX || !word.bytes().all(|b| b.is_ascii_graphic() && !b"(){%*\"\\]".contains(&b))
        {
            return Err(StoreError::Invalid(format!("keyword {word:?}")));
        } else if !keywords.iter().any(|k| k.eq_ignore_ascii_case(word)) {
            keywords.push(word);
        }
    }
    if keywords.len() > KEYWORDS_MAX {
        return Err(StoreError::Invalid("too many keywords".into()));
    }
    keywords.sort_unstable();
    flags.keywords = keywords.join(" ");
    Ok(flags)
}

fn merged(old: &Flags, mode: Mode, given: &Flags) -> Result<Flags> {
    let has = |list: &str, word: &str| list.split(' ').any(|k| k.eq_ignore_ascii_case(word));
    match mode {
        Mode::Set => Ok(given.clone()),
        Mode::Remove => {
            let kept: Vec<&str> = old.keywords.split(' ').filter(|k| !k.is_empty() && !has(&given.keywords, k)).collect();
            Ok(Flags { bits: old.bits & !given.bits, keywords: kept.join(" ") })
        }
        Mode::Add => {
            let mut words = info::words(old);
            words.extend(info::words(given));
            parse_flags(&words)
        }
    }
}

impl Volume {
    /// The folder's present state.
    pub fn folder_by_id(&self, folder: &Id) -> Result<FolderInfo> {
        self.read(|db| info::folder_by_id(db, folder))
    }

    /// Messages changed after `since` (0 = all), in UID order.
    pub fn messages(&self, folder: &Id, since: i64) -> Result<Vec<MessageInfo>> {
        self.read(|db| info::messages_since(db, info::folder_by_id(db, folder)?.key, since))
    }

    /// One message.
    pub fn message(&self, folder: &Id, uid: i64) -> Result<MessageInfo> {
        self.read(|db| {
            let key = info::folder_by_id(db, folder)?.key;
            info::message(db, key, uid)?.ok_or_else(|| StoreError::NotFound(format!("no message {uid}")))
        })
    }

    /// All UIDs, ascending.
    pub fn uids(&self, folder: &Id) -> Result<Vec<u32>> {
        self.read(|db| {
            let key = info::folder_by_id(db, folder)?.key;
            let mut query = db.prepare_cached("SELECT uid FROM message WHERE folder = ?1 ORDER BY uid")?;
            Ok(query.query_map([key], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Keywords in use in the folder, sorted.
    pub fn keywords(&self, folder: &Id) -> Result<Vec<String>> {
        let sets: Vec<String> = self.read(|db| {
            let key = info::folder_by_id(db, folder)?.key;
            let mut query = db.prepare_cached("SELECT DISTINCT keywords FROM message WHERE folder = ?1 AND keywords <> ''")?;
            Ok(query.query_map([key], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?)
        })?;
        let words: BTreeSet<&str> = sets.iter().flat_map(|set| set.split(' ')).collect();
        Ok(words.into_iter().map(str::to_owned).collect())
    }

    /// UID of the first message without `\Seen`; 0 when there is none.
    pub fn first_unseen(&self, folder: &Id) -> Result<i64> {
        self.read(|db| {
            let key = info::folder_by_id(db, folder)?.key;
            let mut query = db.prepare_cached("SELECT uid FROM message WHERE folder = ?1 AND flags & ?2 = 0 ORDER BY uid LIMIT 1")?;
            Ok(query.query_row([key, i64::from(SEEN)], |r| r.get(0)).optional()?.unwrap_or(0))
        })
    }

    /// First UID that is recent to the caller; nobody else gets these (RFC 3501 2.3.2). Not logged: after a rebuild all is recent again.
    pub fn claim_recent(&self, folder: &Id) -> Result<i64> {
        self.check_open()?;
        let known = self.folder_by_id(folder)?;
        if known.recent_from >= known.uid_next {
            return Ok(known.recent_from);
        }
        let db = self.writer.lock();
        let transaction = rusqlite::Transaction::new_unchecked(&db, rusqlite::TransactionBehavior::Immediate)?;
        let now = info::folder_by_id(&transaction, folder)?;
        transaction.execute("UPDATE folder SET recent_from = uid_next WHERE key = ?1", [now.key])?;
        transaction.commit()?;
        Ok(now.recent_from)
    }

    /// Changes of a folder after `since`.
    pub fn changes(&self, folder: &Id, since: i64) -> Result<Changes> {
        self.read(|db| {
            let info = info::folder_by_id(db, folder)?;
            if info.modseq <= since {
                return Ok(Changes { modseq: info.modseq, changed: Vec::new(), expunged: Vec::new() });
            }
            let changed = if since > 0 { info::messages_since(db, info.key, since)? } else { info::messages_since(db, info.key, 0)? };
            Ok(Changes { modseq: info.modseq, changed, expunged: expunged(db, &info, since)? })
        })
    }

    /// (modseq of the volume, ids of folders changed or gone since)
    pub fn poll(&self, since: i64) -> Result<(i64, Vec<Id>)> {
        self.read(|db| {
            let now = schema::meta(db, "modseq")?.unwrap_or(0);
            if now == since {
                return Ok((now, Vec::new()));
            }
            let mut query =
                db.prepare_cached("SELECT id FROM folder WHERE modseq > ?1 UNION ALL SELECT id FROM gone_folder WHERE modseq > ?1")?;
            let changed = query.query_map([since], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?;
            Ok((now, changed))
        })
    }

    /// Change flags. Returns the messages after the change (unchanged ones too) and the UIDs that `unchanged_since` refused (RFC 7162 3.1.3).
    pub fn store_flags(
        &self,
        folder: &Id,
        uids: &[i64],
        mode: Mode,
        flags: &Flags,
        unchanged_since: Option<i64>,
    ) -> Result<(Vec<MessageInfo>, Vec<i64>)> {
        self.change(|change| {
            let key = info::folder_by_id(change.db(), folder)?.key;
            let (mut after, mut refused) = (Vec::with_capacity(uids.len()), Vec::new());
            for &uid in uids {
                let Some(mut message) = info::message(change.db(), key, uid)? else { continue };
                if unchanged_since.is_some_and(|limit| message.modseq > limit) {
                    refused.push(uid);
                    continue;
                }
                let new = merged(&message.flags, mode, flags)?;
                if new != message.flags {
                    change.op(Op::SetFlags { msg: message.msg, flags: new.clone() })?;
                    message.flags = new;
                    message.modseq = change.apply.modseq;
                }
                after.push(message);
            }
            Ok((after, refused))
        })
    }

    /// Remove messages that carry `\Deleted`: all of them, or those among `uids`.
    pub fn expunge(&self, folder: &Id, uids: Option<&[i64]>) -> Result<Vec<i64>> {
        self.change(|change| {
            let key = info::folder_by_id(change.db(), folder)?.key;
            let mut chosen = info::messages_with(change.db(), key, DELETED)?;
            if let Some(uids) = uids {
                let wanted: std::collections::HashSet<i64> = uids.iter().copied().collect();
                chosen.retain(|m| wanted.contains(&m.uid));
            }
            for message in &chosen {
                change.op(Op::Expunge { msg: message.msg })?;
            }
            Ok(chosen.iter().map(|m| m.uid).collect())
        })
    }

    /// Remove messages whatever their flags. Returns those that were there.
    pub fn remove(&self, folder: &Id, uids: &[i64]) -> Result<Vec<i64>> {
        self.change(|change| {
            let key = info::folder_by_id(change.db(), folder)?.key;
            let mut gone = Vec::with_capacity(uids.len());
            for &uid in uids {
                if let Some(message) = info::message(change.db(), key, uid)? {
                    change.op(Op::Expunge { msg: message.msg })?;
                    gone.push(uid);
                }
            }
            Ok(gone)
        })
    }

    /// Copy or move messages into another folder of the volume, all or none; content is shared, not copied.
    /// Returns the target's UIDVALIDITY and (old, new) UIDs; messages that are gone are passed over.
    pub fn copy(&self, folder: &Id, uids: &[i64], target: &Id, moving: bool) -> Result<(i64, Vec<(i64, i64)>)> {
        self.change(|change| {
            let source = info::folder_by_id(change.db(), folder)?;
            let into = info::folder_by_id(change.db(), target)?;
            if source.mailbox != into.mailbox {
                return Err(StoreError::Invalid("source and target are in different mailboxes".into()));
            }
            let mut pairs = Vec::with_capacity(uids.len());
            for &uid in uids {
                let Some(message) = info::message(change.db(), source.key, uid)? else { continue };
                let row = copy_of(self, change.db(), &message)?;
                let copy = row.msg;
                change.op(Op::Insert { folder: *target, row })?;
                if moving {
                    change.op(Op::Expunge { msg: message.msg })?;
                }
                pairs.push((uid, uid_of(change.db(), &copy)?));
            }
            Ok((into.uid_validity, pairs))
        })
    }
}

fn uid_of(db: &Connection, msg: &Id) -> Result<i64> {
    Ok(db.prepare_cached("SELECT uid FROM message WHERE msg = ?1")?.query_row([&msg[..]], |r| r.get(0))?)
}

/// UIDs expunged since. When the memory does not reach back that far: every UID below UIDNEXT that is not there (RFC 7162 3.2.10.2 allows it).
fn expunged(db: &Connection, folder: &FolderInfo, since: i64) -> Result<Vec<i64>> {
    let floor: Option<i64> =
        db.prepare_cached("SELECT expunge_floor FROM folder WHERE key = ?1")?.query_row([folder.key], |r| r.get(0)).optional()?;
    if since >= floor.unwrap_or(0) {
        let mut query = db.prepare_cached("SELECT DISTINCT uid FROM tombstone WHERE folder = ?1 AND modseq > ?2 ORDER BY uid")?;
        return Ok(query.query_map(params![folder.key, since], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?);
    }
    let mut query = db.prepare_cached("SELECT uid FROM message WHERE folder = ?1 ORDER BY uid")?;
    let present = query.query_map([folder.key], |r| r.get::<_, i64>(0))?;
    let (mut gaps, mut next) = (Vec::new(), 1);
    for uid in present.chain(std::iter::once(Ok(folder.uid_next))) {
        let uid = uid?;
        gaps.extend((next..uid).take(GAPS_MAX - gaps.len()));
        next = uid + 1;
    }
    Ok(gaps)
}
