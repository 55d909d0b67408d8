//! What the tests across processes and the benchmarks share: real servers, and networks with faults, for the tests of all backends.
//!
//! A server that cannot be started is a failure of the test, with the command that installs it, never a skipped test.

mod daemon;
mod proxy;
pub mod redis;
pub mod report;
pub mod sentinel;
pub mod tls;

pub use daemon::{Daemon, free_port};
pub use proxy::{Direction, Proxy};

/// `CLOCK_MONOTONIC`, which all processes of a machine share, in nanoseconds.
///
/// # Panics
/// Never on a system that has this clock, which POSIX demands.
pub fn monotonic_nanos() -> i64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("the clock exists");
    now.tv_sec() * 1_000_000_000 + now.tv_nsec()
}
