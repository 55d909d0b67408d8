//! The interface for applications: lockers, requests, guards, elections.

mod acquire_loop;
mod admin;
mod guard;
mod leader;
mod loss_signal;
mod options;
mod outcome;
mod request;

use std::{fmt, sync::Arc, time::Duration};

use self::options::option_setters;
pub use self::{
    admin::LockAdmin,
    guard::Guard,
    leader::{LeaderElection, Leadership},
    loss_signal::LossSignal,
    outcome::{TryAcquire, TryRun},
    request::LockRequest,
};
use crate::{
    backend::{Backend, Capabilities, Capability},
    engine::{metrics, shared::Shared, timing::Timing},
    types::{Clock, Error, ErrorKind, LockName, LockOptions, Operation, SystemClock},
};

/// Acquires locks on one store. Cheap to clone; clones share connections, renewals and queues.
///
/// In a child made by `fork` it opens the store anew, at its first use on a runtime of the child.
/// The memory store returns an error there, because it would not exclude the parent.
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
///     TryAcquire::Contended(holder) => println!("skipped: held by {holder}"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Locker {
    shared: Arc<Shared>,
}

impl Locker {
    /// Creates a locker on `backend` with default options.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`] if the defaults do not fit `backend`. They fit the backends of
    /// this project.
    pub fn new(backend: impl Backend) -> Result<Self, Error> {
        Self::builder(Arc::new(backend)).build()
    }

    /// Creates a builder, which sets options for all locks of a locker.
    pub fn builder(backend: Arc<dyn Backend>) -> LockerBuilder {
        LockerBuilder {
            backend,
            clock: Arc::new(SystemClock),
            options: LockOptions::default(),
            prefix: String::new(),
            require: Vec::new(),
        }
    }

    /// Creates a request for the lock `name`, which sets options for this lock.
    ///
    /// The name may be a text or a [`LockName`]. An invalid name becomes an error of the
    /// acquisition.
    pub fn lock(&self, name: impl TryInto<LockName, Error: Into<Error>>) -> LockRequest {
        LockRequest::new(Arc::clone(&self.shared), name)
    }

    /// Tries to acquire the lock without waiting. See [`LockRequest::try_acquire`].
    ///
    /// # Errors
    /// If the store fails. Contention is not an error.
    ///
    /// # Cancel safety
    /// Cancel safe: a lock that the store may have granted is released in the background.
    pub async fn try_acquire(
        &self,
        name: impl TryInto<LockName, Error: Into<Error>> + Send,
    ) -> Result<TryAcquire, Error> {
        self.lock(name).try_acquire().await
    }

    /// Waits for the lock for at most `wait`. See [`LockRequest::acquire_within`].
    ///
    /// # Errors
    /// If the store fails. Contention is not an error.
    ///
    /// # Cancel safety
    /// Cancel safe: the waiter leaves the queue, and a lock that the store may have granted is
    /// released in the background.
    pub async fn acquire_within(
        &self,
        name: impl TryInto<LockName, Error: Into<Error>> + Send,
        wait: Duration,
    ) -> Result<TryAcquire, Error> {
        self.lock(name).acquire_within(wait).await
    }

    /// Waits for the lock. See [`LockRequest::acquire`].
    ///
    /// # Errors
    /// If the store keeps failing for 30 s. Contention is not an error.
    ///
    /// # Cancel safety
    /// Cancel safe: the waiter leaves the queue, and a lock that the store may have granted is
    /// released in the background.
    pub async fn acquire(&self, name: impl TryInto<LockName, Error: Into<Error>> + Send) -> Result<Guard, Error> {
        self.lock(name).acquire().await
    }

    /// Runs `work` under the lock, or skips it when the lock is contended. See
    /// [`LockRequest::try_run`].
    ///
    /// # Errors
    /// As [`LockRequest::try_run`].
    ///
    /// # Cancel safety
    /// As [`LockRequest::try_run`].
    pub fn try_run<T>(
        &self,
        name: impl TryInto<LockName, Error: Into<Error>>,
        work: impl AsyncFnOnce(&Guard) -> T,
    ) -> impl Future<Output = Result<TryRun<T>, Error>> {
        self.lock(name).try_run(work)
    }

    /// Returns the operators' interface: inspect, list and break locks.
    pub fn admin(&self) -> LockAdmin {
        LockAdmin::new(Arc::clone(&self.shared))
    }

    /// Returns the capabilities of the store as configured.
    pub fn capabilities(&self) -> Capabilities {
        self.shared.capabilities
    }

    /// Returns the timing of locks without options of their own.
    pub fn timing(&self) -> Timing {
        self.shared.timing
    }

    /// Returns the options of locks without options of their own.
    pub fn options(&self) -> &LockOptions {
        &self.shared.defaults
    }

    /// Returns the store as a config string without secrets.
    pub fn store(&self) -> String {
        self.shared.backend.describe()
    }

    /// Returns the name of the holders that this locker makes, unless a request sets its own
    /// [`owner`](LockRequest::owner).
    pub fn owner(&self) -> String {
        let shared = self.shared.here().unwrap_or_else(|_| Arc::clone(&self.shared));
        shared.defaults.owner.clone().unwrap_or_else(|| shared.owner().to_owned())
    }

    /// Waits for background releases started by dropped guards and cancelled acquisitions.
    ///
    /// Call it at the end of a program, because a runtime that ends drops its tasks. It also waits
    /// for guards that are dropped meanwhile. Add a timeout if the store may not reply.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait_idle(&self) {
        // In a child process only its own releases count. Without a store of its own it has none.
        let Ok(shared) = self.shared.here() else { return };
        let mut releasing = shared.releasing.subscribe();
        // Cannot fail: the sender lives as long as this locker.
        let _ = releasing.wait_for(|count| *count == 0).await;
    }
}

impl fmt::Debug for Locker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locker").field("store", &self.store()).finish_non_exhaustive()
    }
}

/// Sets options for all locks of a [`Locker`]. Each [`LockRequest`] may override them.
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

    fn options_mut(&mut self) -> &mut LockOptions {
        &mut self.options
    }

    /// Replaces all options, for example with those of a configuration.
    pub fn options(mut self, options: LockOptions) -> Self {
        self.options = options;
        self
    }

    /// Sets a prefix for every name, so that several applications can share one store.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Makes [`build`](Self::build) fail if the store lacks this capability.
    pub fn require(mut self, capability: Capability) -> Self {
        self.require.push(capability);
        self
    }

    /// Replaces the clocks, for tests that set or suspend them. Without this, guards follow the
    /// clock of the runtime, also when a test pauses it.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Builds the locker.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`] if options contradict each other or the store cannot honour
    /// them. Of kind [`ErrorKind::Unsupported`] if a required capability is missing.
    pub fn build(self) -> Result<Locker, Error> {
        let capabilities = self.backend.capabilities();
        let with_store = |error: Error| error.with_operation(Operation::Open).with_store(self.backend.describe());
        let timing = Timing::configured(&self.options, capabilities, self.backend.timings()).map_err(with_store)?;
        if let Some(missing) = self.require.iter().find(|c| !capabilities.has(**c)) {
            let has = Capability::ALL.iter().filter(|c| capabilities.has(**c)).map(|c| c.as_str()).collect::<Vec<_>>();
            let message = format!("this store lacks the required capability \"{missing}\"; it has: {}", has.join(", "));
            return Err(with_store(Error::new(ErrorKind::Unsupported, message)));
        }
        metrics::describe();
        let shared = Shared::new(self.backend, self.clock, self.options, timing, self.prefix);
        Ok(Locker { shared: Arc::new(shared) })
    }
}
