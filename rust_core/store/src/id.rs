//! 16-byte ids: `UUIDv7` (RFC 9562 5.7), monotonic within the process, so that they sort by time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Mailbox, folder, message or content id.
pub type Id = [u8; 16];

/// Last time (ms << 12 | sequence) given out.
static LAST: AtomicU64 = AtomicU64::new(0);

/// Microseconds since the epoch.
pub fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}

/// A fresh id: 48 bits of milliseconds, 12 of sequence, 62 random.
pub fn new_id() -> Id {
    let now = (now_us() / 1_000).cast_unsigned() << 12;
    let stamp = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1))).unwrap_or(0);
    let stamp = now.max(stamp + 1);
    let mut id = [0u8; 16];
    id[..6].copy_from_slice(&(stamp >> 12).to_be_bytes()[2..]);
    id[6..8].copy_from_slice(&(0x7000 | (stamp & 0xfff) as u16).to_be_bytes());
    id[8..].copy_from_slice(&random());
    id[8] = id[8] & 0x3f | 0x80;
    id
}

/// Eight random octets from the kernel, a hundred at a time.
fn random() -> [u8; 8] {
    use std::cell::RefCell;
    thread_local!(static POOL: RefCell<([u8; 256], usize)> = const { RefCell::new(([0; 256], 256)) });
    POOL.with_borrow_mut(|(pool, used)| {
        if *used + 8 > pool.len() {
            // SAFETY: the buffer is valid for its length.
            unsafe { libc::getrandom(pool.as_mut_ptr().cast(), pool.len(), 0) };
            *used = 0;
        }
        let mut out = [0; 8];
        out.copy_from_slice(&pool[*used..*used + 8]);
        *used += 8;
        out
    })
}

/// Hexadecimal, for messages to people.
pub fn hex(id: &[u8]) -> String {
    use std::fmt::Write as _;
    id.iter().fold(String::with_capacity(id.len() * 2), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}
