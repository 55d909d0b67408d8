//! Detects that the process was frozen: while locks are held the clocks are sampled, and a gap
//! between two samples means a freeze.

use std::time::Duration;

use crate::{mutex::Mutex, types::ClockReading};

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

    /// Returns how long the process has been frozen at `now`, if it has.
    pub(crate) fn frozen_for(&self, now: ClockReading) -> Option<Duration> {
        let last = *self.0.lock();
        last.map(|last| now.since(last)).filter(|gap| *gap > FROZEN)
    }
}
