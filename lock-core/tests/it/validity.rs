//! P2 and P3: a guard never outlives its lease, and reports the reason of its loss.

use std::{future::pending, time::Duration};

use crate::fixture::*;
use async_trait::async_trait;
use lock_core::{
    Error, ErrorKind, Locker, LossReason, Operation, Renew,
    backend::{AcquireOutcome, AcquireRequest, Backend, Capabilities, Grant, Lease, Release, Renewal, StoreTimings},
    faults::Fault,
};
use tokio::time::{Instant, sleep, timeout};

#[tokio::test(start_paused = true)]
async fn validity_ends_on_time_while_a_renewal_hangs() {
    let fixture = Fixture::new();
    fixture.network.always(Operation::Renew, Fault::LoseRequest);
    let started = Instant::now();
    let guard = fixture.guard().await;
    let lost = guard.lost().await;
    assert_close(started.elapsed(), VALID);
    assert!(matches!(lost.reason, LossReason::Unreachable { .. }), "{lost}");
    assert_eq!(guard.check(), Err(lost));
    assert!(!fixture.is_free().await, "the loss must precede the next grant");
}

#[tokio::test(start_paused = true)]
async fn renewals_keep_a_guard_for_as_long_as_it_lives() {
    let fixture = Fixture::new();
    let guard = fixture.guard().await;
    for _ in 0..100 {
        sleep(secs(10)).await;
        guard.check().unwrap();
        assert!(!fixture.is_free().await);
    }
    let renewals = fixture.network.sent(Operation::Renew);
    assert!((100..=115).contains(&renewals), "expected one renewal per third of the ttl, with jitter: {renewals}");
    release(guard).await;
    sleep(10 * TTL).await;
    assert_eq!(fixture.network.sent(Operation::Renew), renewals, "a released lock was renewed");
}

#[tokio::test(start_paused = true)]
async fn validity_counts_from_before_the_request() {
    let fixture = Fixture::new();
    fixture.network.next(Operation::Acquire, Fault::DelayReply(secs(3)));
    let guard = fixture.guard().await;
    assert_close(guard.remaining().unwrap(), VALID - secs(3));
}

#[tokio::test(start_paused = true)]
async fn validity_counts_from_the_earliest_unanswered_acquire() {
    let fixture = Fixture::new();
    fixture.network.next(Operation::Acquire, Fault::LoseReply);
    let started = Instant::now();
    let guard = fixture.guard().await;
    assert!(started.elapsed() >= secs(5), "the first attempt had to time out");
    assert_close(guard.remaining().unwrap() + started.elapsed(), VALID);
}

