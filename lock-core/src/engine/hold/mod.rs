//! The state of one held lock: how long it is valid, and when and why it is lost.

mod hand_over;
mod renewal;
mod token;
mod turn;
mod waits;

use std::{
    sync::{Arc, MutexGuard},
    time::Duration,
};

use tokio::{runtime::Id, sync::Notify};

pub(crate) use self::hand_over::Next;
use self::{renewal::jittered, token::Token};
use crate::{
    backend::Backend,
    engine::{
        freeze::FreezeDetector, hand_over::HandOvers, limits::HoldLimits, metrics::Metrics, queue::Turn, timing::Timing,
    },
    mutex::Mutex,
    types::{Clock, ClockReading, FencingToken, Lease, LossReason, Lost, Process},
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

/// The state of one lease, shared by the renewer and by the guards that have it in turn.
#[derive(Debug)]
pub(crate) struct LeaseState {
    /// The lease as the store knows it. Its token is the last one that the grant reserved.
    pub(crate) lease: Lease,
    token: Token,
    /// Whether the grant allows hand-overs.
    hands_over: bool,
    pub(crate) timing: Timing,
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
    hand_overs: Option<HandOvers>,
    limits: HoldLimits,
    /// The earliest send that may have granted the lock, or the time of the hand-over.
    acquired: ClockReading,
    /// One guard has handed the lease over, and the next one has not taken it yet.
    between: bool,
    /// The runtime of the latest guard to which the lease was handed over.
    runtime: Option<Id>,
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
    /// In a box, because most locks are never lost.
    lost: Option<Box<Lost>>,
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
            hand_overs: None,
            limits,
            acquired,
            between: false,
            runtime: None,
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
            token: Token::new(lease.token),
            hands_over: false,
            lease,
            timing,
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

    /// Returns the fencing token of the present guard. Takes no mutex, which could stay locked in a
    /// child made by `fork`.
    pub(crate) fn token(&self) -> Option<FencingToken> {
        self.token.load()
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
        if let Some(lost) = state.lost.as_deref() {
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

    /// Like [`check`](Self::check), for the loss signals of the guard with this token, which may
    /// outlive it.
    pub(crate) fn check_guarded(&self, now: ClockReading, token: Option<FencingToken>) -> Result<(), Lost> {
        let own = |lost| Lost { token, ..lost };
        self.forked().map_or(Ok(()), |lost| Err(own(lost)))?;
        let state = self.state();
        if self.token() != token || state.closed && state.lost.is_none() {
            return Err(own(self.lost_for(LossReason::Released)));
        }
        drop(state);
        self.check(now).map_err(own)
    }

    /// Returns why the hold is over at `ahead` after `now`, if it is.
    fn over(&self, state: &State, now: ClockReading, ahead: Duration) -> Option<LossReason> {
        if let Some(reason) = state.limits.reached(state.acquired, now, ahead, &self.store.detector) {
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
        let state = self.state();
        let limits = state.limits.all(state.acquired).map(|(limit, from, _)| limit.saturating_sub(now.since(from)));
        self.timing.lease_for(left).1.into_iter().chain(limits).min()
    }

    fn deadline_left(&self, now: ClockReading) -> Option<Duration> {
        let deadline = self.state().limits.deadline;
        deadline.map(|(asked, limit)| limit.saturating_sub(now.since(asked)))
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
        state.limits.all(state.acquired).map(|(limit, from, _)| (from, limit)).chain(valid)
    }

    /// Returns the time until the renewer has to check this hold; `None` for never.
    pub(crate) fn due_in(&self, now: ClockReading) -> Option<Duration> {
        let renew = self.state().renew.map(|(from, after)| after.saturating_sub(now.since(from)));
        [renew, self.remaining(now)].into_iter().flatten().min()
    }

    fn lost_for(&self, reason: LossReason) -> Lost {
        Lost { name: self.lease.name.clone(), token: self.token(), reason }
    }

    /// Records the loss, and then announces it, in this order. Waiters, metrics recorders and trace
    /// subscribers may call back into this hold.
    fn lose(&self, mut state: MutexGuard<'_, State>, reason: LossReason) -> Lost {
        let lost = self.lost_for(reason);
        state.lost = Some(Box::new(lost.clone()));
        let (guarded, acquired, turn) = (!state.closed && !state.between, state.acquired, state.turn.take());
        drop(state);
        if guarded {
            self.store.metrics.loss(lost.reason.as_str());
            self.store.metrics.held(self.now().since(acquired));
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
        let ended = !state.closed && !state.between && state.lost.is_none();
        let acquired = state.acquired;
        state.closed = true;
        state.renew = None;
        drop(state);
        if ended {
            self.store.metrics.held(now.since(acquired));
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
        let (min_hold, acquired) = {
            let state = self.state();
            (state.limits.min_hold, state.acquired)
        };
        if min_hold.is_zero() { min_hold } else { min_hold.saturating_sub(self.now().since(acquired)) }
    }

    pub(crate) fn is_lost(&self) -> Option<Lost> {
        self.forked().or_else(|| self.state().lost.as_deref().cloned())
    }
}
