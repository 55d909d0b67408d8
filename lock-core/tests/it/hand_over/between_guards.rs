//! Who is responsible for a lock between two guards, and who gets it next.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
        mpsc,
    },
    time::{Duration, SystemTime},
};

use super::{fixture, held, next, requests, token};
use crate::fixture::*;
use futures_util::{FutureExt, future::join_all};
use lock_core::{
    Guard, Locker, LossReason, Operation, Renew, TryAcquire, backend::Release, clock::Clock, faults::Faulty,
    memory::MemoryBackend,
};
use tokio::time::{Instant, sleep};

/// Hands the lock of `guard` over. The waiter has not been polled since.
fn hand_over(guard: Guard) {
    let released = guard.release().now_or_never().expect("a hand-over waits for nothing");
    assert_eq!(released.unwrap(), Release::Released);
}

#[tokio::test(start_paused = true)]
// verifies: P5, cancelled
async fn a_cancelled_waiter_passes_the_lock_on_or_leaves_it_free() {
    for remaining in [0, 1] {
        let fixture = fixture();
        let (guard, [chosen, other]) = held(&fixture, [(); 2].map(|()| fixture.locker.lock(NAME))).await;
        let mut other = Some(other).filter(|_| remaining == 1);
        let started = Instant::now();
        hand_over(guard);
        drop(chosen);
        if let Some(other) = other.take() {
            let next = other.await.unwrap();
            assert_eq!(requests(&fixture), (2, 1), "handed over to the other waiter");
            assert!(started.elapsed().is_zero(), "the other waiter does not wait for an end of the lease");
            release(next).await;
        } else {
            fixture.locker.wait_idle().await;
            assert_eq!(requests(&fixture), (2, 2), "released in the store");
            assert!(started.elapsed().is_zero(), "the release does not wait for a waiter that has left");
        }
        assert!(is_forgotten(&fixture.locker).await, "a lock was left behind");
    }
}

