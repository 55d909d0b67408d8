//! The blocking interface: the same locks for code without an async runtime, such as scripts,
//! threads and synchronous services.
//!
//! Every method blocks the calling thread until the store has answered. Renewals run on a thread
//! that belongs to the [`Locker`], so a lock stays held while the caller computes. Do not call
//! these methods from async code, because they would block the runtime. They return an error there.
//!
//! A [`Locker`] works in a child made by `fork`, too. At its first use there it starts a thread of
//! its own and opens the store anew. See [`crate::Guard`] for the guards that a child inherits.
//!
//! ```
//! use lock_core::{Registry, blocking, memory::MemoryFactory};
//!
//! # fn main() -> Result<(), lock_core::Error> {
//! let registry = Registry::new().with(MemoryFactory::default());
//! let locker = blocking::Locker::open(&registry, "memory:?ttl=20s")?;
//! match locker.try_acquire("nightly-etl")? {
//!     blocking::TryAcquire::Acquired(guard) => {
//!         // ... the work, with guard.check()? before each step that must not happen twice ...
//!         guard.release()?;
//!     }
//!     blocking::TryAcquire::Contended(holder) => println!("skipped: held by {holder}"),
//! }
//! # Ok(())
//! # }
//! ```

mod renewals;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use self::renewals::Renewals;
use crate::{
    ConfigString, Error, FencingToken, Holder, LockName, LockOptions, LossSignal, Lost, Registry, Release, Renew,
    Timing, TryRun, backend::Capabilities, clock::ClockReading,
};

/// The outcome of a bounded attempt to acquire. See [`crate::TryAcquire`].
#[derive(Debug)]
#[must_use = "dropping an acquired guard releases the lock"]
pub enum TryAcquire {
    /// This process holds the lock now.
    Acquired(Guard),
    /// Another client holds the lock.
    Contended(Holder),
}

/// Acquires locks on one store, from threads. Cheap to clone. See [`crate::Locker`].
#[derive(Clone)]
pub struct Locker {
    inner: crate::Locker,
    renewals: Arc<Renewals>,
}

impl Locker {
    /// Opens the store that `config` describes. See [`Registry::open`].
    ///
    /// # Errors
    /// As [`Registry::open`]. Also if the renewal thread cannot be started.
    pub fn open(
        registry: &Registry,
        config: impl TryInto<ConfigString, Error: Into<Error>> + Send,
    ) -> Result<Self, Error> {
        Self::open_with(registry.open(config))
    }

    /// Creates a blocking locker from the async locker that `open` returns. `open` runs on the
    /// runtime of the renewal thread.
    ///
    /// # Errors
    /// Those of `open`. Also if the renewal thread cannot be started.
    pub fn open_with(open: impl Future<Output = Result<crate::Locker, Error>>) -> Result<Self, Error> {
        let renewals = Renewals::start(open)?;
        Ok(Self { inner: renewals.locker.clone(), renewals: Arc::new(renewals) })
    }

    /// Creates a request for the lock `name`, which sets options for this lock.
    pub fn lock(&self, name: impl TryInto<LockName, Error: Into<Error>>) -> LockRequest {
        LockRequest { inner: self.inner.lock(name), renewals: Arc::clone(&self.renewals) }
    }

    /// Tries to acquire the lock without waiting. See [`crate::LockRequest::try_acquire`].
    ///
    /// # Errors
    /// If the store fails. Contention is not an error.
    pub fn try_acquire(&self, name: impl TryInto<LockName, Error: Into<Error>>) -> Result<TryAcquire, Error> {
        self.lock(name).try_acquire()
    }

    /// Waits for the lock for at most `wait`. See [`crate::LockRequest::acquire_within`].
    ///
    /// # Errors
    /// If the store fails. Contention is not an error.
    pub fn acquire_within(
        &self,
        name: impl TryInto<LockName, Error: Into<Error>>,
        wait: Duration,
    ) -> Result<TryAcquire, Error> {
        self.lock(name).acquire_within(wait)
    }

    /// Waits for the lock. See [`crate::LockRequest::acquire`].
    ///
    /// # Errors
    /// If the store fails. Contention is not an error.
    pub fn acquire(&self, name: impl TryInto<LockName, Error: Into<Error>>) -> Result<Guard, Error> {
        self.lock(name).acquire()
    }

