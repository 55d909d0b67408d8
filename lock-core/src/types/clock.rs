//! Elapsed time that a suspended, frozen or thawed process cannot miss.

use std::{fmt, time::Duration};

use nix::time::{ClockId, clock_gettime};

/// A reading of two clocks at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// Time since boot, including time in suspend.
    pub boot: Duration,
    /// Wall time since the Unix epoch.
    pub wall: Duration,
}

impl ClockReading {
    /// Time from `earlier` to `self`: the larger of boot time and wall time, zero if both say that it is later.
    ///
    /// `CLOCK_BOOTTIME` counts on while a machine is suspended, which `CLOCK_MONOTONIC` (and so [`std::time::Instant`])
    /// does not; but a virtual machine that is paused and thawed may notice it only in its wall clock. Reading too much
    /// ends a lease early, reading too little makes two holders: so the larger one counts.
    pub fn since(self, earlier: Self) -> Duration {
        let boot = self.boot.saturating_sub(earlier.boot);
        let wall = self.wall.saturating_sub(earlier.wall);
        boot.max(wall)
    }
}

/// Where the core reads the time. A trait, so that tests can suspend the machine and step its clocks.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Both clocks now.
    fn now(&self) -> ClockReading;
}

/// The clocks of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> ClockReading {
        ClockReading { boot: read(BOOT), wall: read(ClockId::CLOCK_REALTIME) }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
const BOOT: ClockId = ClockId::CLOCK_BOOTTIME;
// Elsewhere the monotonic clock; on macOS and the BSDs it may stop in suspend, and wall time has to tell.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const BOOT: ClockId = ClockId::CLOCK_MONOTONIC;

fn read(id: ClockId) -> Duration {
    let time = clock_gettime(id).expect("clock_gettime(2) fails only for an unknown clock, and these exist");
    // Before 1970 the wall clock is negative, which a duration cannot be.
    Duration::new(u64::try_from(time.tv_sec()).unwrap_or_default(), u32::try_from(time.tv_nsec()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot: u64, wall: u64) -> ClockReading {
        ClockReading { boot: Duration::from_secs(boot), wall: Duration::from_secs(wall) }
    }

    #[test]
    fn elapsed_time_is_the_larger_of_boot_and_wall_time() {
        assert_eq!(at(15, 105).since(at(10, 100)), Duration::from_secs(5));
        assert_eq!(at(11, 160).since(at(10, 100)), Duration::from_secs(60), "thawed: only the wall clock noticed");
        assert_eq!(
            at(70, 100).since(at(10, 100)),
            Duration::from_secs(60),
            "the wall clock stood still or was set back"
        );
        assert_eq!(at(10, 40).since(at(10, 100)), Duration::ZERO, "the wall clock went back");
    }

    #[test]
    fn the_system_clock_runs_forward() {
        let before = SystemClock.now();
        assert!(SystemClock.now().boot >= before.boot);
        assert!(before.wall > Duration::from_secs(1_500_000_000));
    }
}
