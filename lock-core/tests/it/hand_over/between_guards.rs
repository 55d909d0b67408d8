//! Who is responsible for a lock between two guards, and who gets it next.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use super::{fixture, held, requests, token};
use crate::fixture::*;
use futures_util::{FutureExt, future::join_all, poll};
use lock_core::{Locker, Operation, TryAcquire, backend::Release, faults::Faulty, memory::MemoryBackend};
use tokio::time::{Instant, sleep};

#[tokio::test(start_paused = true)]
async fn a_cancelled_waiter_passes_the_lock_on_or_leaves_it_free() {
    for remaining in [0, 1] {
        let fixture = fixture();
        let (guard, [chosen, other]) = held(&fixture, [(); 2].map(|()| fixture.locker.lock(NAME))).await;
        let mut other = Some(other).filter(|_| remaining == 1);
        let mut releasing = pin!(guard.release());
        // Now the turn is that of the first waiter, which has not been polled since.
        assert!(poll!(releasing.as_mut()).is_pending());
        drop(chosen);
        if let Some(other) = other.take() {
            let (released, next) = tokio::join!(releasing, other);
            assert_eq!(released.unwrap(), Release::Released);
            assert_eq!(requests(&fixture), (2, 1), "handed over to the other waiter");
            release(next.unwrap()).await;
        } else {
            let started = Instant::now();
            assert_eq!(releasing.await.unwrap(), Release::Released);
            assert_eq!(requests(&fixture), (2, 2), "released in the store");
            assert!(started.elapsed().is_zero(), "the guard does not wait for a waiter that has left");
        }
        assert!(fixture.is_free().await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_release_hands_over_or_releases() {
    for taken in [false, true] {
        let fixture = fixture();
        let (guard, [mut waiter]) = held(&fixture, [fixture.locker.lock(NAME)]).await;
        let mut releasing = Box::pin(guard.release());
        assert!(poll!(releasing.as_mut()).is_pending());
        let next = if taken { (&mut waiter).now_or_never() } else { None };
        drop(releasing);
        fixture.locker.wait_idle().await;
        match next {
            Some(next) => {
                assert_eq!(requests(&fixture), (2, 1), "the next guard has the lock");
                assert!(!fixture.is_free().await);
                release(next.unwrap()).await;
            }
            None => {
                assert!(fixture.is_free().await, "released in the background");
                release(waiter.await.unwrap()).await;
                assert_eq!(requests(&fixture), (3, 3));
            }
        }
        assert!(fixture.is_free().await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_not_polled_keeps_no_other_process_out() {
    let fixture = fixture();
    let (guard, [waiter]) = held(&fixture, [fixture.locker.lock(NAME)]).await;
    let started = Instant::now();
    assert_eq!(guard.release().await.unwrap(), Release::Released);
    assert_close(started.elapsed(), ms(100));
    assert_eq!(requests(&fixture), (2, 2));
    let other = fixture.other();
    let foreign = acquired(other.try_acquire(NAME).await);
    let (next, _) = tokio::join!(waiter, release(foreign));
    release(next.unwrap()).await;
}

#[tokio::test(start_paused = true)]
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
    let mut releasing = pin!(guard.release());
    assert!(poll!(releasing.as_mut()).is_pending());
    assert!(matches!(fixture.locker.try_acquire(NAME).await.unwrap(), TryAcquire::Contended(_)));
    let (released, next) = tokio::join!(releasing, waiter);
    assert_eq!(released.unwrap(), Release::Released);
    release(next.unwrap()).await;
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
