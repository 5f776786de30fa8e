//! The one place that changes the index: the effects of operations and deliveries, live and at replay alike.
//!
//! An [`Apply`] lives as long as one `SQLite` write transaction and gives everything in it one modseq. Effects are idempotent and lenient:
//! what they speak of may be gone already when a log tail is replayed. Sums per folder and segment are written once, by `finish`.

use std::collections::{HashMap, HashSet};

use gatepost_log::Loc;
use rusqlite::{Connection, OptionalExtension, params};

use crate::error::Result;
use crate::id::{Id, hex, new_id, now_us};
use crate::names;
use crate::records::{Flags, Key, MessageHead, Op, Row, SEEN};
use crate::schema;
use crate::validity;

/// Distance by which UIDs jump on folders where records had to be applied anew after the machine went down: the lost part of the
/// index may have given out UIDs that clients have seen.
pub const UID_JUMP: i64 = 10_000;
/// Age of a message from which on its key's own time is noted.
const LATE_US: i64 = 86_400_000_000;
/// Expunged UIDs remembered per folder.
const TOMBSTONES: i64 = 10_000;

#[derive(Default)]
struct Delta {
    uid_next: Option<i64>,
    messages: i64,
    unseen: i64,
    octets: i64,
    expunged: i64,
}

/// When the message of a key was accepted, Unix microseconds: keys begin with its `UUIDv7`.
fn accepted_us(key: &Key) -> i64 {
    key[..6].iter().fold(0, |ms, octet| ms << 8 | i64::from(*octet)) * 1_000
}

/// One transaction on the index.
pub struct Apply<'a> {
    db: &'a Connection,
    /// The modseq of everything done here.
    pub modseq: i64,
    /// UIDs jump (replay after a reboot).
    pub jump: bool,
    folders: HashMap<i64, Delta>,
    segments: HashMap<(i64, u32), i64>,
    streams: HashMap<String, i64>,
    folder_keys: HashMap<Id, Option<i64>>,
    /// Replay: folders whose time has not come yet in the order of operations, and the INBOX among them that is each mailbox's last.
    foreseen: HashSet<Id>,
    inboxes: HashMap<Id, Id>,
}

/// A row of `message` as effects need it.
struct Found {
    folder: i64,
    uid: i64,
    stream: i64,
    first_segment: u32,
    at: Loc,
    octets: i64,
    flags: Flags,
}

impl<'a> Apply<'a> {
    /// Within a write transaction on `db`.
    pub fn new(db: &'a Connection) -> Result<Self> {
        let modseq = schema::meta(db, "modseq")?.unwrap_or(0) + 1;
        Ok(Self {
            db,
            modseq,
            jump: false,
            folders: HashMap::new(),
            segments: HashMap::new(),
            streams: HashMap::new(),
            folder_keys: HashMap::new(),
            foreseen: HashSet::new(),
            inboxes: HashMap::new(),
        })
    }

