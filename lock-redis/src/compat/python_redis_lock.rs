//! The keys of `python-redis-lock`. Its release pushes one element to a list, and one of the
//! processes that block on the list receives it.

use lock_core::LockName;

/// The prefix of the name in the lock's key.
pub(crate) const KEY_PREFIX: &str = "lock:";

/// The list on which waiting processes block.
pub(crate) fn signal_key(name: &LockName) -> String {
    format!("lock-signal:{}", name.as_str())
}
