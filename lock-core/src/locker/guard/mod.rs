//! A held lock.

mod relay;
mod release;

use std::{
    fmt,
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, SystemTime},
};

use tokio::time::timeout;

use crate::{
    backend::Renewal,
    engine::{hold::LeaseState, shared::Shared},
    locker::LossSignal,
    types::{ClockReading, Error, ErrorKind, FencingToken, Holder, LockName, Lost, Operation, no_reply},
};

/// A held lock: valid until it is released or lost, and never beyond its lease.
///
/// ```
/// use lock_core::{Locker, memory::MemoryBackend};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lock_core::Error> {
/// let locker = Locker::new(MemoryBackend::new())?;
/// let guard = locker.acquire("nightly-etl").await?;
/// for part in ["extract", "load"] {
///     // Before each step that must not happen twice. Makes no request.
///     guard.check()?;
///     println!("{part}");
/// }
/// guard.release().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Release and drop
///
/// Release the lock with [`release`](Self::release). Dropping the guard releases the lock too, but
/// errors are only logged:
///
/// - Where the store allows it (files, memory), the drop releases the lock immediately.
/// - Otherwise a task releases it, on the current runtime or on the one last used with the locker.
/// - If that runtime has ended, or ends meanwhile, the lock stays held until its ttl ends. A lock
///   without a ttl is freed, because the drop closes its local resources.
///
/// A leaked guard (`std::mem::forget`) is still renewed;
/// [`max_hold`](crate::LockRequest::max_hold) limits that.
///
/// # Forks
///
/// A guard belongs to the process that acquired the lock. In a child made by `fork`:
///
/// - [`check`](Self::check) returns the loss [`Forked`](crate::LossReason::Forked) with the
///   parent's process id.
/// - [`release`](Self::release) and drop do nothing, and the parent still holds the lock.
///
/// # Blocking work
///
/// One task of the tokio runtime renews the lease in the background. Blocking calls, such as a long
/// computation or `std::thread::sleep`, starve it:
///
/// - On a current-thread runtime, every blocking call stops the renewals.
/// - On a multi-thread runtime, a blocking call in a spawned task can stop them too. The renewal
///   task may be queued on the blocked worker, where idle workers do not find it.
///
/// Clones of a [`Locker`](crate::Locker) share this task, also on several runtimes. A
/// current-thread runtime outside of `block_on` runs no task, so it can stop the renewals of all of
/// them. Use one `Locker` for each runtime. Or drive every runtime that uses it, until
/// that runtime is dropped.
///
/// A blocked runtime does not wake [`lost`](Self::lost), [`run`](Self::run) or other waiters. The
/// validity still ends in time, but only calls that read the clocks, such as
/// [`check`](Self::check), report it: the blocking code has to call them. The reason is then
/// usually [`FrozenFor`](crate::LossReason::FrozenFor).
///
/// Use one of these for blocking work:
///
/// - `tokio::task::spawn_blocking`, and in the closure [`LossSignal::check`] of
///   [`loss_signal`](Self::loss_signal).
/// - `tokio::task::block_in_place` on a multi-thread runtime, which moves other tasks away first.
/// - The blocking interface [`lock_core::blocking`](crate::blocking), which renews on its own
///   thread.
#[must_use = "dropping a guard releases its lock"]
pub struct Guard {
    hold: Arc<LeaseState>,
    shared: Arc<Shared>,
    /// In a box, because most guards have none, and a guard is moved often.
    crashed: Option<Box<Holder>>,
    armed: bool,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("lease", &self.hold.lease)
            .field("lost", &self.hold.is_lost())
            .finish_non_exhaustive()
    }
}

/// The number of renewals that one `renew_if_below` sends. One lost reply must not fail it. After
/// three the lease is shorter, and the caller decides what to do.
const ENSURE_ATTEMPTS: u32 = 3;

impl Guard {
    pub(crate) fn new(hold: Arc<LeaseState>, shared: Arc<Shared>, crashed: Option<Holder>) -> Self {
        if let Some(crashed) = &crashed {
            tracing::info!(name = %hold.lease.name, holder = %crashed, "took over from a holder that did not release");
        }
        Self { hold, shared, crashed: crashed.map(Box::new), armed: true }
    }

    /// Returns the name of the lock in the store, with the locker's prefix.
    pub fn name(&self) -> &LockName {
        &self.hold.lease.name
    }

