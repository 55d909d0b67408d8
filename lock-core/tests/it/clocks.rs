//! P2 on machines that are suspended or frozen, or whose clocks are set.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fixture::*;
use lock_core::{LockRequest, LossReason, Renew};
use tokio::time::{Instant, sleep, timeout};

#[tokio::test(start_paused = true)]
async fn a_suspended_process_detects_loss_before_acting() {
    let fixture = Fixture::new();
    let guard = fixture.guard().await;
    let steps = AtomicUsize::new(0);
    let work = async {
        loop {
            steps.fetch_add(1, Ordering::Relaxed);
            fixture.clock.suspend(secs(60));
            tokio::task::yield_now().await;
        }
    };
    let lost = guard.run(work).await.unwrap_err();
    assert_eq!(steps.load(Ordering::Relaxed), 1, "the work ran after the suspension");
    assert!(matches!(lost.reason, LossReason::FrozenFor(gap) if gap >= secs(60)), "{lost}");
}

#[tokio::test(start_paused = true)]
async fn a_suspension_ends_a_waiting_guard_within_a_second() {
    let fixture = Fixture::new();
    let guard = fixture.guard().await;
    fixture.clock.suspend(secs(60));
    let lost = timeout(ms(1_001), guard.lost()).await.unwrap();
    assert!(matches!(lost.reason, LossReason::FrozenFor(_)), "{lost}");
}

#[tokio::test(start_paused = true)]
async fn a_thawed_machine_detects_loss_by_wall_clock() {
    let fixture = Fixture::new();
    let guard = fixture.guard().await;
    fixture.clock.thaw_after(secs(28));
    assert_eq!(guard.check().unwrap_err().reason, LossReason::ClockJumped(secs(28)));
}

#[tokio::test(start_paused = true)]
// verifies: P3, clock-set, true-reason
async fn wall_clock_set_forward_is_the_reason_of_every_end() {
    let day = secs(86_400);
    let choices: [fn(LockRequest) -> LockRequest; 4] =
        [|lock| lock, |lock| lock.max_hold(secs(60)), |lock| lock.deadline(secs(60)), |lock| lock.renew(Renew::Manual)];
    for choose in choices {
        let fixture = Fixture::new();
        let guard = acquired(choose(fixture.locker.lock(NAME)).try_acquire().await);
        sleep(secs(3)).await;
        fixture.clock.thaw_after(day);
        let lost = guard.lost().await;
        assert_eq!(lost.reason, LossReason::ClockJumped(day));
        assert!(lost.to_string().contains("the wall clock jumped forward by 86400.0 s"), "{lost}");
    }
}

#[tokio::test(start_paused = true)]
async fn limit_reached_before_a_jump_stays_the_reason() {
    let fixture = Fixture::with(|builder| builder.max_hold(secs(60)));
    let guard = fixture.guard().await;
    sleep(secs(60)).await;
    fixture.clock.thaw_after(secs(100));
    assert_eq!(guard.check().unwrap_err().reason, LossReason::MaxHold);
}

#[tokio::test(start_paused = true)]
// verifies: P3, hold-limits, true-reason
async fn check_within_names_the_limit_that_comes_first() {
    let fixture = Fixture::with(|builder| builder.max_hold(secs(60)));
    let guard = fixture.guard().await;
    sleep(secs(50)).await;
    guard.check_within(secs(9)).unwrap();
    assert_eq!(guard.check_within(secs(11)).unwrap_err().reason, LossReason::MaxHold);
    guard.check().unwrap();
}

#[tokio::test(start_paused = true)]
async fn setting_the_wall_clock_back_extends_no_lease() {
    let fixture = Fixture::with(|b| b.renew(Renew::Manual));
    let guard = fixture.guard().await;
    fixture.clock.set_back(secs(3600));
    let started = Instant::now();
    let lost = guard.lost().await;
    assert_close(started.elapsed(), VALID);
    assert_eq!(lost.reason, LossReason::Expired);
}

#[tokio::test(start_paused = true)]
async fn a_small_clock_step_forward_only_shortens_validity() {
    let fixture = Fixture::with(|b| b.renew(Renew::Manual));
    let guard = fixture.guard().await;
    fixture.clock.thaw_after(secs(10));
    assert_close(guard.remaining().unwrap(), VALID - secs(10));
    guard.check().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_soon_after_a_short_suspension() {
    let fixture = Fixture::new();
    let guard = fixture.guard().await;
    sleep(ms(10)).await;
    fixture.clock.suspend(secs(15));
    sleep(secs(1) + ms(10)).await;
    assert!(guard.remaining().unwrap() > VALID - secs(2), "{:?}", guard.remaining());
}

#[tokio::test(start_paused = true)]
async fn a_freeze_detected_by_the_renewer_stays_the_reason() {
    let fixture = Fixture::new();
    let guard = fixture.guard().await;
    fixture.clock.suspend(secs(60));
    sleep(secs(3)).await;
    assert!(matches!(guard.check().unwrap_err().reason, LossReason::FrozenFor(gap) if gap >= secs(60)));
}

#[tokio::test(start_paused = true)]
async fn work_that_outlives_the_lock_is_an_error() {
    let fixture = Fixture::new();
    let guard = fixture.guard().await;
    let blocking = async { fixture.clock.suspend(secs(60)) };
    assert!(guard.run(blocking).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn no_step_of_the_work_runs_after_a_suspension() {
    let fixture = Fixture::new();
    let guard = fixture.guard().await;
    let (go, steps) = (tokio::sync::Notify::new(), AtomicUsize::new(0));
    let work = async {
        go.notified().await;
        steps.fetch_add(1, Ordering::Relaxed);
    };
    let suspend = async {
        fixture.clock.suspend(secs(60));
        go.notify_one();
    };
    let (outcome, ()) = tokio::join!(guard.run(work), suspend);
    outcome.unwrap_err();
    assert_eq!(steps.load(Ordering::Relaxed), 0);
}