    /// The connection, for reading what the transaction sees.
    pub fn db(&self) -> &'a Connection {
        self.db
    }

    /// Write the sums. The caller commits.
    pub fn finish(self) -> Result<()> {
        let mut update = self.db.prepare_cached(
            "UPDATE folder SET uid_next = coalesce(?2, uid_next), messages = messages + ?3, unseen = unseen + ?4,
             octets = octets + ?5, modseq = ?6 WHERE key = ?1",
        )?;
        for (key, d) in &self.folders {
            update.execute(params![key, d.uid_next, d.messages, d.unseen, d.octets, self.modseq])?;
            if d.expunged > 0 {
                self.prune_tombstones(*key)?;
            }
        }
        let mut live = self.db.prepare_cached(
            "INSERT INTO segment (stream, segment, live) VALUES (?1, ?2, ?3)
             ON CONFLICT (stream, segment) DO UPDATE SET live = live + ?3",
        )?;
        for ((stream, segment), change) in self.segments.iter().filter(|(_, change)| **change != 0) {
            live.execute(params![stream, segment, change])?;
        }
        schema::set_meta(self.db, "modseq", self.modseq)
    }

    /// Numeric id of a stream.
    pub fn stream(&mut self, name: &str) -> Result<i64> {
        if let Some(&id) = self.streams.get(name) {
            return Ok(id);
        }
        self.db.prepare_cached("INSERT OR IGNORE INTO stream (name) VALUES (?1)")?.execute([name])?;
        let id = self.db.prepare_cached("SELECT id FROM stream WHERE name = ?1")?.query_row([name], |r| r.get(0))?;
        self.streams.insert(name.to_owned(), id);
        Ok(id)
    }

    /// Note how far a stream is applied.
    pub fn applied(&mut self, stream: i64, upto: Loc, ops: bool) -> Result<()> {
        let modseq = if ops { self.modseq } else { 0 };
        self.db
            .prepare_cached("UPDATE stream SET applied = max(applied, ?2), ops_modseq = max(ops_modseq, ?3) WHERE id = ?1")?
            .execute(params![stream, upto.pack().cast_signed(), modseq])?;
        Ok(())
    }

    /// A delivered or appended message. `None` when its key is known: it was stored before.
    pub fn deliver(&mut self, head: &MessageHead, stream: &str, at: Loc) -> Result<Option<(i64, i64)>> {
        if !self.new_key(&head.key)? {
            return Ok(None);
        }
        let known = self.folder_key(&head.folder)?;
        let folder = if let Some(key) = known { key } else { self.inbox(&head.mailbox)? };
        // Its key may have expired (`gc`) while replay comes by again: what is there stays as it is.
        Ok(self.insert(folder, &head.row(stream, at))?.map(|uid| (folder, uid)))
    }

    /// Remember a delivery's key; false when it was known.
    pub fn new_key(&mut self, key: &Key) -> Result<bool> {
        let new = self.db.prepare_cached("INSERT OR IGNORE INTO delivery (key) VALUES (?1)")?.execute([&key[..]])? > 0;
        // Keys go by the age of the message (`gc`). That of one which was held for long has to stay as long as any other's.
        let now = now_us();
        if new && accepted_us(key) < now - LATE_US {
            self.db.prepare_cached("INSERT OR REPLACE INTO delivery_late (key, at) VALUES (?1, ?2)")?.execute(params![&key[..], now])?;
        }
        Ok(new)
    }

    /// A delivery whose folder went while it was under way comes into INBOX; where that is gone too, with its mailbox, all is made anew. Done by
    /// operations, which are for the log: a replay could not tell whether the message came before its folder went or after.
    pub fn redirect(&mut self, head: &MessageHead, stream: &str, at: Loc) -> Result<Vec<Op>> {
        if !self.new_key(&head.key)? {
            return Ok(Vec::new());
        }
        let inbox = |db: &Connection| {
            let mut query = db.prepare_cached("SELECT id FROM folder WHERE mailbox = ?1 AND name = 'INBOX'")?;
            query.query_row([&head.mailbox[..]], |r| r.get::<_, Id>(0)).optional()
        };
        let mut ops = if inbox(self.db)?.is_none() { new_mailbox(&head.mailbox) } else { Vec::new() };
        ops.iter().try_for_each(|op| self.op(op))?;
        if let Some(folder) = inbox(self.db)? {
            ops.push(Op::Insert { folder, row: head.row(stream, at) });
            self.op(&ops[ops.len() - 1])?;
        }
        Ok(ops)
    }

    /// Do one effect.
    pub fn op(&mut self, op: &Op) -> Result<()> {
        match op {
            Op::CreateFolder { mailbox, folder, name, special, subscribed } => {
                self.create_folder(mailbox, folder, name, special, *subscribed)
            }
            Op::Rename { folder, name } => self.rename(folder, name),
            Op::DeleteFolder { folder } => self.delete_folder(folder),
            Op::Subscribe { folder, subscribed } => self.subscribe(folder, *subscribed),
            Op::SetFlags { msg, flags } => self.set_flags(msg, flags),
            Op::Expunge { msg } => self.expunge(msg),
            Op::Insert { folder, row } => self.insert_op(folder, row),
            Op::DeleteMailbox { mailbox } => self.delete_mailbox(mailbox),
            Op::Place { msg, stream, first_segment, at } => self.place(msg, stream, *first_segment, *at),
        }
    }

    /// Key of a folder by id.
    pub fn folder_key(&mut self, id: &Id) -> Result<Option<i64>> {
        if let Some(known) = self.folder_keys.get(id) {
            return Ok(*known);
        }
        let found = self.db.prepare_cached("SELECT key FROM folder WHERE id = ?1")?.query_row([&id[..]], |r| r.get(0)).optional()?;
        self.folder_keys.insert(*id, found);
        Ok(found)
    }

    fn touch(&mut self, folder: i64) -> &mut Delta {
        self.folders.entry(folder).or_default()
    }

    fn next_uid(&mut self, folder: i64) -> Result<i64> {
        let next = if let Some(next) = self.folders.get(&folder).and_then(|d| d.uid_next) {
            next
        } else {
            let mut query = self.db.prepare_cached("SELECT uid_next FROM folder WHERE key = ?1")?;
            query.query_row([folder], |r| r.get::<_, i64>(0))? + if self.jump { UID_JUMP } else { 0 }
        };
        self.touch(folder).uid_next = Some(next + 1);
        Ok(next)
    }

    fn count_segments(&mut self, stream: i64, first: u32, last: u32, change: i64) {
        for segment in first..=last {
            *self.segments.entry((stream, segment)).or_default() += change;
        }
    }

    /// The new UID; None when the message is there already.
    fn insert(&mut self, folder: i64, row: &Row) -> Result<Option<i64>> {
        let uid = self.next_uid(folder)?;
        let stream = self.stream(&row.stream)?;
        let made = self
            .db
            .prepare_cached(
                "INSERT INTO message (folder, uid, msg, email, stream, first_segment, at, octets, date, modseq, flags, keywords)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT (msg) DO NOTHING",
            )?
            .execute(params![
                folder,
                uid,
                &row.msg[..],
                &row.email[..],
                stream,
                row.first_segment,
                row.at.pack().cast_signed(),
                row.octets.cast_signed(),
                row.date,
                self.modseq,
                row.flags.bits,
                row.flags.keywords
            ])?;
        if made == 0 {
            return Ok(None);
        }
        self.count_segments(stream, row.first_segment, row.at.segment, 1);
        let delta = self.touch(folder);
        delta.messages += 1;
        delta.octets += row.octets.cast_signed();
        delta.unseen += i64::from(row.flags.bits & SEEN == 0);
        Ok(Some(uid))
    }

    fn insert_op(&mut self, folder: &Id, row: &Row) -> Result<()> {
        if self.find(&row.msg)?.is_some() {
            return Ok(());
        }
        let known = self.folder_key(folder)?;
        if let Some(key) = if known.is_some() { known } else { self.inbox_of(&row.email)? } {
            self.insert(key, row)?;
        }
        Ok(())
    }

    /// The record that made a copy's folder was damaged: INBOX of the mailbox in which the same octets are already. What is moved would be lost else.
    fn inbox_of(&mut self, email: &Id) -> Result<Option<i64>> {
        let mailbox: Option<Id> = self
            .db
            .prepare_cached("SELECT mailbox FROM message JOIN folder ON folder.key = message.folder WHERE email = ?1 LIMIT 1")?
            .query_row([&email[..]], |r| r.get(0))
            .optional()?;
        mailbox.map(|mailbox| self.inbox(&mailbox)).transpose()
    }

    fn find(&self, msg: &Id) -> Result<Option<Found>> {
        let mut query =
            self.db.prepare_cached("SELECT folder, uid, stream, first_segment, at, octets, flags, keywords FROM message WHERE msg = ?1")?;
        let row = query.query_row([&msg[..]], |r| {
            Ok(Found {
                folder: r.get(0)?,
                uid: r.get(1)?,
                stream: r.get(2)?,
                first_segment: r.get(3)?,
                at: Loc::unpack(r.get::<_, i64>(4)?.cast_unsigned()),
                octets: r.get(5)?,
                flags: Flags { bits: r.get(6)?, keywords: r.get(7)? },
            })
        });
        Ok(row.optional()?)
    }

    fn set_flags(&mut self, msg: &Id, flags: &Flags) -> Result<()> {
        let Some(found) = self.find(msg)? else { return Ok(()) };
        if found.flags == *flags {
            return Ok(());
        }
        self.db
            .prepare_cached("UPDATE message SET flags = ?3, keywords = ?4, modseq = ?5 WHERE folder = ?1 AND uid = ?2")?
            .execute(params![found.folder, found.uid, flags.bits, flags.keywords, self.modseq])?;
        let change = i64::from(flags.bits & SEEN == 0) - i64::from(found.flags.bits & SEEN == 0);
        self.touch(found.folder).unseen += change;
        Ok(())
    }

    fn expunge(&mut self, msg: &Id) -> Result<()> {
        let Some(found) = self.find(msg)? else { return Ok(()) };
        self.db.prepare_cached("DELETE FROM message WHERE folder = ?1 AND uid = ?2")?.execute(params![found.folder, found.uid])?;
        self.db.prepare_cached("INSERT OR IGNORE INTO tombstone (folder, modseq, uid) VALUES (?1, ?2, ?3)")?.execute(params![
            found.folder,
            self.modseq,
            found.uid
        ])?;
        self.count_segments(found.stream, found.first_segment, found.at.segment, -1);
        let delta = self.touch(found.folder);
        delta.messages -= 1;
        delta.octets -= found.octets;
        delta.unseen -= i64::from(found.flags.bits & SEEN == 0);
        delta.expunged += 1;
        Ok(())
    }

    /// The message's octets are elsewhere now; nothing that clients see changes.
    fn place(&mut self, msg: &Id, stream: &str, first_segment: u32, at: Loc) -> Result<()> {
        let Some(found) = self.find(msg)? else { return Ok(()) };
        let stream = self.stream(stream)?;
        self.db
            .prepare_cached("UPDATE message SET stream = ?3, first_segment = ?4, at = ?5 WHERE folder = ?1 AND uid = ?2")?
            .execute(params![found.folder, found.uid, stream, first_segment, at.pack().cast_signed()])?;
        self.count_segments(found.stream, found.first_segment, found.at.segment, -1);
        self.count_segments(stream, first_segment, at.segment, 1);
        Ok(())
    }

    /// Keep the newest tombstones; `changes` falls back to all known gaps for anything older than the floor.
    fn prune_tombstones(&self, folder: i64) -> Result<()> {
        let limit: Option<i64> = self
            .db
            .prepare_cached("SELECT modseq FROM tombstone WHERE folder = ?1 ORDER BY modseq DESC, uid DESC LIMIT 1 OFFSET ?2")?
            .query_row(params![folder, TOMBSTONES], |r| r.get(0))
            .optional()?;
        if let Some(floor) = limit {
            self.db.prepare_cached("DELETE FROM tombstone WHERE folder = ?1 AND modseq <= ?2")?.execute([folder, floor])?;
            self.db.prepare_cached("UPDATE folder SET expunge_floor = max(expunge_floor, ?2) WHERE key = ?1")?.execute([folder, floor])?;
        }
        Ok(())
    }

    /// INBOX of a mailbox; the mailbox is made when it is gone, since what must be stored has been acknowledged.
    fn inbox(&mut self, mailbox: &Id) -> Result<i64> {
        if let Some(key) = self.key_of_name(mailbox, "INBOX")? {
            return Ok(key);
        }
        if let Some(id) = self.inboxes.get(mailbox).copied()
            && let Some(key) = self.folder_key(&id)?
        {
            return Ok(key);
        }
        self.create_folder(mailbox, &new_id(), "INBOX", "", true)?;
        Ok(self.key_of_name(mailbox, "INBOX")?.unwrap_or(0))
    }

    fn key_of_name(&self, mailbox: &Id, name: &str) -> Result<Option<i64>> {
        let mut query = self.db.prepare_cached("SELECT key FROM folder WHERE mailbox = ?1 AND name = ?2")?;
        Ok(query.query_row(params![&mailbox[..], name], |r| r.get(0)).optional()?)
    }

    fn create_folder(&mut self, mailbox: &Id, folder: &Id, name: &str, special: &str, subscribed: bool) -> Result<()> {
        self.foreseen.remove(folder);
        // UIDVALIDITY must differ from that of any earlier folder of the name (RFC 3501 2.3.1.1): it only ever grows.
        let number = (now_us() / 1_000_000).max(schema::meta(self.db, "uid_validity")?.unwrap_or(0) + 1);
        let made = self
            .db
            .prepare_cached(
                "INSERT OR IGNORE INTO folder (id, mailbox, name, special, subscribed, uid_validity, modseq)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![&folder[..], &mailbox[..], name, special, subscribed, number, self.modseq])?;
        if made > 0 {
            schema::set_meta(self.db, "uid_validity", number)?;
            validity::reserve(self.db, number);
            self.folder_keys.insert(*folder, Some(self.db.last_insert_rowid()));
        } else {
            // Foreseen by replay: now it gets its name.
            self.db
                .prepare_cached("UPDATE OR IGNORE folder SET name = ?2, special = ?3, subscribed = ?4 WHERE id = ?1 AND name = ?5")?
                .execute(params![&folder[..], name, special, subscribed, nameless(folder)])?;
        }
        Ok(())
    }

    /// Replay: make a folder under a name that no folder can have, so that messages find it before its time comes in the order of operations.
    pub fn foresee(&mut self, op: &Op) -> Result<()> {
        if let Op::CreateFolder { mailbox, folder, name, special, subscribed } = op
            && self.folder_key(folder)?.is_none()
        {
            self.create_folder(mailbox, folder, &nameless(folder), special, *subscribed)?;
            self.foreseen.insert(*folder);
            if name == "INBOX" {
                self.inboxes.insert(*mailbox, *folder);
            }
        }
        Ok(())
    }

    /// After replay: folders whose name was taken get a name to be found by.
    pub fn name_the_nameless(&mut self) -> Result<()> {
        self.db.execute("UPDATE OR IGNORE folder SET name = 'Recovered-' || substr(name, 2) WHERE substr(name, 1, 1) = char(1)", [])?;
        Ok(())
    }

    fn rename(&mut self, folder: &Id, name: &str) -> Result<()> {
        self.db.prepare_cached("UPDATE OR IGNORE folder SET name = ?2, modseq = ?3 WHERE id = ?1")?.execute(params![
            &folder[..],
            name,
            self.modseq
        ])?;
        Ok(())
    }

    fn subscribe(&mut self, folder: &Id, subscribed: bool) -> Result<()> {
        self.db.prepare_cached("UPDATE folder SET subscribed = ?2, modseq = ?3 WHERE id = ?1")?.execute(params![
            &folder[..],
            subscribed,
            self.modseq
        ])?;
        Ok(())
    }

    fn delete_folder(&mut self, folder: &Id) -> Result<()> {
        let Some(key) = self.folder_key(folder)? else { return Ok(()) };
        let mailbox: Vec<u8> = self.db.prepare_cached("SELECT mailbox FROM folder WHERE key = ?1")?.query_row([key], |r| r.get(0))?;
        self.rescue(key, &mailbox)?;
        self.drop_folder(key, folder)
    }

    /// Messages that were not expunged with their folder are deliveries that raced with its deletion: they go to INBOX.
    fn rescue(&mut self, key: i64, mailbox: &[u8]) -> Result<()> {
        let mut query = self.db.prepare_cached("SELECT uid, octets, flags FROM message WHERE folder = ?1 ORDER BY uid")?;
        let left: Vec<(i64, i64, u32)> =
            query.query_map([key], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?.collect::<rusqlite::Result<_>>()?;
        if left.is_empty() {
            return Ok(());
        }
        let inbox = self.inbox(mailbox.try_into().unwrap_or(&[0; 16]))?;
        for (uid, octets, flags) in left {
            let new = self.next_uid(inbox)?;
            self.db
                .prepare_cached("UPDATE message SET folder = ?3, uid = ?4, modseq = ?5 WHERE folder = ?1 AND uid = ?2")?
                .execute(params![key, uid, inbox, new, self.modseq])?;
            let delta = self.touch(inbox);
            delta.messages += 1;
            delta.octets += octets;
            delta.unseen += i64::from(flags & SEEN == 0);
        }
        Ok(())
    }

    fn drop_folder(&mut self, key: i64, id: &Id) -> Result<()> {
        for table in ["tombstone", "folder"] {
            let column = if table == "folder" { "key" } else { "folder" };
            self.db.prepare_cached(&format!("DELETE FROM {table} WHERE {column} = ?1"))?.execute([key])?;
        }
        self.db
            .prepare_cached("INSERT OR REPLACE INTO gone_folder (id, modseq) VALUES (?1, ?2)")?
            .execute(params![&id[..], self.modseq])?;
        self.folders.remove(&key);
        self.folder_keys.insert(*id, None);
        Ok(())
    }

    fn delete_mailbox(&mut self, mailbox: &Id) -> Result<()> {
        let mut query = self.db.prepare_cached("SELECT key, id FROM folder WHERE mailbox = ?1")?;
        let folders: Vec<(i64, Vec<u8>)> =
            query.query_map([&mailbox[..]], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
        // One that is still to come was made after the mailbox had gone, by the next message for it.
        let foreseen = &self.foreseen;
        let before = |id: &[u8]| !Id::try_from(id).is_ok_and(|id| foreseen.contains(&id));
        let folders: Vec<_> = folders.into_iter().filter(|(_, id)| before(id)).collect();
        for (key, id) in folders {
            let mut rows = self.db.prepare_cached("SELECT stream, first_segment, at FROM message WHERE folder = ?1")?;
            let rows: Vec<(i64, u32, i64)> =
                rows.query_map([key], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?.collect::<rusqlite::Result<_>>()?;
            for (stream, first, at) in rows {
                self.count_segments(stream, first, Loc::unpack(at.cast_unsigned()).segment, -1);
            }
            self.db.prepare_cached("DELETE FROM message WHERE folder = ?1")?.execute([key])?;
            self.drop_folder(key, id.as_slice().try_into().unwrap_or(&[0; 16]))?;
        }
        Ok(())
    }
}

/// Stands for the name of a folder that replay foresees.
fn nameless(folder: &Id) -> String {
    format!("\u{1}{}", hex(folder))
}

/// The operations that make a new mailbox.
pub fn new_mailbox(mailbox: &Id) -> Vec<Op> {
    let folder = |name: &str, special: &str| Op::CreateFolder {
        mailbox: *mailbox,
        folder: new_id(),
        name: name.to_owned(),
        special: special.to_owned(),
        subscribed: true,
    };
    std::iter::once(folder("INBOX", "")).chain(names::SPECIAL.iter().map(|(name, special)| folder(name, special))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_there_already_is_passed_over_when_its_key_has_expired() {
        let db = Connection::open_in_memory().unwrap();
        schema::prepare(&db).unwrap();
        let (msg, mailbox) = (new_id(), new_id());
        let (key, flags) = (crate::records::delivery_key(&msg, 0), Flags::default());
        let head = MessageHead { key, msg, mailbox, folder: [0; 16], date: 1, octets: 5, flags, chunks: Vec::new() };
        let at = Loc { segment: 1, offset: 128 };
        let mut apply = Apply::new(&db).unwrap();
        assert!(apply.deliver(&head, "w0", at).unwrap().is_some());
        db.execute("DELETE FROM delivery", []).unwrap();
        assert_eq!(apply.deliver(&head, "w0", at).unwrap(), None);
        apply.finish().unwrap();
        let counted: (i64, i64) = db.query_row("SELECT messages, octets FROM folder", [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
        assert_eq!(counted, (1, 5));
    }
}
