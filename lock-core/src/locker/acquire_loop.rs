//! Acquires a lock for one request: attempts, retries, waiting.

mod contend;
mod contender;

use std::{sync::Arc, time::Duration};

use tokio::{
    runtime::{Handle, Id},
    time::{Instant, Sleep},
};

use self::contender::Contender;

use super::{guard::Guard, outcome::TryAcquire};
use crate::{
    engine::{
        backoff::{SHORTEST, part_of_window},
        hold::{LeaseState, Next},
        limits::HoldLimits,
        metrics::Outcome,
        queue::{Accepted, Turn},
        relay::PendingRelease,
        shared::Shared,
        timing::Timing,
    },
    types::{ClockReading, Error, ErrorKind, Holder, LockName, LockOptions},
};

type OnContention = Arc<dyn Fn(&Holder) + Send + Sync>;
type OnRetry = Arc<dyn Fn(&Error, Duration) + Send + Sync>;

/// What the caller wants to be told while an acquisition goes on.
#[derive(Clone, Default)]
pub(super) struct Observers {
    pub(super) on_contention: Option<OnContention>,
    pub(super) on_retry: Option<OnRetry>,
}

/// One acquisition in progress.
pub(super) struct AcquireLoop {
    shared: Arc<Shared>,
    name: LockName,
    /// `None` stands for those of the locker.
    options: Option<Box<LockOptions>>,
    runtime: Id,
    /// `None` stands for that of the locker.
    timing: Option<Box<Timing>>,
    began: Instant,
    /// The same time on the clocks of leases. `None` if neither a wait nor a deadline counts from
    /// it, because looks at clocks are much of the time of a hand-over.
    asked: Option<ClockReading>,
    observers: Observers,
}

/// What an acquisition begins with, after it has not taken a lease over.
enum Before {
    Nothing,
    /// The release of the previous guard.
    Release(Box<PendingRelease>),
    /// A lease of this process that does not serve the request, which has to release it.
    Lease(Arc<LeaseState>),
}

impl AcquireLoop {
    /// Checks the name and the options before the first request is sent. The acquisition is `timed`
    /// if a wait counts from now.
    pub(super) fn new(
        shared: Arc<Shared>,
        name: LockName,
        options: Option<Box<LockOptions>>,
        timed: bool,
        observers: Observers,
    ) -> Result<Self, Error> {
        let given = options.as_deref();
        let has_deadline = given.unwrap_or(&shared.defaults).deadline.is_some();
        let (began, asked) = (Instant::now(), (timed || has_deadline).then(|| shared.clock.now()));
        let timing = shared.timing_of(given).map_err(|e| e.with_name(&name).with_store(shared.backend.describe()))?;
        let runtime = Handle::current();
        // Guards of an ended runtime may hold the lock, and only the renewal task ends them.
        shared.renewer.revive(&runtime);
        let id = runtime.id();
        shared.note_runtime(runtime);
        Ok(Self { shared, name, options, runtime: id, timing, began, asked, observers })
    }

    fn options(&self) -> &LockOptions {
        self.options.as_deref().unwrap_or(&self.shared.defaults)
    }

    fn timing(&self) -> &Timing {
        self.timing.as_deref().unwrap_or(&self.shared.timing)
    }

    fn owner(&self) -> &str {
        self.options().owner.as_deref().unwrap_or_else(|| self.shared.owner())
    }

    /// See [`LockRequest::hand_over`](crate::LockRequest::hand_over). Zero where it does not apply.
    fn hand_over(&self) -> u32 {
        let options = self.options();
        // A lease that others use must not be shortened to a deadline, nor outlive it.
        let has_hand_over = self.shared.capabilities.hand_over && options.deadline.is_none();
        if has_hand_over && !options.mode.may_be_joined() { options.hand_over } else { 0 }
    }

    fn limits(&self) -> HoldLimits {
        let LockOptions { deadline, min_hold, max_hold, .. } = *self.options();
        HoldLimits { deadline: self.asked.zip(deadline), min_hold, max_hold, hands_over: self.hand_over() > 0 }
    }

    fn elapsed(&self) -> Duration {
        let asked = self.asked.expect("it was read, because a wait or a deadline counts from it");
        self.shared.clock.now().since(asked)
    }

    /// Returns the time until the caller's deadline.
    fn left(&self) -> Option<Duration> {
        self.options().deadline.map(|limit| limit.saturating_sub(self.elapsed()))
    }

    /// Returns `true` if the deadline is so near that no lease before it can be valid.
    fn is_too_late(&self) -> bool {
        self.left().is_some_and(|left| self.timing().lease_for(Some(left)).1.unwrap_or(left).min(left) < SHORTEST)
    }

    /// Returns the error for an acquisition that [is too late](Self::is_too_late).
    fn too_late(&self) -> Error {
        let left = self.left().unwrap_or_default();
        let message = if left < SHORTEST {
            "the deadline was reached before the store granted the lock".to_owned()
        } else {
            let least = self.timing().least_margin(left) + SHORTEST;
            format!(
                "the deadline is {left:.1?} away, but a lock on this store needs at least {least:.1?}: its guard \
                 ends that long before its lease; allow more time"
            )
        };
        Error::new(ErrorKind::Timeout, message).with_ambiguous(false).with_retryable(false)
    }

