//! A held lock.

use std::{
    fmt,
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, SystemTime},
};

use tokio::time::timeout;
use tracing::Instrument as _;

use crate::{
    backend::{Release, Renewal},
    engine::{hold::LeaseState, metrics, shared::Shared},
    locker::LossSignal,
    types::{ClockReading, Error, ErrorKind, FencingToken, Holder, Lease, LockName, Lost, Operation, no_reply},
};

/// A held lock: valid until it is released or lost, and never beyond its lease.
///
/// [`release`](Self::release) is how to give it back. Dropping it releases too, but as best it can: at once where the store allows it
/// (files, memory), else in the background of the runtime, or of the one that the locker was last used on, whose errors nobody sees. Where
/// that has ended too, the lock stays until its ttl ends; one without a ttl is let go of. A guard that is leaked (`std::mem::forget`) goes on being renewed:
/// [`max_hold`](crate::LockRequest::max_hold) bounds that.
#[must_use = "dropping a guard releases its lock"]
pub struct Guard {
    hold: Arc<LeaseState>,
    shared: Arc<Shared>,
    crashed: Option<Holder>,
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

/// How many renewals one `ensure` sends. One lost reply must not fail it; after three the lease is
/// shorter, and the caller decides how to go on.
const ENSURE_ATTEMPTS: u32 = 3;

impl Guard {
    pub(crate) fn new(hold: Arc<LeaseState>, shared: Arc<Shared>, crashed: Option<Holder>) -> Self {
        if let Some(crashed) = &crashed {
            tracing::info!(name = %hold.lease.name, holder = %crashed, "took over from a holder that did not release");
        }
        Self { hold, shared, crashed, armed: true }
    }

    /// What is locked, as the store knows it (with the locker's prefix).
    pub fn name(&self) -> &LockName {
        &self.hold.lease.name
    }

    /// The fencing token of this acquisition, where the store mints them: send it along with every protected write.
    pub fn token(&self) -> Option<FencingToken> {
        self.hold.lease.token
    }

    /// The fencing token, for work that must not go ahead without one.
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
    /// Of kind [`ErrorKind::Unsupported`] when the store mints no tokens. Write `require=fencing` in
    /// the config string to learn that at start-up.
    pub fn require_token(&self) -> Result<FencingToken, Error> {
        self.token().ok_or_else(|| {
            let message = "this store mints no fencing tokens; \
                           choose one that does, and write require=fencing in its config string";
            Error::new(ErrorKind::Unsupported, message)
                .with_name(self.name())
                .with_store(self.shared.backend.describe())
        })
    }

    /// The previous holder, if it went without releasing: its work may be half done.
    pub fn crashed_holder(&self) -> Option<&Holder> {
        self.crashed.as_ref()
    }

    /// Whether the lock is still held, by the local clocks alone: no I/O, cheap enough for every step of the work.
    ///
    /// # Errors
    /// [`Lost`], with the reason, and then for ever.
    pub fn check(&self) -> Result<(), Lost> {
        self.hold.check(self.hold.now())
    }

    /// Time left until the lock is lost unless it is renewed; `None` where locks do not expire. Zero once it is lost.
    pub fn remaining(&self) -> Option<Duration> {
        self.hold.remaining(self.hold.now())
    }

    /// When the lock is lost unless it is renewed, as a reading of both clocks: it is over as soon as either is reached.
    /// `None` where locks do not expire.
    pub fn valid_until(&self) -> Option<ClockReading> {
        self.hold.valid_until()
    }

    /// Like [`valid_until`](Self::valid_until), by the wall clock, for others to read. `None` also beyond what a [`SystemTime`] can say.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.valid_until().and_then(|until| SystemTime::UNIX_EPOCH.checked_add(until.wall))
    }

