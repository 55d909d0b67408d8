//! A caller is told what is retried, and for how long.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::fixture::*;
use lock_core::{ErrorKind, LockRequest, Operation, faults::Fault};
use tokio::time::Instant;

type Retries = Arc<Mutex<Vec<(String, Duration)>>>;

/// A request that records its retries.
fn observed(fixture: &Fixture) -> (LockRequest, Retries) {
    let seen = Retries::default();
    let observer = Arc::clone(&seen);
    let request =
        fixture.locker.lock(NAME).on_retry(move |error, left| observer.lock().unwrap().push((error.to_string(), left)));
    (request, seen)
}

#[tokio::test(start_paused = true)]
// verifies: silent-retry
async fn waiter_reports_each_retry_and_its_end() {
    let fixture = Fixture::new();
    fixture.network.always(Operation::Acquire, Fault::Refuse(ErrorKind::Unavailable));
    let (request, seen) = observed(&fixture);
    let started = Instant::now();
    request.acquire().await.unwrap_err();
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0].1, secs(30), "the first failure begins the time");
    assert!(seen[0].0.contains(NAME) && seen[0].0.contains("memory:"), "{}", seen[0].0);
    assert!(seen.windows(2).all(|two| two[0].1 >= two[1].1), "{seen:?}");
    assert!(seen.last().unwrap().1 > Duration::ZERO, "the last attempt is the caller's error, and no retry");
    assert!(started.elapsed() >= secs(30));
}

#[tokio::test(start_paused = true)]
async fn shorter_wait_or_deadline_bounds_the_reported_time() {
    let fixture = Fixture::new();
    fixture.network.always(Operation::Acquire, Fault::Refuse(ErrorKind::Unavailable));
    let (request, seen) = observed(&fixture);
    request.acquire_within(secs(5)).await.unwrap_err();
    assert_eq!(seen.lock().unwrap()[0].1, secs(5));
    let (request, seen) = observed(&fixture);
    request.deadline(secs(4)).acquire().await.unwrap_err();
    assert_eq!(seen.lock().unwrap()[0].1, secs(4));
}

#[tokio::test(start_paused = true)]
async fn attempt_without_a_wait_reports_its_two_retries() {
    let fixture = Fixture::new();
    fixture.network.always(Operation::Acquire, Fault::Refuse(ErrorKind::Unavailable));
    let (request, seen) = observed(&fixture);
    request.try_acquire().await.unwrap_err();
    let left: Vec<_> = seen.lock().unwrap().iter().map(|(_, left)| *left).collect();
    let once = fixture.locker.timing().attempt_timeout;
    assert_eq!(left, [2 * once, once]);
}

#[tokio::test(start_paused = true)]
async fn final_error_and_contention_are_no_retries() {
    let fixture = Fixture::new();
    fixture.network.next(Operation::Acquire, Fault::Refuse(ErrorKind::PermissionDenied));
    let (request, seen) = observed(&fixture);
    request.acquire().await.unwrap_err();
    let _held = acquired(fixture.other().try_acquire(NAME).await);
    let (contended, also) = observed(&fixture);
    let _ = contended.acquire_within(secs(2)).await.unwrap();
    assert!(seen.lock().unwrap().is_empty() && also.lock().unwrap().is_empty());
}
