//! A clock whose machine can be suspended and whose wall clock can be set.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    mutex::Mutex,
    types::{Clock, ClockReading},
};

/// Follows the runtime's (pausable) clock, plus what a test does to it.
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
    /// A clock that begins now, some years after the epoch.
    pub fn new() -> Self {
        let offsets = Offsets { boot: Duration::from_secs(1_000), wall: Duration::from_secs(1_700_000_000) };
        Self { started: Instant::now(), offsets: Mutex::new(offsets) }
    }

    /// Suspends the machine: boot time and wall time go on, timers do not.
    pub fn suspend(&self, time: Duration) {
        self.change(|offsets| {
            offsets.boot += time;
            offsets.wall += time;
        });
    }

    /// Pauses the virtual machine: only the wall clock notices when it is thawed.
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
