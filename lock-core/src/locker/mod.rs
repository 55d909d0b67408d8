//! The user's handle on a store of locks.

mod guard;
mod leader;
mod options;
mod request;

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::timeout;

use self::options::option_setters;
pub use self::{
    guard::Guard,
    leader::{LeaderElection, Leadership},
    request::{LockRequest, TryAcquire},
};
use crate::{
    backend::{Backend, Break, Capabilities, Capability, Finding},
    engine::{shared::Shared, timing::Timing},
    types::{Clock, Error, ErrorKind, Holder, LockName, LockOptions, Operation, SystemClock, no_reply},
};

/// Takes locks on one store. Cheap to clone; clones share connections, renewals and queues.
///
/// ```
/// use lock_core::{Locker, TryAcquire, memory::MemoryBackend};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lock_core::Error> {
/// let locker = Locker::new(MemoryBackend::new())?;
/// match locker.try_acquire("nightly-etl").await? {
///     TryAcquire::Acquired(guard) => {
///         // ... the work, with guard.check()? before each step that must not happen twice ...
///         guard.release().await?;
///     }
///     TryAcquire::Held(holder) => println!("skipped: held by {holder}"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Locker {
    shared: Arc<Shared>,
}

/// How long looking at a whole store may take: many requests, whose number no store knows beforehand.
const WHOLE_STORE: Duration = Duration::from_secs(60);

impl Locker {
    /// A locker on `backend` with default options.
    ///
    /// # Errors
    /// Never with the backends of this project; of kind [`ErrorKind::Config`] if the defaults do not fit `backend`.
    pub fn new(backend: impl Backend) -> Result<Self, Error> {
        Self::builder(Arc::new(backend)).build()
    }

    /// Chooses options for all locks of a locker.
    pub fn builder(backend: Arc<dyn Backend>) -> LockerBuilder {
        LockerBuilder {
            backend,
            clock: Arc::new(SystemClock),
            options: LockOptions::default(),
            prefix: String::new(),
            require: Vec::new(),
        }
    }

    /// Begins a request for the lock `name`, to choose options for it.
    pub fn lock(&self, name: impl Into<String>) -> LockRequest {
        LockRequest::new(Arc::clone(&self.shared), name.into())
    }

    /// Tries once: acquired, or held by somebody else. See [`LockRequest::try_acquire`].
    ///
    /// # Errors
    /// When the store cannot say; never because the lock is held.
    ///
    /// # Cancel safety
    /// Cancel safe: a lock that the store may have granted is released in the background.
    pub async fn try_acquire(&self, name: impl Into<String> + Send) -> Result<TryAcquire, Error> {
        self.lock(name).try_acquire().await
    }

    /// Waits for the lock for at most `wait`. See [`LockRequest::acquire_within`].
    ///
    /// # Errors
    /// When the store cannot say; never because the lock is held.
    ///
    /// # Cancel safety
    /// Cancel safe: the place in the queue is given up, and a lock that the store may have granted is released in the background.
    pub async fn acquire_within(&self, name: impl Into<String> + Send, wait: Duration) -> Result<TryAcquire, Error> {
        self.lock(name).acquire_within(wait).await
    }

    /// Waits for the lock. See [`LockRequest::acquire`].
    ///
    /// # Errors
    /// When the store cannot say for longer than its patience; never because the lock is held.
    ///
    /// # Cancel safety
    /// Cancel safe: the place in the queue is given up, and a lock that the store may have granted is released in the background.
    pub async fn acquire(&self, name: impl Into<String> + Send) -> Result<Guard, Error> {
        self.lock(name).acquire().await
    }

    /// What the store, as configured, can do.
    pub fn capabilities(&self) -> Capabilities {
        self.shared.capabilities
    }

    /// The timing of locks for which nothing else is chosen.
    pub fn timing(&self) -> Timing {
        self.shared.timing
    }

    /// The store, as a config string without secrets.
    pub fn store(&self) -> String {
        self.shared.backend.describe()
    }

    /// Who holds the lock now; `None` when nobody does.
    ///
    /// # Errors
    /// When the store cannot say, or cannot do this at all.
    ///
    /// # Cancel safety
    /// Cancel safe: it changes nothing.
    pub async fn inspect(&self, name: impl AsRef<str> + Send) -> Result<Option<Holder>, Error> {
        let name = self.shared.name(name.as_ref())?;
        let answer = self.bounded(Operation::Inspect, self.shared.backend.inspect(&name)).await;
        answer.map_err(|e| e.with_name(&name))
    }

    /// The held locks whose names begin with `prefix`, by name. May lag behind; see the backend's page.
    ///
    /// # Errors
    /// When the store cannot say, not within a minute, or cannot do this at all.
    ///
    /// # Cancel safety
    /// Cancel safe: it changes nothing.
    pub async fn list(&self, prefix: impl AsRef<str> + Send) -> Result<Vec<(LockName, Holder)>, Error> {
        let own = &self.shared.prefix;
        let prefix = format!("{own}{}", prefix.as_ref());
        // A list takes as many requests as there are pages of it: the time of one does not bound it.
        let found = timeout(WHOLE_STORE, self.shared.backend.list(&prefix)).await;
        let found = found
            .unwrap_or_else(|_| Err(no_reply(WHOLE_STORE)))
            .map_err(|e| e.with_operation(Operation::List).with_store(self.store()))?;
        // Names as the caller of this locker knows them. One that is nothing but the prefix was not taken through it.
        let shown = |(name, holder): (LockName, Holder)| {
            let short = name.as_str().strip_prefix(own.as_str()).and_then(|name| LockName::new(name).ok())?;
            Some((short, holder))
        };
        Ok(found.into_iter().filter_map(shown).collect())
    }

