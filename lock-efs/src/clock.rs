//! Reads this machine's clock.

use std::time::{Duration, SystemTime};

/// Returns the time in microseconds. A local file system uses the same clock.
pub(crate) fn now_us() -> u64 {
    us_of(SystemTime::now())
}

/// Returns `time` in microseconds after 1970.
pub(crate) fn us_of(time: SystemTime) -> u64 {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}

/// Returns the time that is `us` microseconds after 1970.
pub(crate) fn time_of(us: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(us))
}
