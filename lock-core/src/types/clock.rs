//! Measures elapsed time on clocks that keep running while the process is suspended or frozen.

use std::{
    cell::Cell,
    fmt,
    time::{Duration, Instant},
};

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
    /// Returns the time from `earlier` to `self`: the larger of boot time and wall time. Zero if
    /// both clocks read less than at `earlier`.
    ///
    /// `CLOCK_BOOTTIME` keeps running while a machine is suspended; `CLOCK_MONOTONIC`, and so
    /// [`std::time::Instant`], does not. After a pause of a virtual machine only the wall clock may
    /// have advanced. Too long a time ends a lease early, too short a time permits two holders. So
    /// the larger one counts.
    pub fn since(self, earlier: Self) -> Duration {
        let boot = self.boot.saturating_sub(earlier.boot);
        let wall = self.wall.saturating_sub(earlier.wall);
        boot.max(wall)
    }
}

/// The source of time for the core. Tests replace it to suspend the machine and step its clocks.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Reads both clocks.
    fn now(&self) -> ClockReading;
}

/// The clocks of the operating system.
///
/// In a test that pauses the clock of its tokio runtime (`start_paused = true`), they follow the
/// runtime: they stand still when it does, and skip what it skips. A thread outside of that runtime
/// still reads real time.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

/// The longest time between two reads in a row, unless the thread was interrupted. A clock that a
/// test has just paused counts as running until it is behind by more, which saves two reads.
const BETWEEN_READS: Duration = Duration::from_micros(100);

thread_local! {
    /// The clock of the runtime and boot time at the last slow look of this thread. A suspend moves
    /// them apart. In the thread, because a lock could stay locked in a child made by `fork`.
    static LAST: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

/// Returns whether both clocks have gone on by as much since the last slow look.
fn go_along(runtime: Instant, boot: Duration) -> bool {
    LAST.get().is_some_and(|(last_runtime, last_boot)| {
        let both = runtime.checked_duration_since(last_runtime).zip(boot.checked_sub(last_boot));
        both.is_some_and(|(runtime, boot)| runtime.abs_diff(boot) < BETWEEN_READS)
    })
}

impl Clock for SystemClock {
    fn now(&self) -> ClockReading {
        let runtime = tokio::time::Instant::now().into_std();
        let real = ClockReading { boot: read(BOOT), wall: read(ClockId::CLOCK_REALTIME) };
        // Whether a test has paused the clock of the runtime is seen without a further read.
        if go_along(runtime, real.boot) {
            return real;
        }
        if is_running(runtime) {
            // After a suspend, or after an interruption of the thread.
            LAST.set(Some((runtime, real.boot)));
            return real;
        }
        read_on_test_clock()
    }
}

/// Returns whether the clock of the runtime runs, which has just read `runtime`.
#[cold]
fn is_running(runtime: Instant) -> bool {
    let now = Instant::now();
    runtime <= now && now <= tokio::time::Instant::now().into_std()
}

#[cold]
fn read_on_test_clock() -> ClockReading {
    let before = Instant::now();
    let runtime = tokio::time::Instant::now().into_std();
    let real = ClockReading { boot: read(BOOT), wall: read(ClockId::CLOCK_REALTIME) };
    real.on_runtime(runtime, before, Instant::now())
}

impl ClockReading {
    /// Returns this reading, made between `before` and `after`, as the clock of a runtime shows it
    /// that read `runtime` meanwhile. Only a test's clock reads anything outside of that interval.
    fn on_runtime(self, runtime: Instant, before: Instant, after: Instant) -> Self {
        if (before..=after).contains(&runtime) {
            return self;
        }
        let ahead = runtime.saturating_duration_since(before);
        let behind = before.saturating_duration_since(runtime);
        let shifted = |time: Duration| (time + ahead).saturating_sub(behind);
        Self { boot: shifted(self.boot), wall: shifted(self.wall) }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
const BOOT: ClockId = ClockId::CLOCK_BOOTTIME;
// On macOS and the BSDs the monotonic clock may stop during suspend; the wall clock covers that.
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
        assert_eq!(at(11, 160).since(at(10, 100)), Duration::from_secs(60), "thawed: only the wall clock advanced");
        assert_eq!(at(70, 100).since(at(10, 100)), Duration::from_secs(60), "the wall clock stopped or was set back");
        assert_eq!(at(10, 40).since(at(10, 100)), Duration::ZERO, "the wall clock went back");
    }

    #[test]
    fn only_a_test_clock_shifts_a_reading() {
        let (now, hour) = (Instant::now(), Duration::from_secs(3_600));
        let after = now + Duration::from_millis(3);
        for running in [now, now + Duration::from_millis(1), after] {
            assert_eq!(at(9_000, 99_000).on_runtime(running, now, after), at(9_000, 99_000));
        }
        assert_eq!(at(9_000, 99_000).on_runtime(now + hour, now, after), at(12_600, 102_600));
        assert_eq!(at(9_000, 99_000).on_runtime(now - hour, now, after), at(5_400, 95_400));
    }

    #[tokio::test(start_paused = true)]
    async fn the_system_clock_follows_a_paused_runtime() {
        let hour = Duration::from_secs(3_600);
        let before = SystemClock.now();
        tokio::time::sleep(hour).await;
        let skipped = SystemClock.now().since(before);
        assert!(skipped >= hour - Duration::from_secs(60), "{skipped:?}");
    }

    #[test]
    fn the_system_clock_runs_forward() {
        let before = SystemClock.now();
        assert!(SystemClock.now().boot >= before.boot);
        assert!(before.wall > Duration::from_secs(1_500_000_000));
    }
}