    pub(super) fn finish(&self, outcome: Result<TryAcquire, Error>) -> Result<TryAcquire, Error> {
        let ended = match &outcome {
            Ok(TryAcquire::Acquired(_)) => Outcome::Acquired,
            Ok(TryAcquire::Contended(_)) => Outcome::Contended,
            Err(error) => Outcome::from(error),
        };
        self.shared.metrics.waited(ended, self.began);
        match &outcome {
            Ok(TryAcquire::Acquired(guard)) => tracing::debug!(name = %self.name, token = ?guard.token(), "acquired"),
            Ok(TryAcquire::Contended(holder)) => tracing::debug!(name = %self.name, %holder, "contended"),
            Err(error) => tracing::debug!(name = %self.name, %error, "acquisition failed"),
        }
        outcome.map_err(|e| e.with_store(self.shared.backend.describe()))
    }

    /// Returns the guard of the lease that the turn before this one handed over. It keeps `turn`.
    /// Otherwise the request has to be sent to the store.
    fn take_over(&self, turn: &mut Option<Turn>) -> Result<Guard, Before> {
        let queued = match turn.as_mut().and_then(Turn::accept) {
            None => return Err(Before::Nothing),
            Some(Accepted::Release(release)) => return Err(Before::Release(Box::new(release))),
            Some(Accepted::Lease(queued)) => queued,
        };
        let (now, options) = (self.shared.clock.now(), self.options());
        let next = Next {
            mode: options.mode,
            owner: self.owner(),
            data: options.data.as_deref(),
            timing: self.timing(),
            limits: self.limits(),
            runtime: self.runtime,
            now,
        };
        let hold = queued.hold().filter(|_| next.limits.hands_over);
        let entered = hold.and_then(|hold| hold.enter(next, turn));
        let Some(hold) = queued.take() else { return Err(Before::Nothing) };
        let Some(entered) = entered else {
            self.shared.stop_renewing(&hold, now);
            return Err(Before::Lease(hold));
        };
        if entered.needs_schedule {
            self.shared.renewer.keep(&hold, now);
        }
        self.shared.metrics.handed_over();
        Ok(Guard::new(hold, Arc::clone(&self.shared), None))
    }

    /// Reports an error after which attempts go on for up to `left` while the store keeps failing.
    fn note_retry(&self, error: &Error, left: Duration) {
        tracing::debug!(name = %self.name, %error, ?left, "attempt failed; retrying");
        if let Some(observer) = &self.observers.on_retry {
            observer(&error.clone().with_store(self.shared.backend.describe()), left);
        }
    }

    /// Tries without a wait, and without a place in the queue of this process. Only a release of
    /// this process in the background is awaited.
    pub(super) async fn try_now(&self) -> Result<TryAcquire, Error> {
        if let Some(delay) = self.delay(None) {
            delay.await;
        }
        let limit = self.left().map_or(self.timing().attempt_timeout, |left| left.min(self.timing().attempt_timeout));
        let mut turn = self.shared.queues.try_enter(&self.name, limit).await;
        match self.take_over(&mut turn) {
            Ok(guard) => Ok(TryAcquire::Acquired(guard)),
            Err(before) => Contender::new(self, turn, before, false).answer_now().await,
        }
    }

    /// Returns the delay of the first attempt, a random part of the declared window.
    fn delay(&self, wait: Option<Duration>) -> Option<Sleep> {
        let spread = self.options().spread;
        if spread.is_zero() {
            return None;
        }
        let window = self.time_left(wait).map_or(spread, |left| spread.min(left / 2));
        Some(tokio::time::sleep(window.mul_f64(part_of_window())))
    }

    /// Returns the time until the wait ends.
    fn time_left(&self, wait: Option<Duration>) -> Option<Duration> {
        [wait.map(|wait| wait.saturating_sub(self.elapsed())), self.left()].into_iter().flatten().min()
    }

    /// Waits for its turn in this process, then contends for the lock.
    ///
    /// The futures with requests to the store are boxed, because they are several times as large as
    /// the rest. A task that waits for its turn needs only the rest.
    pub(super) async fn wait(&self, wait: Option<Duration>) -> Result<TryAcquire, Error> {
        if self.time_left(wait).is_some_and(|left| left.is_zero()) {
            return Box::pin(self.try_now()).await;
        }
        if let Some(delay) = self.delay(wait) {
            delay.await;
        }
        if self.options().fair {
            // The store has the queue. A place in one for all tasks of this process would let tasks
            // of other processes overtake them.
            return Box::pin(Contender::new(self, None, Before::Nothing, true).contend(wait)).await;
        }
        let queues = &self.shared.queues;
        let observer = &self.observers.on_contention;
        let mut stands_by = None;
        let queued = queues.enter(&self.name, || {
            stands_by = Some(self.shared.renewer.stand_by(self.runtime, self.shared.process));
            if let Some(observer) = observer {
                observer(&queues.holder(&self.name));
            }
        });
        let mut turn = match self.time_left(wait) {
            None => Some(queued.await),
            Some(left) => tokio::time::timeout(left, queued).await.ok(),
        };
        drop(stands_by);
        if turn.is_none() {
            return Ok(TryAcquire::Contended(queues.holder(&self.name)));
        }
        match self.take_over(&mut turn) {
            Ok(guard) => Ok(TryAcquire::Acquired(guard)),
            Err(before) => Box::pin(Contender::new(self, turn, before, true).contend(wait)).await,
        }
    }
}
