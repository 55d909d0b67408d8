//! Clocks that all processes of a machine share.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Returns `CLOCK_MONOTONIC`, which all processes of a machine share, in nanoseconds.
///
/// # Panics
/// Never on a system that has this clock, which POSIX requires.
pub fn monotonic_nanos() -> i64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the clock exists");
    now.tv_sec() * 1_000_000_000 + now.tv_nsec()
}

/// Returns the processor time that this process has used, all threads together.
///
/// # Panics
/// Never on a system that has this clock, which POSIX requires.
pub fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("the clock exists").into()
}