    /// Runs `work` under the lock, or skips it when the lock is contended. See
    /// [`LockRequest::try_run`].
    ///
    /// # Errors
    /// As [`LockRequest::try_run`].
    pub fn try_run<T>(
        &self,
        name: impl TryInto<LockName, Error: Into<Error>>,
        work: impl FnOnce(&Guard) -> T,
    ) -> Result<TryRun<T>, Error> {
        self.lock(name).try_run(work)
    }

    /// Returns the capabilities of the store as configured.
    pub fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    /// Returns the timing of locks without options of their own.
    pub fn timing(&self) -> Timing {
        self.inner.timing()
    }

    /// Returns the store as a config string without secrets.
    pub fn store(&self) -> String {
        self.inner.store()
    }

    /// Waits for background releases started by dropped guards, for at most `wait`. Returns whether
    /// all have ended.
    ///
    /// # Errors
    /// If it is called from async code.
    pub fn wait_idle(&self, wait: Duration) -> Result<bool, Error> {
        let all = async { tokio::time::timeout(wait, self.inner.wait_idle()).await.is_ok() };
        self.renewals.block_on(all)
    }

    /// Returns the async locker, for calls without a blocking form, such as
    /// [`crate::Locker::admin`]. Run its futures by [`block_on`](Self::block_on).
    pub fn as_async(&self) -> &crate::Locker {
        &self.inner
    }

    /// Runs a future of the async locker, and returns its result.
    ///
    /// # Errors
    /// If it is called from async code.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> Result<T, Error> {
        self.renewals.block_on(future)
    }
}

impl fmt::Debug for Locker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// A request for a lock, made by [`Locker::lock`]. See [`crate::LockRequest`].
#[derive(Clone)]
#[must_use = "a request does nothing until it is acquired"]
pub struct LockRequest {
    inner: crate::LockRequest,
    renewals: Arc<Renewals>,
}

/// Generates the option setters of the async request, with the same names.
macro_rules! options {
    ($($option:ident($argument:ty),)*) => {
        $(
            #[doc = concat!("See [`", stringify!($option), "`](crate::LockRequest::", stringify!($option), ").")]
            pub fn $option(mut self, $option: $argument) -> Self {
                self.inner = self.inner.$option($option);
                self
            }
        )*
    };
}

