//! Requests for the locks of `doctor` and `torture`. They override options of the store's URL that
//! suit an application's locks and would distort a test.

use std::time::Duration;

use lock_core::{Error, LockName, LockRequest, Locker, Renew};

/// Requests a lock that is free at once after its release.
pub(crate) fn request(locker: &Locker, name: impl TryInto<LockName, Error: Into<Error>>) -> LockRequest {
    locker.lock(name).min_hold(Duration::ZERO)
}

/// Requests a lock that expires soon without renewals: with this ttl, if the store has ttls, and
/// with a margin, grace and renewal that suit it.
pub(crate) fn short_lived(
    locker: &Locker,
    name: impl TryInto<LockName, Error: Into<Error>>,
    ttl: Duration,
) -> LockRequest {
    let request = request(locker, name).renew(Renew::Auto).grace(Duration::ZERO);
    if locker.capabilities().ttl { request.ttl(ttl).margin(ttl / 5) } else { request }
}
