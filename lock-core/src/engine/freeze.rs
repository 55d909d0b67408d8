//! Whether this process runs: it looks at its clocks again and again while it holds locks, and a gap means that it stood still.

use std::time::Duration;

use crate::{mutex::Mutex, types::Moment};

/// How long at most passes between two looks at the clocks while locks are held.
pub(crate) const TICK: Duration = Duration::from_secs(1);
/// A gap between two looks that is longer than this means that the process did not run.
/// One tick and a half: a busy runtime wakes a task late. A wrong guess ends no lock; it only
/// changes the reason that a loss is given.
const FROZEN: Duration = Duration::from_millis(1_500);

/// When this process last looked at its clocks, `None` while nobody does; shared by all holds of a `Locker`.
#[derive(Debug, Default)]
pub(crate) struct Pulse(Mutex<Option<Moment>>);

impl Pulse {
    pub(crate) fn beat(&self, now: Moment) {
        *self.0.lock() = Some(now);
    }

    /// From now on silence does not mean that the process is frozen.
    pub(crate) fn stop(&self) {
        *self.0.lock() = None;
    }

    /// For how long the process has not run at `now`, if that is longer than it should be.
    pub(crate) fn frozen_for(&self, now: Moment) -> Option<Duration> {
        let last = *self.0.lock();
        last.map(|last| now.since(last)).filter(|gap| *gap > FROZEN)
    }
}
