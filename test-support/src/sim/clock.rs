//! Time in the simulation: the true time of the world, and the clocks of each client.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lock_core::clock::{Clock, ClockReading};

/// The true time since the beginning, which only the world can read.
#[derive(Debug, Clone, Default)]
pub(super) struct WorldTime(Arc<AtomicU64>);

impl WorldTime {
    pub(super) fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    pub(super) fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_nanos()).expect("a step is short"), Ordering::Relaxed);
    }
}

/// The clocks of one client. They run at a rate of the client, and faults set them.
#[derive(Debug)]
pub(super) struct SimClock {
    world: WorldTime,
    rate: f64,
    offsets: Mutex<Offsets>,
}

/// Offsets in seconds, which may be negative.
#[derive(Debug, Default)]
struct Offsets {
    boot: f64,
    wall: f64,
}

const BOOTED: f64 = 100_000.0;
/// The wall clock, and the store's clock, at the beginning.
pub(super) const EPOCH: f64 = 1_700_000_000.0;

impl SimClock {
    pub(super) fn new(world: WorldTime, rate: f64) -> Self {
        Self { world, rate, offsets: Mutex::default() }
    }

    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    /// Sets the wall clock forward or back.
    pub(super) fn step_wall(&self, seconds: f64) {
        self.change(|offsets| offsets.wall += seconds);
    }

    /// Takes a pause of the virtual machine out of the time since boot, which does not count it.
    pub(super) fn boot_missed(&self, paused: Duration) {
        self.change(|offsets| offsets.boot -= paused.as_secs_f64() * self.rate);
    }

    /// Makes all earlier readings seem later by `elapsed`.
    pub(super) fn forget(&self, elapsed: Duration) {
        self.change(|offsets| {
            offsets.boot -= elapsed.as_secs_f64();
            offsets.wall -= elapsed.as_secs_f64();
        });
    }

    fn change(&self, change: impl FnOnce(&mut Offsets)) {
        change(&mut self.offsets.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Clock for SimClock {
    fn now(&self) -> ClockReading {
        let ran = self.world.now().as_secs_f64() * self.rate;
        let offsets = self.offsets.lock().unwrap_or_else(PoisonError::into_inner);
        ClockReading {
            boot: Duration::from_secs_f64(BOOTED + ran + offsets.boot),
            wall: Duration::from_secs_f64(EPOCH + ran + offsets.wall),
        }
    }
}
