//! The half of the contract for a lock that passes between two acquisitions of this process.

use async_trait::async_trait;

use super::{AcquireOutcome, AcquireRequest, Lease, Release};
use crate::types::Error;

/// Releases a lock and acquires it again, in one request to the store; given by
/// [`Backend::relay`](super::Backend::relay).
///
/// The core uses it for the next waiter of the process. Everything that is said of
/// [`release`](super::Backend::release) and [`acquire`](super::Backend::acquire) holds for the two
/// halves, also for a repeated, late or cancelled request.
#[async_trait]
pub trait Relay: Send + Sync {
    /// Releases `lease` without a minimum hold, and then tries to acquire the same name once for
    /// `request`. Both are exclusive, and `request` is not fair.
    ///
    /// If the release has woken a watcher of another process, the request is not tried. Otherwise
    /// the tasks of one process would keep the lock from all others.
    ///
    /// - The request is granted if the release has freed the lock
    ///   (`a_relay_passes_the_lock_to_the_next_request`).
    /// - If `lease` does not hold the lock, the request is not tried
    ///   (`a_late_relay_leaves_the_successor_alone`).
    ///
    /// # Errors
    /// When the store cannot say whether the lock was released.
    async fn relay(&self, lease: &Lease, request: &AcquireRequest) -> Result<Relayed, Error>;
}

/// The answers to a release and an acquire in one request.
#[derive(Debug, Clone)]
#[must_use = "a granted lock stays held until it is released or expires"]
pub struct Relayed {
    /// The answer to the release.
    pub released: Release,
    /// The answer to the acquire. `None` if it was not tried.
    pub acquired: Option<Result<AcquireOutcome, Error>>,
}

impl Relayed {
    /// The answer to a release after which nothing was acquired.
    pub fn released(released: Release) -> Self {
        Self { released, acquired: None }
    }
}
