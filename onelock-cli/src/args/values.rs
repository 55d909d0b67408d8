//! Parses the values of options.

use std::{fmt::Display, num::NonZeroU16, str::FromStr, time::Duration};

use lock_core::{LockName, config::parse_duration};

use crate::seconds::seconds;

/// Parses a duration with units, or a plain number of seconds, because users of flock type the
/// latter.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(number) if number >= 0.0 => seconds(number),
        _ => duration_with_unit(text).map_err(|e| e.to_string()),
    }
}

/// Parses a duration as the options of a config string do.
pub(crate) fn duration_with_unit(text: &str) -> Result<Duration, onelock::Error> {
    parse_duration(text)
}

pub(crate) fn permits(text: &str) -> Result<NonZeroU16, String> {
    text.parse().map_err(|_| "give the number of commands that may run at once, from 1 to 65535".to_owned())
}

/// Returns a parser of whole numbers from `least` to `greatest`.
pub(crate) fn number<T>(least: T, greatest: T) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync
where
    T: FromStr + PartialOrd + Display + Copy + Send + Sync,
{
    move |text| {
        let number = text.parse().ok().filter(|number| (least..=greatest).contains(number));
        number.ok_or_else(|| format!("give a whole number from {least} to {greatest}"))
    }
}

pub(crate) fn tag(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, such as team=etl")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(crate) fn lock_name(text: &str) -> Result<LockName, String> {
    LockName::new(text).map_err(|e| e.to_string())
}
