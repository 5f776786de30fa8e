//! For tests only: a disk that fails, forgets and decays on demand, and random histories of the log and the spool that run on it.
//!
//! Callers: the tests of `gatepost-log` and `gatepost-queue`, and `make soak`. [`Disk`] stands behind the storage seam; docs/durability.md says what it
//! simulates and how to reproduce a failure from its seed. [`RealFiles`] stands there for tests that want the operating system's files.

mod chaos;
mod decay;
mod disk;
mod history;
mod inode;
mod log_history;
mod model;
mod names;
mod operator;
mod real_files;
mod rng;
mod spool_check;
mod spool_history;
mod volume_history;

pub use disk::{Call, Disk, Fault, Traced};
pub use history::{Diary, Failure, Limits, Subject, run, tell};
pub use real_files::{Hooks, RealFiles};
pub use rng::Rng;
