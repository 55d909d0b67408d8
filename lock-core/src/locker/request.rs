//! Acquires a lock: by one attempt, within a bounded wait, or for as long as it takes.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    acquire_loop::{AcquireLoop, Observers},
    guard::Guard,
    options::option_setters,
    outcome::{TryAcquire, TryRun},
};
use crate::{
    engine::shared::Shared,
    types::{Error, ErrorKind, Holder, LockName, LockOptions, Operation},
};

/// A request for a lock, made by [`Locker::lock`](crate::Locker::lock). Its options override those
/// of the locker.
#[derive(Clone)]
#[must_use = "a request does nothing until it is acquired"]
pub struct LockRequest {
    shared: Arc<Shared>,
    /// An invalid name becomes an error of the acquisition, like an invalid option.
    name: Result<LockName, Error>,
    /// `None` stands for those of the locker. In a box, because most requests have none, and a
    /// request is moved often.
    options: Option<Box<LockOptions>>,
    observers: Observers,
}

impl fmt::Debug for LockRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = self.options.as_deref().unwrap_or(&self.shared.defaults);
        f.debug_struct("LockRequest").field("name", &self.name).field("options", options).finish_non_exhaustive()
    }
}

impl LockRequest {
    option_setters!();

    pub(crate) fn new(shared: Arc<Shared>, name: impl TryInto<LockName, Error: Into<Error>>) -> Self {
        let name = shared.name(name);
        Self { shared, name, options: None, observers: Observers::default() }
    }

    fn options_mut(&mut self) -> &mut LockOptions {
        self.options.get_or_insert_with(|| Box::new(self.shared.defaults.clone()))
    }

    /// Replaces all options, for example with those of a configuration.
    pub fn options(mut self, options: LockOptions) -> Self {
        self.options = Some(Box::new(options));
        self
    }

    /// Sets the [`ttl`](Self::ttl) where the store has ttls. On a store without them (files), the
    /// lock lasts until it is released or its holder dies, and needs none. So the same program
    /// works on all stores.
    pub fn ttl_if_supported(self, ttl: Duration) -> Self {
        if self.shared.capabilities.ttl { self.ttl(ttl) } else { self }
    }

    /// Calls `observer` with the current holder each time an attempt is contended. If the request
    /// queues behind another one of this locker, also once then, with the holder that this locker
    /// knows.
    pub fn on_contention(mut self, observer: impl Fn(&Holder) + Send + Sync + 'static) -> Self {
        self.observers.on_contention = Some(Arc::new(observer));
        self
    }

    /// Calls `observer` each time an attempt has failed and is retried: with the error, and with
    /// the time for which attempts go on while the store keeps failing.
    ///
    /// Without it a program that waits for a store which is away is silent for half a minute.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use lock_core::{
    ///     ErrorKind, Locker, Operation,
    ///     faults::{Fault, Faulty},
    ///     memory::MemoryBackend,
    /// };
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), lock_core::Error> {
    /// let network = Faulty::new(MemoryBackend::new());
    /// network.next(Operation::Acquire, Fault::Refuse(ErrorKind::Unavailable));
    /// let request = Locker::new(network)?.lock("report").on_retry(|error, left| {
    ///     eprintln!("{error}; retrying for up to {} s", left.as_secs());
    ///     assert_eq!(left, Duration::from_secs(30));
    /// });
    /// request.acquire().await?.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_retry(mut self, observer: impl Fn(&Error, Duration) + Send + Sync + 'static) -> Self {
        self.observers.on_retry = Some(Arc::new(observer));
        self
    }

    /// Tries to acquire the lock without waiting: acquired or contended.
    ///
    /// Sends one request to the store, and at most two more if it gets no reply. While the store
    /// throttles, it sends the request again with growing pauses, for three request timeouts in
    /// all. A grant that arrived too late is released first.
    ///
    /// Does not queue behind other waiters of this process. If this process is just releasing the
    /// lock, that release is awaited first, for at most one request timeout.
    ///
    /// # Errors
    /// If the store fails or an option is invalid. Contention is not an error.
    ///
    /// # Cancel safety
    /// Cancel safe: a lock that the store may have granted is released in the background.
    pub async fn try_acquire(self) -> Result<TryAcquire, Error> {
        let acquiring = self.acquire_loop(false)?;
        let outcome = acquiring.try_now().await;
        acquiring.finish(outcome)
    }

    /// Waits for the lock for at most `wait`, and then returns the holder. With zero it makes one
    /// attempt.
    ///
    /// May exceed `wait` by one request, because a request in flight is not abandoned, or by two if
    /// a late grant has to be released. [`Timing::attempt_timeout`](crate::Timing) limits each
    /// request. With zero, the request is repeated at most twice if it gets no reply.
    ///
    /// Waiters of one process queue for a name in first-in, first-out order.
    ///
    /// # Errors
    /// If the store keeps failing for the whole of `wait`, or for 30 s, or keeps throttling for
    /// 5 minutes. Contention is not an error.
    ///
    /// # Cancel safety
    /// Cancel safe: the waiter leaves the queue, and a lock that the store may have granted is
    /// released in the background.
    ///
    /// Drive the future to its end, or drop it. The waiters behind it in this process wait for its
    /// turn to end, so a future that is kept and not polled stops them.
    pub async fn acquire_within(self, wait: Duration) -> Result<TryAcquire, Error> {
        let acquiring = self.acquire_loop(true)?;
        let outcome = acquiring.wait(Some(wait)).await;
        acquiring.finish(outcome)
    }

    /// Waits for the lock, for as long as it takes or until the [`deadline`](Self::deadline).
    ///
    /// Waiters of one process queue for a name in first-in, first-out order.
    ///
    /// # Errors
    /// If the store keeps failing for 30 s, or throttling for 5 minutes, or the deadline is reached
    /// first. Contention is not an error.
    ///
    /// # Cancel safety
    /// Cancel safe: the waiter leaves the queue, and a lock that the store may have granted is
    /// released in the background.
    ///
    /// Drive the future to its end, or drop it. The waiters behind it in this process wait for its
    /// turn to end, so a future that is kept and not polled stops them.
    pub async fn acquire(self) -> Result<Guard, Error> {
        let acquiring = self.acquire_loop(false)?;
        let outcome = acquiring.wait(None).await;
        match acquiring.finish(outcome)? {
            TryAcquire::Acquired(guard) => Ok(guard),
            TryAcquire::Contended(holder) => {
                let message = format!("the deadline was reached before the lock was free: held by {holder}");
                Err(Error::new(ErrorKind::Timeout, message)
                    .with_ambiguous(false)
                    .with_retryable(false)
                    .with_operation(Operation::Acquire))
            }
        }
    }
}

