//! Bringing the index up to date from log tails, and rebuilding it when it is gone.
//!
//! Streams are independent logs, so their records are ordered by what they carry: operations by their modseq (assigned under the index's
//! write lock, so in the order of effects), messages by their ids (by time). Three passes make any interleaving come out right: folders come
//! into being, messages arrive in them, then operations happen in their order.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use gatepost_log::{Loc, Log, LogError, Options, Prepared};
use rusqlite::Connection;

use crate::apply::Apply;
use crate::error::{Result, StoreError};
use crate::id::Id;
use crate::records::{KIND_MESSAGE, KIND_OPS, KIND_VOID, MessageHead, Op, decode_ops, decode_places};

/// What opening found and did.
#[derive(Debug, Default, Clone)]
pub struct Recovery {
    /// Messages that log tails brought into the index.
    pub messages: u64,
    /// Records read.
    pub records: u64,
    /// Octets of unacknowledged writes cut from ends of logs.
    pub torn_bytes: u64,
    /// Damaged places, 'stream/file:offset: reason'.
    pub damaged: Vec<String>,
    /// Seconds that recovery took.
    pub seconds: f64,
    /// The index was rebuilt.
    pub rebuilt: bool,
    /// A snapshot of the index was the base of the rebuild.
    pub snapshot: bool,
}

/// A stream of which this process holds the lock.
pub struct Held {
    pub name: String,
    pub prepared: Prepared,
}

struct Arrival {
    head: MessageHead,
    stream: usize,
    at: Loc,
}

struct Operations {
    stream: usize,
    at: Loc,
    modseq: i64,
    ops: Vec<Op>,
}

#[derive(Default)]
struct Tail {
    arrivals: Vec<Arrival>,
    operations: Vec<Operations>,
    /// Records whose change was refused: stream and place.
    void: HashSet<(usize, Loc)>,
    ends: Vec<Loc>,
}

impl Tail {
    /// Take a record; false when its payload makes no sense. Operations up to `known` are in the index already.
    fn take(&mut self, stream: usize, at: Loc, kind: u8, payload: &[u8], known: i64) -> bool {
        match kind {
            KIND_MESSAGE => {
                let Some((head, _)) = MessageHead::decode(payload) else { return false };
                self.arrivals.push(Arrival { head, stream, at });
            }
            KIND_OPS => {
                let Some((modseq, ops)) = decode_ops(payload) else { return false };
                if modseq > known {
                    self.operations.push(Operations { stream, at, modseq, ops });
                }
            }
            KIND_VOID => {
                let Some(places) = decode_places(payload) else { return false };
                self.void.extend(places.into_iter().map(|place| (stream, place)));
            }
            _ => {}
        }
        true
    }

    /// Leaves out what was refused, and puts the rest in order.
    fn sort(&mut self) {
        let void = &self.void;
        self.arrivals.retain(|arrival| !void.contains(&(arrival.stream, arrival.at)));
        self.operations.retain(|done| !void.contains(&(done.stream, done.at)));
        self.arrivals.sort_by_key(|arrival| arrival.head.msg);
        self.operations.sort_by_key(|done| done.modseq);
    }

    fn ops(&self) -> impl Iterator<Item = &Op> {
        self.operations.iter().flat_map(|done| &done.ops)
    }
}

/// Names of the streams under `root`. A directory that cannot be read is an error, not a stream that is not there: without its records a rebuild would
/// make an index that lacks mail.
pub fn streams(root: &Path, options: &Options) -> Result<Vec<String>> {
    let list = |path: &Path| options.storage.list(path);
    let told = |path: &Path, error: &io::Error| StoreError::Io(format!("list {}: {error}", path.display()));
    let mut streams = Vec::new();
    for name in list(root).map_err(|error| told(root, &error))? {
        let path = root.join(&name);
        match list(&path) {
            Ok(_) => streams.push(name),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotADirectory | io::ErrorKind::NotFound) => {}
            Err(error) => return Err(told(&path, &error)),
        }
    }
    Ok(streams)
}

/// Lock every stream under `root` that nobody holds, `own` among them. Returns the names of those that are held elsewhere too.
pub fn hold_streams(root: &Path, own: &str, options: &Options) -> Result<(Vec<Held>, Vec<String>)> {
    let mut names = vec![own.to_owned()];
    names.extend(streams(root, options)?.into_iter().filter(|name| name != own));
    let (mut held, mut busy) = (Vec::new(), Vec::new());
    for name in names {
        match Log::prepare(&root.join(&name), options.clone()) {
            Ok(prepared) => held.push(Held { name, prepared }),
            Err(LogError::Locked { .. }) if name != own => busy.push(name),
            Err(error) => return Err(error.into()),
        }
    }
    Ok((held, busy))
}

