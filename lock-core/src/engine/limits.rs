//! The limits of a held lock that renewals do not extend.

use std::time::Duration;

use crate::{
    engine::freeze::FreezeDetector,
    types::{ClockReading, LossReason},
};

/// The limits that the caller set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HoldLimits {
    /// The time of the caller's request, and how long after it the caller ends.
    pub(crate) deadline: Option<(ClockReading, Duration)>,
    pub(crate) min_hold: Duration,
    pub(crate) max_hold: Option<Duration>,
    /// The lock is handed over between waiters, as often as tokens are reserved.
    pub(crate) hands_over: bool,
}

impl HoldLimits {
    /// No limits, for a lease that no guard has.
    pub(crate) const NONE: Self = Self { deadline: None, min_hold: Duration::ZERO, max_hold: None, hands_over: true };

    /// Returns each limit, the reading from which it counts, and the reason of the loss that it
    /// brings. The lock was `acquired` then.
    pub(crate) fn all(
        &self,
        acquired: ClockReading,
    ) -> impl Iterator<Item = (Duration, ClockReading, LossReason)> + use<> {
        let deadline = self.deadline.map(|(asked, limit)| (limit, asked, LossReason::Deadline));
        let max_hold = self.max_hold.map(|limit| (limit, acquired, LossReason::MaxHold));
        deadline.into_iter().chain(max_hold)
    }

    /// Returns the reason of the loss if a limit is reached at `ahead` after `now`. A jump of the
    /// wall clock is the reason if only the jump has reached the limit.
    pub(crate) fn reached(
        &self,
        acquired: ClockReading,
        now: ClockReading,
        ahead: Duration,
        detector: &FreezeDetector,
    ) -> Option<LossReason> {
        if self.deadline.is_none() && self.max_hold.is_none() {
            return None;
        }
        let (limit, from, reason) =
            self.all(acquired).find(|(limit, from, _)| now.since(*from).saturating_add(ahead) >= *limit)?;
        match detector.gap(now) {
            Some(LossReason::ClockJumped(by)) if now.since(from).saturating_sub(by).saturating_add(ahead) < limit => {
                Some(LossReason::ClockJumped(by))
            }
            _ => Some(reason),
        }
    }
}
