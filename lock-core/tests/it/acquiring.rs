//! P4, P5 and waiting: three distinct outcomes, and fair queues.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::fixture::*;
use futures_util::FutureExt as _;
use lock_core::{Error, ErrorKind, LossReason, Operation, TryAcquire, backend::Release, faults::Fault};
use tokio::time::{Instant, sleep};

#[tokio::test(start_paused = true)]
async fn contention_is_a_value_that_names_the_holder() {
    let fixture = Fixture::new();
    let guard = acquired(fixture.locker.lock(NAME).owner("me").data("[1]").try_acquire().await);
    match fixture.other().try_acquire(NAME).await.unwrap() {
        TryAcquire::Contended(holder) => {
            assert_eq!(holder.owner.as_deref(), Some("me"));
            assert_eq!(holder.data.as_deref(), Some(&b"[1]"[..]));
            assert_eq!(holder.token, guard.token());
            assert!(holder.since.is_some() && holder.expires_in.is_some());
        }
        TryAcquire::Acquired(_) => panic!("two clients hold the lock"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_is_neither_held_nor_acquired() {
    for kind in [ErrorKind::PermissionDenied, ErrorKind::Unavailable, ErrorKind::Timeout] {
        let fixture = Fixture::new();
        fixture.network.always(Operation::Acquire, Fault::Refuse(kind));
        let error = fixture.locker.try_acquire(NAME).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(NAME) && error.to_string().contains("memory:"), "{error}");
        let sent = fixture.network.sent(Operation::Acquire);
        assert_eq!(sent, if error.is_retryable() { 3 } else { 1 }, "{kind:?}");
        sleep(secs(1)).await;
        assert_eq!(fixture.network.sent(Operation::Release), 0, "a refused request needs no rollback");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_not_a_foreign_holder() {
    for fault in [Fault::LoseReply, Fault::FailAfter(ErrorKind::Unavailable), Fault::LoseRequest] {
        let fixture = Fixture::new();
        fixture.network.next(Operation::Acquire, fault);
        let guard = fixture.guard().await;
        assert_eq!(fixture.network.sent(Operation::Acquire), 2, "{fault:?}");
        assert_eq!(guard.release().await.unwrap(), Release::Released);
        assert!(fixture.is_free().await);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_acquire_leaves_no_lock_behind() {
    let fixture = Fixture::new();
    fixture.network.always(Operation::Acquire, Fault::LoseReply);
    let error = fixture.locker.try_acquire(NAME).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(fixture.freed_after().await < secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_lost_release_reply_is_resolved_by_a_retry() {
    for fault in [Fault::LoseReply, Fault::LoseRequest, Fault::FailAfter(ErrorKind::Timeout)] {
        let fixture = Fixture::new();
        let guard = fixture.guard().await;
        fixture.network.next(Operation::Release, fault);
        assert_eq!(guard.release().await.unwrap(), Release::Released, "{fault:?}");
        assert!(fixture.is_free().await);
    }
}

#[tokio::test(start_paused = true)]
async fn releasing_a_lost_lock_leaves_its_successor_alone() {
    let fixture = Fixture::new();
    let guard = fixture.guard().await;
    fixture.store.lose(NAME);
    let successor = acquired(fixture.other().try_acquire(NAME).await);
    match guard.release().await.unwrap() {
        Release::NotHeld(Some(holder)) => assert_eq!(holder.token, successor.token()),
        other => panic!("{other:?}"),
    }
    successor.check().unwrap();
    assert!(!fixture.is_free().await);
}

#[tokio::test(start_paused = true)]
async fn a_release_retry_still_reports_a_lost_lock() {
    let fixture = Fixture::new();
    let guard = fixture.guard().await;
    fixture.store.lose(NAME);
    let successor = acquired(fixture.other().try_acquire(NAME).await);
    guard.lost().await;
    fixture.network.next(Operation::Release, Fault::LoseRequest);
    match guard.release().await.unwrap() {
        Release::NotHeld(Some(holder)) => assert_eq!(holder.token, successor.token()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_release_is_retried_in_the_background() {
    let fixture = Fixture::new();
    let guard = fixture.guard().await;
    for _ in 0..4 {
        fixture.network.next(Operation::Release, Fault::Refuse(ErrorKind::Unavailable));
    }
    assert_eq!(guard.release().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(!fixture.is_free().await);
    assert!(fixture.freed_after().await < secs(1), "freed before the ttl ended");
}

#[tokio::test(start_paused = true)]
async fn a_release_waits_for_its_renewal_in_flight() {
    let fixture = Fixture::new();
    let guard = fixture.guard().await;
    fixture.network.always(Operation::Renew, Fault::DelayRequest(secs(2)));
    while fixture.network.sent(Operation::Renew) == 0 {
        sleep(ms(50)).await;
    }
    guard.check().unwrap();
    let sent = Instant::now();
    assert_eq!(guard.release().await.unwrap(), Release::Released);
    assert!(sent.elapsed() > secs(1), "the release waited for the renewal in flight");
}

#[tokio::test(start_paused = true)]
async fn a_bounded_wait_ends_on_time_with_the_holder() {
    let fixture = Fixture::new();
    let _held = acquired(fixture.other().lock(NAME).owner("busy").try_acquire().await);
    let started = Instant::now();
    match fixture.locker.acquire_within(NAME, secs(7)).await.unwrap() {
        TryAcquire::Contended(holder) => assert_eq!(holder.owner.as_deref(), Some("busy")),
        TryAcquire::Acquired(_) => panic!("two clients hold the lock"),
    }
    assert_close(started.elapsed(), secs(7));
}

#[tokio::test(start_paused = true)]
async fn a_bounded_wait_reports_a_holder_of_this_process() {
    let fixture = Fixture::new();
    let _held = acquired(fixture.locker.lock(NAME).owner("busy").try_acquire().await);
    let before = fixture.network.sent(Operation::Acquire);
    match fixture.locker.acquire_within(NAME, secs(7)).await.unwrap() {
        TryAcquire::Contended(holder) => assert_eq!(holder.owner.as_deref(), Some("busy")),
        TryAcquire::Acquired(_) => panic!("two clients hold the lock"),
    }
    assert_eq!(fixture.network.sent(Operation::Acquire), before, "a queue in this process costs the store nothing");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_without_a_watch_retries_at_holder_expiry() {
    let fixture = Fixture::new();
    fixture.network.always(Operation::Watch, Fault::Refuse(ErrorKind::Unsupported));
    let dead = acquired(fixture.other().lock(NAME).renew(lock_core::Renew::Manual).ttl(ms(400)).try_acquire().await);
    let started = Instant::now();
    let guard = fixture.locker.acquire(NAME).await.unwrap();
    assert!(started.elapsed() <= ms(410), "{:?}", started.elapsed());
    assert_eq!(guard.crashed_holder().map(|h| h.token), Some(dead.token()));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_is_woken_by_the_release() {
    let fixture = Fixture::new();
    let held = acquired(fixture.other().try_acquire(NAME).await);
    let locker = fixture.locker.clone();
    let waiter = tokio::spawn(async move {
        let guard = locker.acquire(NAME).await.unwrap();
        (guard, Instant::now())
    });
    sleep(secs(20) + ms(321)).await;
    let attempts = fixture.network.sent(Operation::Acquire);
    assert!(attempts < 40, "{attempts} attempts in 20 s");
    release(held).await;
    let released = Instant::now();
    let (_guard, acquired) = waiter.await.unwrap();
    assert_close(acquired - released, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
// verifies: asked-twice
async fn waiters_of_one_process_queue_with_two_requests_each() {
    let fixture = Fixture::new();
    let first = fixture.guard().await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut waiters = Vec::new();
    for i in 0..50 {
        let (locker, order) = (fixture.locker.clone(), Arc::clone(&order));
        waiters.push(tokio::spawn(async move {
            let guard = locker.acquire(NAME).await.unwrap();
            order.lock().unwrap().push(i);
            sleep(ms(5)).await;
            release(guard).await;
        }));
        tokio::task::yield_now().await;
    }
    release(first).await;
    for waiter in waiters {
        waiter.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), (0..50).collect::<Vec<_>>());
    assert_eq!((fixture.network.sent(Operation::Acquire), fixture.network.sent(Operation::Release)), (51, 51));
}

#[tokio::test(start_paused = true)]
async fn the_next_waiter_proceeds_when_the_guard_is_lost() {
    let fixture = Fixture::new();
    let lost = fixture.guard().await;
    let locker = fixture.locker.clone();
    let waiter = tokio::spawn(async move { locker.acquire(NAME).await });
    fixture.network.always(Operation::Renew, Fault::LoseRequest);
    assert!(matches!(lost.lost().await.reason, LossReason::Unreachable { .. }));
    let guard = waiter.await.unwrap().unwrap();
    assert!(guard.token() > lost.token());
    drop(lost);
    sleep(ms(10)).await;
    assert!(!fixture.is_free().await, "dropping the lost guard did not touch its successor");
}

#[tokio::test(start_paused = true)]
async fn waiting_tolerates_an_outage_of_bounded_length() {
    let fixture = Fixture::new();
    fixture.network.always(Operation::Acquire, Fault::Refuse(ErrorKind::Unavailable));
    let locker = fixture.locker.clone();
    let waiter = tokio::spawn(async move { locker.acquire(NAME).await });
    sleep(secs(20)).await;
    fixture.network.always(Operation::Acquire, None);
    let guard = waiter.await.unwrap().unwrap();
    release(guard).await;

    fixture.network.always(Operation::Acquire, Fault::Refuse(ErrorKind::Unavailable));
    let started = Instant::now();
    assert_eq!(fixture.locker.acquire(NAME).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!((secs(30)..secs(32)).contains(&started.elapsed()), "{:?}", started.elapsed());
    let started = Instant::now();
    assert_eq!(fixture.locker.acquire_within(NAME, secs(3)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_close(started.elapsed(), secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_an_unbounded_wait() {
    let fixture = Fixture::new();
    let _held = acquired(fixture.other().try_acquire(NAME).await);
    let started = Instant::now();
    let error = fixture.locker.lock(NAME).deadline(secs(5)).acquire().await.unwrap_err();
    assert_close(started.elapsed(), secs(5));
    assert!(error.to_string().contains("deadline"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn min_hold_outlives_an_early_release() {
    let fixture = Fixture::new();
    let started = Instant::now();
    let guard = acquired(fixture.locker.lock(NAME).min_hold(secs(60)).try_acquire().await);
    sleep(secs(2)).await;
    release(guard).await;
    assert!(!fixture.is_free().await);
    let next = fixture.other().acquire(NAME).await.unwrap();
    assert!((secs(60)..secs(61)).contains(&started.elapsed()), "{:?}", started.elapsed());
    assert_eq!(next.crashed_holder(), None);
}

#[tokio::test(start_paused = true)]
async fn invalid_options_are_refused_before_any_request() {
    let fixture = Fixture::new();
    let long = "x".repeat(1_025);
    let outcomes: [Result<TryAcquire, Error>; 3] = [
        fixture.locker.try_acquire("").await,
        fixture.locker.try_acquire(long).await,
        fixture.locker.lock(NAME).ttl(secs(1)).margin(secs(2)).try_acquire().await,
    ];
    for outcome in outcomes {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Config);
    }
    assert_eq!(fixture.network.sent(Operation::Acquire), 0);
}

#[tokio::test(start_paused = true)]
async fn a_prefix_separates_applications_on_one_store() {
    let fixture = Fixture::with(|b| b.prefix("app1/"));
    let guard = fixture.guard().await;
    assert_eq!(guard.name().as_str(), "app1/nightly-etl");
    assert!(fixture.is_free().await, "the bare name is another lock");
    let listed = fixture.locker.admin().list("").await.unwrap().locks;
    assert_eq!(listed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), [NAME]);
    assert_eq!(fixture.locker.admin().inspect(NAME).await.unwrap().unwrap().token, guard.token());
}

#[tokio::test(start_paused = true)]
async fn admin_calls_time_out_on_an_unresponsive_store() {
    let fixture = Fixture::new();
    for operation in [Operation::List, Operation::Inspect] {
        fixture.network.always(operation, Fault::LoseRequest);
    }
    let error = fixture.locker.admin().list("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert_eq!(fixture.locker.admin().inspect(NAME).await.unwrap_err().kind(), ErrorKind::Timeout);
    let findings = fixture.locker.admin().diagnose().await;
    assert!(findings.len() == 1 && findings[0].text.contains("no reply within 60s"), "{findings:?}");
}

#[tokio::test(start_paused = true)]
async fn the_contention_callback_receives_the_current_holder() {
    let fixture = Fixture::new();
    let _held = acquired(fixture.other().lock(NAME).owner("busy").try_acquire().await);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let observer = Arc::clone(&seen);
    let request =
        fixture.locker.lock(NAME).on_contention(move |holder| observer.lock().unwrap().push(holder.owner.clone()));
    let _ = request.acquire_within(secs(1)).await.unwrap();
    assert_eq!(seen.lock().unwrap()[0].as_deref(), Some("busy"));
}

#[tokio::test(start_paused = true)]
async fn the_contention_callback_receives_a_holder_of_its_locker() {
    let fixture = Fixture::new();
    let held = acquired(fixture.locker.lock(NAME).owner("mine").try_acquire().await);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let observer = Arc::clone(&seen);
    let request =
        fixture.locker.lock(NAME).on_contention(move |holder| observer.lock().unwrap().push(holder.owner.clone()));
    let mut waiter = Box::pin(request.acquire());
    assert!((&mut waiter).now_or_never().is_none(), "the lock is held");
    assert_eq!(*seen.lock().unwrap(), [Some("mine".to_owned())], "told as soon as it waits");
    held.release().await.unwrap();
    waiter.await.unwrap().release().await.unwrap();
    let alone = fixture.locker.lock(NAME).on_contention(|holder| panic!("there is no other request, but {holder}"));
    alone.acquire().await.unwrap().release().await.unwrap();
}
