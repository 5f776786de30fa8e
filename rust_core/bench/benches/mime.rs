//! The mime crate: letters by size, base64, hostile hundreds of megabytes (set GATEPOST_HOSTILE to their size in MB; 10 by default).

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gatepost_bench::{base64_lines, hostile, letter};
use gatepost_mime::transfer::{Method, decode};
use gatepost_mime::{Limits, analyse, index};

fn letters(c: &mut Criterion) {
    let mut group = c.benchmark_group("letter");
    for (name, octets) in [("3 KB", 3 << 10), ("70 KB", 70 << 10), ("1.4 MB", 1_400 << 10)] {
        let message = letter(octets);
        group.throughput(Throughput::Bytes(message.len() as u64));
        group.bench_function(format!("index {name}"), |b| b.iter(|| index(&message)));
        group.bench_function(format!("analyse {name}"), |b| b.iter(|| analyse(&message, &Limits::default())));
    }
    group.finish();
}

fn base64(c: &mut Criterion) {
    let text = base64_lines(1 << 20);
    let mut group = c.benchmark_group("base64");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("1 MB in lines", |b| b.iter(|| decode(Method::Base64, &text, usize::MAX)));
    group.finish();
}

fn hostility(c: &mut Criterion) {
    let megabytes = std::env::var("GATEPOST_HOSTILE").ok().and_then(|n| n.parse().ok()).unwrap_or(10);
    let mut group = c.benchmark_group("hostile");
    group.sample_size(10);
    for (name, message) in hostile(megabytes << 20) {
        group.throughput(Throughput::Bytes(message.len() as u64));
        group.bench_function(name, |b| b.iter(|| analyse(&message, &Limits::default())));
    }
    group.finish();
}

criterion_group!(benches, letters, base64, hostility);
criterion_main!(benches);
