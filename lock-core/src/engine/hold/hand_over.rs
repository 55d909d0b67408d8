//! Ends an acquisition, and begins another one, without an end of the lease.

use super::LeaseState;
use crate::{
    engine::hand_over::{HandOvers, Parcel},
    types::{ClockReading, FencingToken},
};

impl LeaseState {
    /// Allows hand-overs of a lease for which the store has reserved tokens. This acquisition has
    /// the first of them.
    pub(crate) fn with_hand_overs(mut self, hand_overs: HandOvers) -> Self {
        match self.lease.token.map(|last| last.first_of(hand_overs.left)) {
            // Without the tokens of a backend that has reserved none.
            Some(None) => {}
            first => (self.token, self.hand_overs) = (first.flatten(), Some(hand_overs)),
        }
        self
    }

    /// Makes this the acquisition of a waiter that got the lease of `parcel` at `now`.
    pub(crate) fn handed_over(mut self, parcel: Parcel, now: ClockReading) -> Self {
        (self.token, self.hand_overs, self.acquired) = (parcel.token, Some(parcel.hand_overs), now);
        self
    }

    /// Returns the lease as the next guard would have it. `None` if it must end with this one.
    ///
    /// The lock has to be valid at `now`. A doubt about the lease is enough to end it: the next
    /// guard would get a lock that the store has lost.
    pub(crate) fn parcel(&self, now: ClockReading) -> Option<Parcel> {
        let hand_overs = self.hand_overs.as_ref().filter(|hand_overs| hand_overs.left > 0)?;
        if now.since(hand_overs.granted) >= self.timing.hand_over_for() || !self.hold_for().is_zero() {
            return None;
        }
        let state = self.state();
        let has_waiters = state.turn.as_ref().is_some_and(|turn| turn.has_waiters());
        let in_doubt = state.closed || state.lost.is_some() || state.unanswered.is_some() || state.last_error.is_some();
        let half_used = state.valid_for.is_some_and(|valid_for| now.since(state.confirmed) > valid_for / 2);
        if !has_waiters || in_doubt || half_used {
            return None;
        }
        Some(Parcel {
            lease: self.lease.clone(),
            token: self.token.map(FencingToken::following),
            timing: self.timing,
            confirmed: state.confirmed,
            valid_for: state.valid_for,
            hand_overs: HandOvers { left: hand_overs.left - 1, ..hand_overs.clone() },
        })
    }
}
