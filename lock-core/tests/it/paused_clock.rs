//! A test on a paused clock sees the losses that real time would bring, without a clock of its own.

use std::{future::pending, sync::Arc};

use crate::fixture::*;
use lock_core::{
    ErrorKind, Locker, LossReason, Operation, TryAcquire,
    faults::{Fault, Faulty},
    memory::MemoryBackend,
};
use tokio::time::{Instant, sleep};

fn locker(store: &MemoryBackend) -> (Faulty, Locker) {
    let network = Faulty::new(store.clone());
    let locker = Locker::new(network.clone()).unwrap();
    (network, locker)
}

#[tokio::test(start_paused = true)]
// verifies: P2, P3, paused-clock
async fn refused_renewals_end_an_hour_of_work() {
    let (network, locker) = locker(&MemoryBackend::new());
    network.always(Operation::Renew, Fault::Refuse(ErrorKind::Unavailable));
    let guard = acquired(locker.try_acquire(NAME).await);
    let started = Instant::now();
    let lost = guard.run(sleep(secs(3_600))).await.unwrap_err();
    assert!(matches!(lost.reason, LossReason::Unreachable { .. }), "{lost}");
    assert!(started.elapsed() < TTL, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn renewed_lock_outlasts_an_hour_of_work() {
    let (network, locker) = locker(&MemoryBackend::new());
    let guard = acquired(locker.try_acquire(NAME).await);
    guard.run(sleep(secs(3_600))).await.unwrap();
    assert!(network.sent(Operation::Renew) >= 3_600 / 10, "{}", network.sent(Operation::Renew));
    release(guard).await;
}

#[tokio::test(start_paused = true)]
// verifies: P1, paused-clock
async fn guard_ends_before_the_next_holder_on_a_paused_clock() {
    let store = MemoryBackend::new();
    let ((network, ours), (_, theirs)) = (locker(&store), locker(&store));
    network.always(Operation::Renew, Fault::LoseRequest);
    let guard = acquired(ours.try_acquire(NAME).await);
    while let TryAcquire::Contended(_) = theirs.try_acquire(NAME).await.unwrap() {
        sleep(ms(100)).await;
    }
    guard.check().expect_err("two hold the lock");
}

#[tokio::test(start_paused = true)]
async fn limits_of_a_hold_follow_the_paused_clock() {
    let (_, locker) = locker(&MemoryBackend::new());
    let guard = acquired(locker.lock(NAME).max_hold(secs(3_600)).try_acquire().await);
    let started = Instant::now();
    assert_eq!(guard.run(pending::<()>()).await.unwrap_err().reason, LossReason::MaxHold);
    assert!(started.elapsed() >= secs(3_599), "{:?}", started.elapsed());
    let kept = acquired(locker.lock("kept").min_hold(secs(600)).try_acquire().await);
    sleep(secs(599)).await;
    release(kept).await;
    assert!(matches!(locker.try_acquire("kept").await.unwrap(), TryAcquire::Contended(_)));
    sleep(secs(2)).await;
    let _next = acquired(locker.try_acquire("kept").await);
}

#[tokio::test]
async fn clock_paused_and_resumed_later_keeps_the_guard_right() {
    let (network, locker) = locker(&MemoryBackend::new());
    let guard = acquired(locker.try_acquire(NAME).await);
    tokio::time::pause();
    sleep(secs(300)).await;
    tokio::time::resume();
    guard.check().unwrap();
    assert!(guard.remaining().unwrap() > secs(1), "{:?}", guard.remaining());
    tokio::time::pause();
    network.always(Operation::Renew, Fault::Refuse(ErrorKind::Unavailable));
    sleep(TTL).await;
    guard.check().unwrap_err();
    let _shared = Arc::new(guard);
}
