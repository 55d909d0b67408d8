//! The half of the contract that operators need.

use async_trait::async_trait;

use super::{Break, Listing, PastHolder};
use crate::types::{Error, Holder, LockName};

/// What operators ask and do; given by [`Backend::admin`](super::Backend::admin).
///
/// A store that can do one of these but not another returns an error of kind
/// [`Unsupported`](crate::ErrorKind::Unsupported) for the other. A wrapper of a backend has all
/// of them, so that it cannot forget one.
#[async_trait]
pub trait Admin: Send + Sync {
    /// Returns the holder of `name` now; `None` when the lock is free.
    ///
    /// - Sees a holder and its release (`inspect_reports_the_holder_until_release`).
    ///
    /// # Errors
    /// Of kind [`Unsupported`](crate::ErrorKind::Unsupported) where the capability `inspect` is not
    /// declared; else when the store cannot say.
    async fn inspect(&self, name: &LockName) -> Result<Option<Holder>, Error>;

    /// Returns the last holder of `name`; `None` while the lock is held, and where the store keeps
    /// nothing of a free lock, which is the default.
    ///
    /// - Tells a release from a crash (`inspect_reports_the_holder_until_release`).
    ///
    /// # Errors
    /// When the store cannot say.
    async fn last_holder(&self, name: &LockName) -> Result<Option<PastHolder>, Error> {
        let _ = name;
        Ok(None)
    }

    /// Returns the held locks whose names begin with `prefix`, in the order of their names. May lag
    /// behind.
    ///
    /// - Lists what is held, and only what begins with `prefix`
    ///   (`list_returns_held_locks_under_a_prefix`).
    /// - An entry that cannot be read hides no lock. It is in [`Listing::odd`], or is a lock of a
    ///   [foreign](Holder::foreign) holder if it keeps the name from being acquired
    ///   (`an_odd_entry_is_listed_and_hides_no_lock`).
    ///
    /// # Errors
    /// Of kind [`Unsupported`](crate::ErrorKind::Unsupported) where the capability `list` is not
    /// declared; else when the store cannot say, or no entry can be read.
    async fn list(&self, prefix: &str) -> Result<Listing, Error>;

    /// Takes `name` away from its holder, if the record is still the one of `version` (from
    /// [`Holder::version`]). The holder finds [`LossReason::BrokenBy`](crate::LossReason::BrokenBy)
    /// with `by` at its next renewal.
    ///
    /// - Breaks the version that was seen, and nothing else
    ///   (`breaking_requires_the_current_lock_version`).
    ///
    /// # Errors
    /// Of kind [`Unsupported`](crate::ErrorKind::Unsupported) where the capability `break` is not
    /// declared; else when the store cannot say.
    async fn break_lock(&self, name: &LockName, version: &str, by: &str) -> Result<Break, Error>;

    /// Removes what the store keeps of `name` beyond the life of its lock, such as the floor of its
    /// tokens: for a name that will not be used again.
    ///
    /// `false` when the lock is held, or its holder crashed: then nothing was removed, and the next
    /// holder is told of the crash. To purge such a name, acquire and release it first. Records of
    /// names that have been idle for long may be removed by age alone, as by `onelock sweep` or the
    /// ttl of a key or an item.
    ///
    /// - Leaves a holder and a crashed holder untouched, and leaves a name that can be locked as if
    ///   it were new (`purge_keeps_held_and_crashed_locks`).
    ///
    /// # Errors
    /// Of kind [`Unsupported`](crate::ErrorKind::Unsupported) where nothing can be removed; else
    /// when the store cannot say.
    async fn purge(&self, name: &LockName) -> Result<bool, Error>;
}
