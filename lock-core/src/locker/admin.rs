//! What operators ask and do: who holds what, taking a lock away, whether a store is fit.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::timeout;

use crate::{
    backend::{Break, Finding, Listing, PastHolder},
    engine::shared::Shared,
    types::{Error, ErrorKind, Holder, LockName, Operation, no_reply},
};

/// How long a call about the whole store may take. It sends many requests, and no store knows their
/// number beforehand.
const WHOLE_STORE: Duration = Duration::from_secs(60);

/// Operators' calls on a store; made by [`Locker::admin`](crate::Locker::admin).
///
/// ```
/// use lock_core::{Locker, memory::MemoryBackend};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lock_core::Error> {
/// let locker = Locker::new(MemoryBackend::new())?;
/// let guard = locker.acquire("nightly-etl").await?;
/// let holder = locker.admin().inspect("nightly-etl").await?.expect("the guard holds it");
/// assert_eq!(holder.token, guard.token());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct LockAdmin {
    shared: Arc<Shared>,
}

impl LockAdmin {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Returns the holder of the lock now; `None` when the lock is free.
    ///
    /// # Errors
    /// When the store cannot say, or cannot do this at all.
    ///
    /// # Cancel safety
    /// Cancel safe: it changes nothing.
    pub async fn inspect(
        &self,
        name: impl TryInto<LockName, Error: Into<Error>> + Send,
    ) -> Result<Option<Holder>, Error> {
        let name = &self.shared.name(name)?;
        let answer = self
            .bounded(Operation::Inspect, |shared| async move { shared.backend.require_admin()?.inspect(name).await })
            .await;
        answer.map_err(|e| e.with_name(name))
    }

    /// Returns the last holder of a free lock; `None` while it is held, and where the store keeps
    /// nothing of a free lock.
    ///
    /// # Errors
    /// When the store cannot say, or cannot do this at all.
    ///
    /// # Cancel safety
    /// Cancel safe: it changes nothing.
    pub async fn last_holder(
        &self,
        name: impl TryInto<LockName, Error: Into<Error>> + Send,
    ) -> Result<Option<PastHolder>, Error> {
        let name = &self.shared.name(name)?;
        let answer =
            self.bounded(Operation::Inspect, |shared| async move {
                shared.backend.require_admin()?.last_holder(name).await
            })
            .await;
        answer.map_err(|e| e.with_name(name))
    }

    /// Lists the held locks whose names begin with `prefix`, by name, and the entries of the store
    /// that could not be read. May lag behind; see the page of the store.
    ///
    /// # Errors
    /// When the store cannot say, not within a minute, or cannot do this at all.
    ///
    /// # Cancel safety
    /// Cancel safe: it changes nothing.
    pub async fn list(&self, prefix: impl AsRef<str> + Send) -> Result<Listing, Error> {
        let own = &self.shared.prefix;
        let prefix = format!("{own}{}", prefix.as_ref());
        // A list takes one request for each page, so the time limit of one request does not bound
        // it.
        let shared = self.shared.here()?;
        let found = timeout(WHOLE_STORE, async { shared.backend.require_admin()?.list(&prefix).await }).await;
        let mut found = found
            .unwrap_or_else(|_| Err(no_reply(WHOLE_STORE)))
            .map_err(|e| e.with_operation(Operation::List).with_store(self.shared.backend.describe()))?;
        // Names as the caller of this locker knows them. A name that equals the prefix was not
        // acquired through it.
        let shown = |(name, holder): (LockName, Holder)| {
            let short = name.as_str().strip_prefix(own.as_str()).and_then(|name| LockName::new(name).ok())?;
            Some((short, holder))
        };
        found.locks = found.locks.into_iter().filter_map(shown).collect();
        Ok(found)
    }

