//! What the tests across processes and the benchmarks share: real servers, faulty networks, clocks.
//!
//! A server that cannot be started is a failure of the test, with the command that installs it, never a skipped test.

mod daemon;
pub mod dynamodb;
pub mod moto;
pub mod nfs;
pub mod postgres;
pub mod python;
pub mod redis;
pub mod report;
mod scratch;
pub mod sentinel;
pub mod sim;
pub mod tls;
pub mod verification;
pub mod wire;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

pub use daemon::{Daemon, free_port};
pub use loopback::{Direction, Proxy};
pub use scratch::Scratch;

/// `CLOCK_MONOTONIC`, which all processes of a machine share, in nanoseconds.
///
/// # Panics
/// Never on a system that has this clock, which POSIX demands.
pub fn monotonic_nanos() -> i64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("the clock exists");
    now.tv_sec() * 1_000_000_000 + now.tv_nsec()
}

/// The processor time that this process has used, all threads together.
///
/// # Panics
/// Never on a system that has this clock, which POSIX demands.
pub fn processor_time() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("the clock exists").into()
}

/// Asks until `condition` holds, for at most 20 s.
///
/// # Panics
/// When it does not hold within that time.
///
/// # Cancel safety
/// Cancel safe.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < Duration::from_secs(20), "waited 20 s for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Where cargo builds.
pub fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")), PathBuf::from)
}
