//! Quantities as people write and read them: sizes, durations, moments, and the nearest word to a misspelt one.
//!
//! Everything here is a pure function; the clock is read by the callers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Reads a size; a bare number counts `unit` bytes. Units are powers of 1024, with or without `i`, as AWS counts MB.
pub fn parse_bytes(text: &str, unit: u64) -> Result<u64, String> {
    let (number, suffix) = split_number(text);
    let factor = match suffix.to_ascii_lowercase().as_str() {
        "" => unit,
        "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return Err(format!("'{text}' is not a size: write a number, or one with a unit such as 256MiB or 1GiB")),
    };
    scaled(number, factor)
        .ok_or_else(|| format!("'{text}' is not a size: write a number, or one with a unit such as 256MiB or 1GiB"))
}

/// Reads a duration in milliseconds; a bare number counts `unit` milliseconds. Parts may follow each other: `1h30m`.
pub fn parse_millis(text: &str, unit: u64) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a duration: write a number, or one with a unit such as 500ms, 30s or 10m");
    let mut rest = text.trim();
    let mut total = 0u64;
    let mut parts = 0;
    while !rest.is_empty() || parts == 0 {
        let (number, tail) = split_number(rest);
        let end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let factor = match &tail[..end] {
            "" if parts == 0 && tail.is_empty() => unit,
            "ms" => 1,
            "s" | "sec" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        total = scaled(number, factor).and_then(|n| total.checked_add(n)).ok_or_else(wrong)?;
        rest = &tail[end..];
        parts += 1;
    }
    Ok(total)
}

fn split_number(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// `number × factor`, when the number is one and the product is whole enough to count with.
fn scaled(number: &str, factor: u64) -> Option<u64> {
    let digits = number.replace('_', "");
    if let Ok(whole) = digits.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let value = digits.parse::<f64>().ok()? * factor as f64;
    (value.is_finite() && (0.0..9e15).contains(&value)).then(|| value.round() as u64)
}

/// A size for people: `812 B`, `1.2 kB`, `48.0 MB` (powers of 1024, as the limits count).
pub fn show_bytes(bytes: u64) -> String {
    let size = bytes as f64;
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} kB", size / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MB", size / 1_048_576.0),
        _ => format!("{:.1} GB", size / 1_073_741_824.0),
    }
}

/// A duration for people: `250ms`, `30s`, `1.5s`, `15m`.
pub fn show_millis(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms}ms"),
        _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1000) => format!("{}s", ms / 1000),
        _ => format!("{}s", ms as f64 / 1000.0),
    }
}

