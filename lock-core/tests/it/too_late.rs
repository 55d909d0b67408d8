//! A lock that is granted when its lease is over: nobody has it, and it is given back.

use crate::fixture::*;
use lock_core::{ErrorKind, Operation, Renew, faults::Fault};

/// The first grant comes too late, and so many releases fail.
fn granted_too_late(failing_releases: usize) -> Fixture {
    let fixture = Fixture::with(|b| b.ttl(secs(1)).renew(Renew::Manual));
    // Within the attempt's time, which the ttl bounds, two late replies in a row use the lease up.
    for fault in [Fault::LoseReply, Fault::LoseReply, Fault::DelayReply(ms(350))] {
        fixture.network.next(Operation::Acquire, fault);
    }
    for _ in 0..failing_releases {
        fixture.network.next(Operation::Release, Fault::Refuse(ErrorKind::Unavailable));
    }
    fixture
}

#[tokio::test(start_paused = true)]
async fn a_reply_after_the_lease_grants_no_guard() {
    let fixture = granted_too_late(0);
    let error = fixture.locker.try_acquire(NAME).await.unwrap_err();
    assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::Timeout, false), "{error}");
    assert!(fixture.freed_after().await < ms(100), "what was granted too late was given back");
}

#[tokio::test(start_paused = true)]
async fn an_unreleased_late_grant_is_not_reported_contended() {
    // As many as are sent at once, and more.
    for failing in [3, 5] {
        let fixture = granted_too_late(failing);
        let request = fixture
            .locker
            .lock(NAME)
            .on_contention(|holder| panic!("nobody else is there, but it is held by {holder}"));
        let guard = acquired(request.acquire_within(secs(20)).await);
        assert_eq!(fixture.network.sent(Operation::Release), failing as u64 + 1, "then it was given back");
        release(guard).await;
        assert!(fixture.is_free().await);
    }
}

#[tokio::test(start_paused = true)]
async fn the_background_releases_a_late_grant_after_failures() {
    let fixture = granted_too_late(3);
    let error = fixture.locker.try_acquire(NAME).await.unwrap_err();
    assert!(error.is_ambiguous(), "it may be held: {error:?}");
    fixture.locker.wait_idle().await;
    assert_eq!(fixture.network.sent(Operation::Release), 4);
    assert!(fixture.is_free().await);
}