    /// Returns the fencing token of this acquisition, if the store issues them. Send it with every
    /// protected write.
    pub fn token(&self) -> Option<FencingToken> {
        self.hold.token()
    }

    /// Returns the fencing token, or an error if the store issues none.
    ///
    /// ```
    /// # use lock_core::{Locker, memory::MemoryBackend};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), lock_core::Error> {
    /// # let locker = Locker::new(MemoryBackend::new())?;
    /// let guard = locker.acquire("nightly-etl").await?;
    /// let token = guard.require_token()?;
    /// println!("UPDATE report SET fence = {token} WHERE fence < {token}");
    /// guard.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Unsupported`] if the store issues no tokens. With `require=fencing` in
    /// the config string, opening such a store fails.
    pub fn require_token(&self) -> Result<FencingToken, Error> {
        self.token().ok_or_else(|| {
            let message = "this store issues no fencing tokens; \
                           use one that does, and write require=fencing in its config string";
            Error::new(ErrorKind::Unsupported, message)
                .with_name(self.name())
                .with_store(self.shared.backend.describe())
        })
    }

    /// Returns the previous holder, if it did not release the lock. Its work may be incomplete.
    pub fn crashed_holder(&self) -> Option<&Holder> {
        self.crashed.as_deref()
    }

    /// Checks by the local clocks whether the lock is still held. Makes no request, so it is cheap
    /// enough to call before every step.
    ///
    /// # Errors
    /// [`Lost`], with the reason, from the loss on.
    pub fn check(&self) -> Result<(), Lost> {
        self.hold.check(self.hold.now())
    }

    /// Like [`check`](Self::check), but fails as soon as the loss is at most `ahead` away, with the
    /// reason that it would have. A renewal may still prevent it.
    ///
    /// # Errors
    /// [`Lost`], which is not recorded as a loss before its time.
    pub fn check_within(&self, ahead: Duration) -> Result<(), Lost> {
        self.hold.check_within(self.hold.now(), ahead)
    }

    /// Returns the time until the validity ends unless the lock is renewed. `None` if locks do not
    /// expire; zero after the loss.
    pub fn remaining(&self) -> Option<Duration> {
        self.hold.remaining(self.hold.now())
    }

    /// Returns the end of the validity unless the lock is renewed, as a reading of both clocks. The
    /// lock is lost as soon as either clock reaches it. `None` if locks do not expire.
    pub fn valid_until(&self) -> Option<ClockReading> {
        self.hold.valid_until()
    }

