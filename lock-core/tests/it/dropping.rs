//! P5 and P10: no lock leaks, whichever future or guard is dropped.

use std::{pin::pin, task::Poll, time::Duration};

use crate::fixture::*;
use futures_util::poll;
use lock_core::{Guard, Operation, TryAcquire, faults::Fault};
use tokio::{
    runtime::Builder,
    time::{Instant, sleep},
};

/// Polls `future` up to `polls` times, 100 ms apart, and drops it. Returns its output if it
/// completed.
async fn poll_some<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..polls {
        if let Poll::Ready(output) = poll!(future.as_mut()) {
            return Some(output);
        }
        sleep(ms(100)).await;
    }
    None
}

/// Delays every request and reply, so that a future can be dropped at every await point.
fn slow_network(fixture: &Fixture) {
    for operation in [Operation::Acquire, Operation::Release, Operation::Renew, Operation::Watch] {
        for _ in 0..20 {
            fixture.network.next(operation, Fault::DelayRequest(ms(250)));
            fixture.network.next(operation, Fault::DelayReply(ms(250)));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn cancelling_an_acquire_at_any_await_point_leaks_nothing() {
    for fault in [Fault::DelayRequest(ms(250)), Fault::DelayReply(ms(250))] {
        for polls in 1.. {
            let fixture = Fixture::new();
            fixture.network.next(Operation::Acquire, fault);
            let ended = poll_some(fixture.locker.try_acquire(NAME), polls).await;
            let over = ended.is_some();
            drop(ended);
            // Longer than the delay of the request in flight.
            sleep(ms(300)).await;
            assert!(fixture.freed_after().await < secs(1), "{fault:?}, dropped after {polls} polls");
            if over {
                assert!(polls > 2);
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn cancelling_a_waiter_at_every_await_point_leaks_nothing() {
    for polls in 1..60 {
        let fixture = Fixture::new();
        let held = acquired(fixture.other().try_acquire(NAME).await);
        slow_network(&fixture);
        let releaser = async {
            sleep(ms(1_234)).await;
            release(held).await;
        };
        let (_, outcome) = tokio::join!(releaser, poll_some(fixture.locker.acquire(NAME), polls));
        drop(outcome);
        sleep(ms(300)).await;
        assert!(fixture.freed_after().await < secs(2), "dropped after {polls} polls");
        let mut next = pin!(fixture.locker.acquire(NAME));
        let guard = loop {
            match poll!(next.as_mut()) {
                Poll::Ready(guard) => break guard.unwrap(),
                Poll::Pending => sleep(ms(100)).await,
            }
        };
        release(guard).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_cancelled_at_any_await_point_completes() {
    for polls in 0..8 {
        let fixture = Fixture::new();
        let guard = fixture.guard().await;
        slow_network(&fixture);
        let _ = poll_some(guard.release(), polls).await;
        assert!(fixture.freed_after().await < secs(2), "dropped after {polls} polls");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_renewal_never_overstates_validity() {
    for polls in 1..12 {
        let fixture = Fixture::with(|b| b.renew(lock_core::Renew::Manual));
        let guard = fixture.guard().await;
        sleep(secs(20)).await;
        slow_network(&fixture);
        let _ = poll_some(guard.renew_if_below(secs(20)), polls).await;
        let believed = guard.remaining().unwrap();
        let recorded = fixture.other().admin().inspect(NAME).await.unwrap().unwrap().expires_in.unwrap();
        assert!(believed < recorded, "dropped after {polls} polls: the guard reports {believed:?} of {recorded:?}");
        release(guard).await;
    }
}

#[tokio::test(start_paused = true)]
async fn cancelling_run_drops_the_work_and_keeps_the_guard() {
    let fixture = Fixture::new();
    let guard = fixture.guard().await;
    let _ = poll_some(guard.run(sleep(secs(1_000))), 3).await;
    guard.check().unwrap();
    release(guard).await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_guard_is_released_in_the_background() {
    let fixture = Fixture::new();
    drop(fixture.guard().await);
    assert!(fixture.freed_after().await <= ms(5));
    let renewals = fixture.network.sent(Operation::Renew);
    sleep(10 * TTL).await;
    assert_eq!(fixture.network.sent(Operation::Renew), renewals, "a dropped guard is not renewed");
}

#[tokio::test(start_paused = true)]
async fn a_try_waits_for_the_background_release_of_its_process() {
    let fixture = Fixture::new();
    // A dropped guard.
    fixture.network.next(Operation::Release, Fault::DelayRequest(ms(250)));
    drop(fixture.guard().await);
    release(acquired(fixture.locker.try_acquire(NAME).await)).await;
    // A cancelled release.
    fixture.network.next(Operation::Release, Fault::DelayRequest(ms(250)));
    let _ = poll_some(fixture.guard().await.release(), 1).await;
    release(acquired(fixture.locker.try_acquire(NAME).await)).await;
    // A cancelled attempt, whose reply comes late.
    fixture.network.next(Operation::Acquire, Fault::DelayReply(ms(250)));
    let _ = poll_some(fixture.locker.try_acquire(NAME), 1).await;
    let guard = acquired(fixture.locker.try_acquire(NAME).await);
    // A held lock is not awaited, nor a waiter that acquires after the release.
    let asked = Instant::now();
    assert!(matches!(fixture.locker.try_acquire(NAME).await, Ok(TryAcquire::Contended(_))));
    fixture.network.next(Operation::Release, Fault::DelayRequest(ms(250)));
    let waiter = tokio::spawn(fixture.locker.lock(NAME).acquire());
    sleep(ms(1)).await;
    drop(guard);
    assert!(matches!(fixture.locker.try_acquire(NAME).await, Ok(TryAcquire::Contended(_))));
    assert!(asked.elapsed() < ms(300), "{:?}", asked.elapsed());
    release(waiter.await.unwrap().unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_guard_is_released_synchronously_if_possible() {
    let fixture = Fixture::new();
    let guard = acquired(fixture.other().try_acquire(NAME).await);
    drop(guard);
    assert!(fixture.is_free().await);
}

fn runtime() -> tokio::runtime::Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// Returns a guard whose runtime ended, and its fixture.
fn orphan(local: bool) -> (Guard, Fixture) {
    let runtime = runtime();
    let (guard, fixture) = runtime.block_on(async {
        let fixture = Fixture::new();
        let guard = if local { acquired(fixture.other().try_acquire(NAME).await) } else { fixture.guard().await };
        (guard, fixture)
    });
    drop(runtime);
    (guard, fixture)
}

#[test]
fn a_guard_dropped_without_a_runtime_never_panics() {
    let (guard, fixture) = orphan(false);
    drop(guard);
    // No runtime could release the lock; its ttl is the backstop.
    assert!(runtime().block_on(async { !fixture.is_free().await }));
    let (guard, fixture) = orphan(true);
    drop(guard);
    assert!(runtime().block_on(async { fixture.is_free().await }), "memory and files need no runtime to release");
}

#[test]
fn a_guard_without_a_runtime_still_ends_with_its_lease() {
    let (guard, fixture) = orphan(false);
    guard.check().unwrap();
    fixture.clock.suspend(VALID);
    guard.check().unwrap_err();
}

#[test]
fn a_guard_dropped_at_runtime_shutdown_never_panics() {
    for multi in [false, true] {
        let runtime =
            if multi { Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap() } else { runtime() };
        runtime.block_on(async {
            let fixture = Fixture::new();
            let guard = fixture.guard().await;
            tokio::spawn(async move {
                let _guard = guard;
                std::future::pending::<()>().await;
            });
            let other = fixture.other();
            tokio::spawn(async move {
                let _ = other.acquire("another").await.map(std::mem::forget);
                std::future::pending::<()>().await;
            });
            tokio::task::yield_now().await;
        });
        drop(runtime);
    }
}

#[test]
fn a_locker_outlives_its_first_runtime() {
    let (guard, fixture) = orphan(false);
    let runtime = runtime();
    runtime.block_on(async {
        let other = acquired(fixture.locker.try_acquire("another").await);
        sleep(3 * TTL).await;
        other.check().expect("the renewer restarted on the new runtime");
        guard.check().expect("the renewer also renews the old guard");
        release(guard).await;
        release(other).await;
    });
}

#[tokio::test(start_paused = true)]
async fn guards_of_a_dropped_locker_are_still_renewed() {
    let Fixture { locker, store, .. } = Fixture::new();
    let guard = acquired(locker.try_acquire(NAME).await);
    drop(locker);
    sleep(10 * TTL).await;
    guard.check().unwrap();
    release(guard).await;
    assert!(lock_core::Locker::new(store).unwrap().admin().inspect(NAME).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_timeout_around_acquire_cancels_it_cleanly() {
    let fixture = Fixture::new();
    fixture.network.next(Operation::Acquire, Fault::DelayReply(secs(2)));
    assert!(tokio::time::timeout(secs(1), fixture.locker.acquire(NAME)).await.is_err());
    let started = Instant::now();
    assert!(
        fixture.freed_after().await <= secs(1) + ms(5),
        "freed only after {:?}, not right after the reply",
        started.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_guard_in_a_dropped_outcome_is_released() {
    let fixture = Fixture::new();
    let outcome: TryAcquire = fixture.locker.try_acquire(NAME).await.unwrap();
    drop(outcome);
    assert!(fixture.freed_after().await <= Duration::from_millis(5));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_guard_is_kept_for_its_min_hold() {
    let fixture = Fixture::new();
    let started = Instant::now();
    drop(acquired(fixture.locker.lock(NAME).min_hold(secs(60)).try_acquire().await));
    fixture.freed_after().await;
    assert!((secs(60)..secs(61)).contains(&started.elapsed()), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_guard_waits_for_its_renewal_in_flight() {
    let fixture = Fixture::new();
    let guard = fixture.guard().await;
    fixture.network.always(Operation::Renew, Fault::DelayRequest(secs(2)));
    while fixture.network.sent(Operation::Renew) == 0 {
        sleep(ms(50)).await;
    }
    drop(guard);
    sleep(secs(1)).await;
    assert_eq!(fixture.network.sent(Operation::Release), 0);
    assert!(fixture.freed_after().await <= secs(1) + ms(5));
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_acquire_is_rolled_back_after_its_reply() {
    let fixture = Fixture::new();
    fixture.network.next(Operation::Acquire, Fault::DelayReply(secs(2)));
    assert!(tokio::time::timeout(secs(1), fixture.locker.acquire(NAME)).await.is_err());
    sleep(ms(900)).await;
    assert_eq!(fixture.network.sent(Operation::Release), 0);
    sleep(ms(200)).await;
    assert_eq!(fixture.network.sent(Operation::Release), 1);
}

#[tokio::test(start_paused = true)]
async fn wait_idle_waits_for_background_releases_only() {
    let fixture = Fixture::new();
    // Stands for the task of a connection, which lives as long as the store is open.
    let connection = tokio::spawn(std::future::pending::<()>());
    fixture.locker.wait_idle().await;
    fixture.network.next(Operation::Release, Fault::DelayRequest(ms(250)));
    let began = Instant::now();
    drop(fixture.guard().await);
    fixture.locker.wait_idle().await;
    assert!(fixture.is_free().await);
    assert_eq!(began.elapsed().as_millis() / 10, 25, "`wait_idle` must return exactly when the release is done");
    drop(poll_some(fixture.locker.try_acquire(NAME), 1).await);
    fixture.locker.wait_idle().await;
    assert!(fixture.is_free().await);
    connection.abort();
}

#[test]
fn wait_idle_ignores_work_of_an_ended_runtime() {
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let fixture = first.block_on(async {
        let fixture = Fixture::new();
        fixture.network.next(Operation::Release, Fault::LoseRequest);
        drop(fixture.guard().await);
        fixture
    });
    drop(first);
    runtime().block_on(fixture.locker.wait_idle());
}

#[tokio::test(start_paused = true)]
// verifies: late-request
async fn a_refusal_after_an_unanswered_attempt_is_rolled_back_too() {
    let fixture = Fixture::new();
    let other = fixture.other().acquire(NAME).await.unwrap();
    let before = fixture.network.sent(Operation::Release);
    fixture.network.next(Operation::Acquire, Fault::LoseRequest);
    assert!(matches!(fixture.locker.try_acquire(NAME).await, Ok(TryAcquire::Contended(_))));
    fixture.locker.wait_idle().await;
    assert_eq!(fixture.network.sent(Operation::Release) - before, 1, "the first attempt may still arrive");
    release(other).await;
}
