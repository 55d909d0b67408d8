//! The half of the contract for locks that live in this process.

use std::time::Duration;

use super::Lease;

/// What a store needs whose locks live in an open file or in memory; given by
/// [`Backend::process_bound`](super::Backend::process_bound).
///
/// No call blocks or panics: they are made from [`Drop`], also without a runtime. A wrapper of a
/// backend has all three, so that it cannot forget one.
pub trait ProcessBound: Send + Sync {
    /// Releases `lease` at once. `false` when that takes I/O that may block; the core then releases
    /// in the background, or counts a leak.
    ///
    /// - `true` means that the lock is free (`release_now_frees_the_lock_or_returns_false`).
    fn release_now(&self, lease: &Lease, hold_for: Duration) -> bool;

    /// Called when the core has ended `lease` by its clock (its validity, `max_hold` or the
    /// deadline), although the guard may live on, or when no runtime is left to release it on. Any
    /// local resources that the lease still owns can be dropped.
    ///
    /// - The lock becomes free without a release, and a release that follows is a value that
    ///   touches no successor (`a_lease_reported_lost_frees_its_lock`).
    fn on_lost(&self, lease: &Lease);

    /// Returns the descriptors that keep the lock held for as long as any process has them open,
    /// for a supervisor that must outlive this process. There are several if the lock consists of
    /// locks in several stores, in the order in which they were acquired. There are none where the
    /// lock does not live in descriptors.
    ///
    /// - While copies are open the lock stays held, whatever became of the backend that gave them
    ///   (`an_open_descriptor_keeps_the_lock_held`).
    ///
    /// # Errors
    /// If one of them cannot be duplicated. The others would not keep the whole lock held.
    #[cfg(unix)]
    fn descriptors(&self, lease: &Lease) -> std::io::Result<Vec<std::os::fd::OwnedFd>>;
}
