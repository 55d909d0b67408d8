//! A clock for tests that suspend the machine or set its wall clock.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    mutex::Mutex,
    types::{Clock, ClockReading},
};

/// A clock that follows the runtime's pausable clock, plus the offsets that a test adds.
#[derive(Debug)]
pub struct TestClock {
    started: Instant,
    offsets: Mutex<Offsets>,
}

#[derive(Debug)]
struct Offsets {
    boot: Duration,
    wall: Duration,
}

impl Default for TestClock {
    fn default() -> Self {
        Self::new()
    }
}

impl TestClock {
    /// Creates a clock that starts now, some years after the epoch.
    pub fn new() -> Self {
        let offsets = Offsets { boot: Duration::from_secs(1_000), wall: Duration::from_secs(1_700_000_000) };
        Self { started: Instant::now(), offsets: Mutex::new(offsets) }
    }

    /// Suspends the machine: boot time and wall time advance, timers do not.
    pub fn suspend(&self, time: Duration) {
        self.change(|offsets| {
            offsets.boot += time;
            offsets.wall += time;
        });
    }

    /// Pauses the virtual machine: only the wall clock advances when the machine is thawed.
    pub fn thaw_after(&self, time: Duration) {
        self.change(|offsets| offsets.wall += time);
    }

    /// Sets the wall clock back.
    pub fn set_back(&self, time: Duration) {
        self.change(|offsets| offsets.wall -= time);
    }

    fn change(&self, change: impl FnOnce(&mut Offsets)) {
        change(&mut self.offsets.lock());
    }
}

impl Clock for TestClock {
    fn now(&self) -> ClockReading {
        let ran = self.started.elapsed();
        let offsets = self.offsets.lock();
        ClockReading { boot: offsets.boot + ran, wall: offsets.wall + ran }
    }
}