impl LockRequest {
    /// Runs `work` under the lock, or skips it when the lock is contended.
    ///
    /// The work is dropped when the lock is lost, as by [`Guard::run`]. After the work the lock is
    /// released. A failed release is only logged, because the work is done; it continues in the
    /// background.
    ///
    /// ```
    /// use lock_core::{Guard, Locker, TryRun, memory::MemoryBackend};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), lock_core::Error> {
    /// let locker = Locker::new(MemoryBackend::new())?;
    /// let work = async |guard: &Guard| println!("token {:?}", guard.token());
    /// match locker.try_run("nightly-etl", work).await? {
    ///     TryRun::Ran(()) => println!("done"),
    ///     TryRun::Skipped(holder) => println!("skipped: held by {holder}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Lost`] if the lock was lost before the work ended. Otherwise as
    /// [`try_acquire`](Self::try_acquire).
    ///
    /// # Cancel safety
    /// As cancel safe as `work`; the lock is released in the background.
    pub async fn try_run<T>(self, work: impl AsyncFnOnce(&Guard) -> T) -> Result<TryRun<T>, Error> {
        match self.try_acquire().await? {
            TryAcquire::Contended(holder) => Ok(TryRun::Skipped(holder)),
            TryAcquire::Acquired(guard) => run_and_release(guard, work).await.map(TryRun::Ran),
        }
    }

    /// Waits for the lock, for as long as it takes, and runs `work` under it.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Lost`] if the lock was lost before the work ended. Otherwise as
    /// [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    /// As cancel safe as `work`; the waiter leaves the queue, and the lock is released in the
    /// background.
    pub async fn run<T>(self, work: impl AsyncFnOnce(&Guard) -> T) -> Result<T, Error> {
        run_and_release(self.acquire().await?, work).await
    }
}

impl LockRequest {
    /// Begins the acquisition, which is `timed` if a wait counts from now.
    fn acquire_loop(self, timed: bool) -> Result<AcquireLoop, Error> {
        let shared = if self.shared.process.is_current() { self.shared } else { self.shared.here()? };
        AcquireLoop::new(shared, self.name?, self.options, timed, self.observers)
    }
}

async fn run_and_release<T>(guard: Guard, work: impl AsyncFnOnce(&Guard) -> T) -> Result<T, Error> {
    // On a loss the guard is dropped, which releases in the background. The caller has to get the
    // loss without waiting for that.
    let done = guard.run(work(&guard)).await?;
    let name = guard.name().clone();
    if let Err(error) = guard.release().await {
        tracing::warn!(%name, %error, "release failed after the work was done");
    }
    Ok(done)
}