    /// Like [`valid_until`](Self::valid_until), as wall time for other programs. `None` also if a
    /// [`SystemTime`] cannot represent it.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.valid_until().and_then(|until| SystemTime::UNIX_EPOCH.checked_add(until.wall))
    }

    /// Waits until the lock is lost, and returns the reason.
    ///
    /// Returns before another client can hold the lock: at the end of the validity at the latest,
    /// even while a renewal hangs.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn lost(&self) -> Lost {
        self.hold.wait_lost(false).await
    }

    /// Returns a signal of the loss that other tasks and threads can own. See [`LossSignal`].
    pub fn loss_signal(&self) -> LossSignal {
        LossSignal::new(Arc::clone(&self.hold), self.token())
    }

    /// Waits until the work has to stop: at the loss, or [`grace`](crate::LockRequest::grace)
    /// before the validity ends if renewals keep failing.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn stop_requested(&self) -> Lost {
        self.hold.wait_lost(true).await
    }

    /// Returns `true` if [`stop_requested`](Self::stop_requested) would return immediately.
    pub(crate) fn is_stopping(&self) -> bool {
        self.hold.check_early(self.hold.now()).is_err()
    }

    /// Waits for the next confirmed renewal, which extends [`valid_until`](Self::valid_until).
    ///
    /// # Cancel safety
    /// Cancel safe. Renewals that are confirmed between two calls are missed.
    pub async fn renewed(&self) {
        self.hold.wait_renewed().await;
    }

    /// Renews the lock if less than `at_least` of its validity remains.
    ///
    /// Call it between two pieces of work, with [manual renewal](crate::Renew::Manual). If locks do
    /// not expire, it only calls [`check`](Self::check).
    ///
    /// # Errors
    /// - [`ErrorKind::Lost`] if the lock is lost.
    /// - [`ErrorKind::Config`] if no lease is that long, or the deadline or `max_hold` comes first.
    /// - [`ErrorKind::Timeout`] if the replies are too slow to leave that much validity.
    /// - Any other kind if the store fails.
    ///
    /// Unless the lock is lost, it is still held for as long as [`remaining`](Self::remaining)
    /// returns.
    ///
    /// # Cancel safety
    /// Cancel safe. The renewal may have taken effect, but the guard's validity is not extended.
    pub async fn renew_if_below(&self, at_least: Duration) -> Result<(), Error> {
        self.check()?;
        if let Some(longest) = self.hold.longest(self.hold.now()).filter(|longest| *longest < at_least) {
            let message = format!(
                "a renewal cannot extend the validity to {at_least:?}: ttl - margin, the deadline and max_hold leave \
                 {longest:?}; ask for less or use a longer ttl"
            );
            return Err(Error::new(ErrorKind::Config, message).with_name(self.name()));
        }
        let enough = || self.remaining().is_none_or(|left| left >= at_least);
        if enough() {
            return Ok(());
        }
        let _requests = self.hold.requests.lock().await;
        let mut attempts = 1;
        while !enough() {
            match self.renew_once().await {
                Ok(()) if enough() => break,
                Ok(()) if attempts >= ENSURE_ATTEMPTS => {
                    let message = format!(
                        "renewed, but the replies were too slow to leave {at_least:?} of validity; use a longer ttl"
                    );
                    return Err(Error::new(ErrorKind::Timeout, message).with_ambiguous(false).with_name(self.name()));
                }
                Err(error) if !error.is_retryable() || attempts >= ENSURE_ATTEMPTS => return Err(error),
                Ok(()) | Err(_) => attempts += 1,
            }
            // The store failed or was slow, so an immediate retry would only add load.
            tokio::time::sleep(self.shared.backend.timings().poll_min).await;
        }
        Ok(self.check()?)
    }

    async fn renew_once(&self) -> Result<(), Error> {
        self.check()?;
        let sent = self.hold.sending();
        let limit = self.hold.timing.attempt_timeout;
        let answer =
            timeout(limit, self.shared.backend.renew(&sent.lease)).await.unwrap_or_else(|_| Err(no_reply(limit)));
        self.hold.settle(&sent, &answer);
        match answer {
            Ok(Renewal::Renewed) => Ok(()),
            Ok(Renewal::Lost(_)) => Ok(self.check()?),
            Err(error) => Err(error
                .with_operation(Operation::Renew)
                .with_name(self.name())
                .with_store(self.shared.backend.describe())),
        }
    }

    /// Runs `work` under the lock, and drops `work` when the lock is lost. If renewals keep
    /// failing, `work` is dropped [`grace`](crate::LockRequest::grace) before the validity ends.
    ///
    /// The clocks are read before every poll of `work`. So a process that was stopped or suspended
    /// does not act on a lock that it lost meanwhile. `Ok` means that the lock was held from the
    /// first poll to the last.
    ///
    /// # Errors
    /// [`Lost`], with the reason; `work` has been dropped by then. With a grace time the lock may
    /// still be valid for that long; [`check`](Self::check) tells.
    ///
    /// # Cancel safety
    /// As cancel safe as `work`.
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> Result<T, Lost> {
        let mut work = pin!(work);
        let mut stop = pin!(self.stop_requested());
        poll_fn(|cx| {
            if let Err(lost) = self.hold.check_early(self.hold.now()) {
                return Poll::Ready(Err(lost));
            }
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(self.check().map(|()| done));
            }
            stop.as_mut().poll(cx).map(Err)
        })
        .await
    }

    /// Returns the descriptors that keep the lock held while any process has them open. Pass on all
    /// of them: a migration between two directories has one in each. There are none unless the lock
    /// lives in descriptors (files).
    ///
    /// # Errors
    /// If the process has too many open files.
    #[cfg(unix)]
    pub fn descriptors(&self) -> std::io::Result<Vec<std::os::fd::OwnedFd>> {
        let bound = self.shared.backend.process_bound().filter(|_| self.hold.forked().is_none());
        bound.map_or_else(|| Ok(Vec::new()), |bound| bound.descriptors(&self.hold.lease))
    }
}