#[tokio::test(start_paused = true)]
async fn the_next_renewal_detects_a_lock_the_store_lost() {
    let fixture = Fixture::new();
    let guard = fixture.guard().await;
    fixture.store.lose_after(NAME, secs(3));
    let started = Instant::now();
    let lost = guard.lost().await;
    assert_eq!(lost.reason, LossReason::RecordGone);
    assert!(started.elapsed() <= secs(10), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_loss_names_the_new_holder_or_operator() {
    let fixture = Fixture::new();
    let guard = fixture.guard().await;
    fixture.store.lose(NAME);
    let thief = acquired(fixture.other().lock(NAME).owner("thief").try_acquire().await);
    match guard.lost().await.reason {
        LossReason::TakenBy(holder) => assert_eq!(holder.owner.as_deref(), Some("thief")),
        other => panic!("{other}"),
    }
    let seen = fixture.locker.admin().inspect(NAME).await.unwrap().unwrap();
    let _ = fixture.locker.admin().break_lock(NAME, &seen, "alice").await.unwrap();
    assert_eq!(thief.lost().await.reason, LossReason::BrokenBy("alice".into()));
}

#[tokio::test(start_paused = true)]
async fn one_failed_renewal_is_retried_within_the_lease() {
    for fault in [
        Fault::LoseRequest,
        Fault::LoseReply,
        Fault::Refuse(ErrorKind::Throttled),
        Fault::FailAfter(ErrorKind::Unavailable),
    ] {
        let fixture = Fixture::new();
        let guard = fixture.guard().await;
        fixture.network.next(Operation::Renew, fault);
        sleep(3 * TTL).await;
        assert_eq!(guard.check(), Ok(()), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn throttling_past_the_deadline_loses_the_guard_on_time() {
    let fixture = Fixture::new();
    fixture.network.always(Operation::Renew, Fault::Refuse(ErrorKind::Throttled));
    let started = Instant::now();
    let guard = fixture.guard().await;
    let lost = guard.lost().await;
    assert_close(started.elapsed(), VALID);
    assert!(lost.to_string().contains("refused by the fault script"), "{lost}");
    let renewals = fixture.network.sent(Operation::Renew);
    assert!((4..60).contains(&renewals), "expected retries, but not in a tight loop: {renewals}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_guard_stays_lost_after_recovery() {
    let fixture = Fixture::new();
    fixture.network.next(Operation::Renew, Fault::DelayReply(secs(60)));
    fixture.network.always(Operation::Renew, Fault::LoseRequest);
    let guard = fixture.guard().await;
    let lost = guard.lost().await;
    fixture.network.always(Operation::Renew, None);
    sleep(secs(120)).await;
    assert_eq!(guard.check(), Err(lost.clone()));
    assert_eq!(guard.renew_if_below(secs(1)).await.unwrap_err().lost(), Some(&lost));
    assert_eq!(guard.remaining(), Some(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn work_is_stopped_one_grace_time_early() {
    let fixture = Fixture::with(|b| b.grace(secs(5)));
    fixture.network.always(Operation::Renew, Fault::LoseRequest);
    let started = Instant::now();
    let guard = fixture.guard().await;
    guard.run(pending::<()>()).await.unwrap_err();
    assert_close(started.elapsed(), VALID - secs(5));
    guard.check().expect("there is time to clean up under the lock");
    guard.lost().await;
    assert_close(started.elapsed(), VALID);
}

#[tokio::test(start_paused = true)]
async fn run_returns_the_output_of_finished_work() {
    let fixture = Fixture::new();
    let guard = fixture.guard().await;
    let done = guard.run(async {
        sleep(10 * TTL).await;
        42
    });
    assert_eq!(done.await, Ok(42));
}

#[tokio::test(start_paused = true)]
async fn max_hold_ends_a_guard_despite_its_renewals() {
    let fixture = Fixture::with(|b| b.max_hold(secs(100)));
    let started = Instant::now();
    let guard = fixture.guard().await;
    assert_eq!(guard.lost().await.reason, LossReason::MaxHold);
    assert_close(started.elapsed(), secs(100));
    fixture.freed_after().await;
    assert!(started.elapsed() <= secs(100) + TTL, "renewals must stop at max_hold");
}

#[tokio::test(start_paused = true)]
async fn no_lease_outlives_the_callers_deadline() {
    let fixture = Fixture::new();
    let started = Instant::now();
    let guard = acquired(fixture.locker.lock(NAME).deadline(secs(12)).try_acquire().await);
    let holder = fixture.other().admin().inspect(NAME).await.unwrap().unwrap();
    assert!(holder.expires_in.unwrap() <= secs(12), "{holder}");
    guard.lost().await;
    assert!(started.elapsed() <= secs(12), "{:?}", started.elapsed());
    fixture.freed_after().await;
    assert!(started.elapsed() <= secs(12) + ms(5), "the lock must be free at the deadline: {:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn renewals_do_not_move_a_lease_past_the_deadline() {
    let fixture = Fixture::new();
    let started = Instant::now();
    let guard = acquired(fixture.locker.lock(NAME).deadline(secs(45)).try_acquire().await);
    guard.lost().await;
    assert!((secs(40)..=secs(45)).contains(&started.elapsed()), "{:?}", started.elapsed());
    assert_eq!(guard.lost().await.reason, LossReason::Deadline);
    assert!(fixture.network.sent(Operation::Renew) >= 2);
    fixture.freed_after().await;
    assert!(started.elapsed() <= secs(45) + ms(5), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_refused_renewal_does_not_delay_the_next() {
    let fixture = Fixture::with(|b| b.renew(Renew::Manual));
    let guard = fixture.guard().await;
    for _ in 0..3 {
        sleep(secs(5)).await;
        fixture.network.next(Operation::Renew, Fault::Refuse(ErrorKind::PermissionDenied));
        guard.renew_if_below(secs(25)).await.unwrap_err();
    }
    guard.renew_if_below(secs(25)).await.unwrap();
    assert_close(guard.remaining().unwrap(), VALID);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_guards_are_renewed_by_one_locker() {
    let fixture = Fixture::new();
    let mut guards = Vec::new();
    for i in 0..1_000 {
        guards.push(acquired(fixture.locker.try_acquire(format!("lock-{i}")).await));
    }
    sleep(5 * TTL).await;
    assert!(guards.iter().all(|g| g.check().is_ok()));
    assert_eq!(fixture.other().admin().list("lock-").await.unwrap().locks.len(), 1_000);
    fixture.network.always(Operation::Renew, Fault::LoseRequest);
    sleep(VALID).await;
    assert!(guards.iter().all(|g| g.check().is_err()), "every guard must be lost");
}

#[tokio::test(start_paused = true)]
async fn one_hung_renewal_delays_no_other_renewal() {
    let fixture = Fixture::new();
    let mut guards = Vec::new();
    for i in 0..10 {
        guards.push(acquired(fixture.locker.try_acquire(format!("lock-{i}")).await));
    }
    fixture.network.next(Operation::Renew, Fault::LoseRequest);
    // All renewals are due within the first 10 s; the hung renewal lasts 5 s longer.
    sleep(secs(10) + ms(100)).await;
    assert_eq!(fixture.network.sent(Operation::Renew), 10);
    let renewed = guards.iter().filter(|g| g.remaining().unwrap() > VALID - secs(2)).count();
    assert_eq!(renewed, 9);
    sleep(secs(10)).await;
    assert!(guards.iter().all(|g| g.remaining().unwrap() > VALID - secs(12)), "the hung renewal was not retried");
}

#[tokio::test(start_paused = true)]
async fn a_shorter_lease_wakes_the_sleeping_renewer() {
    let fixture = Fixture::new();
    let _long = fixture.guard().await;
    sleep(ms(10)).await;
    let short = acquired(fixture.locker.lock("short").ttl(ms(300)).try_acquire().await);
    sleep(secs(3)).await;
    short.check().unwrap();
}

#[tokio::test(start_paused = true)]
async fn max_hold_counts_from_the_acquisition() {
    let fixture = Fixture::new();
    let held = acquired(fixture.other().try_acquire(NAME).await);
    let releaser = async {
        sleep(secs(20)).await;
        release(held).await;
    };
    let (guard, ()) = tokio::join!(fixture.locker.lock(NAME).max_hold(secs(30)).acquire(), releaser);
    let guard = guard.unwrap();
    sleep(secs(15)).await;
    guard.check().expect("35 s after the request, 15 s after the acquisition");
}

#[tokio::test(start_paused = true)]
async fn the_first_reason_of_a_loss_is_kept() {
    let fixture = Fixture::with(|b| b.renew(Renew::Every(secs(5))).max_hold(secs(6)));
    fixture.network.always(Operation::Renew, Fault::DelayRequest(secs(3)));
    let guard = fixture.guard().await;
    assert_eq!(guard.lost().await.reason, LossReason::MaxHold);
    fixture.store.lose(NAME);
    sleep(secs(5)).await;
    assert_eq!(fixture.network.sent(Operation::Renew), 1);
    assert_eq!(guard.check().unwrap_err().reason, LossReason::MaxHold);
}

#[tokio::test(start_paused = true)]
async fn losses_and_renewals_wake_their_waiters_immediately() {
    let fixture = Fixture::with(|b| b.renew(Renew::Manual));
    let guard = fixture.guard().await;
    sleep(ms(500)).await;
    let renewed = async {
        guard.renewed().await;
        Instant::now()
    };
    let (told, done) = tokio::join!(timeout(secs(1), renewed), guard.renew_if_below(VALID));
    done.unwrap();
    assert_close(told.unwrap().elapsed(), Duration::ZERO);
    sleep(ms(500)).await;
    let loss = async {
        sleep(ms(100)).await;
        fixture.store.lose(NAME);
        guard.renew_if_below(VALID - ms(100)).await.unwrap_err();
        Instant::now()
    };
    let (_, lost) = tokio::join!(guard.lost(), loss);
    assert_close(lost.elapsed(), Duration::ZERO);
}

/// A store without a ttl that grants everything.
#[derive(Debug)]
struct Endless;

#[async_trait]
impl Backend for Endless {
    fn describe(&self) -> String {
        "endless:".into()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn timings(&self) -> StoreTimings {
        StoreTimings::default()
    }

    async fn acquire(&self, _: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        Ok(AcquireOutcome::Granted(Grant::default()))
    }

    async fn renew(&self, _: &Lease) -> Result<Renewal, Error> {
        Ok(Renewal::Renewed)
    }

    async fn release(&self, _: &Lease, _: Duration) -> Result<Release, Error> {
        Ok(Release::Released)
    }
}

#[tokio::test(start_paused = true)]
async fn the_longest_limit_without_a_ttl_causes_no_panic() {
    let locker = Locker::new(Endless).unwrap();
    for endless in [locker.lock(NAME).max_hold(Duration::MAX), locker.lock(NAME).deadline(Duration::MAX)] {
        let guard = acquired(endless.try_acquire().await);
        assert_eq!(guard.expires_at(), None);
        assert!(guard.remaining().unwrap() > 1_000 * TTL && guard.valid_until().is_some());
        sleep(TTL).await;
        guard.renew_if_below(TTL).await.unwrap();
        release(guard).await;
    }
    let guard = acquired(locker.try_acquire(NAME).await);
    assert_eq!((guard.remaining(), guard.expires_at()), (None, None));
}
