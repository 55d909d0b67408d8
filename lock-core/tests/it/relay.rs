//! Releases that go to the store with the acquire of the next waiter of the process.

mod network;

use std::sync::atomic::Ordering::SeqCst;

use futures_util::FutureExt;
use lock_core::{
    ErrorKind, Mode, Operation,
    backend::{Break, Release},
    clock::Clock,
    faults::Fault,
};

use crate::fixture::{NAME, TTL, ms, secs};

use self::network::{Relays, polled};

#[tokio::test(start_paused = true)]
// verifies: P7
async fn each_waiter_makes_one_request_and_has_a_larger_token() {
    let relays = Relays::new();
    let mut guard = relays.fixture.guard().await;
    let waiters = [(); 3].map(|()| relays.waiter(|request| request));
    for (i, waiter) in (1..).zip(waiters) {
        let last = guard.token();
        let (released, next) = tokio::join!(guard.release(), waiter);
        assert_eq!(released.unwrap(), Release::Released);
        guard = next.unwrap();
        assert!(guard.token() > last);
        assert_eq!(relays.requests(), (i, 1, 0));
    }
    // Renewals are those of any lease.
    guard.renewed().await;
    relays.holds_alone(guard, "the last waiter").await;
    assert_eq!((relays.requests(), relays.contended.load(SeqCst)), ((3, 1, 1), 0));
}

#[tokio::test(start_paused = true)]
// verifies: P2
async fn the_lease_of_the_waiter_counts_from_the_request() {
    let relays = Relays::new();
    let guard = relays.fixture.guard().await;
    let waiter = relays.waiter(|request| request);
    relays.fixture.network.next(Operation::Acquire, Fault::DelayReply(ms(500)));
    let clock = &relays.fixture.clock;
    let sent = clock.now();
    let (_, next) = tokio::join!(guard.release(), waiter);
    let next = next.unwrap();
    let until = next.valid_until().unwrap();
    assert_eq!(until.boot, sent.boot + TTL - TTL / 10);
    relays.holds_alone(next, "a late reply").await;
}

#[tokio::test(start_paused = true)]
async fn a_waiter_asks_anew_if_the_release_woke_another_process() {
    let relays = Relays::with(true, |builder| builder);
    let guard = relays.fixture.guard().await;
    let waiter = relays.waiter(|request| request);
    let (released, next) = tokio::join!(guard.release(), waiter);
    assert_eq!(released.unwrap(), Release::Released);
    assert_eq!(relays.requests(), (1, 2, 0));
    relays.holds_alone(next.unwrap(), "after a wake-up").await;
}

