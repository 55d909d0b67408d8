//! Signals to other tasks that a lock was lost.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use crate::{
    engine::hold::LeaseState,
    types::{ClockReading, FencingToken, Lost},
};

/// Signals to any task that a lock is no longer held; made by
/// [`Guard::loss_signal`](crate::Guard::loss_signal).
///
/// It is cheap to clone and borrows nothing, so it can be moved into other tasks and threads. It
/// fires at the same moment as [`Guard::lost`](crate::Guard::lost). It also fires when the guard is
/// released or dropped, with [`LossReason::Released`](crate::LossReason::Released), so that no task
/// waits forever. It does not keep the lock held.
///
/// ```
/// use lock_core::{Locker, LossReason, memory::MemoryBackend};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lock_core::Error> {
/// let locker = Locker::new(MemoryBackend::new())?;
/// let guard = locker.acquire("nightly-etl").await?;
/// let signal = guard.loss_signal();
/// let watcher = tokio::spawn(async move { signal.lost().await });
/// guard.release().await?;
/// assert_eq!(watcher.await.unwrap().reason, LossReason::Released);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct LossSignal {
    hold: Arc<LeaseState>,
    /// The token of its guard. The lease may have another guard later.
    token: Option<FencingToken>,
}

impl LossSignal {
    pub(crate) fn new(hold: Arc<LeaseState>, token: Option<FencingToken>) -> Self {
        Self { hold, token }
    }

    /// Checks by the local clocks whether the lock is still held. Makes no request.
    ///
    /// # Errors
    /// [`Lost`], with the reason, after the loss or the end of the guard.
    pub fn check(&self) -> Result<(), Lost> {
        self.hold.check_guarded(self.hold.now(), self.token)
    }

    /// Returns `true` when the lock is no longer held.
    pub fn is_lost(&self) -> bool {
        self.check().is_err()
    }

    /// Waits until the lock is lost, released or dropped, and returns the reason.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn lost(&self) -> Lost {
        self.hold.wait_guarded(self.token).await
    }

    /// Waits until the work has to stop, and returns the reason: as
    /// [`Guard::stop_requested`](crate::Guard::stop_requested), and when the guard is released or
    /// dropped.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn stop_requested(&self) -> Lost {
        tokio::select! {
            // The end of the guard counts, and not what the next guard of the lease waits for.
            biased;
            lost = self.hold.wait_guarded(self.token) => lost,
            stop = self.hold.wait_lost(true) => stop,
        }
    }

    /// Returns `true` if [`stop_requested`](Self::stop_requested) would return immediately.
    pub fn is_stopping(&self) -> bool {
        let now = self.hold.now();
        self.hold.check_guarded(now, self.token).and_then(|()| self.hold.check_early(now)).is_err()
    }

    /// Returns the time until the validity ends unless the lock is renewed. `None` if locks do not
    /// expire; zero after the loss or the end of the guard.
    pub fn remaining(&self) -> Option<Duration> {
        if self.is_lost() { Some(Duration::ZERO) } else { self.hold.remaining(self.hold.now()) }
    }

    /// Returns the end of the validity; see [`Guard::valid_until`](crate::Guard::valid_until). A
    /// time in the past after the loss or the end of the guard.
    pub fn valid_until(&self) -> Option<ClockReading> {
        // As in a child made by `fork`: the next guard of the lease may be valid for longer.
        let over = ClockReading { boot: Duration::ZERO, wall: Duration::ZERO };
        if self.is_lost() { Some(over) } else { self.hold.valid_until() }
    }

    /// Returns a token that is cancelled when this signal fires, for code that takes tokens.
    ///
    /// A task of the current runtime waits for the signal. The task ends when the token is
    /// cancelled. The token is cancelled too if that runtime ends.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[cfg(feature = "tokio-util")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tokio-util")))]
    pub fn cancellation_token(&self) -> tokio_util::sync::CancellationToken {
        let (token, signal) = (tokio_util::sync::CancellationToken::new(), self.clone());
        let fired = token.clone();
        // The end of the runtime drops the task, and nothing else would tell the work of a loss.
        let cancels = token.clone().drop_guard();
        // The token is passive, so a task has to wait for the signal on its behalf.
        tokio::spawn(async move {
            let _cancels = cancels;
            let _ = fired.run_until_cancelled(signal.lost()).await;
        });
        token
    }
}

impl IntoFuture for LossSignal {
    type Output = Lost;
    type IntoFuture = Pin<Box<dyn Future<Output = Lost> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.lost().await })
    }
}

impl fmt::Debug for LossSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LossSignal").field("name", &self.hold.lease.name).field("lost", &self.check().err()).finish()
    }
}
