//! Acquires a lock for one request: attempts, retries, waiting.

mod contend;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{runtime::Id, time::Sleep};

use super::{guard::Guard, outcome::TryAcquire};
use crate::{
    backend::{AcquireOutcome, AcquireRequest},
    engine::{
        acquisition::PendingAcquire,
        backoff::{SHORTEST, part_of_window},
        hand_over::HandOvers,
        hold::{LeaseState, Next},
        limits::HoldLimits,
        metrics::Outcome,
        queue::{Baton, KnownHolder, Turn},
        repeats::Repeats,
        shared::Shared,
        stand_back::Others,
        timing::Timing,
    },
    types::{ClockReading, Error, ErrorKind, Holder, Lease, LeaseId, LockName, LockOptions},
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
    runtime: Id,
    timing: Timing,
    limits: HoldLimits,
    /// See [`LockRequest::hand_over`](crate::LockRequest::hand_over). Zero where it does not apply.
    hand_over: u32,
    /// See [`LockRequest::spread`](crate::LockRequest::spread).
    spread: Duration,
    pending: PendingAcquire,
    /// The time at which the guard was there.
    acquired: Option<ClockReading>,
    observers: Observers,
}

impl AcquireLoop {
    /// Checks the name and the options before the first request is sent.
    pub(super) fn new(
        shared: Arc<Shared>,
        name: LockName,
        options: LockOptions,
        observers: Observers,
    ) -> Result<Self, Error> {
        let asked = shared.clock.now();
        let timing =
            shared.timing_of(&options).map_err(|e| e.with_name(&name).with_store(shared.backend.describe()))?;
        let runtime = tokio::runtime::Handle::current();
        // Guards of an ended runtime may hold the lock, and only the renewal task ends them.
        shared.renewer.revive(&runtime);
        let runtime_id = runtime.id();
        shared.note_runtime(runtime);
        // A lease that others use must not be shortened to a deadline, nor outlive it.
        let has_hand_over = shared.capabilities.hand_over && options.deadline.is_none();
        let hand_over = if has_hand_over && !options.mode.may_be_joined() { options.hand_over } else { 0 };
        let limits = HoldLimits {
            asked,
            deadline: options.deadline,
            min_hold: options.min_hold,
            max_hold: options.max_hold,
            hands_over: hand_over > 0,
        };
        let owner = options.owner.unwrap_or_else(|| shared.owner().to_owned());
        let mut request =
            AcquireRequest::new(name.clone(), LeaseId::NONE, owner).with_data(options.data).with_mode(options.mode);
        request.fair = options.fair;
        if let Some(ttl) = timing.ttl {
            request.ttl = ttl;
        }
        let pending = PendingAcquire::new(&shared, request, timing.attempt_timeout);
        Ok(Self {
            shared,
            name,
            runtime: runtime_id,
            timing,
            limits,
            hand_over,
            spread: options.spread,
            pending,
            acquired: None,
            observers,
        })
    }

    fn elapsed(&self) -> Duration {
        self.shared.clock.now().since(self.limits.asked)
    }

    /// Returns the time until the caller's deadline.
    fn left(&self) -> Option<Duration> {
        self.limits.deadline.map(|limit| limit.saturating_sub(self.elapsed()))
    }

    /// Returns `true` if the deadline is so near that no lease before it can be valid.
    fn is_too_late(&self) -> bool {
        self.left().is_some_and(|left| self.timing.lease_for(Some(left)).1.unwrap_or(left).min(left) < SHORTEST)
    }