    /// Takes the lock away from the holder that [`inspect`](Self::inspect) showed, if nothing has
    /// changed since. The former holder reads `by` as the reason of its loss.
    ///
    /// Look at the answer: [`Break::Changed`] means that nothing was broken.
    ///
    /// ```
    /// use lock_core::{Locker, backend::Break, memory::MemoryBackend};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), lock_core::Error> {
    /// let locker = Locker::new(MemoryBackend::new())?;
    /// let guard = locker.acquire("nightly-etl").await?;
    /// let seen = locker.admin().inspect("nightly-etl").await?.expect("the guard holds it");
    /// match locker.admin().break_lock("nightly-etl", &seen, "an operator").await? {
    ///     Break::Broken => println!("the lock is free"),
    ///     Break::Changed(Some(holder)) => println!("not broken; held by {holder}"),
    ///     Break::Changed(None) => println!("not broken; it was free already"),
    /// }
    /// # drop(guard);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the store cannot say, or cannot do this at all.
    ///
    /// # Cancel safety
    /// Not cancel safe: whether the lock was broken stays unknown; inspect it.
    pub async fn break_lock(
        &self,
        name: impl TryInto<LockName, Error: Into<Error>> + Send,
        seen: &Holder,
        by: &str,
    ) -> Result<Break, Error> {
        let name = &self.shared.name(name)?;
        let Some(version) = &seen.version else {
            let message = "this holder has no version to compare, so its lock cannot be broken safely; stop the \
                holder's process instead";
            return Err(Error::new(ErrorKind::Unsupported, message).with_operation(Operation::Break).with_name(name));
        };
        let answer = self
            .bounded(Operation::Break, |shared| async move {
                shared.backend.require_admin()?.break_lock(name, version, by).await
            })
            .await;
        answer.map_err(|e| e.with_name(name))
    }

    /// Removes what the store keeps of a name that will not be used again, such as that of a test.
    ///
    /// `false` when the lock is held or its holder crashed; then nothing was removed. Marks that
    /// protect against delayed requests may stay for some minutes.
    ///
    /// # Errors
    /// When the store cannot say, or cannot do this at all.
    ///
    /// # Cancel safety
    /// Cancel safe: it may or may not have taken effect.
    pub async fn purge(&self, name: impl TryInto<LockName, Error: Into<Error>> + Send) -> Result<bool, Error> {
        let name = &self.shared.name(name)?;
        let answer = self
            .bounded(Operation::Purge, |shared| async move { shared.backend.require_admin()?.purge(name).await })
            .await;
        answer.map_err(|e| e.with_name(name))
    }

    /// Checks how the store is set up: what of it is fit for locks, and what to change.
    ///
    /// Empty where the store has nothing to check, and a warning when the check takes longer than a
    /// minute. `onelock doctor` prints the findings, and tries locks besides.
    ///
    /// # Cancel safety
    /// Cancel safe: it changes nothing.
    pub async fn diagnose(&self) -> Vec<Finding> {
        let shared = match self.shared.here() {
            Ok(shared) => shared,
            Err(error) => return vec![Finding::warning("store", format!("could not be examined: {error}"))],
        };
        timeout(WHOLE_STORE, shared.backend.diagnose()).await.unwrap_or_else(|_| {
            vec![Finding::warning("store", format!("could not be examined: no reply within {WHOLE_STORE:?}"))]
        })
    }

    async fn bounded<T, F: Future<Output = Result<T, Error>>>(
        &self,
        operation: Operation,
        call: impl FnOnce(Arc<Shared>) -> F,
    ) -> Result<T, Error> {
        let shared = self.shared.here()?;
        let limit = shared.backend.timings().attempt_timeout;
        let answer = timeout(limit, call(shared)).await.unwrap_or_else(|_| Err(no_reply(limit)));
        answer.map_err(|e| e.with_operation(operation).with_store(self.shared.backend.describe()))
    }
}

impl fmt::Debug for LockAdmin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockAdmin").field("store", &self.shared.backend.describe()).finish_non_exhaustive()
    }
}
