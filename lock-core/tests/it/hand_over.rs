//! Hand-over inside the process: which locks are handed over, with which tokens and validity.

mod between_guards;
mod between_processes;
mod slow_to_wake;
mod standing_back;

use std::{pin::Pin, sync::Arc};

use crate::fixture::*;
use futures_util::FutureExt;
use lock_core::{
    Error, ErrorKind, Guard, LockRequest, Locker, LossReason, Mode, Operation, Renew, backend::Release, faults::Fault,
    memory::MemoryBackend,
};
use tokio::time::sleep;

type Choose = fn(LockRequest) -> LockRequest;
type Waiter = Pin<Box<dyn Future<Output = Result<Guard, Error>> + Send>>;

fn fixture() -> Fixture {
    Fixture::with(|builder| builder.hand_over(3))
}

/// Returns waiters for the requests, which are in the queue of the process in this order.
fn queued<const N: usize>(requests: [LockRequest; N]) -> [Waiter; N] {
    requests.map(|request| {
        let mut waiter: Waiter = Box::pin(request.acquire());
        assert!((&mut waiter).now_or_never().is_none(), "the lock is held");
        waiter
    })
}

/// Returns a guard whose lock can be handed over, and the waiters behind it.
async fn held<const N: usize>(fixture: &Fixture, requests: [LockRequest; N]) -> (Guard, [Waiter; N]) {
    let first = fixture.guard().await;
    let [second] = queued([fixture.locker.lock(NAME)]);
    let waiters = queued(requests);
    release(first).await;
    (second.await.unwrap(), waiters)
}

/// Releases `guard` and returns that of the waiter.
async fn next(guard: Guard, waiter: Waiter) -> Guard {
    let (released, next) = tokio::join!(guard.release(), waiter);
    assert_eq!(released.unwrap(), Release::Released);
    next.unwrap()
}

/// The number of requests that acquired or released a lock.
fn requests(fixture: &Fixture) -> (u64, u64) {
    (fixture.network.sent(Operation::Acquire), fixture.network.sent(Operation::Release))
}

fn token(guard: &Guard) -> u64 {
    guard.token().unwrap().get()
}