#[tokio::test(start_paused = true)]
async fn a_try_waits_for_the_release_of_a_lock_that_is_not_taken() {
    let fixture = fixture();
    let (guard, [waiter]) = held(&fixture, [fixture.locker.lock(NAME)]).await;
    hand_over(guard);
    drop(waiter);
    release(acquired(fixture.locker.try_acquire(NAME).await)).await;
    assert_eq!(requests(&fixture), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_not_polled_keeps_no_other_process_out() {
    let fixture = fixture();
    // Also the last of several waiters, some time after the first hand-over.
    let (guard, [second, third]) = held(&fixture, [(); 2].map(|()| fixture.locker.lock(NAME))).await;
    hand_over(guard);
    sleep(ms(60)).await;
    hand_over(second.await.unwrap());
    let started = Instant::now();
    assert_close(fixture.freed_after().await, ms(100));
    assert_close(started.elapsed(), ms(100));
    assert_eq!(requests(&fixture), (2, 2));
    let other = fixture.other();
    let foreign = acquired(other.try_acquire(NAME).await);
    let (next, _) = tokio::join!(third, release(foreign));
    release(next.unwrap()).await;
}

/// Leases are watched one after the other.
#[tokio::test(start_paused = true)]
async fn no_lock_is_taken_from_waiters_that_run() {
    let fixture = Fixture::with(|builder| builder.hand_over(100));
    let (mut guard, waiters) = held(&fixture, [(); 20].map(|()| fixture.locker.lock(NAME))).await;
    for waiter in waiters {
        hand_over(guard);
        sleep(ms(45)).await;
        guard = waiter.await.unwrap();
    }
    assert_eq!(requests(&fixture), (2, 1));
    release(guard).await;
}

#[tokio::test(start_paused = true)]
// verifies: P2
async fn a_lock_that_is_lost_on_its_way_is_not_taken() {
    let fixture = Fixture::with(|builder| builder.hand_over(3).renew(Renew::Manual));
    let (guard, [waiter]) = held(&fixture, [fixture.locker.lock(NAME)]).await;
    hand_over(guard);
    fixture.clock.suspend(TTL);
    let next = waiter.await.unwrap();
    assert_eq!(requests(&fixture).0, 3, "acquired anew");
    next.check().unwrap();
    release(next).await;
    assert!(fixture.is_free().await);
}

#[tokio::test(start_paused = true)]
// verifies: P3
async fn a_signal_of_a_guard_does_not_follow_the_next_one() {
    let fixture = fixture();
    let (guard, [waiter]) = held(&fixture, [fixture.locker.lock(NAME)]).await;
    let (signal, token) = (guard.loss_signal(), guard.token());
    let waiting = tokio::spawn({
        let signal = signal.clone();
        async move { signal.lost().await }
    });
    tokio::task::yield_now().await;
    let started = Instant::now();
    hand_over(guard);
    let lost = waiting.await.unwrap();
    assert!(started.elapsed().is_zero(), "the task is woken, and does not wait for the next look at the clock");
    assert_eq!((&lost.reason, lost.token), (&LossReason::Released, token));
    let next = waiter.await.unwrap();
    assert_eq!(signal.check().unwrap_err(), lost);
    assert_eq!((signal.stop_requested().await, signal.remaining()), (lost, Some(Duration::ZERO)));
    assert_eq!(signal.valid_until().map(|at| at.boot), Some(Duration::ZERO));
    next.loss_signal().check().unwrap();
    release(next).await;
}

#[tokio::test(start_paused = true)]
async fn the_maximum_hold_of_a_guard_does_not_end_the_lock_on_its_way() {
    let fixture = Fixture::with(|builder| builder.hand_over(3).max_hold(ms(500)));
    let (guard, [waiter]) = held(&fixture, [fixture.locker.lock(NAME)]).await;
    sleep(ms(450)).await;
    hand_over(guard);
    sleep(ms(80)).await;
    let next = waiter.await.unwrap();
    assert_eq!(requests(&fixture), (2, 1), "handed over");
    assert_eq!(next.remaining(), Some(ms(500)));
    release(next).await;
}

/// No task looks at the guard, so only the renewer can end it.
#[tokio::test(start_paused = true)]
// verifies: hold-limits
async fn the_maximum_hold_of_a_later_guard_ends_in_time() {
    let fixture = fixture();
    let lock = || fixture.locker.lock(NAME);
    let (first, [second, third, behind]) = held(&fixture, [lock(), lock().max_hold(ms(500)), lock()]).await;
    // The first hand-over brings the lease to the renewer anyway.
    let second = next(first, second).await;
    // The renewer decides when it looks at the lease again.
    sleep(ms(1)).await;
    let third = next(second, third).await;
    assert_eq!(requests(&fixture), (2, 1), "handed over");
    let started = Instant::now();
    let behind = tokio::spawn(behind);
    while requests(&fixture).0 == 2 {
        assert!(started.elapsed() < secs(5), "the waiter behind the guard does not get its turn");
        sleep(ms(1)).await;
    }
    assert_close(started.elapsed(), ms(500));
    assert_eq!(third.check().unwrap_err().reason, LossReason::MaxHold);
    drop(third);
    release(behind.await.unwrap().unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn waiters_are_told_of_the_guard_that_has_the_lock_now() {
    let fixture = fixture();
    let (guard, [waiter]) = held(&fixture, [fixture.locker.lock(NAME)]).await;
    sleep(ms(10)).await;
    let guard = next(guard, waiter).await;
    let since = SystemTime::UNIX_EPOCH + fixture.clock.now().wall;
    let (tell, told) = mpsc::channel();
    let request = fixture.locker.lock(NAME).on_contention(move |holder| tell.send(holder.clone()).unwrap());
    let refused = match request.acquire_within(ms(10)).await.unwrap() {
        TryAcquire::Contended(holder) => holder,
        TryAcquire::Acquired(_) => panic!("the lock is held"),
    };
    for holder in [told.recv().unwrap(), refused] {
        assert_eq!((holder.token, holder.since), (guard.token(), Some(since)), "{holder}");
    }
    release(guard).await;
}

#[tokio::test(start_paused = true)]
// verifies: P10
async fn a_dropped_guard_releases_in_the_store() {
    let fixture = fixture();
    let (guard, [waiter]) = held(&fixture, [fixture.locker.lock(NAME)]).await;
    drop(guard);
    let next = waiter.await.unwrap();
    assert_eq!(requests(&fixture), (3, 2));
    release(next).await;
}

#[tokio::test(start_paused = true)]
async fn a_try_gets_no_lock_that_is_handed_over_to_a_waiter() {
    let fixture = fixture();
    let (guard, [waiter]) = held(&fixture, [fixture.locker.lock(NAME)]).await;
    hand_over(guard);
    assert!(matches!(fixture.locker.try_acquire(NAME).await.unwrap(), TryAcquire::Contended(_)));
    release(waiter.await.unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn two_processes_share_the_lock() {
    let networks = [(); 2].map({
        let store = MemoryBackend::new();
        move |()| Faulty::new(store.clone())
    });
    let total = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for (process, network) in networks.iter().enumerate() {
        let locker = Locker::builder(Arc::new(network.clone())).hand_over(3).build().unwrap();
        for _ in 0..8 {
            let (locker, total) = (locker.clone(), Arc::clone(&total));
            let work = async move {
                let mut count = 0;
                while total.fetch_add(1, SeqCst) < 4_000 {
                    let guard = locker.acquire(NAME).await.unwrap();
                    sleep(ms(1)).await;
                    guard.release().await.unwrap();
                    count += 1;
                }
                (process, count)
            };
            tasks.push(tokio::spawn(work));
        }
    }
    let mut counts = [0; 2];
    for task in tasks {
        let (process, count) = task.await.unwrap();
        counts[process] += count;
    }
    let total: u64 = counts.iter().sum();
    assert!(counts.iter().all(|count| (40..=60).contains(&(count * 100 / total))), "{counts:?}");
    let grants: u64 = networks.iter().map(|network| network.sent(Operation::Release)).sum();
    assert!(grants * 3 < total, "{grants} grants for {counts:?}");
}

/// Threads acquire, release and cancel at random.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
// verifies: P1, P7, cancelled
async fn threads_that_cancel_at_random_never_share_a_lock() {
    let locker = Locker::builder(Arc::new(MemoryBackend::new())).hand_over(16).build().unwrap();
    let (inside, last) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let tasks = (0..16).map(|task| {
        let (locker, inside, last) = (locker.clone(), Arc::clone(&inside), Arc::clone(&last));
        tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(task);
            for _ in 0..500 {
                let patience = Duration::from_micros(random.u64(1..2_000));
                let Ok(guard) = tokio::time::timeout(patience, locker.acquire(NAME)).await else { continue };
                let guard = guard.unwrap();
                assert_eq!(inside.fetch_add(1, SeqCst), 0, "two guards at once");
                assert!(last.swap(token(&guard), SeqCst) < token(&guard), "tokens rise");
                if random.bool() {
                    tokio::task::yield_now().await;
                }
                inside.fetch_sub(1, SeqCst);
                let patience = Duration::from_micros(random.u64(0..200));
                let _ = tokio::time::timeout(patience, guard.release()).await;
            }
        })
    });
    join_all(tasks).await.into_iter().for_each(|ended| ended.unwrap());
    locker.wait_idle().await;
    release(acquired(locker.try_acquire(NAME).await)).await;
}