/// Read what the index lacks of all held streams and apply it in one transaction.
pub fn replay(db: &mut Connection, held: &mut [Held], jump: bool, recovery: &mut Recovery) -> Result<()> {
    let tail = read_tails(db, held, recovery)?;
    let transaction = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let mut apply = Apply::new(&transaction)?;
    apply.jump = jump;
    let newest = tail.operations.iter().map(|o| o.modseq).max().unwrap_or(0);
    apply.modseq = apply.modseq.max(newest + 1);
    arrange(&mut apply, &tail, held, recovery)?;
    for (stream, end) in held.iter().zip(&tail.ends) {
        let id = apply.stream(&stream.name)?;
        apply.applied(id, *end, true)?;
    }
    apply.finish()?;
    transaction.commit()?;
    Ok(())
}

fn read_tails(db: &Connection, held: &mut [Held], recovery: &mut Recovery) -> Result<Tail> {
    let mut tail = Tail::default();
    for (number, stream) in held.iter_mut().enumerate() {
        let (applied, ops_modseq) = position(db, &stream.name)?;
        let last = stream.prepared.segments().last().copied().unwrap_or(0);
        let mut unknown = Vec::new();
        let found = stream.prepared.replay(applied, &mut |at, kind, payload| {
            if !tail.take(number, at, kind, payload, ops_modseq) {
                unknown.push(format!("{at}: not a record of kind {kind}"));
            }
            Ok(())
        })?;
        let damaged = found.damaged.iter().map(ToString::to_string).chain(unknown);
        recovery.damaged.extend(damaged.map(|d| format!("{}/{d}", stream.name)));
        recovery.records += found.records;
        recovery.torn_bytes += found.torn_bytes;
        // Every start of a log begins a segment with a higher number, so nothing will be written before this place.
        tail.ends.push(Loc { segment: last + 1, offset: 0 });
    }
    tail.sort();
    Ok(tail)
}

fn position(db: &Connection, stream: &str) -> Result<(Loc, i64)> {
    use rusqlite::OptionalExtension;
    let mut query = db.prepare_cached("SELECT applied, ops_modseq FROM stream WHERE name = ?1")?;
    let row = query.query_row([stream], |r| Ok((Loc::unpack(r.get::<_, i64>(0)?.cast_unsigned()), r.get(1)?))).optional()?;
    Ok(row.unwrap_or((Loc::NONE, 0)))
}

fn arrange(apply: &mut Apply<'_>, tail: &Tail, streams: &[Held], recovery: &mut Recovery) -> Result<()> {
    for op in tail.ops() {
        apply.foresee(op)?;
    }
    let redirected: HashSet<&Id> =
        tail.ops().filter_map(|op| if let Op::Insert { row, .. } = op { Some(&row.msg) } else { None }).collect();
    for arrival in &tail.arrivals {
        let (head, stream) = (&arrival.head, &streams[arrival.stream].name);
        if redirected.contains(&head.msg) && apply.folder_key(&head.folder)?.is_none() {
            recovery.messages += u64::from(apply.new_key(&head.key)?);
        } else {
            recovery.messages += u64::from(apply.deliver(head, stream, arrival.at)?.is_some());
        }
    }
    for op in tail.ops() {
        apply.op(op)?;
    }
    apply.name_the_nameless()
}

/// Start the index anew from the snapshot, if there is one. UIDs may come out differently, so every folder gets a new UIDVALIDITY.
/// A snapshot of a newer program is refused before anything is removed.
pub fn begin_rebuild(dir: &Path, recovery: &mut Recovery) -> Result<()> {
    let snapshot = dir.join("snapshot.db");
    if snapshot.exists()
        && let Err(newer @ StoreError::Version(_)) = crate::schema::reader(&snapshot).and_then(|db| crate::schema::refuse_newer(&db))
    {
        return Err(newer);
    }
    for suffix in ["", "-wal", "-shm"] {
        let path = dir.join(format!("index.db{suffix}"));
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(StoreError::Io(format!("remove {}: {error}", path.display())));
        }
    }
    recovery.rebuilt = true;
    if snapshot.exists() {
        // Copied under another name first: a crash in between must not leave half an index.
        let copy = dir.join("index.db.new");
        std::fs::copy(&snapshot, &copy)?;
        std::fs::File::open(&copy)?.sync_all()?;
        std::fs::rename(&copy, dir.join("index.db"))?;
        recovery.snapshot = true;
    }
    Ok(())
}

/// After a rebuild: new UIDVALIDITY everywhere.
pub fn end_rebuild(db: &Connection) -> Result<()> {
    // The clock may have been set back since the lost index gave numbers out.
    let least = (crate::id::now_us() / 1_000_000).max(crate::validity::highest(db)? + 1);
    db.execute("UPDATE folder SET uid_validity = max(uid_validity + 1, ?1)", [least])?;
    let newest: i64 = db.query_row("SELECT coalesce(max(uid_validity), 0) FROM folder", [], |r| r.get(0))?;
    crate::schema::set_meta(db, "uid_validity", newest.max(least))?;
    crate::validity::reserve(db, newest.max(least));
    Ok(())
}
