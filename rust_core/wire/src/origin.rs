//! Where a plain message comes from, in the two forms that are written down: the trace field in front of it (RFC 5321 4.4) and the note
//! the journal keeps. Plain: over SMTP, without TLS, login or non-ASCII addresses. Python writes the same for everything else
//! (`policy/received.py`, `message/envelope.py`); a test holds the two together.

use std::fmt::Write;

use gatepost_mime::date::{civil_from_days, month_name};

const SECONDS_A_DAY: i64 = 86_400;
const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

/// Who handed a message to whom.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// EHLO was said, and not HELO.
    pub extended: bool,
    /// Address of the client, without brackets.
    pub client: &'a str,
    /// Its port.
    pub port: u16,
    /// What it calls itself; see [`plain_name`].
    pub helo: &'a str,
    /// Our own name.
    pub hostname: &'a str,
    /// The key of the listener in the settings.
    pub listener: &'a str,
}

/// A name that can stand in a header field and in JSON as it is: letters, digits and `.-_:[]`, at most 255. None: Python is to look at it.
pub fn plain_name(name: &[u8]) -> Option<&str> {
    let fits = |octet: &u8| octet.is_ascii_alphanumeric() || b".-_:[]".contains(octet);
    if name.is_empty() || name.len() > 255 || !name.iter().all(fits) {
        return None;
    }
    std::str::from_utf8(name).ok()
}

impl Origin<'_> {
    fn protocol(&self) -> &'static str {
        if self.extended { "ESMTP" } else { "SMTP" }
    }

    /// The Received field with its line end. `recipient` is the only one of the message.
    pub fn received(&self, id: &str, recipient: &str, unix_seconds: i64) -> String {
        let mut field = String::with_capacity(256);
        let Self { client, helo, hostname, .. } = self;
        let literal = if client.contains(':') { "IPv6:" } else { "" };
        let client = if client.is_empty() { "127.0.0.1" } else { client };
        let protocol = self.protocol();
        // Writing to a String cannot fail.
        let _ = write!(
            field,
            "Received: from {helo} ([{literal}{client}])\r\n\tby {hostname} with {protocol} id {id}\r\n\tfor <{recipient}>;\r\n\t"
        );
        write_date(&mut field, unix_seconds);
        field.push_str("\r\n");
        field
    }

    /// The journal's note (docs/formats.md, meta). `body` is the BODY parameter of MAIL; `seen` says that scanning looked at it in place
    /// and accepted it.
    pub fn meta(&self, body: &str, rule_version: u64, seen: bool) -> Vec<u8> {
        let Self { client, port, helo, listener, .. } = self;
        let protocol = self.protocol();
        let verdict = if seen { ",1" } else { "" };
        format!(r#"[["{protocol}","{client}",{port},"{helo}","","","{listener}"],"","","{body}",false,{rule_version}{verdict}]"#)
            .into_bytes()
    }
}

/// RFC 5322 3.3 date-time in UTC.
fn write_date(text: &mut String, unix_seconds: i64) {
    let (days, second) = (unix_seconds.div_euclid(SECONDS_A_DAY), unix_seconds.rem_euclid(SECONDS_A_DAY));
    let (year, month, day) = civil_from_days(days);
    let weekday = DAYS[usize::try_from(days.rem_euclid(7)).unwrap_or(0)];
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let _ = write!(text, "{weekday}, {day} {} {year} {hour:02}:{minute:02}:{second:02} +0000", month_name(month));
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: Origin<'_> =
        Origin { extended: true, client: "192.0.2.1", port: 4711, helo: "client.example", hostname: "mx.example.test", listener: "smtp" };

    #[test]
    fn the_trace_field_names_who_how_and_when() {
        let field = ORIGIN.received("0199-id", "alice@example.test", 1_795_361_451);
        let expected = "Received: from client.example ([192.0.2.1])\r\n\tby mx.example.test with ESMTP id 0199-id\r\n\tfor <alice@example.test>;\r\n\t";
        assert_eq!(field, format!("{expected}Sun, 22 Nov 2026 15:30:51 +0000\r\n"));
        let v6 = Origin { client: "2001:db8::1", extended: false, ..ORIGIN }.received("i", "a@b", 0);
        assert!(v6.contains("([IPv6:2001:db8::1])") && v6.contains(" with SMTP id ") && v6.ends_with("Thu, 1 Jan 1970 00:00:00 +0000\r\n"));
    }

    #[test]
    fn the_note_is_the_list_that_python_writes() {
        let expected = r#"[["ESMTP","192.0.2.1",4711,"client.example","","","smtp"],"","","8BITMIME",false,7]"#;
        assert_eq!(ORIGIN.meta("8BITMIME", 7, false), expected.as_bytes());
        assert_eq!(ORIGIN.meta("8BITMIME", 7, true), expected.replace("7]", "7,1]").as_bytes());
    }

    #[test]
    fn a_name_that_needs_escaping_or_thought_is_not_plain() {
        for name in [&b"client.example"[..], b"[192.0.2.1]", b"[IPv6:2001:db8::1]", b"my_pc"] {
            assert_eq!(plain_name(name).map(str::as_bytes), Some(name));
        }
        for name in [&b""[..], b"a b", b"a\"b", b"a\\b", b"(x)", b"caf\xc3\xa9", b"a\tb", &[b'a'; 256]] {
            assert_eq!(plain_name(name), None);
        }
    }
}
