//! The calendar day of a Date field (RFC 5322 3.3, 4.3), which is all that SENTSINCE and its kin look at.

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// (year, month, day) as written, time and zone disregarded (RFC 3501 6.4.4). `None` when the text is no date.
pub fn sent_day(value: &[u8]) -> Option<(i32, u32, u32)> {
    let text = String::from_utf8_lossy(&value[..value.len().min(256)]).to_ascii_lowercase();
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c == ',' || c == '-').filter(|w| !w.is_empty()).collect();
    let at = words.iter().position(|w| MONTHS.iter().any(|m| w.starts_with(m)))?;
    let month = MONTHS.iter().position(|m| words[at].starts_with(m))? as u32 + 1;
    let day: u32 = words.get(at.checked_sub(1)?)?.parse().ok()?;
    let year: i32 = words.get(at + 1)?.parse().ok()?;
    // RFC 5322 4.3: two digits below 50 are 20xx, others and three digits count from 1900.
    let year = match year {
        0..=49 => year + 2000,
        50..=999 => year + 1900,
        _ => year,
    };
    (1..=31).contains(&day).then_some((year, month, day))
}

/// Days since 1970-01-01 to (year, month, day) in the proleptic Gregorian calendar.
pub fn civil_from_days(days: i64) -> (i32, u32, u32) {
    // Out of this range no calendar makes sense; it only keeps the arithmetic from overflowing.
    let days = days.clamp(-1_000_000_000, 1_000_000_000);
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let small = |value: i64| u32::try_from(value).unwrap_or(1);
    (i32::try_from(year).unwrap_or(i32::MAX), small(month), small(day))
}

/// English month abbreviation, 1 = Jan.
pub fn month_name(month: u32) -> &'static str {
    const NAMES: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    NAMES[(month.clamp(1, 12) - 1) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_all_ages_are_read() {
        assert_eq!(sent_day(b"Fri, 21 Nov 1997 09:55:06 -0600"), Some((1997, 11, 21)));
        assert_eq!(sent_day(b"21 Nov 97 09:55:06 GMT"), Some((1997, 11, 21)));
        assert_eq!(sent_day(b"1 January 2024 00:00 +0000"), Some((2024, 1, 1)));
        assert_eq!(sent_day(b"yesterday"), None);
    }

    #[test]
    fn days_become_dates() {
        assert_eq!(civil_from_days(0), (1970, 1, 1));
        assert_eq!(civil_from_days(19_782), (2024, 2, 29));
        assert_eq!(civil_from_days(-1), (1969, 12, 31));
    }
}
