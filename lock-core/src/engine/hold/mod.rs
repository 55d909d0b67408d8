//! The state of one held lock: how long it is valid, and when and why it is lost.

mod hand_over;
mod turn;
mod waits;

use std::{
    sync::{Arc, MutexGuard},
    time::Duration,
};

use tokio::sync::Notify;

use crate::{
    backend::{Backend, Renewal},
    engine::{
        freeze::FreezeDetector, hand_over::HandOvers, limits::HoldLimits, metrics::Metrics, queue::Turn, timing::Timing,
    },
    mutex::Mutex,
    types::{Clock, ClockReading, Error, FencingToken, Lease, LossReason, Lost, Process},
};

/// The store of the leases of a `Locker`, with what judges and counts them.
#[derive(Debug)]
pub(crate) struct LeaseStore {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) detector: Arc<FreezeDetector>,
    pub(crate) metrics: Arc<Metrics>,
    /// The process that holds the locks. In any other one the mutexes of a lease may stay locked.
    pub(crate) process: Process,
}

/// A renewal that has been sent.
#[derive(Debug)]
pub(crate) struct RenewalInFlight {
    pub(crate) lease: Lease,
    at: ClockReading,
    /// The earliest unanswered renewal before this one, which may be the one that took effect.
    unanswered: Option<ClockReading>,
}

/// The state of one acquisition, shared by its guard and the renewer.
#[derive(Debug)]
pub(crate) struct LeaseState {
    /// The lease as the store knows it. Its token is the last one that the grant reserved.
    pub(crate) lease: Lease,
    /// The fencing token of this acquisition.
    pub(crate) token: Option<FencingToken>,
    hand_overs: Option<HandOvers>,
    pub(crate) timing: Timing,
    limits: HoldLimits,
    /// The earliest send that may have granted the lock, or the time of the hand-over.
    acquired: ClockReading,
    store: Arc<LeaseStore>,
    state: Mutex<State>,
    lost: Notify,
    renewed: Notify,
    /// Serialises renewals and the release of this lock, because a renewal that arrives after the
    /// release fails.
    pub(crate) requests: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    /// The start of the validity: the earliest unanswered send before the last confirmation.
    confirmed: ClockReading,
    /// The length of the validity; `None` if locks do not expire.
    valid_for: Option<Duration>,
    /// The next renewal is due this long after this reading. `None` while one is in flight, or with
    /// manual renewal.
    renew: Option<(ClockReading, Duration)>,
    /// The earliest unanswered renewal since the last answered one.
    unanswered: Option<ClockReading>,
    last_error: Option<String>,
    lost: Option<Lost>,
    closed: bool,
    turn: Option<Turn>,
}

