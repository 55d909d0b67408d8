//! Acquires a lock: by one attempt, within a bounded wait, or for as long as it takes.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    backend::{AcquireOutcome, AcquireRequest, Grant, Watch},
    engine::{
        acquisition::PendingAcquire,
        backoff::{Backoff, SHORTEST, jitter},
        hold::{HoldLimits, LeaseState},
        metrics::{self, Outcome},
        queue::Turn,
        shared::Shared,
        timing::Timing,
    },
    locker::{guard::Guard, options::option_setters},
    types::{ClockReading, Error, ErrorKind, Holder, LeaseId, LockName, LockOptions, Operation},
};

/// The outcome of a bounded attempt to acquire.
#[derive(Debug)]
#[must_use = "dropping an acquired guard releases the lock"]
pub enum TryAcquire {
    /// This process holds the lock now.
    Acquired(Guard),
    /// Another client holds the lock.
    Contended(Holder),
}

/// The outcome of [`try_run`](LockRequest::try_run).
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "the work may have been skipped"]
pub enum TryRun<T> {
    /// The work finished under the lock, with this result.
    Ran(T),
    /// Another client holds the lock, so the work did not start.
    Skipped(Holder),
}

type OnContention = Arc<dyn Fn(&Holder) + Send + Sync>;

/// A request for a lock, made by [`Locker::lock`](crate::Locker::lock). Its options override those
/// of the locker.
#[derive(Clone)]
#[must_use = "a request does nothing until it is acquired"]
pub struct LockRequest {
    shared: Arc<Shared>,
    /// An invalid name becomes an error of the acquisition, like an invalid option.
    name: Result<LockName, Error>,
    options: LockOptions,
    on_contention: Option<OnContention>,
}

impl fmt::Debug for LockRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockRequest").field("name", &self.name).field("options", &self.options).finish_non_exhaustive()
    }
}

/// How long a waiter retries transient errors before it returns the last one. As long as the
/// default ttl: a longer outage has ended the leases of most holders too, and the caller has to
/// know.
const OUTAGE: Duration = Duration::from_secs(30);
/// How many times an attempt without a wait is sent while errors are transient. One lost reply must
/// not fail it. Each further attempt may take a whole request timeout.
const TRIES: u32 = 3;

impl LockRequest {
    option_setters!();

    pub(crate) fn new(shared: Arc<Shared>, name: impl TryInto<LockName, Error: Into<Error>>) -> Self {
        let name = shared.name(name);
        let options = shared.defaults.clone();
        Self { shared, name, options, on_contention: None }
    }

    /// Replaces all options, for example with those of a configuration.
    pub fn options(mut self, options: LockOptions) -> Self {
        self.options = options;
        self
    }

    /// Calls `observer` with the current holder each time an attempt is contended.
    pub fn on_contention(mut self, observer: impl Fn(&Holder) + Send + Sync + 'static) -> Self {
        self.on_contention = Some(Arc::new(observer));
        self
    }

    /// Tries to acquire the lock without waiting: acquired or contended.
    ///
    /// Sends one request to the store, and at most two more if it gets no reply. A grant that
    /// arrived too late is released first.
    ///
    /// Does not queue behind other waiters of this process.
    ///
    /// # Errors
    /// If the store fails or an option is invalid. Contention is not an error.
    ///
    /// # Cancel safety
    /// Cancel safe: a lock that the store may have granted is released in the background.
    pub async fn try_acquire(self) -> Result<TryAcquire, Error> {
        let mut acquiring = AcquireLoop::new(self)?;
        acquiring.turn = acquiring.shared.queues.try_enter(&acquiring.name);
        let outcome = acquiring.answer_now().await;
        acquiring.finish(outcome)
    }

    /// Waits for the lock for at most `wait`, and then returns the holder. With zero it makes one
    /// attempt.
    ///
    /// May exceed `wait` by one request, because a request in flight is not abandoned, or by two if
    /// a late grant has to be released. [`Timing::attempt_timeout`] limits each request. With zero,
    /// the request is repeated at most twice if it gets no reply.
    ///
    /// Waiters of one process queue for a name in first-in, first-out order.
    ///
    /// # Errors
    /// If the store keeps failing for the whole of `wait`, or for 30 s. Contention is not an error.
    ///
    /// # Cancel safety
    /// Cancel safe: the waiter leaves the queue, and a lock that the store may have granted is
    /// released in the background.
    pub async fn acquire_within(self, wait: Duration) -> Result<TryAcquire, Error> {
        let mut acquiring = AcquireLoop::new(self)?;
        let outcome = acquiring.wait(Some(wait)).await;
        acquiring.finish(outcome)
    }

