//! Builds an index from the directory's tables. Runs in a process of its own: this `SQLite` must not open a file that the process has open with
//! another one, whose locks would go when this one closes it.
//!
//! The tables are copied into memory first, which takes the lock for a moment only: a change waits for that, not for the building.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};

use crate::error::RulesError;
use crate::layout::{HEADER, Header, RULE_ROW};
use crate::record::{Class, Fields, HANDLER_TEXTS, RULE_NUMBERS, RULE_TEXTS, put, put_number};

const BUSY: Duration = Duration::from_secs(10);
const POSTMASTER: &[u8] = b"postmaster@";

/// What was built.
#[derive(Debug, Clone, Copy)]
pub struct Built {
    /// As it stands in the file.
    pub header: Header,
    /// Length of the file.
    pub octets: u64,
}

/// Reads the directory at `source` and puts the index of its newest version at `target`. A file that is there is replaced as the last step;
/// on an error it stays as it was.
pub fn build(source: &Path, target: &Path) -> Result<Built, RulesError> {
    let mut made = Tables::read(&snapshot(source)?)?;
    made.gather();
    let beside = target.with_extension(format!("tmp-{}", std::process::id()));
    let written = made.write(&beside).and_then(|built| publish(&beside, target).map(|()| built));
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

fn snapshot(source: &Path) -> Result<Connection, RulesError> {
    let file = Connection::open_with_flags(source, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    file.busy_timeout(BUSY)?;
    let mut memory = Connection::open_in_memory()?;
    Backup::new(&file, &mut memory)?.run_to_completion(i32::MAX, Duration::from_millis(20), None)?;
    Ok(memory)
}

fn publish(beside: &Path, target: &Path) -> Result<(), RulesError> {
    std::fs::rename(beside, target).map_err(RulesError::at(target))?;
    let above = target.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf);
    File::open(&above).and_then(|directory| directory.sync_all()).map_err(RulesError::at(&above))
}

/// Everything in the order of the file, records not yet placed: offsets count from the first record.
#[derive(Default)]
struct Tables {
    header: Header,
    rules: Vec<RuleRow>,
    handlers: Vec<HandlerRow>,
    mailboxes: Vec<u64>,
    postmasters: Vec<u64>,
    records: Vec<u8>,
}

#[derive(Clone, Copy, Default)]
struct RuleRow {
    record: u64,
    first: u64,
    counts: [u32; 4],
}

#[derive(Clone, Copy)]
struct HandlerRow {
    rule: u32,
    class: Class,
    record: u64,
}

impl Tables {
    fn read(tables: &Connection) -> Result<Self, RulesError> {
        let mut made = Self { header: identity(tables)?, ..Self::default() };
        let ordinals = made.read_rules(tables)?;
        made.read_handlers(tables, &ordinals)?;
        made.read_mailboxes(tables)?;
        made.header.rules = made.rules.len() as u64;
        made.header.handlers = made.handlers.len() as u64;
        made.header.mailboxes = made.mailboxes.len() as u64;
        made.header.postmasters = made.postmasters.len() as u64;
        made.header.place(made.records.len() as u64);
        Ok(made)
    }

    fn read_rules(&mut self, tables: &Connection) -> Result<HashMap<i64, u32>, RulesError> {
        let mut ordinals = HashMap::new();
        let mut query = tables.prepare(
            "SELECT domain, kind, host, tls, username, password_ref, text, policy, settings, port, implicit_tls, lmtp, accept_untrusted,
             revision, id FROM domain_rules ORDER BY domain",
        )?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            ordinals.insert(row.get(14)?, self.rules.len() as u32);
            self.rules.push(RuleRow { record: self.records.len() as u64, ..RuleRow::default() });
            self.put_texts(row, RULE_TEXTS)?;
            let flags =
                u64::from(row.get::<_, bool>(10)?) | u64::from(row.get::<_, bool>(11)?) << 1 | u64::from(row.get::<_, bool>(12)?) << 2;
            put_number(&mut self.records, row.get::<_, i64>(9)?.unsigned_abs());
            put_number(&mut self.records, flags);
            put_number(&mut self.records, row.get::<_, i64>(13)?.unsigned_abs());
        }
        Ok(ordinals)
    }

    fn put_texts(&mut self, row: &Row<'_>, count: usize) -> Result<(), RulesError> {
        for column in 0..count {
            put(&mut self.records, row.get_ref(column)?.as_str().map_err(rusqlite::Error::from)?.as_bytes());
        }
        Ok(())
    }

    fn read_handlers(&mut self, tables: &Connection, ordinals: &HashMap<i64, u32>) -> Result<(), RulesError> {
        let mut query = tables.prepare("SELECT pattern, kind, targets, text, policy, options, rule_id FROM handlers")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let Some(&rule) = ordinals.get(&row.get(6)?) else { continue };
            let class = Class::of(row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?.as_bytes());
            self.handlers.push(HandlerRow { rule, class, record: self.records.len() as u64 });
            self.put_texts(row, HANDLER_TEXTS)?;
        }
        let records = &self.records;
        let key = |one: &HandlerRow| one.class.key(first_text(records, one.record));
        self.handlers.sort_unstable_by(|one, other| {
            (one.rule, one.class).cmp(&(other.rule, other.class)).then_with(|| one.class.compare(key(one), key(other)))
        });
        for (place, one) in self.handlers.iter().enumerate() {
            let rule = &mut self.rules[one.rule as usize];
            if rule.counts == [0; 4] {
                rule.first = place as u64;
            }
            rule.counts[(one.class as usize).min(3)] += 1;
        }
        Ok(())
    }

    fn read_mailboxes(&mut self, tables: &Connection) -> Result<(), RulesError> {
        let mut query = tables.prepare("SELECT address, mailbox_id, volume, enabled FROM users ORDER BY domain, address")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let address = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?.as_bytes();
            self.mailboxes.push(self.records.len() as u64);
            if address.starts_with(POSTMASTER) {
                self.postmasters.push(self.records.len() as u64);
            }
            put(&mut self.records, address);
            put(&mut self.records, row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?);
            put(&mut self.records, row.get_ref(2)?.as_str().map_err(rusqlite::Error::from)?.as_bytes());
            put_number(&mut self.records, u64::from(row.get::<_, bool>(3)?));
        }
        Ok(())
    }

    /// Puts the records of a rule's handlers behind the rule's own, in the order of their entries: what one decision reads then lies on a page
    /// or two, and not on one for each step of a search.
    fn gather(&mut self) {
        let old = std::mem::take(&mut self.records);
        let mut made = Vec::with_capacity(old.len());
        let mut moved = |record: &[u8]| {
            made.extend_from_slice(record);
            (made.len() - record.len()) as u64
        };
        for rule in &mut self.rules {
            rule.record = moved(Fields::at(&old, rule.record).whole(RULE_TEXTS, RULE_NUMBERS));
            let own = rule.first as usize..rule.first as usize + rule.counts.iter().sum::<u32>() as usize;
            for handler in self.handlers.get_mut(own).unwrap_or_default() {
                handler.record = moved(Fields::at(&old, handler.record).whole(HANDLER_TEXTS, 0));
            }
        }
        made.extend_from_slice(&old[made.len()..]); // mailboxes, in their order already
        self.records = made;
    }

    /// Writes and syncs the file.
    fn write(mut self, path: &Path) -> Result<Built, RulesError> {
        let body = self.sections();
        self.header.body_crc = crc32c::crc32c_append(crc32c::crc32c(&body), &self.records);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).map_err(RulesError::at(path))?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let write = |out: &mut BufWriter<File>, octets: &[u8]| out.write_all(octets).map_err(RulesError::at(path));
        write(&mut out, &self.header.encode())?;
        write(&mut out, &body)?;
        write(&mut out, &self.records)?;
        let file = out.into_inner().map_err(|error| RulesError::at(path)(error.into_error()))?;
        file.sync_all().map_err(RulesError::at(path))?;
        Ok(Built { header: self.header, octets: self.header.end })
    }

    fn sections(&self) -> Vec<u8> {
        let base = self.header.records_at;
        let mut body = Vec::with_capacity((base as usize).saturating_sub(HEADER));
        for rule in &self.rules {
            body.extend_from_slice(&(rule.record + base).to_le_bytes());
            body.extend_from_slice(&rule.first.to_le_bytes());
            rule.counts.iter().for_each(|count| body.extend_from_slice(&count.to_le_bytes()));
        }
        debug_assert_eq!(body.len(), self.rules.len() * RULE_ROW);
        let offsets = self.handlers.iter().map(|one| one.record);
        for record in offsets.chain(self.mailboxes.iter().copied()).chain(self.postmasters.iter().copied()) {
            body.extend_from_slice(&(record + base).to_le_bytes());
        }
        body
    }
}

fn first_text(records: &[u8], at: u64) -> &[u8] {
    Fields::at(records, at).octets()
}

/// Version, its time, and what tells this directory from others.
fn identity(tables: &Connection) -> Result<Header, RulesError> {
    let newest = tables
        .query_row("SELECT version, created_at FROM rule_versions ORDER BY version DESC LIMIT 1", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (version, stamp): (i64, i64) = newest.unwrap_or_default();
    let pepper: String = tables.query_row("SELECT value FROM state WHERE key = 'pepper'", [], |row| row.get(0))?;
    let schema: String = tables.query_row("SELECT version_num FROM alembic_version", [], |row| row.get(0))?;
    let directory = crc32c::crc32c(format!("{schema} {pepper}").as_bytes());
    Ok(Header { directory, version: version.unsigned_abs(), stamp: stamp.unsigned_abs(), ..Header::default() })
}
