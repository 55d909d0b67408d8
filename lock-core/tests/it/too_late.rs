//! A grant that arrives after its lease has expired yields no guard and is released.

use crate::fixture::*;
use lock_core::{ErrorKind, Operation, Renew, faults::Fault};

/// The first grant arrives too late, and the first `failing_releases` releases fail.
fn granted_too_late(failing_releases: usize) -> Fixture {
    let fixture = Fixture::with(|b| b.ttl(secs(1)).renew(Renew::Manual));
    // The ttl bounds the time of an attempt: two lost replies in a row use up the lease.
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
    assert!(fixture.freed_after().await < ms(100), "the late grant was not released");
}

#[tokio::test(start_paused = true)]
async fn an_unreleased_late_grant_is_not_reported_contended() {
    // As many failures as there are immediate retries, and more.
    for failing in [3, 5] {
        let fixture = granted_too_late(failing);
        let request = fixture
            .locker
            .lock(NAME)
            .on_contention(|holder| panic!("there is no other client, but the lock is held by {holder}"));
        let guard = acquired(request.acquire_within(secs(20)).await);
        assert_eq!(
            fixture.network.sent(Operation::Release),
            failing as u64 + 1,
            "the retry after the failures releases the lock"
        );
        release(guard).await;
        assert!(fixture.is_free().await);
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_attempt_waits_for_the_background_release() {
    let fixture = granted_too_late(3);
    let error = fixture.locker.try_acquire(NAME).await.unwrap_err();
    assert!(error.is_ambiguous(), "the lock may still be held: {error:?}");
    // The next attempt waits for that release, and does not contend with its own lock.
    let guard = acquired(fixture.locker.try_acquire(NAME).await);
    assert_eq!(fixture.network.sent(Operation::Release), 4);
    release(guard).await;
    assert!(fixture.is_free().await);
}
