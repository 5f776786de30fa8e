//! The journal detail of a successful attempt, as `queue/attempt.py` writes it: compact JSON.

/// `{"t":…,"outcome":"delivered","ms":…` without the closing brace.
pub(crate) fn delivered(now_us: u64, started_us: u64) -> String {
    format!("{{\"t\":{now_us},\"outcome\":\"delivered\",\"ms\":{}", now_us.saturating_sub(started_us) / 1000)
}
