//! Renews a held lock: when a renewal is due, and what its answer means.

use std::time::Duration;

use super::LeaseState;
use crate::{
    backend::Renewal,
    types::{ClockReading, Error, Lease},
};

/// A renewal that has been sent.
#[derive(Debug)]
pub(crate) struct RenewalInFlight {
    pub(crate) lease: Lease,
    at: ClockReading,
    /// The earliest unanswered renewal before this one, which may be the one that took effect.
    unanswered: Option<ClockReading>,
}

impl LeaseState {
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
}

/// Shortens `interval` by up to a tenth, so that locks acquired together are not renewed together.
pub(super) fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(1.0 - 0.1 * fastrand::f64())
}
