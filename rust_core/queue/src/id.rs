//! Message ids: `UUIDv7` (RFC 9562 5.7), monotonic within the process.

use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// 16 octets that sort by time of creation.
pub type MessageId = [u8; 16];

/// Milliseconds and the 74 random bits of the last id.
static LAST: Mutex<(u64, u128)> = Mutex::new((0, 0));

const RANDOM_BITS: u32 = 74;

/// A new id, greater than every id this process made before, also when the clock steps back.
pub fn new_message_id() -> MessageId {
    let now = now_us() / 1000;
    let fresh = random();
    let mut last = LAST.lock();
    if now > last.0 {
        *last = (now, fresh >> 54);
    } else {
        last.1 += 1 + (fresh & 0xffff_ffff);
        if last.1 >> RANDOM_BITS != 0 {
            *last = (last.0 + 1, fresh >> 54);
        }
    }
    assemble(last.0, last.1)
}

fn assemble(ms: u64, random: u128) -> MessageId {
    let high = u128::from(ms & 0xffff_ffff_ffff) << 80;
    let rand_a = (random >> 62 & 0xfff) << 64;
    let rand_b = random & ((1 << 62) - 1);
    (high | 7 << 76 | rand_a | 0b10 << 62 | rand_b).to_be_bytes()
}

/// 128 random bits; the upper 74 are used for a fresh id, the lower 32 as a step.
fn random() -> u128 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let half = || {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u64(now_us());
        u128::from(hasher.finish())
    };
    half() << 64 | half()
}

/// Unix time in microseconds.
pub fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
}

/// Canonical text of an id.
pub fn format_id(id: &MessageId) -> String {
    let hex = |part: &[u8]| part.iter().fold(String::new(), |text, b| text + &format!("{b:02x}"));
    format!("{}-{}-{}-{}-{}", hex(&id[..4]), hex(&id[4..6]), hex(&id[6..8]), hex(&id[8..10]), hex(&id[10..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_ascend_and_carry_version_and_variant() {
        let mut last = new_message_id();
        for _ in 0..50_000 {
            let id = new_message_id();
            assert!(id > last);
            assert_eq!((id[6] >> 4, id[8] >> 6), (7, 2));
            last = id;
        }
        assert_eq!(format_id(&[0xab; 16]), "abababab-abab-abab-abab-abababababab");
    }
}
