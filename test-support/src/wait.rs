//! Waits for a condition instead of sleeping for a fixed time.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Polls until `condition` holds, for at most 60 s.
///
/// # Panics
/// If it does not hold within that time.
///
/// # Cancel safety
/// Cancel safe.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < Duration::from_secs(60), "waited 60 s for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Polls until `condition` holds, for at most 30 s. Returns whether it holds.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        if condition() {
            return true;
        }
        thread::sleep(Duration::from_millis(10));
    }
    eprintln!("waited 30 s for {what}");
    false
}
