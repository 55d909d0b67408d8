//! Releases in the background, which Python waits for before it exits.

use futures_util::FutureExt as _;
use lock_core::{Error, Guard, Locker, Release};

use crate::engine::Engine;

/// A guard. Dropping it releases the lock in the background, and keeps the store open meanwhile.
pub(crate) struct CountedGuard {
    // Dropped first, so that its release has begun.
    pub(crate) guard: Guard,
    pub(crate) owner: String,
    settles: Settles,
}

impl CountedGuard {
    pub(crate) fn new(guard: Guard, owner: String, locker: Locker) -> Self {
        Self { guard, owner, settles: Settles(locker) }
    }

    pub(crate) async fn release(self) -> Result<Release, Error> {
        // Dropped after the release, also if that is cancelled.
        let _settles = self.settles;
        self.guard.release().await
    }
}

/// Counts the releases in the background of a store, from its drop until their end.
pub(crate) struct Settles(pub(crate) Locker);

impl Drop for Settles {
    fn drop(&mut self) {
        if self.0.wait_idle().now_or_never().is_some() {
            return;
        }
        if let Some(engine) = Engine::started() {
            let locker = self.0.clone();
            engine.spawn(async move { locker.wait_idle().await });
        }
    }
}