impl LeaseState {
    pub(crate) fn new(
        lease: Lease,
        timing: Timing,
        limits: HoldLimits,
        acquired: ClockReading,
        valid_for: Option<Duration>,
        store: Arc<LeaseStore>,
    ) -> Self {
        let state = State {
            confirmed: acquired,
            valid_for,
            renew: timing.renew_every.map(|every| (acquired, jittered(every))),
            unanswered: None,
            last_error: None,
            lost: None,
            closed: false,
            turn: None,
        };
        Self {
            token: lease.token,
            lease,
            hand_overs: None,
            timing,
            limits,
            acquired,
            store,
            state: Mutex::new(state),
            lost: Notify::new(),
            renewed: Notify::new(),
            requests: tokio::sync::Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(crate) fn now(&self) -> ClockReading {
        self.store.clock.now()
    }

    /// Returns the loss that applies in a child made by `fork`.
    pub(crate) fn forked(&self) -> Option<Lost> {
        let process = self.store.process;
        (!process.is_current()).then(|| self.lost_for(LossReason::Forked { parent: process.id() }))
    }

    /// Returns `true` if the lock is valid at `now`. Does not record a loss.
    pub(crate) fn is_valid(&self, now: ClockReading) -> bool {
        let state = self.state();
        state.lost.is_none() && self.over(&state, now, Duration::ZERO).is_none()
    }

    /// Checks whether the lock is valid at `now`; otherwise records and announces the loss.
    pub(crate) fn check(&self, now: ClockReading) -> Result<(), Lost> {
        self.forked().map_or(Ok(()), Err)?;
        let state = self.state();
        if let Some(lost) = &state.lost {
            return Err(lost.clone());
        }
        let Some(reason) = self.over(&state, now, Duration::ZERO) else { return Ok(()) };
        let closed = state.closed;
        let lost = self.lose(state, reason);
        // A closed hold is being released, which may keep the lock for the minimum hold.
        if !closed && let Some(bound) = self.store.backend.process_bound() {
            bound.on_lost(&self.lease);
        }
        Err(lost)
    }

    /// Like [`check`](Self::check), but `grace` earlier, and without recording that as a loss.
    pub(crate) fn check_early(&self, now: ClockReading) -> Result<(), Lost> {
        self.check_within(now, self.timing.grace)
    }

    /// Like [`check`](Self::check), but `ahead` earlier, and without recording that as a loss.
    pub(crate) fn check_within(&self, now: ClockReading, ahead: Duration) -> Result<(), Lost> {
        self.check(now)?;
        self.over(&self.state(), now, ahead).map_or(Ok(()), |reason| Err(self.lost_for(reason)))
    }

    /// Like [`check`](Self::check), for loss signals, which may outlive the guard.
    pub(crate) fn check_guarded(&self, now: ClockReading) -> Result<(), Lost> {
        self.forked().map_or(Ok(()), Err)?;
        let state = self.state();
        if state.closed && state.lost.is_none() {
            return Err(self.lost_for(LossReason::Released));
        }
        drop(state);
        self.check(now)
    }

    /// Returns why the hold is over at `ahead` after `now`, if it is.
    fn over(&self, state: &State, now: ClockReading, ahead: Duration) -> Option<LossReason> {
        if let Some(reason) = self.limits.reached(self.acquired, now, ahead, &self.store.detector) {
            return Some(reason);
        }
        let since = now.since(state.confirmed);
        if state.valid_for.is_none_or(|limit| since.saturating_add(ahead) < limit) {
            return None;
        }
        if let Some(gap) = self.store.detector.gap(now) {
            return Some(gap);
        }
        match (&state.last_error, state.unanswered) {
            (Some(error), _) => Some(LossReason::Unreachable { since, last_error: error.clone() }),
            (None, Some(sent)) => {
                let last_error = format!("no reply to the renewal sent {:.1} s ago", now.since(sent).as_secs_f64());
                Some(LossReason::Unreachable { since, last_error })
            }
            // Only the deadline shortens a lease, so the deadline minus the margin was reached.
            (None, None) if state.valid_for < self.timing.lease_for(None).1 => Some(LossReason::Deadline),
            (None, None) => Some(LossReason::Expired),
        }
    }

    /// Returns the longest validity that a renewal sent at `now` can give. `None` if the hold has
    /// no limit.
    pub(crate) fn longest(&self, now: ClockReading) -> Option<Duration> {
        let left = self.deadline_left(now);
        let limits = self.limits.all(self.acquired).map(|(limit, from, _)| limit.saturating_sub(now.since(from)));
        self.timing.lease_for(left).1.into_iter().chain(limits).min()
    }

    fn deadline_left(&self, now: ClockReading) -> Option<Duration> {
        self.limits.deadline.map(|limit| limit.saturating_sub(now.since(self.limits.asked)))
    }

    /// Returns the time left at `now`. `None` if the hold has no limit.
    pub(crate) fn remaining(&self, now: ClockReading) -> Option<Duration> {
        if self.forked().is_some() {
            return Some(Duration::ZERO);
        }
        let state = self.state();
        if state.lost.is_some() {
            return Some(Duration::ZERO);
        }
        self.limits_of(&state).map(|(from, limit)| limit.saturating_sub(now.since(from))).min()
    }

    /// Returns the end of the hold on both clocks. The hold is over when either clock reaches it.
    pub(crate) fn valid_until(&self) -> Option<ClockReading> {
        if self.forked().is_some() {
            return Some(ClockReading { boot: Duration::ZERO, wall: Duration::ZERO });
        }
        let state = self.state();
        self.limits_of(&state)
            .map(|(from, limit)| ClockReading {
                boot: from.boot.saturating_add(limit),
                wall: from.wall.saturating_add(limit),
            })
            .reduce(|a, b| ClockReading { boot: a.boot.min(b.boot), wall: a.wall.min(b.wall) })
    }

    fn limits_of(&self, state: &State) -> impl Iterator<Item = (ClockReading, Duration)> + use<> {
        let valid = state.valid_for.map(|limit| (state.confirmed, limit));
        self.limits.all(self.acquired).map(|(limit, from, _)| (from, limit)).chain(valid)
    }

    /// Returns the time until the renewer has to check this hold; `None` for never.
    pub(crate) fn due_in(&self, now: ClockReading) -> Option<Duration> {
        let renew = self.state().renew.map(|(from, after)| after.saturating_sub(now.since(from)));
        [renew, self.remaining(now)].into_iter().flatten().min()
    }

    /// Returns `true` if a renewal is due, or nearly due so that it can go out with others. It then
    /// counts as in flight.
    pub(crate) fn take_renewal(&self, now: ClockReading, slack: Duration) -> bool {
        let mut state = self.state();
        // The limited slack leaves a pause, so a quick failure does not repeat in a tight loop.
        let due =
            |(from, after): (ClockReading, Duration)| now.since(from).saturating_add(slack.min(after / 4)) >= after;
        let due = state.renew.is_some_and(due);
        if due {
            state.renew = None;
        }
        due && !state.closed && state.lost.is_none()
    }

    /// Reschedules the renewal that [`take_renewal`](Self::take_renewal) took, in `after`.
    pub(crate) fn renew_in(&self, after: Duration) {
        let now = self.now();
        if self.timing.renew_every.is_some() {
            self.state().renew = Some((now, after));
        }
    }

    /// Schedules a renewal again that was in flight when the renewer's task ended, because its
    /// answer is lost.
    pub(crate) fn resume(&self, now: ClockReading) {
        let mut state = self.state();
        if state.renew.is_none() && !state.closed {
            state.renew = self.timing.renew_every.map(|_| (now, Duration::ZERO));
        }
    }

    /// Records that a renewal is sent.
    pub(crate) fn sending(&self) -> RenewalInFlight {
        let at = self.now();
        let mut lease = self.lease.clone();
        if let (Some(ttl), _) = self.timing.lease_for(self.deadline_left(at)) {
            lease.ttl = ttl;
        }
        let mut state = self.state();
        let unanswered = state.unanswered;
        state.unanswered.get_or_insert(at);
        RenewalInFlight { lease, at, unanswered }
    }

    /// Applies the answer to a renewal.
    pub(crate) fn settle(&self, sent: &RenewalInFlight, answer: &Result<Renewal, Error>) {
        let now = self.now();
        let mut state = self.state();
        match answer {
            Ok(Renewal::Renewed) => {
                let from = sent.unanswered.unwrap_or(sent.at);
                state.unanswered = None;
                state.last_error = None;
                // The margin of a shortened lease is smaller.
                let (_, valid_for) = self.timing.lease_for(Some(sent.lease.ttl));
                state.confirmed = from;
                state.valid_for = valid_for;
                state.renew = self.timing.renew_every.map(|every| (from, jittered(every)));
                drop(state);
                self.store.metrics.renewed();
                if sent.unanswered.is_some() {
                    self.store.metrics.ambiguity_resolved("renew", "renewed");
                }
                self.renewed.notify_waiters();
            }
            Ok(Renewal::Lost(reason)) => {
                if state.lost.is_none() && !state.closed {
                    self.lose(state, reason.clone());
                } else {
                    drop(state);
                }
                self.store.metrics.not_renewed("lost");
            }
            Err(error) => {
                if !error.is_ambiguous() {
                    state.unanswered = sent.unanswered;
                }
                state.last_error = Some(error.to_string());
                let left = state.valid_for.map(|valid| valid.saturating_sub(now.since(state.confirmed)));
                let again = left.map_or(self.timing.attempt_timeout, |left| left / 8).max(Duration::from_millis(10));
                state.renew = self.timing.renew_every.map(|every| (now, jittered(again.min(every))));
                drop(state);
                self.store.metrics.not_renewed(match error.kind() {
                    crate::ErrorKind::Timeout => "timeout",
                    crate::ErrorKind::Throttled => "throttled",
                    _ => "error",
                });
                tracing::warn!(name = %self.lease.name, %error, "renewal failed; retrying until the lease ends");
            }
        }
    }

    fn lost_for(&self, reason: LossReason) -> Lost {
        Lost { name: self.lease.name.clone(), token: self.token, reason }
    }

    /// Records the loss, and then announces it, in this order. Waiters, metrics recorders and trace
    /// subscribers may call back into this hold.
    fn lose(&self, mut state: MutexGuard<'_, State>, reason: LossReason) -> Lost {
        let lost = self.lost_for(reason);
        state.lost = Some(lost.clone());
        let (closed, turn) = (state.closed, state.turn.take());
        drop(state);
        if !closed {
            self.store.metrics.loss(lost.reason.as_str());
            self.store.metrics.held(self.now().since(self.acquired));
            tracing::warn!(name = %lost.name, token = ?lost.token, reason = %lost.reason, "lock lost");
        }
        // Lets the next waiter of this process contend, because the lock is no longer held here.
        drop(turn);
        self.lost.notify_waiters();
        lost
    }

    /// Ends all renewals, because the guard is released or dropped.
    pub(crate) fn close(&self, now: ClockReading) {
        let mut state = self.state();
        let ended = !state.closed && state.lost.is_none();
        state.closed = true;
        state.renew = None;
        drop(state);
        if ended {
            self.store.metrics.held(now.since(self.acquired));
            // Loss signals that outlive the guard end with it.
            self.lost.notify_waiters();
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        let state = self.state();
        state.closed || state.lost.is_some()
    }

    /// Returns the rest of `min_hold`.
    pub(crate) fn hold_for(&self) -> Duration {
        match self.limits.min_hold {
            Duration::ZERO => Duration::ZERO,
            min_hold => min_hold.saturating_sub(self.now().since(self.acquired)),
        }
    }

    pub(crate) fn is_lost(&self) -> Option<Lost> {
        self.forked().or_else(|| self.state().lost.clone())
    }
}

/// Shortens `interval` by up to a tenth, so that locks acquired together are not renewed together.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(1.0 - 0.1 * fastrand::f64())
}
