//! Detects that the process was frozen: while locks are held the clocks are sampled, and a gap
//! between two samples means a freeze, or a jump of the wall clock.

use std::time::Duration;

use crate::{
    mutex::Mutex,
    types::{ClockReading, LossReason},
};

/// The longest time between two samples while locks are held.
pub(crate) const TICK: Duration = Duration::from_secs(1);
/// A longer gap between two samples means that the process was frozen. One and a half ticks,
/// because a busy runtime wakes a task late. A wrong guess ends no lock; it only changes the reason
/// of a loss.
const FROZEN: Duration = Duration::from_millis(1_500);

/// The last sample of the clocks, shared by all holds of a `Locker`. `None` while no locks are
/// held.
#[derive(Debug, Default)]
pub(crate) struct FreezeDetector(Mutex<Option<ClockReading>>);

impl FreezeDetector {
    pub(crate) fn sample(&self, now: ClockReading) {
        *self.0.lock() = Some(now);
    }

    /// Stops the detection: from now on a gap does not mean a freeze.
    pub(crate) fn stop(&self) {
        *self.0.lock() = None;
    }

    /// Returns why more time has passed since the last sample than between two samples, if it has.
    pub(crate) fn gap(&self, now: ClockReading) -> Option<LossReason> {
        let last = (*self.0.lock())?;
        let ran = now.boot.saturating_sub(last.boot);
        let jumped = now.wall.saturating_sub(last.wall).saturating_sub(ran);
        if jumped > ran.max(FROZEN) {
            return Some(LossReason::ClockJumped(jumped));
        }
        Some(now.since(last)).filter(|gap| *gap > FROZEN).map(LossReason::FrozenFor)
    }
}
