//! Ends the time of a guard, and begins that of the next one, without an end of the lease.

use std::time::{Duration, SystemTime};

use tokio::runtime::Id;

use super::LeaseState;
use crate::{
    engine::{
        hand_over::HandOvers,
        limits::HoldLimits,
        queue::Turn,
        stand_back::{Others, Pace},
        timing::Timing,
    },
    types::{ClockReading, Mode},
};

/// The next guard of a lease.
pub(crate) struct Next<'a> {
    pub(crate) mode: Mode,
    pub(crate) owner: &'a str,
    pub(crate) data: Option<&'a [u8]>,
    pub(crate) timing: &'a Timing,
    pub(crate) limits: HoldLimits,
    pub(crate) runtime: Id,
    pub(crate) now: ClockReading,
}

/// The next guard has the lease.
pub(crate) struct Entered {
    /// The renewer has to look at the lease: the guard is on another runtime than the one before,
    /// or has limits of its own.
    pub(crate) needs_schedule: bool,
}

impl LeaseState {
    /// Allows hand-overs of a lease for which the store has reserved tokens. The present guard has
    /// the first of them. Each guard needs one, so a lease without them is not handed over.
    pub(crate) fn with_hand_overs(mut self, hand_overs: HandOvers) -> Self {
        if let Some(first) = self.lease.token.and_then(|last| last.first_of(hand_overs.left)) {
            self.token.store(first);
            self.state.get_mut().hand_overs = Some(hand_overs);
            self.hands_over = true;
        }
        self
    }

    /// Records the end of a lease: of a series, or of a guard that was granted early.
    pub(crate) fn note_end(&self, pace: impl FnOnce() -> Pace) {
        let state = self.state();
        let Some(turn) = state.turn.as_ref().filter(|_| state.limits.hands_over) else { return };
        if !self.hands_over {
            turn.with_others(Others::go_on);
        } else if turn.has_waiters() {
            let pace = pace();
            turn.with_others(|others| others.note_end_of_series(pace));
        }
    }

    /// Ends the time of the present guard, and returns its turn and the reading at the end. `None`
    /// if the lease must end with it.
    ///
    /// A doubt about the lease is enough to end it: the next guard would get a lock that the store
    /// has lost.
    pub(crate) fn leave(&self) -> Option<(Turn, ClockReading)> {
        if !self.hands_over {
            return None;
        }
        let now = self.now();
        let mut guard = self.state();
        if guard.lost.is_some() || self.over(&guard, now, Duration::ZERO).is_some() {
            return None;
        }
        let state = &mut *guard;
        let hand_overs = state.hand_overs.as_mut().filter(|hand_overs| hand_overs.left > 0)?;
        let held = now.since(state.acquired);
        if held < state.limits.min_hold || now.since(hand_overs.granted) >= self.timing.hand_over_for() {
            return None;
        }
        let in_doubt = state.closed || state.unanswered.is_some() || state.last_error.is_some();
        let half_used = state.valid_for.is_some_and(|valid_for| now.since(state.confirmed) > valid_for / 2);
        if in_doubt || half_used {
            return None;
        }
        let turn = state.turn.take_if(|turn| turn.has_waiters())?;
        hand_overs.left -= 1;
        // The limits of this guard do not end the lease before the next one takes it.
        state.limits = HoldLimits::NONE;
        state.between = true;
        if let Some(token) = self.token() {
            self.token.store(token.following());
        }
        drop(guard);
        self.store.metrics.held(held);
        // Loss signals that outlive the guard end with it.
        self.lost.notify_waiters();
        Some((turn, now))
    }

    /// Begins the time of the next guard, which keeps `turn`. Returns `None` if the lease is over,
    /// or is not what the guard requests.
    pub(crate) fn enter(&self, next: Next<'_>, turn: &mut Option<Turn>) -> Option<Entered> {
        let mut state = self.state();
        let serves = |hand_overs: &HandOvers| hand_overs.serve(&next);
        // The ttl is part of the timing, because no lease in a series is shortened to a deadline.
        let fits = self.timing == *next.timing && state.hand_overs.as_ref().is_some_and(serves);
        if !fits || state.lost.is_some() || self.over(&state, next.now, Duration::ZERO).is_some() {
            return None;
        }
        (state.limits, state.acquired, state.between) = (next.limits, next.now, false);
        let moved = state.runtime.replace(next.runtime) != Some(next.runtime);
        state.turn = turn.take();
        if let Some(turn) = &state.turn {
            turn.note_next_guard(self.token(), SystemTime::UNIX_EPOCH + next.now.wall);
        }
        Some(Entered { needs_schedule: moved || next.limits.max_hold.is_some() })
    }

    /// Returns the start of the validity.
    pub(crate) fn confirmed(&self) -> ClockReading {
        self.state().confirmed
    }
}
