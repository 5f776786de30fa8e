//! Runs histories: one by its seed, or many; on a failure finds the shortest failing beginning and tells what happened in it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{log_history, spool_history, volume_history};

/// What is put through a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// `gatepost-log` alone.
    Log,
    /// `gatepost-queue` on the log.
    Spool,
    /// `gatepost-store` on the log.
    Volume,
}

/// How long a history may be.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The number of steps is chosen below this.
    pub steps: u64,
    /// No more steps than this are taken, without any change of the choices before.
    pub cut: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { steps: 300, cut: u64::MAX }
    }
}

/// What happened, if anyone wants to know.
#[derive(Debug, Default)]
pub struct Diary {
    lines: Option<Vec<String>>,
    step: u64,
}

impl Diary {
    /// Keeps every line.
    pub fn kept() -> Self {
        Self { lines: Some(Vec::new()), step: 0 }
    }

    /// A step begins.
    pub fn step(&mut self, n: u64) {
        self.step = n;
    }

    /// Something happened.
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:4} {}", self.step, line()));
        }
    }

    /// All lines.
    pub fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or(&[])
    }
}

/// A history that went wrong.
#[derive(Debug)]
pub struct Failure {
    /// Which.
    pub subject: Subject,
    /// What reproduces it.
    pub seed: u64,
    /// How many steps it takes.
    pub cut: u64,
    /// What was wrong.
    pub reason: String,
    /// What happened until then.
    pub diary: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.diary.join("\n"))?;
        writeln!(f, "{:?} history {} failed in {} steps: {}", self.subject, self.seed, self.cut, self.reason)?;
        write!(f, "reproduce: make soak-histories SEED={} HISTORIES=1 SOAK_ARGS=\"--only {:?}\"", self.seed, self.subject)
    }
}

fn attempt(subject: Subject, seed: u64, limits: &Limits, diary: &mut Diary) -> Result<(), String> {
    let run = AssertUnwindSafe(|| match subject {
        Subject::Log => log_history::run(seed, limits, diary),
        Subject::Spool => spool_history::run(seed, limits, diary),
        Subject::Volume => volume_history::run(seed, limits, diary),
    });
    catch_unwind(run).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// Runs the history of that seed.
pub fn run(subject: Subject, seed: u64) -> Result<(), Box<Failure>> {
    let limits = Limits::default();
    match attempt(subject, seed, &limits, &mut Diary::default()) {
        Ok(()) => Ok(()),
        Err(reason) => Err(Box::new(explain(subject, seed, &limits, reason))),
    }
}

/// What happens in the history of that seed, line by line.
pub fn tell(subject: Subject, seed: u64) -> Vec<String> {
    let mut diary = Diary::kept();
    if let Err(reason) = attempt(subject, seed, &Limits::default(), &mut diary) {
        diary.note(|| reason);
    }
    diary.lines.unwrap_or_default()
}

/// Runs a failed history again with fewer and fewer steps. The choices of the steps that are left are the same.
fn explain(subject: Subject, seed: u64, limits: &Limits, reason: String) -> Failure {
    let mut shortest = Failure { subject, seed, cut: limits.steps, reason, diary: Vec::new() };
    let (mut low, mut high) = (0, limits.steps);
    while low < high {
        let cut = low.midpoint(high);
        match attempt(subject, seed, &Limits { cut, ..limits.clone() }, &mut Diary::default()) {
            Err(_) => high = cut,
            Ok(()) => low = cut + 1,
        }
    }
    let mut diary = Diary::kept();
    if let Err(reason) = attempt(subject, seed, &Limits { cut: high, ..limits.clone() }, &mut diary) {
        (shortest.cut, shortest.reason) = (high, reason);
    }
    shortest.diary = diary.lines().to_vec();
    shortest
}
