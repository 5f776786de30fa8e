//! The journal detail of a successful attempt, as `queue/attempt.py` writes it: compact JSON.

use std::fmt::Write;

/// `{"t":…,"outcome":"delivered","ms":…` without the closing brace.
pub(crate) fn delivered(now_us: u64, started_us: u64) -> String {
    format!("{{\"t\":{now_us},\"outcome\":\"delivered\",\"ms\":{}", now_us.saturating_sub(started_us) / 1000)
}

/// Appends `,"key":"text"` with the text escaped.
pub(crate) fn text(json: &mut String, key: &str, text: &str) {
    let _ = write!(json, ",\"{key}\":\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            c if c < ' ' => {
                let _ = write!(json, "\\u{:04x}", c as u32);
            }
            c => json.push(c),
        }
    }
    json.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_is_json_whatever_the_peer_said() {
        let mut json = delivered(2_005_000, 2_000_000);
        text(&mut json, "text", "a \"quoted\\ word\t");
        assert_eq!(json + "}", r#"{"t":2005000,"outcome":"delivered","ms":5,"text":"a \"quoted\\ word\u0009"}"#);
    }
}
