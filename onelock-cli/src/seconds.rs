//! Durations as numbers of seconds.

use std::time::Duration;

use lock_core::config::LONGEST_DURATION;

/// Returns the duration of so many seconds.
///
/// # Errors
/// With the reason, for a number that is negative, not finite or too large.
pub(crate) fn seconds(number: f64) -> Result<Duration, String> {
    if number < 0.0 {
        return Err("give a duration of at least 0 s".to_owned());
    }
    let duration = Duration::try_from_secs_f64(number).map_err(|e| e.to_string())?;
    if duration > LONGEST_DURATION {
        return Err(format!("the longest duration is {LONGEST_DURATION:?}"));
    }
    Ok(duration)
}
