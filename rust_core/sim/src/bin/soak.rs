//! `make soak`, its Rust half: many histories, one per seed, from a first seed on. Prints the seed of a failure and its shortest form, and exits with 1.
//!
//! `soak [--seed N] [--histories N] [--only Log|Spool|Volume] [--tell yes]`: with the last, every step of every history is printed.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use gatepost_sim::{Subject, run, tell};

/// One history of a volume to so many of the others.
const VOLUME_EVERY: u64 = 10;

struct Args {
    seed: u64,
    histories: u64,
    subjects: Vec<Subject>,
    tell: bool,
}

fn args() -> Result<Args, String> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_secs());
    let mut args =
        Args { seed: clock * 1_000_000, histories: 20_000, subjects: vec![Subject::Log, Subject::Spool, Subject::Volume], tell: false };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let value = given.next().ok_or(format!("{name} needs a value"))?;
        let number = || value.parse().map_err(|_| format!("{name} {value}: not a number"));
        match (name.as_str(), value.as_str()) {
            ("--seed", "") => {}
            ("--seed", _) => args.seed = number()?,
            ("--histories", _) => args.histories = number()?,
            ("--tell", value) => args.tell = value == "yes",
            ("--only", "Log") => args.subjects = vec![Subject::Log],
            ("--only", "Spool") => args.subjects = vec![Subject::Spool],
            ("--only", "Volume") => args.subjects = vec![Subject::Volume],
            _ => return Err(format!("{name} {value}: not known")),
        }
    }
    Ok(args)
}

fn soak(args: &Args) -> bool {
    let (next, failed, started) = (AtomicU64::new(0), AtomicU64::new(0), Instant::now());
    let total = args.histories;
    println!("{total} histories of {:?} each, seeds {} to {}", args.subjects, args.seed, args.seed + total.max(1) - 1);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= total || failed.load(Ordering::Relaxed) >= 5 {
                        return;
                    }
                    // Those of volumes wait for SQLite, and are few unless asked for.
                    let rare = args.subjects.len() > 1 && n % VOLUME_EVERY != 0;
                    for subject in args.subjects.iter().filter(|subject| !rare || **subject != Subject::Volume) {
                        if args.tell {
                            println!("{}", tell(*subject, args.seed + n).join("\n"));
                        }
                        if let Err(failure) = run(*subject, args.seed + n) {
                            failed.fetch_add(1, Ordering::Relaxed);
                            println!("{failure}\n");
                        }
                    }
                    if (n + 1) % total.div_ceil(20).max(1) == 0 {
                        println!("{} of {total} done in {:.0} s", n + 1, started.elapsed().as_secs_f64());
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    println!("{} histories, {failed} failed, {:.0} s", next.into_inner().min(total), started.elapsed().as_secs_f64());
    failed == 0
}

fn main() -> ExitCode {
    match args() {
        Ok(args) if soak(&args) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