    /// Returns the error for an acquisition that [is too late](Self::is_too_late).
    fn too_late(&self) -> Error {
        let left = self.left().unwrap_or_default();
        let message = if left < SHORTEST {
            "the deadline was reached before the store granted the lock".to_owned()
        } else {
            let least = self.timing.least_margin(left) + SHORTEST;
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
        let now = self.acquired.unwrap_or_else(|| self.shared.clock.now());
        self.shared.metrics.waited(ended, now.since(self.limits.asked));
        match &outcome {
            Ok(TryAcquire::Acquired(guard)) => tracing::debug!(name = %self.name, token = ?guard.token(), "acquired"),
            Ok(TryAcquire::Contended(holder)) => tracing::debug!(name = %self.name, %holder, "contended"),
            Err(error) => tracing::debug!(name = %self.name, %error, "acquisition failed"),
        }
        outcome.map_err(|e| e.with_store(self.shared.backend.describe()))
    }

    /// Makes one attempt and returns its outcome.
    #[tracing::instrument(level = "debug", name = "attempt", skip_all, fields(name = %self.name))]
    async fn attempt(&mut self) -> Result<TryAcquire, Error> {
        self.pending.prepare(self.left()).await?;
        if self.is_too_late() {
            return Err(self.too_late());
        }
        let left = self.left();
        let (ttl, valid_for) = self.timing.lease_for(left);
        if let Some(ttl) = ttl {
            self.pending.set_ttl(ttl);
        }
        let (from, answer) = self.pending.attempt(left).await?;
        let grant = match answer {
            AcquireOutcome::Granted(grant) => grant,
            AcquireOutcome::Contended(holder) => {
                self.note_held(&holder);
                return Ok(TryAcquire::Contended(holder));
            }
        };
        let pace = || self.shared.pace();
        self.note_others(|others| others.note_grant(grant.token, grant.previous_token, pace()));
        let hold = self.hold(self.pending.request.lease(grant.token), from, valid_for);
        let hold = match self.pending.request.reserved_tokens {
            0 => hold,
            left => hold.with_hand_overs(HandOvers { request: Arc::clone(&self.pending.request), left, granted: from }),
        };
        let now = hold.now();
        if hold.is_valid(now) {
            return Ok(TryAcquire::Acquired(self.guard(hold, from, now, grant.crashed)));
        }
        // Granted, but the lease expired before the reply arrived.
        let given_back = self.pending.give_back(from).await;
        if self.is_too_late() {
            return Err(self.too_late().with_ambiguous(!given_back));
        }
        let what = "the store's reply arrived after the lease had expired; use a longer ttl if the store has one";
        Err(Error::new(ErrorKind::Timeout, what).with_ambiguous(!given_back))
    }

    fn hold(&self, lease: Lease, from: ClockReading, valid_for: Option<Duration>) -> LeaseState {
        let store = Arc::clone(&self.shared.lease_store);
        LeaseState::new(lease, self.timing, self.limits, from, valid_for, store)
    }

    /// Returns the guard of the lease that the turn before this one handed over. Otherwise the
    /// request has to be sent to the store, which first releases a lease of other options, or with
    /// the release of the guard before.
    fn take_over(&mut self) -> Option<Guard> {
        let parcel = match self.pending.turn.as_mut()?.accept()? {
            Baton::Lease(parcel) => parcel,
            Baton::Release(release) => {
                self.pending.follow(release, self.pending.request.mode.may_be_joined());
                return None;
            }
        };
        let now = self.shared.clock.now();
        let (request, timing, limits, runtime) = (&*self.pending.request, self.timing, self.limits, self.runtime);
        let next = Next { request, timing, limits, runtime, now };
        let hold = parcel.hold().filter(|_| self.hand_over > 0);
        let entered = hold.and_then(|hold| hold.enter(next, &mut self.pending.turn));
        let hold = parcel.take()?;
        let Some(entered) = entered else {
            // From now on the acquisition is responsible for the lease.
            self.pending.take_over(hold.lease.id, hold.confirmed());
            self.shared.stop_renewing(&hold, now);
            return None;
        };
        if entered.needs_schedule {
            self.shared.renewer.keep(&hold, now);
        }
        self.shared.metrics.handed_over();
        self.acquired = Some(now);
        Some(Guard::new(hold, Arc::clone(&self.shared), None))
    }

    /// Notes what this attempt tells of other processes.
    fn note_others(&self, note: impl FnOnce(&mut Others)) {
        if self.hand_over > 0
            && let Some(turn) = &self.pending.turn
        {
            turn.with_others(note);
        }
    }

    /// Reserves tokens for the waiters behind this one.
    fn reserve_tokens(&mut self) {
        if self.hand_over > 0 && self.pending.turn.as_ref().is_some_and(Turn::has_waiters) {
            self.pending.reserve_tokens(self.hand_over);
        }
    }

    fn guard(&mut self, hold: LeaseState, from: ClockReading, now: ClockReading, crashed: Option<Holder>) -> Guard {
        if let Some(turn) = &self.pending.turn {
            let (request, since) = (Arc::clone(&self.pending.request), SystemTime::UNIX_EPOCH + from.wall);
            turn.note_holder(KnownHolder::Guard { request, token: hold.token(), since });
        }
        let turn = self.pending.turn.take();
        // Others of this process may join a lock that is not exclusive.
        hold.keep_turn(turn.filter(|_| !self.pending.request.mode.may_be_joined()));
        let hold = Arc::new(hold);
        self.shared.renewer.keep(&hold, now);
        self.acquired = Some(now);
        Guard::new(hold, Arc::clone(&self.shared), crashed)
    }

    fn note_held(&self, holder: &Holder) {
        if let Some(turn) = &self.pending.turn {
            turn.note_holder(KnownHolder::Reported(holder.clone()));
        }
        self.note_others(Others::note_refusal);
        if let Some(observer) = &self.observers.on_contention {
            observer(holder);
        }
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
    pub(super) async fn try_now(&mut self) -> Result<TryAcquire, Error> {
        if let Some(delay) = self.delay(None) {
            delay.await;
        }
        let limit = self.left().map_or(self.timing.attempt_timeout, |left| left.min(self.timing.attempt_timeout));
        self.pending.turn = self.shared.queues.try_enter(&self.name, limit).await;
        match self.take_over() {
            Some(guard) => Ok(TryAcquire::Acquired(guard)),
            None => self.answer_now().await,
        }
    }

    /// Makes an attempt without waiting. Repeats it only while the store does not reply, or replies
    /// that it has too many requests.
    async fn answer_now(&mut self) -> Result<TryAcquire, Error> {
        let mut repeats = None;
        loop {
            self.pending.wait_for_release(Some(self.timing.attempt_timeout)).await;
            let answer = self.attempt().await;
            let Err(error) = &answer else { return answer };
            let (first, now) = (self.shared.backend.timings().poll_min, self.shared.clock.now());
            let repeats = repeats.get_or_insert_with(|| Repeats::new(first, self.timing.attempt_timeout, now));
            let Some((pause, goes_on)) = repeats.after(error, now) else { return answer };
            let left = self.left();
            if left.is_some_and(|left| left <= pause) {
                return answer;
            }
            self.note_retry(error, left.map_or(goes_on, |left| left.min(goes_on)));
            tokio::time::sleep(pause).await;
        }
    }

    /// Returns the delay of the first attempt, a random part of the declared window.
    fn delay(&self, wait: Option<Duration>) -> Option<Sleep> {
        if self.spread.is_zero() {
            return None;
        }
        let window = self.patience(wait).map_or(self.spread, |left| self.spread.min(left / 2));
        Some(tokio::time::sleep(window.mul_f64(part_of_window())))
    }

    /// Returns the time until the wait ends.
    fn patience(&self, wait: Option<Duration>) -> Option<Duration> {
        [wait.map(|wait| wait.saturating_sub(self.elapsed())), self.left()].into_iter().flatten().min()
    }

    /// Waits for its turn in this process, then contends for the lock.
    ///
    /// The futures with requests to the store are boxed: they are several times as large as the
    /// rest, which is all that a task needs that waits for its turn.
    pub(super) async fn wait(&mut self, wait: Option<Duration>) -> Result<TryAcquire, Error> {
        if self.patience(wait).is_some_and(|left| left.is_zero()) {
            return Box::pin(self.try_now()).await;
        }
        if let Some(delay) = self.delay(wait) {
            delay.await;
        }
        if self.pending.request.fair {
            // The store has the queue. A place in one for all tasks of this process would let tasks
            // of other processes overtake them.
            self.pending.set_waits();
            return Box::pin(self.contend(wait)).await;
        }
        let queues = &self.shared.queues;
        let observer = &self.observers.on_contention;
        let queued = queues.enter(&self.name, || {
            if let Some(observer) = observer {
                observer(&queues.holder(&self.name));
            }
        });
        let turn = match self.patience(wait) {
            None => Some(queued.await),
            Some(left) => tokio::time::timeout(left, queued).await.ok(),
        };
        let Some(turn) = turn else { return Ok(TryAcquire::Contended(queues.holder(&self.name))) };
        self.pending.turn = Some(turn);
        if let Some(guard) = self.take_over() {
            return Ok(TryAcquire::Acquired(guard));
        }
        self.pending.set_waits();
        self.reserve_tokens();
        Box::pin(self.contend(wait)).await
    }
}