/// How long ago something was, in its largest unit: `now`, `12s ago`, `3h ago`.
pub fn show_ago(then_ms: u64, now_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1000;
    match seconds {
        0 => "now".to_owned(),
        1..60 => format!("{seconds}s ago"),
        60..3600 => format!("{}m ago", seconds / 60),
        3600..86_400 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// The present, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as u64
}

/// A moment as RFC 3339 in UTC with milliseconds.
pub fn show_moment(ms: u64) -> String {
    let (days, rest) = (ms / 86_400_000, ms % 86_400_000);
    let (year, month, day) = civil(days as i64);
    let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", rest % 1000)
}

/// Reads an RFC 3339 moment, in milliseconds since 1970.
pub fn parse_moment(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| {
        text.get(range).filter(|t| t.bytes().all(|b| b.is_ascii_digit())).and_then(|t| t.parse::<i64>().ok())
    };
    let mark = |at: usize, allowed: &str| text.get(at..=at).is_some_and(|c| allowed.contains(c));
    if !(mark(4, "-") && mark(7, "-") && mark(10, "Tt ") && mark(13, ":") && mark(16, ":")) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let sane = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    let (fraction, zone) = split_fraction(text.get(19..)?);
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - zone_seconds(zone)?;
    let ms = u64::try_from(seconds).ok()? * 1000 + fraction;
    sane.then_some(ms)
}

/// The milliseconds of `.123456…`, and what follows.
fn split_fraction(text: &str) -> (u64, &str) {
    let Some(digits) = text.strip_prefix('.') else { return (0, text) };
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let padded = format!("{:0<3}", &digits[..end.min(3)]);
    (padded.parse().unwrap_or(0), &digits[end..])
}

/// Seconds east of UTC of `Z` or `±hh:mm`.
fn zone_seconds(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = zone[1..].split_once(':')?;
    Some(sign * (hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60))
}

/// Days since 1970-01-01 of a date in the Gregorian calendar (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The date of a number of days since 1970-01-01: the inverse of `days_from_civil`.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The candidate that `word` most probably means; `None` when nothing is near.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let wanted = plain(word);
    let allowed = (wanted.chars().count() / 3).max(2);
    let distance = |candidate: &str| {
        let candidate = plain(candidate);
        let last = candidate.rsplit('.').next().unwrap_or(&candidate);
        let begins = wanted.len() >= 3 && (candidate.starts_with(&wanted) || last.starts_with(&wanted));
        let edits = |to: &str| strsim::damerau_levenshtein(&wanted, to);
        if begins { 1 } else { edits(&candidate).min(edits(last)) }
    };
    let scored = candidates.into_iter().map(|candidate| (distance(candidate), candidate));
    scored.filter(|(d, c)| *d <= allowed && *d * 2 <= c.chars().count()).min_by_key(|(d, _)| *d).map(|(_, c)| c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("5", 5 << 20),
            ("256MiB", 256 << 20),
            ("256 MB", 256 << 20),
            ("1g", 1 << 30),
            ("0.5GiB", 512 << 20),
            ("10_0b", 100),
        ] {
            assert_eq!(parse_bytes(text, 1 << 20), Ok(bytes), "{text}");
        }
        for text in ["", "x", "1TB!", "-1", "1e3", "MiB", "99999999999999999999", "1.2.3"] {
            assert!(parse_bytes(text, 1).is_err(), "{text}");
        }
        assert_eq!([show_bytes(812), show_bytes(1229), show_bytes(50 << 20)], ["812 B", "1.2 kB", "50.0 MB"]);
    }

    #[test]
    fn durations() {
        for (text, ms) in [
            ("30", 30_000),
            ("0.5", 500),
            ("500ms", 500),
            ("30s", 30_000),
            ("1h30m", 5_400_000),
            ("10m", 600_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(parse_millis(text, 1000), Ok(ms), "{text}");
        }
        for text in ["", "s", "1x", "1s2", "-1s", "1 2", "ten"] {
            assert!(parse_millis(text, 1000).is_err(), "{text}");
        }
        assert_eq!(
            [show_millis(250), show_millis(30_000), show_millis(1500), show_millis(900_000)],
            ["250ms", "30s", "1.5s", "15m"]
        );
    }

    #[test]
    fn moments_round_trip() {
        for (text, ms) in [
            ("1970-01-01T00:00:00.000Z", 0),
            ("2024-02-29T23:59:59.999Z", 1_709_251_199_999),
            ("2026-11-20T18:34:00.120Z", 1_795_199_640_120),
        ] {
            assert_eq!(parse_moment(text), Some(ms), "{text}");
            assert_eq!(show_moment(ms), text);
        }
        assert_eq!(parse_moment("2024-02-29T23:59:59+01:00"), Some(1_709_247_599_000));
        assert_eq!(parse_moment("2024-02-29T23:59:59.5Z"), Some(1_709_251_199_500));
        for text in ["", "10m", "2024-02-29", "2024-13-01T00:00:00Z", "2024-02-29T23:59:59", "2024-02-29T23:59:59é"] {
            assert_eq!(parse_moment(text), None, "{text}");
        }
    }

    #[test]
    fn ages() {
        assert_eq!(show_ago(0, 500), "now");
        assert_eq!(show_ago(0, 59_000), "59s ago");
        assert_eq!(show_ago(0, 7_200_000), "2h ago");
        assert_eq!(show_ago(10, 0), "now");
    }

    #[test]
    fn nearest_words() {
        let keys = ["listen", "data_dir", "limits.request_bytes", "limits.reply_bytes"];
        for (word, found) in [
            ("listn", "listen"),
            ("data-dir", "data_dir"),
            ("request_bytes", "limits.request_bytes"),
            ("LISTEN", "listen"),
            ("lis", "listen"),
        ] {
            assert_eq!(nearest(word, keys), Some(found), "{word}");
        }
        assert_eq!(nearest("zebra", keys), None);
        assert_eq!(nearest("a", ["bb"]), None);
    }
}
