//! How many 10 KB records a second reach the disk, 64 outstanding at a time: `cargo run --release -p gatepost-log --example bench_commit [DIR]`.

use std::sync::mpsc::channel;
use std::time::Instant;

use gatepost_log::{Class, Log, Options};

fn main() {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "var/bench-log".to_owned());
    let (tx, rx) = channel();
    let log = Log::prepare(dir.as_ref(), Options::new(*b"BENC"))
        .and_then(|p| p.start(Box::new(move |tokens, result| tx.send((tokens.len(), result.is_ok())).unwrap_or(()))))
        .expect("open");
    for (outstanding, total) in [(1, 2_000u32), (20, 10_000), (64, 20_000)] {
        let body = vec![b'x'; 10_240];
        let (start, syncs) = (Instant::now(), log.stats().syncs);
        let (mut sent, mut done) = (0u32, 0u32);
        while done < total {
            while sent < total && sent - done < outstanding {
                log.append(1, &[&body], Class::Message, Some(u64::from(sent))).expect("append");
                sent += 1;
            }
            let (count, ok) = rx.recv().expect("committer");
            assert!(ok, "write failed");
            done += count as u32;
        }
        for (number, _) in log.segments() {
            log.free(number);
        }
        let seconds = start.elapsed().as_secs_f64();
        println!("outstanding {outstanding}: {:.0} records/s, {} syncs", f64::from(total) / seconds, log.stats().syncs - syncs);
    }
}
