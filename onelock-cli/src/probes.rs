//! Locks that `doctor` and `torture` only try: what the store's URL chooses for an application's
//! locks must not get in their way.

use std::time::Duration;

use lock_core::{Error, LockName, LockRequest, Locker, Renew};

/// Without what would keep a lock after its release.
pub(crate) fn request(locker: &Locker, name: impl TryInto<LockName, Error: Into<Error>>) -> LockRequest {
    locker.lock(name).min_hold(Duration::ZERO)
}

/// For a lock that ends soon if nobody renews it: with this ttl, where there is one to choose, and
/// all other times so that they suit it.
pub(crate) fn short_lived(
    locker: &Locker,
    name: impl TryInto<LockName, Error: Into<Error>>,
    ttl: Duration,
) -> LockRequest {
    let request = request(locker, name).renew(Renew::Auto).grace(Duration::ZERO);
    if locker.capabilities().ttl { request.ttl(ttl).margin(ttl / 5) } else { request }
}
