//! Clocks that all processes of a machine share, and a wall clock that is wrong for one process.

use std::{path::PathBuf, process::Command, time::Duration};

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

/// Starts `command` with a wall clock that is off by `offset`, such as `+3600s`. Elapsed time stays
/// correct.
///
/// # Panics
/// If libfaketime is not installed.
pub fn set_clock_off(command: &mut Command, offset: &str) {
    // Not by the program `faketime`, which would be killed in the place of its child.
    command.env("LD_PRELOAD", libfaketime()).env("FAKETIME", offset).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
}

fn libfaketime() -> PathBuf {
    let places = std::fs::read_dir("/usr/lib").expect("it is there").flatten().map(|entry| entry.path());
    let found = places.map(|place| place.join("faketime/libfaketime.so.1")).find(|library| library.exists());
    found.expect("this test needs libfaketime: apt-get install libfaketime")
}