impl LockRequest {
    options! {
        ttl(Duration),
        ttl_if_supported(Duration),
        margin(Duration),
        renew(Renew),
        grace(Duration),
        owner(impl Into<String>),
        data(impl Into<Vec<u8>>),
        min_hold(Duration),
        max_hold(Duration),
        deadline(Duration),
        options(LockOptions),
        on_contention(impl Fn(&Holder) + Send + Sync + 'static),
        on_retry(impl Fn(&Error, Duration) + Send + Sync + 'static),
    }

    /// Tries to acquire the lock without waiting. See [`crate::LockRequest::try_acquire`].
    ///
    /// # Errors
    /// If the store fails or an option is invalid. Contention is not an error.
    pub fn try_acquire(self) -> Result<TryAcquire, Error> {
        let outcome = self.renewals.block_on(self.inner.try_acquire())??;
        guarded(outcome, &self.renewals)
    }

    /// Waits for the lock for at most `wait`. See [`crate::LockRequest::acquire_within`].
    ///
    /// # Errors
    /// If the store fails or an option is invalid. Contention is not an error.
    pub fn acquire_within(self, wait: Duration) -> Result<TryAcquire, Error> {
        let outcome = self.renewals.block_on(self.inner.acquire_within(wait))??;
        guarded(outcome, &self.renewals)
    }

    /// Waits for the lock. See [`crate::LockRequest::acquire`].
    ///
    /// # Errors
    /// If the store fails, an option is invalid, or the deadline is reached first.
    pub fn acquire(self) -> Result<Guard, Error> {
        let inner = self.renewals.block_on(self.inner.acquire())??;
        Ok(Guard { inner, renewals: self.renewals.here()? })
    }

    /// Runs `work` under the lock, or skips it when the lock is contended.
    ///
    /// A thread cannot be stopped from outside: long work calls [`Guard::check`] before each step
    /// that must not happen twice.
    ///
    /// # Errors
    /// Of kind [`Lost`](crate::ErrorKind::Lost) if the lock was lost before the work ended.
    /// Otherwise as [`try_acquire`](Self::try_acquire).
    pub fn try_run<T>(self, work: impl FnOnce(&Guard) -> T) -> Result<TryRun<T>, Error> {
        let guard = match self.try_acquire()? {
            TryAcquire::Acquired(guard) => guard,
            TryAcquire::Contended(holder) => return Ok(TryRun::Skipped(holder)),
        };
        guard.check()?;
        let done = work(&guard);
        guard.check()?;
        let name = guard.name().clone();
        if let Err(error) = guard.release() {
            tracing::warn!(%name, %error, "release failed after the work was done");
        }
        Ok(TryRun::Ran(done))
    }
}

impl fmt::Debug for LockRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

fn guarded(outcome: crate::TryAcquire, renewals: &Arc<Renewals>) -> Result<TryAcquire, Error> {
    Ok(match outcome {
        crate::TryAcquire::Acquired(inner) => TryAcquire::Acquired(Guard { inner, renewals: renewals.here()? }),
        crate::TryAcquire::Contended(holder) => TryAcquire::Contended(holder),
    })
}

/// A held lock: valid until it is released or lost, and never beyond its lease. See
/// [`crate::Guard`].
///
/// Dropping it releases the lock without waiting: immediately where the store allows it (files,
/// memory), otherwise on the renewal thread.
#[must_use = "dropping a guard releases its lock"]
pub struct Guard {
    // Declared before `renewals`, because its drop passes the release to that thread.
    inner: crate::Guard,
    renewals: Arc<Renewals>,
}

impl Guard {
    /// Returns the name of the lock in the store, with the locker's prefix.
    pub fn name(&self) -> &LockName {
        self.inner.name()
    }

    /// Returns the fencing token of this acquisition, if the store issues them.
    pub fn token(&self) -> Option<FencingToken> {
        self.inner.token()
    }

    /// Returns the fencing token, or an error if the store issues none.
    ///
    /// # Errors
    /// Of kind [`Unsupported`](crate::ErrorKind::Unsupported) if the store issues no tokens.
    pub fn require_token(&self) -> Result<FencingToken, Error> {
        self.inner.require_token()
    }

    /// Returns the previous holder, if it did not release the lock. Its work may be incomplete.
    pub fn crashed_holder(&self) -> Option<&Holder> {
        self.inner.crashed_holder()
    }

    /// Checks by the local clocks whether the lock is still held. Makes no request.
    ///
    /// # Errors
    /// [`Lost`], with the reason, from the loss on.
    pub fn check(&self) -> Result<(), Lost> {
        self.inner.check()
    }

    /// See [`Guard::check_within`](crate::Guard::check_within).
    ///
    /// # Errors
    /// As [`Guard::check_within`](crate::Guard::check_within).
    pub fn check_within(&self, ahead: Duration) -> Result<(), Lost> {
        self.inner.check_within(ahead)
    }

    /// Returns the time until the validity ends unless the lock is renewed. `None` if locks do not
    /// expire.
    pub fn remaining(&self) -> Option<Duration> {
        self.inner.remaining()
    }

    /// Returns the end of the validity unless the lock is renewed, as a reading of both clocks.
    pub fn valid_until(&self) -> Option<ClockReading> {
        self.inner.valid_until()
    }

    /// Like [`valid_until`](Self::valid_until), as wall time.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.inner.expires_at()
    }

    /// Returns a signal of the loss that other threads and tasks can own.
    pub fn loss_signal(&self) -> LossSignal {
        self.inner.loss_signal()
    }

    /// Blocks until the lock is lost, or returns `None` after `wait`.
    ///
    /// # Errors
    /// If it is called from async code.
    pub fn lost_within(&self, wait: Duration) -> Result<Option<Lost>, Error> {
        if let Err(lost) = self.check() {
            return Ok(Some(lost));
        }
        // The timer is created inside the async block, because it needs the runtime that `block_on`
        // enters.
        self.renewals.block_on(async { tokio::time::timeout(wait, self.inner.lost()).await.ok() })
    }

    /// Renews the lock if less than `at_least` of its validity remains. See
    /// [`crate::Guard::renew_if_below`].
    ///
    /// # Errors
    /// As [`crate::Guard::renew_if_below`].
    pub fn renew_if_below(&self, at_least: Duration) -> Result<(), Error> {
        self.check()?;
        self.renewals.block_on(self.inner.renew_if_below(at_least))?
    }

    /// Releases the lock. See [`crate::Guard::release`].
    ///
    /// # Errors
    /// If the store does not confirm the release after three attempts, or throttles for three
    /// request timeouts. A further attempt continues in the background, and the ttl is the
    /// backstop.
    pub fn release(self) -> Result<Release, Error> {
        let Self { inner, renewals } = self;
        if !renewals.process.is_current() {
            return Ok(Release::NotHeld(None));
        }
        renewals.block_on(inner.release())?
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}