    /// Waits until the lock is lost, and says why. Before anybody else can hold it: by the end of the validity at the latest, even while a
    /// renewal hangs.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn lost(&self) -> Lost {
        self.hold.wait_lost(false).await
    }

    /// Returns a signal of the loss that other tasks and threads can own. See [`LossSignal`].
    pub fn loss_signal(&self) -> LossSignal {
        LossSignal::new(Arc::clone(&self.hold))
    }

    /// Waits until the lock is lost or, while renewals keep failing, until [`grace`](crate::LockRequest::grace) before that: the time to stop.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn stop_requested(&self) -> Lost {
        self.hold.wait_lost(true).await
    }

    /// Whether [`stop_requested`](Self::stop_requested) would return at once.
    pub(crate) fn is_stopping(&self) -> bool {
        self.hold.check_early(self.hold.now()).is_err()
    }

    /// Waits until the next renewal is confirmed, which moves [`valid_until`](Self::valid_until).
    ///
    /// # Cancel safety
    /// Cancel safe; renewals confirmed between two calls are not seen.
    pub async fn renewed(&self) {
        self.hold.wait_renewed().await;
    }

    /// Makes sure that at least `at_least` of the lease is left: renews it if it is less, and does nothing otherwise. For
    /// [manual renewal](crate::Renew::Manual), between two pieces of work. Does nothing where locks do not expire, but for [`check`](Self::check).
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Lost`] when the lock is lost, [`ErrorKind::Config`] when no lease is that long or the deadline or `max_hold`
    /// comes first, and else the store's error when it cannot say, or [`ErrorKind::Timeout`] when its answers take too long
    /// for so long a rest: the lock is then still held for as long as [`remaining`](Self::remaining) says.
    ///
    /// # Cancel safety
    /// Cancel safe: the renewal may or may not have happened, and the guard counts as if it had not.
    pub async fn renew_if_below(&self, at_least: Duration) -> Result<(), Error> {
        self.check()?;
        if let Some(longest) = self.hold.longest(self.hold.now()).filter(|longest| *longest < at_least) {
            let message = format!(
                "no renewal makes a lease that is valid for {at_least:?}: ttl - margin, the deadline and max_hold leave {longest:?}"
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
                    let message =
                        format!("renewed, but the answers took too long to leave {at_least:?}; use a longer ttl");
                    return Err(Error::new(ErrorKind::Timeout, message).with_ambiguous(false).with_name(self.name()));
                }
                Err(error) if !error.is_retryable() || attempts >= ENSURE_ATTEMPTS => return Err(error),
                Ok(()) | Err(_) => attempts += 1,
            }
            // The store failed or was slow: not at once again.
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

    /// Runs `work` under the lock, and drops it when the lock is lost, or [`grace`](crate::LockRequest::grace) before that while renewals keep failing.
    ///
    /// The clocks are read before every step of `work`: a process that was stopped or suspended does not act on a lock that it
    /// lost meanwhile. `Ok` means that the lock was held from the first step to the last.
    ///
    /// # Errors
    /// [`Lost`], with the reason; `work` has been dropped by then. With a grace time the lock may still be valid for that long: see
    /// [`check`](Self::check).
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

    /// A descriptor that keeps the lock held while any process has it open, where the lock lives in one (files).
    #[cfg(unix)]
    pub fn descriptor(&self) -> Option<std::os::fd::OwnedFd> {
        self.shared.backend.process_bound()?.descriptor(&self.hold.lease)
    }

    /// Gives the lock back, after [`min_hold`](crate::LockRequest::min_hold) if that is longer. What had been lost is
    /// [`Release::NotHeld`], a value; a successor's lock is never touched.
    ///
    /// # Errors
    /// When the store does not confirm it after three attempts. A further attempt goes on in the background, and the ttl is the backstop.
    ///
    /// # Cancel safety
    /// Cancel safe in that the lock is released in any case: dropping the future leaves the rest to the background.
    pub async fn release(mut self) -> Result<Release, Error> {
        let span = tracing::debug_span!("release", name = %self.hold.lease.name);
        let answer = self.give_back().instrument(span).await;
        tracing::debug!(name = %self.hold.lease.name, ?answer, "released");
        self.armed = match &answer {
            Ok(_) => false,
            Err(error) => error.is_retryable(),
        };
        answer
    }

    async fn give_back(&self) -> Result<Release, Error> {
        let now = self.hold.now();
        let held = self.hold.is_valid(now);
        self.stop_renewing(now);
        let limit = self.hold.timing.attempt_timeout;
        // A renewal in flight goes first. If it hangs, the release does not wait for ever: both compare the id.
        let _requests = match self.hold.requests.try_lock() {
            Ok(requests) => Some(requests),
            Err(_) => timeout(limit, self.hold.requests.lock()).await.ok(),
        };
        let answer = self.shared.release_repeatedly(&self.hold.lease, self.hold.hold_for(), limit, held).await?;
        self.hold.end_turn();
        Ok(answer)
    }

    fn stop_renewing(&self, now: ClockReading) {
        self.hold.close(now);
        self.shared.renewer.forget(self.hold.lease.id);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let now = self.hold.now();
        let held = self.hold.is_valid(now);
        self.stop_renewing(now);
        let (hold, shared) = (Arc::clone(&self.hold), Arc::clone(&self.shared));
        let (limit, hold_for) = (hold.timing.attempt_timeout, hold.hold_for());
        let work = async move |lease: Lease| {
            let _requests = timeout(limit, hold.requests.lock()).await;
            let answer = shared.release_repeatedly(&lease, hold_for, limit, held).await;
            if let Err(error) = &answer {
                tracing::warn!(name = %lease.name, %error, "a dropped guard's lock could not be released: it stays until its ttl ends");
            }
            hold.end_turn();
            answer.is_ok()
        };
        if !self.shared.in_background(&self.hold.lease, hold_for, work, metrics::dropped) {
            self.hold.end_turn();
        }
    }
}