    /// Waits for the lock, for as long as it takes or until the [`deadline`](Self::deadline).
    ///
    /// Waiters of one process queue for a name in first-in, first-out order.
    ///
    /// # Errors
    /// If the store keeps failing for 30 s, or the deadline is reached first. Contention is not an
    /// error.
    ///
    /// # Cancel safety
    /// Cancel safe: the waiter leaves the queue, and a lock that the store may have granted is
    /// released in the background.
    pub async fn acquire(self) -> Result<Guard, Error> {
        let mut acquiring = AcquireLoop::new(self)?;
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

/// One acquisition in progress.
struct AcquireLoop {
    shared: Arc<Shared>,
    name: LockName,
    timing: Timing,
    limits: HoldLimits,
    pending: PendingAcquire,
    turn: Option<Turn>,
    on_contention: Option<OnContention>,
}

impl AcquireLoop {
    /// Checks the name and the options before the first request is sent.
    fn new(LockRequest { shared, name, options, on_contention }: LockRequest) -> Result<Self, Error> {
        let asked = shared.clock.now();
        let name = name?;
        let timing = Timing::new(&options, shared.capabilities, shared.backend.timings())
            .map_err(|e| e.with_name(&name).with_store(shared.backend.describe()))?;
        shared.note_runtime();
        // Guards of an ended runtime may hold the lock, and only the renewal task ends them.
        shared.renewer.revive(&tokio::runtime::Handle::current());
        let limits =
            HoldLimits { asked, deadline: options.deadline, min_hold: options.min_hold, max_hold: options.max_hold };
        let owner = options.owner.unwrap_or_else(|| shared.owner().to_owned());
        let mut request = AcquireRequest::new(name.clone(), LeaseId::random(), owner).with_data(options.data);
        if let Some(ttl) = timing.ttl {
            request.ttl = ttl;
        }
        let pending = PendingAcquire::new(&shared, request, timing.attempt_timeout);
        Ok(Self { shared, name, timing, limits, pending, turn: None, on_contention })
    }

    fn elapsed(&self) -> Duration {
        self.shared.clock.now().since(self.limits.asked)
    }

    /// Returns the time until the caller's deadline.
    fn left(&self) -> Option<Duration> {
        self.limits.deadline.map(|limit| limit.saturating_sub(self.elapsed()))
    }

    fn is_too_late(&self) -> bool {
        self.left().is_some_and(|left| left < SHORTEST)
    }

    fn finish(&self, outcome: Result<TryAcquire, Error>) -> Result<TryAcquire, Error> {
        let ended = match &outcome {
            Ok(TryAcquire::Acquired(_)) => Outcome::Acquired,
            Ok(TryAcquire::Contended(_)) => Outcome::Contended,
            Err(_) => Outcome::Error,
        };
        metrics::waited(ended, self.elapsed());
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
            return Err(too_late());
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
        let lease = self.pending.request.lease(grant.token);
        let shared = &self.shared;
        let means = (Arc::clone(&shared.backend), Arc::clone(&shared.clock), Arc::clone(&shared.renewer.detector));
        let hold = LeaseState::new(lease, self.timing, self.limits, from, valid_for, means);
        let now = hold.now();
        if hold.is_valid(now) {
            return Ok(TryAcquire::Acquired(self.guard(hold, from, now, grant)));
        }
        // Granted, but the lease expired before the reply arrived.
        let given_back = self.pending.give_back(from).await;
        if self.is_too_late() {
            return Err(too_late().with_ambiguous(!given_back));
        }
        let what = "the store's reply arrived after the lease had expired; use a longer ttl if the store has one";
        Err(Error::new(ErrorKind::Timeout, what).with_ambiguous(!given_back))
    }

    fn guard(&mut self, hold: LeaseState, from: ClockReading, now: ClockReading, grant: Grant) -> Guard {
        if let Some(turn) = &self.turn {
            let owner = Some(self.pending.request.owner.clone());
            let since = Some(std::time::SystemTime::UNIX_EPOCH + from.wall);
            turn.note_holder(Holder { owner, token: grant.token, since, ..Holder::default() });
        }
        hold.keep_turn(self.turn.take());
        let hold = Arc::new(hold);
        self.shared.renewer.keep(&hold, now);
        Guard::new(hold, Arc::clone(&self.shared), grant.crashed)
    }

    fn note_held(&self, holder: &Holder) {
        if let Some(turn) = &self.turn {
            turn.note_holder(holder.clone());
        }
        if let Some(observer) = &self.on_contention {
            observer(holder);
        }
    }

    /// Makes an attempt without waiting. Repeats it only while the store does not reply.
    async fn answer_now(&mut self) -> Result<TryAcquire, Error> {
        let mut tries = 1;
        loop {
            match self.attempt().await {
                Err(error) if error.is_retryable() && tries < TRIES && !self.is_too_late() => {
                    tracing::debug!(name = %self.name, %error, "attempt failed; retrying");
                    // With jitter, because other clients got no reply either and retry too.
                    tokio::time::sleep(self.shared.backend.timings().poll_min.mul_f64(f64::from(tries) * jitter()))
                        .await;
                    tries += 1;
                }
                answer => return answer,
            }
        }
    }

    /// Returns the time until the wait ends.
    fn patience(&self, wait: Option<Duration>) -> Option<Duration> {
        [wait.map(|wait| wait.saturating_sub(self.elapsed())), self.left()].into_iter().flatten().min()
    }

    /// Waits for its turn in this process, then contends for the lock.
    async fn wait(&mut self, wait: Option<Duration>) -> Result<TryAcquire, Error> {
        if self.patience(wait).is_some_and(|left| left.is_zero()) {
            self.turn = self.shared.queues.try_enter(&self.name);
            return self.answer_now().await;
        }
        let queues = Arc::clone(&self.shared.queues);
        let queued = queues.enter(&self.name);
        let turn = match self.patience(wait) {
            None => Some(queued.await),
            Some(left) => tokio::time::timeout(left, queued).await.ok(),
        };
        let Some(turn) = turn else { return Ok(TryAcquire::Contended(queues.holder(&self.name))) };
        self.turn = Some(turn);
        self.contend(wait).await
    }

    async fn contend(&mut self, wait: Option<Duration>) -> Result<TryAcquire, Error> {
        let mut backoff = Backoff::new(self.shared.backend.timings());
        let mut watch = None;
        let mut may_watch = self.shared.capabilities.wake_up;
        let mut failing: Option<ClockReading> = None;
        loop {
            let answer = self.attempt().await;
            let expires_in = match &answer {
                Ok(TryAcquire::Acquired(_)) => return answer,
                Ok(TryAcquire::Contended(holder)) => {
                    failing = None;
                    holder.expires_in
                }
                Err(error) => {
                    let now = self.shared.clock.now();
                    let since = *failing.get_or_insert(now);
                    if !error.is_retryable() || now.since(since) >= OUTAGE {
                        return answer;
                    }
                    tracing::debug!(name = %self.name, %error, "attempt failed while waiting; retrying");
                    None
                }
            };
            let left = self.patience(wait);
            if left.is_some_and(|left| left.is_zero()) {
                return answer;
            }
            if may_watch && watch.is_none() {
                let limit = left.map_or(self.timing.attempt_timeout, |left| left.min(self.timing.attempt_timeout));
                match watch_for(&self.shared, &self.name, limit).await {
                    Ok(Some(begun)) => {
                        watch = Some(begun);
                        // Try again: a release before the watch began does not wake it.
                        continue;
                    }
                    Ok(None) => may_watch = false,
                    // Retried in the next round: after an outage a long wait must not depend on
                    // polling.
                    Err(()) => {}
                }
            }
            let longest = self.patience(wait).unwrap_or(Duration::MAX);
            let pause = backoff.after_wake(holder_of(&answer));
            if !pause.is_zero() {
                // Woken although the lock is still held. Such a watch must not cause a tight loop.
                tokio::time::sleep(pause.min(longest)).await;
            }
            let nap = backoff.next(expires_in).min(longest);
            tokio::select! {
                // At the latest until the holder's lease expires; without a watch until the next
                // poll.
                () = tokio::time::sleep(nap.max(SHORTEST)) => {}
                () = changed(watch.as_mut()) => backoff.woken(holder_of(&answer)),
            }
            if self.is_too_late() {
                return answer;
            }
        }
    }
}

/// Begins to watch a name. Returns `Ok(None)` if the store cannot watch at all, and an error if it
/// failed now.
///
/// Not a method, because an `AcquireLoop` with a request in flight cannot be shared between
/// threads.
async fn watch_for(shared: &Shared, name: &LockName, limit: Duration) -> Result<Option<Box<dyn Watch>>, ()> {
    let answer = tokio::time::timeout(limit, shared.backend.watch(name)).await;
    answer
        .map_err(drop)?
        .map_err(|error| tracing::debug!(%name, %error, "watch failed; polling until the next attempt"))
}

async fn changed(watch: Option<&mut Box<dyn Watch>>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

fn holder_of(answer: &Result<TryAcquire, Error>) -> Option<&Holder> {
    match answer {
        Ok(TryAcquire::Contended(holder)) => Some(holder),
        _ => None,
    }
}

fn too_late() -> Error {
    Error::new(ErrorKind::Timeout, "the deadline was reached before the store granted the lock")
        .with_ambiguous(false)
        .with_retryable(false)
}
