//! The outcomes of acquiring, as values.

use super::guard::Guard;
use crate::types::Holder;

/// The outcome of a bounded attempt to acquire.
#[derive(Debug)]
#[must_use = "dropping an acquired guard releases the lock"]
pub enum TryAcquire {
    /// This process holds the lock now.
    Acquired(Guard),
    /// Another client holds the lock.
    Contended(Holder),
}

/// The outcome of [`try_run`](crate::LockRequest::try_run).
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "the work may have been skipped"]
pub enum TryRun<T> {
    /// The work finished under the lock, with this result.
    Ran(T),
    /// Another client holds the lock, so the work did not start.
    Skipped(Holder),
}
