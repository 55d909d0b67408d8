//! Waits for a condition, in place of a sleep that hopes.

use std::{
    thread,
    time::{Duration, Instant},
};

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

/// Asks again and again until `condition` holds, for at most 30 s. Says whether it does.
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
