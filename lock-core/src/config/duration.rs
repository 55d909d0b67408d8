//! Durations in text: numbers with units.

use std::time::Duration;

const UNITS: &[&str] = &[
    "ns", "us", "ms", "s", "sec", "secs", "second", "seconds", "m", "min", "mins", "minute", "minutes", "h", "hr",
    "hrs", "hour", "hours", "d", "day", "days",
];

use crate::types::{Error, ErrorKind};

const LONGEST_DAYS: u64 = 36_500;
/// The longest duration that is accepted: 100 years. Longer ones are mistakes, and clocks and
/// timers would overflow.
pub const LONGEST_DURATION: Duration = Duration::from_secs(LONGEST_DAYS * 24 * 3600);

/// Parses a duration in the format of config strings: `30s`, `250ms`, `1h30m`. For an application's
/// own options.
///
/// # Errors
/// Of kind [`ErrorKind::Config`] for a number without a unit, for a negative one, for a unit longer
/// than days (to many parsers `M` is a month), and for a duration longer than [`LONGEST_DURATION`].
pub fn parse_duration(text: &str) -> Result<Duration, Error> {
    parse(text).map_err(|problem| Error::new(ErrorKind::Config, format!("\"{}\" {problem}", text.escape_debug())))
}

/// Parses `text`, such as `30s`, `250ms`, `1h30m`. The error continues a sentence that begins with
/// the text.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    if text.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit() || c == '.')) {
        return Err("is negative; give a duration of at least 0s".into());
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("has no unit; write {text}s for seconds, or use ms, m, h or d"));
    }
    // To humantime `M` is a month, so `5M` would silently become a lease of five months.
    let mut units = text.split(|c: char| c.is_ascii_digit() || c == ' ' || c == '.').filter(|unit| !unit.is_empty());
    if let Some(unit) = units.find(|unit| !UNITS.contains(unit)) {
        let lower = unit.to_ascii_lowercase();
        let near = if UNITS.contains(&&*lower) { format!("; write it in lower case: {lower}") } else { String::new() };
        return Err(format!("is not a duration: \"{}\" is not one of ms, s, m, h, d{near}", unit.escape_debug()));
    }
    let parsed = humantime::parse_duration(text)
        .map_err(|_| "is not a duration; write whole numbers with units, such as 30s, 250ms or 1h30m")?;
    if parsed > LONGEST_DURATION {
        return Err(format!("is longer than {LONGEST_DAYS} days; leave it out for no limit"));
    }
    Ok(parsed)
}

/// Returns the text that [`parse`] reads as `duration`.
pub(super) fn format(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let unit = [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)]
        .into_iter()
        .find(|(_, unit)| nanos.is_multiple_of(*unit));
    let (unit, divisor) = unit.unwrap_or(("ns", 1));
    format!("{}{unit}", nanos / divisor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_duration_is_read_again() {
        for text in ["0s", "30s", "250ms", "1500ms", "7us", "1000000007ns", "3153600000s"] {
            assert_eq!(parse(text).map(format).as_deref(), Ok(text));
        }
    }

    #[test]
    fn duration_needs_a_unit_of_days_or_shorter() {
        for (text, ms) in [("30s", 30_000), ("250ms", 250), ("1h30m", 5_400_000), ("1m 5s", 65_000), ("0s", 0)] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(parse("2d"), Ok(Duration::from_secs(172_800)));
        for (text, words) in [
            ("30", "write 30s"),
            ("0", "write 0s"),
            ("5M", "\"M\" is not one of ms, s, m, h, d; write it in lower case: m"),
            ("250MS", "write it in lower case: ms"),
            ("1Y", "\"Y\" is not one of ms, s, m, h, d"),
            ("36501d", "is longer than 36500 days"),
            ("18446744073709551615s", "is longer than 36500 days"),
            ("-5s", "is negative; give a duration of at least 0s"),
            ("-.5m", "is negative"),
            ("-1", "is negative"),
            ("--5s", "\"--\" is not one of"),
            ("1y", "\"y\" is not one of"),
            ("s", "is not a duration; write"),
            ("99999999999999999999s", "is not a duration; write"),
            ("99999999999999999d", "is not a duration; write"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(words), "{text}: {message}");
        }
    }
}
