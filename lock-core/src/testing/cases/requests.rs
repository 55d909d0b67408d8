//! Cases of the core with lost, duplicated, delayed and throttled requests and replies.

use std::time::Duration;

use crate::{
    ErrorKind, Operation,
    backend::{AcquireOutcome, Release, Renewal},
    testing::{
        cases::modes::joinable,
        faults::Fault,
        harness::{
            Bench, Fixture, acquire, acquired_in_the_end, assert_not_held, free_soon, granted, refused, release,
        },
    },
    types::Mode,
};

/// Acquires, renews and releases a lock; each operation meets `fault` once.
async fn one_fault_each(bench: &Bench<'_>, fault: Fault) {
    let (fixture, other) = (Fixture::new(bench).await, bench.client().await);
    let name = bench.name("resolved");
    fixture.network.next(Operation::Acquire, fault);
    let guard = fixture.acquired(&name).await;
    refused(&*other, &bench.request(&name)).await;

    fixture.age();
    fixture.network.next(Operation::Renew, fault);
    guard.renew_if_below(fixture.rest()).await.expect("the second attempt renews");
    guard.check().expect("renewed");

    fixture.network.next(Operation::Release, fault);
    // After a lost reply, the store may no longer know which lease was released.
    let _: Release = guard.release().await.expect("the second attempt releases");
    let (next, _) = granted(&*other, &bench.request(&name)).await;
    release(&*other, &next).await;
}

// verifies: P5, lost-reply
pub(super) async fn a_lost_reply_is_resolved_by_a_retry(bench: &Bench<'_>) {
    one_fault_each(bench, Fault::FailAfter(ErrorKind::Unavailable)).await;
}

// verifies: P5, lost-request
pub(super) async fn a_lost_request_is_sent_again(bench: &Bench<'_>) {
    one_fault_each(bench, Fault::Refuse(ErrorKind::Unavailable)).await;
}

// verifies: P5, late-request
pub(super) async fn a_duplicate_request_has_no_further_effect(bench: &Bench<'_>) {
    one_fault_each(bench, Fault::Duplicate).await;
}

/// A duplicate acquire request arrives after the release of its own id.
// verifies: P5, late-request
pub(super) async fn a_late_acquire_leaves_no_lasting_lock(bench: &Bench<'_>) {
    for mode in joinable(&*bench.client().await).into_iter().chain([Mode::Exclusive]) {
        a_late_acquire_in(bench, mode).await;
    }
}

async fn a_late_acquire_in(bench: &Bench<'_>, mode: Mode) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("late");
    let request = bench.short_request(&name).with_mode(mode);
    let (first, _) = granted(&*a, &request).await;
    let _: Release = a.release(&first, Duration::ZERO).await.expect("the store answers");
    let mut last = first.token;
    if let Ok(AcquireOutcome::Granted(orphan)) = a.acquire(&request).await {
        assert!(orphan.token > last || last.is_none(), "{:?} after {last:?}", orphan.token);
        last = orphan.token;
        if !a.capabilities().ttl {
            // No network repeats a request to such a store. The client asked again, so it holds the
            // lock.
            let _: Release = a.release(&request.lease(orphan.token), Duration::ZERO).await.expect("the store answers");
        }
    }
    let (next, _) = bench.granted_in_the_end(&*b, &bench.request(&name)).await;
    assert!(next.token > last || last.is_none(), "{:?} after {last:?}", next.token);
    if let Ok(AcquireOutcome::Granted(_)) = a.acquire(&request).await {
        panic!("two hold {name}");
    }
    assert_eq!(b.renew(&next).await.expect("the store answers"), Renewal::Renewed);
    release(&*b, &next).await;
}

// verifies: P4, throttled
pub(super) async fn a_throttled_acquire_fails_and_leaves_no_lock(bench: &Bench<'_>) {
    let (fixture, other) = (Fixture::new(bench).await, bench.client().await);
    for fault in [Fault::Refuse(ErrorKind::Throttled), Fault::FailAfter(ErrorKind::Throttled)] {
        let name = bench.name("throttled");
        fixture.network.always(Operation::Acquire, fault);
        // The wait is shorter than the time for which an attempt without a wait is repeated.
        let answer = fixture.locker.acquire_within(name.as_str(), Duration::from_millis(300)).await;
        let error = answer.expect_err("the throttled request cannot succeed");
        assert_eq!(error.kind(), ErrorKind::Throttled, "{error}");
        free_soon(bench, &*other, &name).await;
    }
}

/// Checks in each mode that a guard whose renewals all meet `fault` is lost before another client
/// acquires the exclusive lock.
///
/// The late release of the guard leaves the successor untouched.
async fn ends_before_the_next(bench: &Bench<'_>, fault: Fault) {
    let other = bench.client().await;
    let fixture = Fixture::with_ttl(bench, bench.subject.ttl()).await;
    fixture.network.always(Operation::Renew, fault);
    for mode in joinable(&*other).into_iter().chain([Mode::Exclusive]) {
        let name = bench.name("ends");
        let guard = acquired_in_the_end(|| fixture.locker.lock(name.as_str()).mode(mode)).await;
        let (successor, _) = bench.granted_in_the_end(&*other, &bench.request(&name)).await;
        assert!(guard.check().is_err(), "two hold {name}, one of them in {mode}");
        guard.lost().await;
        assert_not_held(guard.release().await);
        assert_eq!(other.renew(&successor).await.expect("the store answers"), Renewal::Renewed);
        release(&*other, &successor).await;
    }
}

// verifies: P2, P3, hung-renewal
pub(super) async fn a_hung_renewal_loses_the_guard_before_takeover(bench: &Bench<'_>) {
    ends_before_the_next(bench, Fault::LoseRequest).await;
}

// verifies: P2, throttled
pub(super) async fn throttled_renewals_lose_the_guard_before_takeover(bench: &Bench<'_>) {
    ends_before_the_next(bench, Fault::Refuse(ErrorKind::Throttled)).await;
}

// verifies: P1, P9, other-ttl, contention
pub(super) async fn exactly_one_contender_replaces_a_crashed_holder(bench: &Bench<'_>) {
    let holder = bench.client().await;
    let name = bench.name("inherited");
    let _dead = granted(&*holder, &bench.short_request(&name)).await;
    // The contenders' ttl differs from the holder's ttl.
    let mut contenders = Vec::new();
    for _ in 0..8 {
        contenders.push((bench.client().await, bench.request(&name)));
    }
    bench.subject.crash(holder).await;
    for _ in 0..2_000 {
        let attempts = contenders.iter().map(|(client, request)| acquire(&**client, request));
        let attempts = futures_util::future::join_all(attempts).await;
        match attempts.iter().filter(|attempt| matches!(attempt, AcquireOutcome::Granted(_))).count() {
            0 => bench.subject.pass(bench.subject.ttl() / 20).await,
            winners => return assert_eq!(winners, 1, "of {} contenders", contenders.len()),
        }
    }
    panic!("no contender took over from the crashed holder");
}