#[tokio::test(start_paused = true)]
// verifies: lost-reply
async fn a_faulty_request_neither_loses_nor_keeps_a_lock() {
    let (short, long) = (ms(300), secs(120));
    let faults = [
        Fault::LoseRequest,
        Fault::LoseReply,
        Fault::DelayRequest(short),
        Fault::DelayReply(short),
        Fault::DelayRequest(long),
        Fault::DelayReply(long),
        Fault::Refuse(ErrorKind::Unavailable),
        Fault::Refuse(ErrorKind::Throttled),
        Fault::FailAfter(ErrorKind::Unavailable),
        Fault::Duplicate,
    ];
    for fault in faults {
        let what = format!("{fault:?}");
        let relays = Relays::new();
        let guard = relays.fixture.guard().await;
        let waiter = relays.waiter(|request| request);
        let behind = relays.waiter(|request| request);
        relays.fixture.network.next(Operation::Acquire, fault);
        let (released, next) = tokio::join!(guard.release(), waiter);
        // The reply to a duplicate is that of a second release.
        let expected = if fault == Fault::Duplicate { Release::NotHeld(None) } else { Release::Released };
        let released = match released.unwrap() {
            Release::NotHeld(_) => Release::NotHeld(None),
            released => released,
        };
        assert_eq!(released, expected, "{what}");
        assert_eq!(relays.contended.load(SeqCst), 0, "{what}: its own process looked like another holder");
        let (released, next) = tokio::join!(next.unwrap().release(), behind);
        assert_eq!(released.unwrap(), Release::Released, "{what}");
        relays.holds_alone(next.unwrap(), &what).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_waiter_asks_again_only_once_the_guard_has_released() {
    let relays = Relays::new();
    let guard = relays.fixture.guard().await;
    let waiter = relays.waiter(|request| request);
    // The release by itself takes long enough for the waiter to ask before it.
    relays.fixture.network.next(Operation::Acquire, Fault::Refuse(ErrorKind::Unavailable));
    relays.fixture.network.next(Operation::Release, Fault::DelayRequest(secs(1)));
    let (released, next) = tokio::join!(guard.release(), waiter);
    assert_eq!(released.unwrap(), Release::Released);
    assert_eq!(relays.contended.load(SeqCst), 0);
    relays.holds_alone(next.unwrap(), "a slow release").await;
}

#[tokio::test(start_paused = true)]
async fn a_third_waiter_waits_for_the_release_too() {
    let relays = Relays::new();
    let guard = relays.fixture.guard().await;
    let waiter = relays.waiter(|request| request);
    let behind = relays.waiter(|request| request);
    relays.fixture.network.next(Operation::Acquire, Fault::Refuse(ErrorKind::Unavailable));
    relays.fixture.network.next(Operation::Release, Fault::DelayRequest(secs(1)));
    let gives_up = tokio::time::timeout(ms(10), waiter);
    let (released, gone, next) = tokio::join!(guard.release(), gives_up, behind);
    assert_eq!(released.unwrap(), Release::Released);
    assert!(gone.is_err());
    assert_eq!(relays.contended.load(SeqCst), 0, "the lock of this process looked like another holder's");
    relays.holds_alone(next.unwrap(), "the third").await;
}

#[tokio::test(start_paused = true)]
// verifies: cancelled
async fn a_cancelled_waiter_leaves_no_lock_at_any_await() {
    let faults = [None, Some(Fault::DelayRequest(ms(5))), Some(Fault::DelayReply(ms(5)))];
    // A waiter whose relay has woken another process makes a second request.
    for (leaves_it, fault) in [false, true].into_iter().flat_map(|leaves_it| faults.map(|fault| (leaves_it, fault))) {
        let mut done = false;
        for times in 1..12 {
            let what = format!("after {times} polls, {fault:?}, gives way: {leaves_it}");
            let relays = Relays::with(leaves_it, |builder| builder);
            let guard = relays.fixture.guard().await;
            let waiter = relays.waiter(|request| request);
            let behind = relays.waiter(|request| request);
            for _ in 0..=u32::from(leaves_it) {
                relays.fixture.network.next(Operation::Acquire, fault);
            }
            let gives_up = async { polled(waiter, times).await.is_some() };
            let (released, next);
            (released, done, next) = tokio::join!(guard.release(), gives_up, behind);
            assert_eq!(released.unwrap(), Release::Released, "{what}");
            assert_eq!(relays.contended.load(SeqCst), 0, "{what}: a lock was left behind");
            relays.holds_alone(next.unwrap(), &what).await;
        }
        assert!(done, "no waiter completed: {fault:?}, gives way: {leaves_it}");
    }
}

#[tokio::test(start_paused = true)]
// verifies: P5, cancelled
async fn a_cancelled_release_lets_the_waiter_in_at_any_await() {
    for times in 0..8 {
        for fault in [None, Some(Fault::DelayReply(ms(5))), Some(Fault::LoseReply), Some(Fault::LoseRequest)] {
            let what = format!("after {times} polls, {fault:?}");
            let relays = Relays::new();
            let guard = relays.fixture.guard().await;
            let waiter = relays.waiter(|request| request);
            relays.fixture.network.next(Operation::Acquire, fault);
            let (_, next) = tokio::join!(polled(Box::pin(guard.release()), times), waiter);
            assert_eq!(relays.contended.load(SeqCst), 0, "{what}");
            relays.holds_alone(next.unwrap(), &what).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn neither_task_needs_the_other_to_run() {
    let relays = Relays::new();
    let guard = relays.fixture.guard().await;
    let [mut second, third] = [(); 2].map(|()| relays.waiter(|request| request));
    relays.fixture.network.next(Operation::Acquire, Fault::DelayReply(ms(5)));
    // The waiter has sent the request, and does not run.
    let mut release = Box::pin(guard.release());
    assert!((&mut release).now_or_never().is_none());
    assert!((&mut second).now_or_never().is_none());
    let started = tokio::time::Instant::now();
    assert_eq!(release.await.unwrap(), Release::Released);
    assert!(started.elapsed() < ms(50));
    // The guard has sent nothing yet, and does not run.
    let mut release = Box::pin(second.await.unwrap().release());
    assert!((&mut release).now_or_never().is_none());
    let third = third.await.unwrap();
    let fourth = relays.waiter(|request| request);
    let (released, fourth) = tokio::join!(third.release(), fourth);
    assert_eq!(released.unwrap(), Release::Released);
    assert_eq!(release.await.unwrap(), Release::Released);
    relays.holds_alone(fourth.unwrap(), "the fourth").await;
    assert_eq!(relays.requests(), (3, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_does_not_run_delays_the_release_by_100_ms() {
    let relays = Relays::new();
    let guard = relays.fixture.guard().await;
    let waiter = relays.waiter(|request| request);
    let started = tokio::time::Instant::now();
    assert_eq!(guard.release().await.unwrap(), Release::Released);
    assert!(started.elapsed() <= ms(101), "{:?}", started.elapsed());
    assert!(relays.fixture.is_free().await);
    relays.holds_alone(waiter.await.unwrap(), "it runs again").await;
    assert_eq!(relays.requests(), (0, 2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_shared_request_is_sent_after_the_release() {
    let relays = Relays::new();
    let guard = relays.fixture.guard().await;
    let waiter = relays.waiter(|request| request.mode(Mode::Shared));
    relays.fixture.network.next(Operation::Release, Fault::DelayRequest(ms(5)));
    let (released, next) = tokio::join!(guard.release(), waiter);
    assert_eq!(released.unwrap(), Release::Released);
    assert_eq!((relays.requests(), relays.contended.load(SeqCst)), ((0, 2, 1), 0));
    next.unwrap().release().await.unwrap();
    assert!(relays.fixture.is_free().await);
}

#[tokio::test(start_paused = true)]
async fn one_request_ends_a_series_of_hand_overs_and_begins_the_next() {
    let relays = Relays::new();
    let mut guard = relays.fixture.guard().await;
    let waiters = [(); 6].map(|()| relays.waiter(|request| request.hand_over(2)));
    for (i, waiter) in waiters.into_iter().enumerate() {
        let last = guard.token();
        let (released, next) = tokio::join!(guard.release(), waiter);
        assert_eq!(released.unwrap(), Release::Released);
        guard = next.unwrap();
        assert!(guard.token() > last, "waiter {i}");
        // Each series is a grant and two hand-overs.
        assert_eq!(relays.requests(), (1 + i as u32 / 3, 1, 0), "waiter {i}");
    }
    relays.holds_alone(guard, "the last waiter").await;
}

#[tokio::test(start_paused = true)]
async fn two_tasks_hand_their_lock_over() {
    let relays = Relays::new();
    let guard = relays.fixture.locker.lock(NAME).hand_over(2).acquire().await.unwrap();
    let waiter = relays.waiter(|request| request.hand_over(2));
    let other = async {
        guard.release().await.unwrap();
        relays.waiter(|request| request.hand_over(2)).await.unwrap()
    };
    let (next, other) = tokio::join!(
        async {
            let next = waiter.await.unwrap();
            let token = next.token();
            next.release().await.unwrap();
            token
        },
        other
    );
    assert_eq!(other.token().unwrap().get(), next.unwrap().get() + 1, "handed over");
    assert_eq!(relays.requests(), (0, 2, 1));
    assert_eq!(other.release().await.unwrap(), Release::Released);
    assert!(relays.fixture.is_free().await);
}

#[tokio::test(start_paused = true)]
async fn a_minimum_hold_is_kept() {
    let relays = Relays::with(false, |builder| builder.min_hold(secs(5)));
    let guard = relays.fixture.guard().await;
    let started = tokio::time::Instant::now();
    let waiter = relays.waiter(|request| request);
    let (released, next) = tokio::join!(guard.release(), waiter);
    assert_eq!(released.unwrap(), Release::Released);
    assert!(started.elapsed() >= secs(5));
    assert_eq!(relays.relays.load(SeqCst), 0);
    next.unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
// verifies: P3, P6
async fn a_lost_lock_is_not_reported_as_released() {
    let relays = Relays::new();
    let guard = relays.fixture.guard().await;
    let waiter = relays.waiter(|request| request);
    let admin = relays.fixture.other();
    let holder = admin.admin().inspect(NAME).await.unwrap().expect("held");
    assert_eq!(admin.admin().break_lock(NAME, &holder, "alice").await.unwrap(), Break::Broken);
    let (released, next) = tokio::join!(guard.release(), waiter);
    assert!(matches!(released.unwrap(), Release::NotHeld(_)));
    relays.holds_alone(next.unwrap(), "after a break").await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_waiter_asks_again_although_the_guard_does_not_run() {
    let relays = Relays::with(true, |builder| builder);
    let guard = relays.fixture.guard().await;
    let mut waiter = relays.waiter(|request| request);
    let mut release = Box::pin(guard.release());
    assert!((&mut release).now_or_never().is_none());
    // The request has released the lock, and gives way to another process.
    assert!((&mut waiter).now_or_never().is_none());
    let other = relays.fixture.other().acquire(NAME).await.unwrap();
    assert!(tokio::time::timeout(ms(100), &mut waiter).await.is_err(), "another process has the lock");
    other.release().await.unwrap();
    let next = tokio::time::timeout(secs(5), waiter).await.expect("the lock is free").unwrap();
    assert_eq!(release.await.unwrap(), Release::Released);
    relays.holds_alone(next, "after a refusal").await;
}

#[tokio::test(start_paused = true)]
async fn a_guard_that_does_not_run_keeps_no_later_waiter_out() {
    let relays = Relays::new();
    let guard = relays.fixture.guard().await;
    // A shared request leaves the release to the guard, whose task does not run.
    let waiter = relays.waiter(|request| request.mode(Mode::Shared));
    let mut release = Box::pin(guard.release());
    assert!((&mut release).now_or_never().is_none());
    let next = tokio::time::timeout(4 * TTL, waiter).await.expect("the lease of the guard has ended").unwrap();
    next.release().await.unwrap();
    let last = tokio::time::timeout(secs(5), relays.fixture.locker.acquire(NAME)).await.expect("the lock is free");
    assert!(release.await.is_ok());
    relays.holds_alone(last.unwrap(), "after a guard that did not run").await;
}

#[tokio::test(start_paused = true)]
async fn the_ttl_of_a_guard_that_does_not_run_bounds_the_wait() {
    let relays = Relays::new();
    let guard = relays.fixture.guard().await;
    let waiter = relays.waiter(|request| request.mode(Mode::Shared).ttl(secs(24 * 3600)));
    let mut release = Box::pin(guard.release());
    assert!((&mut release).now_or_never().is_none());
    let next = tokio::time::timeout(4 * TTL, waiter).await.expect("the lease of the guard has ended").unwrap();
    assert!(release.await.is_ok());
    assert!(next.crashed_holder().is_some(), "the lease of the guard was released before its end");
    relays.holds_at_last(next, "after a guard that did not run").await;
}
