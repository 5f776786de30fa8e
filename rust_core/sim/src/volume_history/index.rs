//! An index that refuses changes, and life after a failure.

use rusqlite::Connection;

use super::Run;

/// Fails every transaction that has records in a log, after they are there.
const REFUSE: &str = "CREATE TRIGGER refuse BEFORE UPDATE OF applied ON stream BEGIN SELECT RAISE(ABORT, 'refused'); END";

impl Run<'_> {
    pub(super) fn refuse_in_index(&mut self) -> Result<(), String> {
        self.diary.note(|| "the index refuses".into());
        self.in_index(REFUSE)
    }

    pub(super) fn accept_in_index(&self) -> Result<(), String> {
        self.in_index("DROP TRIGGER refuse")
    }

    fn in_index(&self, sql: &str) -> Result<(), String> {
        let told = |error: rusqlite::Error| error.to_string();
        Connection::open(self.dir.join("index.db")).and_then(|db| db.execute_batch(sql)).map_err(told)
    }

    /// Something failed, and the process may go on: what it sees now, it sees from then on. False when it cannot, or does not.
    pub(super) fn lives_on(&mut self) -> Result<bool, String> {
        if self.broken || self.volumes.iter().any(|volume| volume.owes()) || self.rng.chance(30) {
            return Ok(false);
        }
        match self.seen() {
            Ok(seen) => self.is(seen).map(|()| true),
            Err(_) if self.chaos.excuses(&self.disk) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
