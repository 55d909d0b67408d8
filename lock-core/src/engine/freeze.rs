//! Detects that the process was frozen: while locks are held the clocks are sampled, and a gap
//! between two samples means a freeze.

use std::time::Duration;

use crate::{mutex::Mutex, types::ClockReading};

/// The longest time between two samples while locks are held.
pub(crate) const TICK: Duration = Duration::from_secs(1);
/// A gap between two samples that is longer than this means that the process did not run.
/// One tick and a half: a busy runtime wakes a task late. A wrong guess ends no lock; it only
/// changes the reason that a loss is given.
const FROZEN: Duration = Duration::from_millis(1_500);

/// The last sample of the clocks, `None` while no locks are held; shared by all holds of a
/// `Locker`.
#[derive(Debug, Default)]
pub(crate) struct FreezeDetector(Mutex<Option<ClockReading>>);

impl FreezeDetector {
    pub(crate) fn sample(&self, now: ClockReading) {
        *self.0.lock() = Some(now);
    }

    /// From now on silence does not mean that the process is frozen.
    pub(crate) fn stop(&self) {
        *self.0.lock() = None;
    }

    /// For how long the process has not run at `now`, if that is longer than it should be.
    pub(crate) fn frozen_for(&self, now: ClockReading) -> Option<Duration> {
        let last = *self.0.lock();
        last.map(|last| now.since(last)).filter(|gap| *gap > FROZEN)
    }
}