    /// Takes the lock away from the holder that [`inspect`](Self::inspect) showed, if the lock still is as it was then.
    /// `by` is what the former holder will read.
    ///
    /// # Errors
    /// When the store cannot say, or cannot do this at all.
    ///
    /// # Cancel safety
    /// Not cancel safe: whether the lock was broken stays unknown; inspect it.
    pub async fn break_lock(&self, name: impl AsRef<str> + Send, seen: &Holder, by: &str) -> Result<Break, Error> {
        let name = self.shared.name(name.as_ref())?;
        let Some(version) = &seen.version else {
            let message =
                "this holder has no version to compare, so it cannot be broken safely; stop its process instead";
            return Err(Error::new(ErrorKind::Unsupported, message).with_operation(Operation::Break).with_name(&name));
        };
        let answer = self.bounded(Operation::Break, self.shared.backend.break_lock(&name, version, by)).await;
        answer.map_err(|e| e.with_name(&name))
    }

    /// Removes what the store keeps of a name that nobody will use again, such as that of a test. `false` when somebody holds the lock or went
    /// without releasing it; then nothing was removed. What protects others from delayed requests may stay for minutes yet.
    ///
    /// # Errors
    /// When the store cannot say, or cannot do this at all.
    ///
    /// # Cancel safety
    /// Cancel safe: it may or may not have taken effect.
    pub async fn forget(&self, name: impl AsRef<str> + Send) -> Result<bool, Error> {
        let name = self.shared.name(name.as_ref())?;
        let answer = self.bounded(Operation::Forget, self.shared.backend.forget(&name)).await;
        answer.map_err(|e| e.with_name(&name))
    }

    /// Looks at how the store is set up, and says what of it is fit for locks and what to change; empty where the store has nothing to
    /// look at, and a warning when that takes longer than a minute. `onelock doctor` prints it, and tries the store besides.
    ///
    /// # Cancel safety
    /// Cancel safe: it changes nothing.
    pub async fn examine(&self) -> Vec<Finding> {
        timeout(WHOLE_STORE, self.shared.backend.examine()).await.unwrap_or_else(|_| {
            vec![Finding::warning("store", format!("could not be examined: no answer within {WHOLE_STORE:?}"))]
        })
    }

    /// Waits until what dropped guards and cancelled acquisitions left to the background has been released, or given up. For the end of a
    /// program: a runtime that ends drops its tasks. Waits for as long as guards go on being dropped; bound it where the store may not answer.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn settled(&self) {
        let mut releasing = self.shared.releasing.subscribe();
        // The sender lives as long as this locker.
        let _ = releasing.wait_for(|count| *count == 0).await;
    }

    async fn bounded<T>(&self, operation: Operation, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let limit = self.shared.backend.pace().attempt_timeout;
        let answer = timeout(limit, call).await.unwrap_or_else(|_| Err(no_reply(limit)));
        answer.map_err(|e| e.with_operation(operation).with_store(self.store()))
    }
}

impl fmt::Debug for Locker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locker").field("store", &self.store()).finish_non_exhaustive()
    }
}

/// Chooses options for all locks of a [`Locker`]; each [`LockRequest`] may override them.
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct LockerBuilder {
    backend: Arc<dyn Backend>,
    clock: Arc<dyn Clock>,
    options: LockOptions,
    prefix: String,
    require: Vec<Capability>,
}

impl LockerBuilder {
    option_setters!();

    /// Replaces all options at once, as read from a configuration.
    pub fn options(mut self, options: LockOptions) -> Self {
        self.options = options;
        self
    }

    /// Goes before every name, so that several applications share one store.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Makes it an error if the store lacks this capability.
    pub fn require(mut self, capability: Capability) -> Self {
        self.require.push(capability);
        self
    }

    /// Replaces the clocks, for tests of one's own.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The locker.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`] when options contradict each other or the store cannot honour them, and
    /// [`ErrorKind::Unsupported`] when a required capability is missing.
    pub fn build(self) -> Result<Locker, Error> {
        let capabilities = self.backend.capabilities();
        let with_store = |error: Error| error.with_operation(Operation::Open).with_store(self.backend.describe());
        let timing = Timing::new(&self.options, capabilities, self.backend.pace()).map_err(with_store)?;
        if let Some(missing) = self.require.iter().find(|c| !capabilities.has(**c)) {
            let has = Capability::ALL.iter().filter(|c| capabilities.has(**c)).map(|c| c.as_str()).collect::<Vec<_>>();
            let message = format!("this store does not have the required \"{missing}\"; it has: {}", has.join(", "));
            return Err(with_store(Error::new(ErrorKind::Unsupported, message)));
        }
        let shared = Shared::new(self.backend, self.clock, self.options, timing, self.prefix);
        Ok(Locker { shared: Arc::new(shared) })
    }
}
