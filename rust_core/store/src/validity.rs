//! The highest UIDVALIDITY that may have been given out, in a file beside the index: one that was lost may have been ahead of the clock.
//!
//! Called under the index's write lock, by whoever makes folders (`apply`) and by a rebuild (`replay`). The file is raised a day's worth at a time, so it
//! is written about once a day. Invariant: durable before the number it covers is committed. A file that cannot be written (full disk) is tried again with the
//! next folder; until then the clock alone vouches for new numbers, as it did before.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::error::{Result, StoreError};

const NAME: &str = "uidvalidity";
const VERSION: i64 = 1;
/// So far ahead of what is needed, in seconds of the clock.
const AHEAD: i64 = 86_400;

fn directory(db: &Connection) -> Option<PathBuf> {
    Path::new(db.path()?).parent().filter(|dir| !dir.as_os_str().is_empty()).map(Path::to_owned)
}

/// No number above it was given out; 0 when nothing is known.
pub fn highest(db: &Connection) -> Result<i64> {
    let Some(path) = directory(db).map(|dir| dir.join(NAME)) else { return Ok(0) };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    let mut numbers = text.split_ascii_whitespace().map(str::parse::<i64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(version)), _) if version > VERSION => {
            Err(StoreError::Version(format!("{}: format version {version}, this program knows up to {VERSION}", path.display())))
        }
        (Some(Ok(_)), Some(Ok(highest))) => Ok(highest),
        _ => Err(StoreError::Invalid(format!("{}: not two numbers; mend it or remove it", path.display()))),
    }
}

/// This number is about to be given out.
pub fn reserve(db: &Connection, number: i64) {
    // A file that makes no sense, or is of a newer program, stays as it is for whoever looks at it.
    if let Some(dir) = directory(db)
        && highest(db).is_ok_and(|highest| highest < number)
    {
        let _ = write(&dir, number.saturating_add(AHEAD));
    }
}

fn write(dir: &Path, highest: i64) -> std::io::Result<()> {
    let fresh = dir.join(format!("{NAME}.new"));
    let mut file = File::create(&fresh)?;
    writeln!(file, "{VERSION} {highest}")?;
    file.sync_all()?;
    fs::rename(&fresh, dir.join(NAME))?;
    File::open(dir)?.sync_all()
}
