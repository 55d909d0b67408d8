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

    /// Returns a descriptor that keeps the lock held for as long as any process has it open, for a
    /// supervisor that must outlive this process; `None` where the lock does not live in a
    /// descriptor.
    ///
    /// - While a copy is open the lock stays held, whatever became of the backend that gave it
    ///   (`an_open_descriptor_keeps_the_lock_held`).
    #[cfg(unix)]
    fn descriptor(&self, lease: &Lease) -> Option<std::os::fd::OwnedFd>;
}
