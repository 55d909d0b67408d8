//! Cases of the core with suspended processes and changed clocks.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    LossReason, Renew, TryAcquire,
    backend::{Release, Renewal},
    testing::{
        cases::modes::joinable,
        harness::{Bench, Fixture, acquired_in_the_end, assert_not_held, free_soon, release},
    },
    types::Mode,
};

const YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Freezes a process for longer than its lease, in each mode, while another client takes over the
/// lock.
///
/// One clock or both clocks show the freeze.
async fn frozen(bench: &Bench<'_>, freeze: fn(&Fixture, Duration)) {
    for mode in joinable(&*bench.client().await).into_iter().chain([Mode::Exclusive]) {
        frozen_in(bench, mode, freeze).await;
    }
}

async fn frozen_in(bench: &Bench<'_>, mode: Mode, freeze: fn(&Fixture, Duration)) {
    let other = bench.client().await;
    let fixture = Fixture::new(bench).await;
    let name = bench.name("frozen");
    let ttl = bench.subject.ttl();
    let request = || fixture.locker.lock(name.as_str()).mode(mode).ttl(ttl).renew(Renew::Manual);
    let guard = acquired_in_the_end(request).await;
    freeze(&fixture, ttl);
    // No await before this check: the holder's work runs it immediately after the freeze.
    let lost = guard.check().expect_err("the freeze was longer than the lease");
    let (LossReason::FrozenFor(_) | LossReason::ClockJumped(_) | LossReason::Expired) = lost.reason else {
        panic!("{lost}")
    };

    let (successor, _) = bench.granted_in_the_end(&*other, &bench.request(&name)).await;
    assert_not_held(guard.release().await);
    assert_eq!(other.renew(&successor).await.expect("the store answers"), Renewal::Renewed);
    release(&*other, &successor).await;
}

// verifies: P2, standstill
pub(super) async fn a_suspended_holder_reports_its_loss_immediately(bench: &Bench<'_>) {
    frozen(bench, |fixture, ttl| fixture.clock.suspend(ttl)).await;
}

// verifies: P2, standstill
pub(super) async fn a_thawed_holder_reports_its_loss_immediately(bench: &Bench<'_>) {
    frozen(bench, |fixture, ttl| fixture.clock.thaw_after(ttl)).await;
}

// verifies: P2, P8, clock-set
pub(super) async fn setting_the_clock_back_extends_no_lease(bench: &Bench<'_>) {
    let other = bench.client().await;
    let ttl = bench.subject.ttl();
    for mode in joinable(&*other).into_iter().chain([Mode::Exclusive]) {
        let fixture = Fixture::new(bench).await;
        let name = bench.name("set-back");
        let request = || fixture.locker.lock(name.as_str()).mode(mode).ttl(ttl).renew(Renew::Manual);
        let guard = acquired_in_the_end(request).await;
        fixture.clock.set_back(YEARS);
        let (next, _) = bench.granted_in_the_end(&*other, &bench.request(&name)).await;
        assert!(guard.check().is_err(), "two hold {name}, one of them in {mode}");
        release(&*other, &next).await;
    }
}

// verifies: P1, P8, clock-set
pub(super) async fn a_contender_with_a_skewed_clock_is_refused(bench: &Bench<'_>) {
    let (fixture, ahead, behind) = (Fixture::new(bench).await, Fixture::new(bench).await, Fixture::new(bench).await);
    ahead.clock.thaw_after(YEARS);
    behind.clock.set_back(YEARS);
    for mode in joinable(&*bench.client().await).into_iter().chain([Mode::Exclusive]) {
        let name = bench.name("skewed");
        let guard = fixture.acquired_in(&name, mode).await;
        for contender in [&ahead, &behind] {
            match contender.locker.try_acquire(name.as_str()).await.expect("the store answers") {
                TryAcquire::Contended(_) => {}
                TryAcquire::Acquired(_) => panic!("two hold {name}, one of them in {mode}"),
            }
        }
        guard.check().expect("no other client has acquired the lock");
        let _: Release = guard.release().await.expect("the store answers");
        for contender in [&ahead, &behind] {
            let guard = contender.acquired(&name).await;
            let _: Release = guard.release().await.expect("the store answers");
        }
    }
}

// verifies: P3, P10, hold-limits
pub(super) async fn a_guard_past_max_hold_frees_the_lock(bench: &Bench<'_>) {
    let (fixture, other) = (Fixture::new(bench).await, bench.client().await);
    let name = bench.name("longest");
    let longest = Duration::from_millis(200);
    let mut started = Instant::now();
    let guard = acquired_in_the_end(|| {
        started = Instant::now();
        fixture.locker.lock(name.as_str()).max_hold(longest)
    })
    .await;
    let lost = guard.lost().await;
    assert!(matches!(lost.reason, LossReason::MaxHold), "{lost}");
    assert!(started.elapsed() >= longest, "{:?}", started.elapsed());
    drop(guard);
    free_soon(bench, &*other, &name).await;
}
