//! Reads this machine's clock.

use std::time::SystemTime;

/// Returns the time in microseconds. A local file system uses the same clock.
pub(crate) fn now_us() -> u64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}