#[tokio::test(start_paused = true)]
// verifies: P7
async fn waiters_share_a_grant_up_to_the_limit() {
    let fixture = fixture();
    let locks = [(); 5].map(|()| fixture.locker.lock(NAME));
    let (mut guard, waiters) = held(&fixture, locks).await;
    let mut sent = vec![requests(&fixture)];
    let mut tokens = vec![token(&guard)];
    for waiter in waiters {
        // Otherwise the next token of the clock could follow on the last reserved one.
        sleep(ms(1)).await;
        guard = next(guard, waiter).await;
        sent.push(requests(&fixture));
        tokens.push(token(&guard));
    }
    assert_eq!(sent, [(2, 1), (2, 1), (2, 1), (2, 1), (3, 2), (3, 2)], "three hand-overs after each grant");
    let steps: Vec<_> = tokens.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!([&steps[..3], &steps[4..]].concat(), [1; 4], "{tokens:?}");
    assert!(steps[3] > 1, "{tokens:?}");
    release(guard).await;
    assert!(fixture.is_free().await);
    assert_eq!(requests(&fixture), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_lock_without_waiters_reserves_nothing() {
    let fixture = fixture();
    let mut last = token(&fixture.guard().await);
    fixture.freed_after().await;
    for _ in 0..3 {
        let guard = fixture.locker.acquire(NAME).await.unwrap();
        // The next token of the memory store on a clock that stands still.
        assert_eq!(token(&guard), token(&guard).max(last + 1));
        last = token(&guard);
        release(guard).await;
    }
    let other = fixture.other().acquire(NAME).await.unwrap();
    assert_eq!(token(&other), last + 1, "no token is left out");
}

#[tokio::test(start_paused = true)]
async fn a_request_with_other_options_is_granted_by_the_store() {
    let choices: [(&str, Choose); 8] = [
        ("owner", |request| request.owner("another")),
        ("data", |request| request.data("more")),
        ("ttl", |request| request.ttl(secs(60))),
        ("margin", |request| request.margin(secs(5))),
        ("renewal", |request| request.renew(Renew::Manual)),
        ("deadline", |request| request.deadline(secs(60))),
        ("mode", |request| request.mode(Mode::Shared)),
        ("option", |request| request.hand_over(0)),
    ];
    for (what, choose) in choices {
        let fixture = fixture();
        let (guard, [waiter]) = held(&fixture, [choose(fixture.locker.lock(NAME))]).await;
        let first = token(&guard);
        let guard = next(guard, waiter).await;
        assert_eq!(requests(&fixture), (3, 2), "{what}");
        assert!(token(&guard) > first, "{what}");
        assert!(guard.crashed_holder().is_none(), "{what}: the lease before was released");
        let holder = fixture.other().admin().inspect(NAME).await.unwrap().expect("held");
        assert_eq!(holder.token, guard.token(), "{what}");
        assert_eq!(holder.owner.as_deref() == Some("another"), what == "owner");
        assert_eq!(holder.data.is_some(), what == "data");
        assert_eq!(holder.expires_in > Some(TTL), what == "ttl", "{holder}");
        release(guard).await;
        assert!(fixture.is_free().await, "{what}");
    }
}

#[tokio::test(start_paused = true)]
// verifies: P2
async fn the_next_guard_has_the_rest_of_the_validity() {
    let fixture = Fixture::with(|builder| builder.hand_over(3).renew(Renew::Manual));
    let (guard, [waiter]) = held(&fixture, [fixture.locker.lock(NAME)]).await;
    fixture.clock.suspend(ms(900));
    let (left, until) = (guard.remaining(), guard.valid_until());
    let guard = next(guard, waiter).await;
    assert_eq!((guard.remaining(), guard.valid_until()), (left, until));
    assert_eq!(requests(&fixture), (2, 1));
    fixture.clock.suspend(left.unwrap());
    guard.check().expect_err("the lease has ended");
}

#[tokio::test(start_paused = true)]
async fn renewals_go_on_after_a_hand_over() {
    let fixture = fixture();
    let (guard, [waiter]) = held(&fixture, [fixture.locker.lock(NAME)]).await;
    let guard = next(guard, waiter).await;
    for _ in 0..4 {
        guard.renewed().await;
    }
    assert!(guard.remaining() > Some(VALID - ms(10)));
    sleep(TTL).await;
    guard.check().unwrap();
    release(guard).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_not_handed_over_late() {
    // One second after the grant; or half a lease.
    for (ttl, late) in [(TTL, secs(1)), (secs(1), ms(500))] {
        for (after, acquires) in [(late - ms(1), 2), (late, 3)] {
            let fixture = Fixture::with(|builder| builder.hand_over(3).ttl(ttl));
            let (guard, [waiter]) = held(&fixture, [fixture.locker.lock(NAME)]).await;
            fixture.clock.suspend(after);
            if guard.remaining() < Some(ttl / 2) {
                guard.renew_if_below(ttl / 2).await.unwrap();
            }
            let guard = next(guard, waiter).await;
            assert_eq!(requests(&fixture).0, acquires, "{ttl:?} after {after:?}");
            release(guard).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_which_half_is_used_is_not_handed_over() {
    let short = |builder: lock_core::LockerBuilder| builder.hand_over(3).ttl(secs(1)).margin(ms(400));
    for (after, acquires) in [(ms(300), 2), (ms(301), 3)] {
        let fixture = Fixture::with(|builder| short(builder).renew(Renew::Manual));
        let (guard, [waiter]) = held(&fixture, [fixture.locker.lock(NAME)]).await;
        fixture.clock.suspend(after);
        let guard = next(guard, waiter).await;
        assert_eq!(requests(&fixture).0, acquires, "after {after:?}");
        release(guard).await;
    }
}

#[tokio::test(start_paused = true)]
// verifies: hold-limits
async fn a_minimum_hold_ends_before_the_lock_is_handed_over() {
    for (after, acquires) in [(ms(499), 3), (ms(500), 2)] {
        let fixture = Fixture::with(|builder| builder.hand_over(3).min_hold(ms(500)));
        let guard = fixture.guard().await;
        fixture.clock.suspend(ms(500));
        let [second, third] = queued([(); 2].map(|()| fixture.locker.lock(NAME)));
        release(guard).await;
        let second = second.await.unwrap();
        fixture.clock.suspend(after);
        let third = next(second, third).await;
        // A refused request is repeated.
        assert!(requests(&fixture).0 >= acquires && (requests(&fixture).0 == 2) == (acquires == 2), "{after:?}");
        drop(third);
    }
}

#[tokio::test(start_paused = true)]
// verifies: hold-limits
async fn the_limits_of_a_guard_count_from_its_hand_over() {
    let fixture = Fixture::with(|builder| builder.hand_over(3).min_hold(ms(100)).max_hold(ms(800)));
    let guard = fixture.guard().await;
    fixture.clock.suspend(ms(100));
    let [second, third] = queued([(); 2].map(|()| fixture.locker.lock(NAME)));
    release(guard).await;
    let second = second.await.unwrap();
    fixture.clock.suspend(ms(700));
    let third = next(second, third).await;
    assert_eq!(requests(&fixture).0, 2);
    assert_eq!(third.remaining(), Some(ms(800)));
    fixture.clock.suspend(ms(60));
    release(third).await;
    assert!(!fixture.is_free().await, "its minimum hold has not passed");
    assert_close(fixture.freed_after().await, ms(40));
}

#[tokio::test(start_paused = true)]
// verifies: P2
async fn a_lease_in_doubt_is_not_handed_over() {
    for fault in [Fault::Refuse(ErrorKind::Unavailable), Fault::LoseReply, Fault::FailAfter(ErrorKind::Unavailable)] {
        let fixture = Fixture::with(|builder| builder.hand_over(3).ttl(secs(1)));
        let (guard, [waiter]) = held(&fixture, [fixture.locker.lock(NAME)]).await;
        fixture.network.next(Operation::Renew, fault);
        // The renewal fails, or is in flight.
        while fixture.network.sent(Operation::Renew) == 0 {
            sleep(ms(1)).await;
        }
        assert!(guard.remaining() > Some(ms(400)), "{fault:?}");
        let guard = next(guard, waiter).await;
        assert_eq!(requests(&fixture).0, 3, "{fault:?}");
        release(guard).await;
    }
}

#[tokio::test(start_paused = true)]
// verifies: P3
async fn a_lost_lock_is_not_handed_over() {
    let fixture = fixture();
    let (guard, [waiter]) = held(&fixture, [fixture.locker.lock(NAME)]).await;
    fixture.store.lose(NAME);
    fixture.clock.suspend(ms(10));
    guard.renew_if_below(VALID).await.unwrap_err();
    let (released, next) = tokio::join!(guard.release(), waiter);
    assert!(matches!(released.unwrap(), Release::NotHeld(_)));
    let next = next.unwrap();
    assert_eq!(requests(&fixture).0, 3);
    next.check().unwrap();
    release(next).await;
}

#[tokio::test(start_paused = true)]
// verifies: P3
async fn a_loss_after_a_hand_over_is_that_of_the_next_guard() {
    let fixture = fixture();
    let (guard, [waiter]) = held(&fixture, [fixture.locker.lock(NAME)]).await;
    let (signal, first) = (guard.loss_signal(), guard.token());
    let holder = fixture.other().admin().inspect(NAME).await.unwrap().expect("held");
    let guard = next(guard, waiter).await;
    assert_eq!(signal.check().unwrap_err().reason, LossReason::Released);
    let broken = fixture.other().admin().break_lock(NAME, &holder, "an operator").await;
    assert_eq!(broken.unwrap(), lock_core::backend::Break::Broken);
    let lost = guard.lost().await;
    assert_eq!(lost.reason, LossReason::BrokenBy("an operator".into()));
    assert!(lost.token == guard.token() && lost.token > first);
    let lost = signal.check().unwrap_err();
    assert_eq!((lost.reason, lost.token), (LossReason::Released, first));
    assert!(matches!(guard.release().await.unwrap(), Release::NotHeld(_)));
}

#[test]
fn a_number_out_of_range_is_refused() {
    let error = Locker::builder(Arc::new(MemoryBackend::new())).hand_over(1_001).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("hand_over is 1001, but must be at most 1000"), "{error}");
}
