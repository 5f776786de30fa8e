//! Records read through a window: the same as read one by one, whatever their order and length; damage in one is found.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use gatepost_log::{Class, Loc, Log, LogError, Options, Window};

const KIND: u8 = 7;
/// Octets of a record before its payload.
const HEADER: u64 = 12;

fn open(dir: &std::path::Path) -> Log {
    let prepared = Log::prepare(dir, Options::new(*b"TEST")).unwrap();
    prepared.start(Box::new(|_, _| {})).unwrap()
}

#[test]
fn whole_records_read_through_a_window_are_those_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let payload = |n: usize| vec![n as u8; n * 37 % 900];
    let places: Vec<Loc> = (1..600).map(|n| log.append(KIND, &[&payload(n)], Class::Journal, None).unwrap()).collect();
    log.sync().unwrap();
    let segment = log.segment(places[0].segment).unwrap();
    let mut window = Window::default();
    let forth = (0..places.len()).collect::<Vec<_>>();
    let back = forth.iter().rev().copied().collect();
    let mixed = forth.iter().map(|n| n * 7 % places.len()).collect();
    for order in [forth, back, mixed] {
        for n in order {
            let (kind, read) = segment.read_whole_within(places[n].offset, 256, &mut window).unwrap();
            assert_eq!((kind, read), (KIND, &payload(n + 1)[..]));
        }
    }
    let file = OpenOptions::new().write(true).open(dir.path().join(format!("{:08}.seg", places[0].segment))).unwrap();
    for n in [20, 24] {
        file.write_all_at(b"?", u64::from(places[n].offset) + HEADER + payload(n + 1).len() as u64 - 1).unwrap();
    }
    let mut window = Window::default();
    for (n, place) in places.iter().enumerate().take(30) {
        match segment.read_whole_within(place.offset, 256, &mut window) {
            Ok((_, read)) => assert!(n != 20 && n != 24 && read == payload(n + 1)),
            Err(error) => assert!(matches!(error, LogError::Damaged { .. }) && [20, 24].contains(&n), "{n}: {error}"),
        }
    }
}
