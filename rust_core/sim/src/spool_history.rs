//! Random histories of the spool.

use crate::history::{Diary, Limits};

#[allow(clippy::unnecessary_wraps)]
pub(crate) fn run(_seed: u64, _limits: &Limits, _diary: &mut Diary) -> Result<(), String> {
    Ok(())
}
