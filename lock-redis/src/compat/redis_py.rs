//! `Lock` of redis-py, and every client that sets the name itself as the key.

use std::time::Duration;

use lock_core::Holder;

/// The key is the name.
pub(crate) const KEY_PREFIX: &str = "";

/// The shortest and the longest pause between two attempts of a waiter. A holder of redis-py wakes
/// no waiter, so only frequent attempts notice its release.
pub(crate) const POLL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(100));

/// Whether the value of a key is certainly a lock. Any key may have any value, and only a record of
/// onelock identifies itself.
pub(crate) fn is_lock(holder: &Holder) -> bool {
    holder.foreign.is_none()
}
