//! Requests for the locks of `doctor` and `torture`. They override options of the store's URL that
//! suit an application's locks and would distort a test.

use std::time::Duration;

use lock_core::{Error, LockName, LockOptions, LockRequest, Locker};

/// Requests a lock that is free at once after its release.
pub(crate) fn request(locker: &Locker, name: impl TryInto<LockName, Error: Into<Error>>) -> LockRequest {
    locker.lock(name).min_hold(Duration::ZERO)
}

/// Requests a lock that expires soon without renewals: with this ttl, if the store has ttls, and
/// with the defaults of all other options, which suit any ttl.
pub(crate) fn short_lived(
    locker: &Locker,
    name: impl TryInto<LockName, Error: Into<Error>>,
    ttl: Duration,
) -> LockRequest {
    let ttl = locker.capabilities().ttl.then_some(ttl);
    locker.lock(name).options(LockOptions { ttl, ..LockOptions::default() })
}
