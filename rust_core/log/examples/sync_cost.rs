//! What a small synced batch costs in files that are used again, and in freshly preallocated ones: rounds of both in turn on the same disk.
//! `cargo run --release -p gatepost-log --example sync_cost -- DIR [SYNCS]`

use std::path::Path;
use std::time::Instant;

use gatepost_log::{Class, Log, Options};

const BATCH: usize = 10 << 10;
const ROUNDS: usize = 5;

/// CPU seconds of this process.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    fields.iter().skip(11).take(2).filter_map(|f| f.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// (median, 99th percentile, CPU per sync) in milliseconds, when a few segments are written.
#[allow(clippy::cast_precision_loss)]
fn round(dir: &Path, keep_spares: usize, syncs: usize) -> (f64, f64, f64) {
    let options = Options { segment_bytes: 4 << 20, keep_spares, ..Options::new(*b"TEST") };
    let log = Log::prepare(dir, options).expect("prepare").start(Box::new(|_, _| {})).expect("start");
    let data = vec![b'x'; BATCH];
    let (mut times, mut begun) = (Vec::with_capacity(syncs), 0.0);
    let warm = (10 << 20) / BATCH;
    for n in 0..warm + syncs {
        if n == warm {
            begun = cpu();
        }
        let start = Instant::now();
        log.append(1, &[&data], Class::Message, None).expect("append");
        log.sync().expect("sync");
        if n >= warm {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let segments = log.segments();
        for (number, _) in &segments[..segments.len().saturating_sub(2)] {
            log.free(*number);
        }
    }
    let spent = (cpu() - begun) * 1e3 / syncs as f64;
    times.sort_by(f64::total_cmp);
    (times[syncs / 2], times[syncs * 99 / 100], spent)
}

fn main() {
    let mut args = std::env::args().skip(1);
    let root = args.next().expect("a directory");
    let syncs = args.next().and_then(|n| n.parse().ok()).unwrap_or(4_000);
    println!("{:>10} {:>8} {:>8} {:>8}", "files", "p50 ms", "p99 ms", "CPU ms");
    for n in 0..ROUNDS {
        for (keep, name) in [(0, "fresh"), (1, "again")] {
            let dir = Path::new(&root).join(format!("{name}-{n}"));
            let (median, late, spent) = round(&dir, keep, syncs);
            println!("{name:>10} {median:>8.3} {late:>8.3} {spent:>8.3}");
            std::fs::remove_dir_all(&dir).expect("remove");
        }
    }
}
