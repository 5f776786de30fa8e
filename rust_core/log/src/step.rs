//! Who does the work of committer and keeper: two threads, or, in a simulation, whoever calls. Used by [`crate::Log`] only.
//!
//! Without threads the committer's work comes in three sorts of pieces - take up what is pending, write and sync one run, settle - between which the
//! log can be called as it can be while the committer thread is busy. The pieces are the very functions that the thread runs.

use std::sync::Arc;
use std::thread::JoinHandle;

use crate::batch::Batch;
use crate::committer::Committer;
use crate::error::LogError;
use crate::state::Shared;

pub(crate) enum Workers {
    Threads(Vec<JoinHandle<()>>),
    Steps(Box<Steps>),
    Ended,
}

/// A committer without a thread, and the batch it is at with the number of runs written.
pub(crate) struct Steps {
    committer: Committer,
    hand: Option<(Arc<Batch>, usize)>,
}

impl Workers {
    /// Starts both threads.
    pub fn threads(committer: Committer, keeper: Arc<Shared>) -> Result<Self, LogError> {
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(|e| LogError::Io(format!("start thread: {e}")))
        };
        let committer = spawn("log-commit", Box::new(move || committer.run()))?;
        Ok(Self::Threads(vec![committer, spawn("log-keep", Box::new(move || keeper.keep()))?]))
    }

    /// Does nothing by itself.
    pub fn steps(committer: Committer) -> Self {
        Self::Steps(Box::new(Steps { committer, hand: None }))
    }

    /// One piece of the committer's work, if there is any and no thread does it.
    pub fn commit(&mut self) -> bool {
        match self {
            Self::Steps(steps) => steps.step(),
            _ => false,
        }
    }

    /// Returns when everything is written and both have ended. The log is marked as closing.
    pub fn end(&mut self, shared: &Shared) {
        match std::mem::replace(self, Self::Ended) {
            Self::Threads(threads) => threads.into_iter().for_each(|thread| drop(thread.join())),
            Self::Steps(mut steps) => {
                while steps.step() {}
                steps.committer.finish();
                let mut state = shared.state.lock();
                while shared.chore(&mut state) {}
            }
            Self::Ended => {}
        }
    }
}

impl Steps {
    fn step(&mut self) -> bool {
        match self.hand.take() {
            None => {
                let mut state = self.committer.shared.state.lock();
                if state.pending.is_empty() {
                    return false;
                }
                let batch = Committer::take_batch(&mut state);
                drop(state);
                self.hand = Some((batch, 0));
            }
            Some((batch, written)) if written < batch.runs.len() => match self.committer.write_run(&batch.runs[written]) {
                Ok(()) => self.hand = Some((batch, written + 1)),
                Err(error) => self.committer.settle(batch, written, Some(error)),
            },
            Some((batch, written)) => self.committer.settle(batch, written, None),
        }
        true
    }
}
