//! Manual renewal: `renew_if_below`, alone and beside the renewer.

use crate::fixture::*;
use lock_core::{ErrorKind, Operation, Renew, faults::Fault};
use tokio::time::{Instant, sleep, timeout};

#[tokio::test(start_paused = true)]
async fn validity_counts_from_the_send_of_a_lost_renewal() {
    let fixture = Fixture::with(|b| b.renew(Renew::Manual));
    let guard = fixture.guard().await;
    sleep(secs(20)).await;
    fixture.network.next(Operation::Renew, Fault::LoseReply);
    let sent = Instant::now();
    guard.renew_if_below(secs(20)).await.unwrap();
    assert_eq!(fixture.network.sent(Operation::Renew), 2);
    assert_close(guard.remaining().unwrap() + sent.elapsed(), VALID);
}

#[tokio::test(start_paused = true)]
async fn renew_if_below_renews_only_under_its_threshold() {
    let fixture = Fixture::with(|b| b.renew(Renew::Manual));
    let guard = fixture.guard().await;
    guard.renew_if_below(secs(20)).await.unwrap();
    assert_eq!(fixture.network.sent(Operation::Renew), 0);
    sleep(secs(10)).await;
    guard.renew_if_below(secs(20)).await.unwrap();
    assert_eq!(fixture.network.sent(Operation::Renew), 1);
    assert_close(guard.remaining().unwrap(), VALID);
    let error = guard.renew_if_below(secs(28)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    guard.check().unwrap();
}

#[tokio::test(start_paused = true)]
async fn renew_if_below_retries_a_too_short_renewal() {
    let fixture = Fixture::with(|b| b.renew(Renew::Manual));
    let guard = fixture.guard().await;
    sleep(secs(10)).await;
    fixture.network.next(Operation::Renew, Fault::DelayReply(secs(3)));
    guard.renew_if_below(secs(26)).await.unwrap();
    assert!(guard.remaining().unwrap() >= secs(26), "{:?}", guard.remaining());
    sleep(secs(10)).await;
    fixture.network.always(Operation::Renew, Fault::DelayReply(secs(3)));
    assert_eq!(guard.renew_if_below(secs(26)).await.unwrap_err().kind(), ErrorKind::Timeout);
    guard.check().unwrap();
}

#[tokio::test(start_paused = true)]
async fn renew_if_below_refuses_time_beyond_a_limit() {
    for limited in [|b: lock_core::LockRequest| b.deadline(secs(20)), |b: lock_core::LockRequest| b.max_hold(secs(20))]
    {
        let fixture = Fixture::with(|b| b.renew(Renew::Manual));
        let guard = acquired(limited(fixture.locker.lock(NAME)).try_acquire().await);
        sleep(secs(10)).await;
        assert_eq!(guard.renew_if_below(secs(15)).await.unwrap_err().kind(), ErrorKind::Config);
        guard.renew_if_below(secs(7)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn renew_if_below_reports_store_errors_while_held() {
    let fixture = Fixture::with(|b| b.renew(Renew::Manual));
    let guard = fixture.guard().await;
    sleep(secs(10)).await;
    fixture.network.always(Operation::Renew, Fault::Refuse(ErrorKind::PermissionDenied));
    assert_eq!(guard.renew_if_below(secs(20)).await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    guard.check().unwrap();
    fixture.network.always(Operation::Renew, None);
    fixture.store.lose(NAME);
    assert_eq!(guard.renew_if_below(secs(20)).await.unwrap_err().kind(), ErrorKind::Lost);
}

#[tokio::test(start_paused = true)]
async fn background_renewal_survives_a_cancelled_renew_if_below() {
    let fixture = Fixture::new();
    let guard = fixture.guard().await;
    sleep(ms(8_500)).await;
    fixture.network.next(Operation::Renew, Fault::LoseRequest);
    // The background renewal comes due during this call.
    timeout(secs(3), guard.renew_if_below(secs(26))).await.unwrap_err();
    sleep(3 * TTL).await;
    guard.check().unwrap();
}
