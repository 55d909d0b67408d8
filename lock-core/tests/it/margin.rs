//! A store that may free a lock early declares by how much, and every guard ends before that.

use std::{sync::Arc, time::Duration};

use crate::{
    changed::{Change, Changed},
    fixture::*,
};
use lock_core::{
    ErrorKind, LockRequest, Locker, Operation, Renew, TryAcquire,
    backend::{AcquireRequest, Backend, Lease, StoreTimings},
    clock::Clock,
    faults::Faulty,
    testing::TestClock,
};

const EARLY: Duration = Duration::from_millis(250);

/// The memory store with a clock that is ahead of what its clients count.
#[derive(Debug)]
struct Early;

impl Change for Early {
    fn timings(&self, timings: StoreTimings) -> StoreTimings {
        timings.with_least_margin(EARLY)
    }

    fn acquire(&self, request: AcquireRequest) -> AcquireRequest {
        let ttl = request.ttl.saturating_sub(EARLY);
        request.with_ttl(ttl)
    }

    fn renew(&self, lease: Lease) -> Lease {
        let ttl = lease.ttl.saturating_sub(EARLY);
        lease.with_ttl(ttl)
    }
}

fn locker() -> (Faulty, Locker) {
    let network = Faulty::new(Changed::new(Early));
    let clock: Arc<dyn Clock> = Arc::new(TestClock::new());
    let locker = Locker::builder(Arc::new(network.clone())).clock(clock).build().unwrap();
    (network, locker)
}

#[tokio::test(start_paused = true)]
// verifies: P1, P2, least-margin
async fn guard_ends_before_a_store_that_frees_early_grants() {
    let choices: [fn(LockRequest) -> LockRequest; 7] = [
        |lock| lock.ttl(ms(600)),
        |lock| lock.ttl(secs(1)),
        |lock| lock.ttl(secs(1)).margin(ms(251)),
        |lock| lock,
        |lock| lock.deadline(ms(300)),
        |lock| lock.deadline(secs(1)),
        |lock| lock.margin(ms(280)).deadline(secs(20)),
    ];
    for (number, choose) in choices.into_iter().enumerate() {
        let (_, locker) = locker();
        let guard = acquired(choose(locker.lock(NAME).renew(Renew::Manual)).try_acquire().await);
        guard.check().unwrap();
        while let TryAcquire::Contended(_) = locker.try_acquire(NAME).await.unwrap() {
            tokio::time::sleep(ms(1)).await;
        }
        guard.check().expect_err(&format!("two hold the lock, with choice {number}"));
    }
}

#[tokio::test(start_paused = true)]
// verifies: P2, least-margin
async fn margin_below_the_least_is_refused_with_both_numbers() {
    let (network, locker) = locker();
    for margin in [Duration::ZERO, ms(279)] {
        let error = locker.lock(NAME).margin(margin).try_acquire().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains(&format!("margin ({margin:?}) must be at least 280ms")), "{error}");
        let store: Arc<dyn Backend> = Arc::new(Changed::new(Early));
        let opened = Locker::builder(store).margin(margin).build().unwrap_err();
        assert!(opened.to_string().contains("raise margin, or leave it out"), "{opened}");
    }
    assert_eq!(network.sent(Operation::Acquire), 0);
    let _guard = acquired(locker.lock(NAME).margin(ms(280)).try_acquire().await);
}

#[tokio::test(start_paused = true)]
// verifies: P2, least-margin
async fn deadline_shorter_than_the_least_margin_grants_nothing() {
    let (network, locker) = locker();
    let error = locker.lock(NAME).deadline(ms(250)).acquire().await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Timeout, false), "{error}");
    assert!(error.to_string().contains("the deadline is 250.0ms away"), "{error}");
    assert!(error.to_string().contains("needs at least 251.2ms"), "{error}");
    assert_eq!(network.sent(Operation::Acquire), 0, "no lock that could not be used was requested");
}
