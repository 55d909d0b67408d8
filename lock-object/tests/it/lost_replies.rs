//! Tests lost, late, repeated and refused requests: which client holds the lock afterwards.

use std::{sync::Arc, time::Duration};

use lock_core::{
    ErrorKind, Guard, Locker, Renew, TryAcquire,
    backend::{AcquireOutcome, Backend, Lease, Release, Renewal},
};
use lock_object::ObjectBackend;
use test_support::{
    until,
    wire::{Fault, Wire},
};

use crate::fixture::{Bucket, Kind, granted, name, request};

const TTL: Duration = Duration::from_secs(60);

struct Setup {
    bucket: Bucket,
    wire: Wire,
    backend: Arc<ObjectBackend>,
    other: ObjectBackend,
}

/// A client behind the proxy that has passed the start-up probe, and another client.
async fn setup() -> Setup {
    let bucket = Bucket::new(Kind::Moto).await;
    let wire = Wire::start(bucket.address);
    let backend = Arc::new(ObjectBackend::new(bucket.config_at(&wire.endpoint())).unwrap());
    let other = bucket.backend();
    for client in [&*backend, &other] {
        let lease = granted(client, &request(&name("first"), TTL)).await;
        let _ = client.release(&lease, Duration::ZERO).await.unwrap();
    }
    wire.take_seen();
    Setup { bucket, wire, backend, other }
}

impl Setup {
    fn locker(&self) -> Locker {
        // An attempt has 0.9 s.
        Locker::builder(Arc::clone(&self.backend) as _)
            .ttl(Duration::from_secs(4))
            .renew(Renew::Manual)
            .build()
            .unwrap()
    }

    async fn is_free(&self, at: &str) -> bool {
        let request = request(&name(at), TTL);
        match self.other.acquire(&request).await.unwrap() {
            AcquireOutcome::Granted(grant) => {
                let _ = self.other.release(&request.lease(grant.token), Duration::ZERO).await.unwrap();
                true
            }
            AcquireOutcome::Contended(_) => false,
        }
    }
}

async fn acquired(locker: &Locker, name: &str) -> Guard {
    match locker.try_acquire(name).await.unwrap() {
        TryAcquire::Acquired(guard) => guard,
        TryAcquire::Contended(holder) => panic!("held by {holder}"),
    }
}

#[tokio::test]
// verifies: lost-reply
async fn a_lost_reply_to_an_acquire_is_found_to_be_ours() {
    let setup = setup().await;
    setup.wire.next(None);
    setup.wire.next(Fault::LoseReply);
    let guard = acquired(&setup.locker(), "a").await;
    assert_eq!(setup.wire.take_seen(), ["GET", "PUT", "GET", "PUT"], "the second finds its own id, and begins a ttl");
    guard.check().unwrap();
    assert!(!setup.is_free("a").await);
    assert_eq!(guard.release().await.unwrap(), Release::Released);
    assert!(setup.is_free("a").await);
}

#[tokio::test]
// verifies: lost-reply
async fn lost_replies_to_renewal_and_release_are_resolved() {
    let setup = setup().await;
    let lease = held(&setup).await;
    unanswered(&setup, setup.backend.renew(&lease)).await;
    assert_eq!(setup.backend.renew(&lease).await.unwrap(), Renewal::Renewed);
    assert_eq!(setup.wire.take_seen(), ["PUT", "PUT", "GET", "PUT"], "only a write of this attempt renews");
    unanswered(&setup, setup.backend.release(&lease, Duration::ZERO)).await;
    assert_eq!(setup.backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    assert_eq!(setup.wire.take_seen(), ["PUT", "PUT", "GET"], "the read finds the release done");
    assert!(setup.is_free("a").await);
}

/// Sends a request that takes effect, but whose reply is lost, and gives it up.
async fn unanswered<T>(setup: &Setup, request: impl Future<Output = T>) {
    let answered = setup.wire.answered();
    setup.wire.next(Fault::LoseReply);
    tokio::select! {
        _ = request => panic!("a lost reply is no answer"),
        () = until("the store to answer", async || setup.wire.answered() > answered) => {}
    }
}

/// Sends a request that the proxy holds, and gives it up.
async fn abandoned<T>(setup: &Setup, passed: usize, request: impl Future<Output = T>) {
    setup.wire.take_seen();
    for _ in 0..passed {
        setup.wire.next(None);
    }
    setup.wire.next(Fault::Hold);
    let mut seen = 0;
    tokio::select! {
        _ = request => panic!("a held request has no answer"),
        () = until("the proxy to hold the request", async || {
            seen += setup.wire.take_seen().len();
            seen > passed
        }) => {}
    }
}

/// Lets the held request arrive, and waits until the store has answered it.
async fn arrives(setup: &Setup) {
    let answered = setup.wire.answered();
    setup.wire.let_go();
    until("the late request to be answered", async || setup.wire.answered() > answered).await;
}

#[tokio::test]
// verifies: late-request
async fn an_acquire_that_arrives_after_its_release_fails() {
    let setup = setup().await;
    let used = granted(&setup.other, &request(&name("used"), TTL)).await;
    let _ = setup.other.release(&used, Duration::ZERO).await.unwrap();
    for at in ["new", "used"] {
        let late = request(&name(at), TTL);
        abandoned(&setup, 1, setup.backend.acquire(&late)).await;
        let answer = setup.backend.release(&late.lease(None), Duration::ZERO).await.unwrap();
        assert_eq!(answer, Release::NotHeld(None));
        arrives(&setup).await;
        let (mine, theirs) = (request(&name(at), TTL), setup.bucket.backend());
        let lease = granted(&theirs, &mine).await;
        assert_eq!(theirs.renew(&lease).await.unwrap(), Renewal::Renewed);
    }
}

#[tokio::test]
// verifies: late-request
async fn a_throttled_retry_does_not_forget_the_request_before_it() {
    let setup = setup().await;
    let used = granted(&setup.other, &request(&name("used"), TTL)).await;
    let _ = setup.other.release(&used, Duration::ZERO).await.unwrap();
    for at in ["new", "used"] {
        for (status, code, kind) in
            [(503, "SlowDown", ErrorKind::Throttled), (409, "ConditionalRequestConflict", ErrorKind::Throttled)]
        {
            let late = request(&name(at), TTL);
            abandoned(&setup, 1, setup.backend.acquire(&late)).await;
            setup.wire.next(None);
            setup.wire.next(Fault::RefuseXml(status, code));
            if status == 409 {
                // The attempt reads and writes once more.
                setup.wire.next(None);
                setup.wire.next(Fault::RefuseXml(503, "SlowDown"));
            }
            assert_eq!(setup.backend.acquire(&late).await.unwrap_err().kind(), kind);
            let answer = setup.backend.release(&late.lease(None), Duration::ZERO).await.unwrap();
            assert_eq!(answer, Release::NotHeld(None));
            arrives(&setup).await;
            assert!(setup.is_free(at).await, "{at} {code}");
        }
    }
}

#[tokio::test]
// verifies: late-request
async fn a_release_counters_a_write_that_met_a_conflict() {
    let setup = setup().await;
    let used = granted(&setup.other, &request(&name("used"), TTL)).await;
    let _ = setup.other.release(&used, Duration::ZERO).await.unwrap();
    for at in ["new", "used"] {
        let request = request(&name(at), TTL);
        for refusal in [(409, "ConditionalRequestConflict"), (503, "SlowDown")] {
            setup.wire.next(None);
            setup.wire.next(Fault::RefuseXml(refusal.0, refusal.1));
        }
        assert_eq!(setup.backend.acquire(&request).await.unwrap_err().kind(), ErrorKind::Throttled);
        setup.wire.take_seen();
        let answer = setup.backend.release(&request.lease(None), Duration::ZERO).await.unwrap();
        assert_eq!(answer, Release::NotHeld(None));
        let seen = setup.wire.take_seen();
        assert!(seen.len() > 1 && seen[..2] == ["GET", "PUT"], "a copy of the write may still arrive: {seen:?}");
        assert!(setup.is_free(at).await);
    }
}

#[tokio::test]
async fn an_acquire_that_arrives_before_its_release_is_undone() {
    let setup = setup().await;
    let late = request(&name("a"), TTL);
    abandoned(&setup, 1, setup.backend.acquire(&late)).await;
    arrives(&setup).await;
    assert!(!setup.is_free("a").await);
    assert_eq!(setup.backend.release(&late.lease(None), Duration::ZERO).await.unwrap(), Release::Released);
    assert!(setup.is_free("a").await);
}

#[tokio::test]
async fn a_late_acquire_never_replaces_the_next_holder() {
    let setup = setup().await;
    let late = request(&name("a"), TTL);
    abandoned(&setup, 1, setup.backend.acquire(&late)).await;
    let lease = granted(&setup.other, &request(&name("a"), TTL)).await;
    arrives(&setup).await;
    assert_eq!(setup.other.renew(&lease).await.unwrap(), Renewal::Renewed);
    assert!(matches!(setup.backend.acquire(&late).await.unwrap(), AcquireOutcome::Contended(_)));
    let answer = setup.backend.release(&late.lease(None), Duration::ZERO).await.unwrap();
    assert!(matches!(answer, Release::NotHeld(Some(_))), "{answer:?}");
    assert_eq!(setup.other.renew(&lease).await.unwrap(), Renewal::Renewed);
}

async fn held(setup: &Setup) -> Lease {
    let lease = granted(&*setup.backend, &request(&name("a"), TTL)).await;
    setup.wire.take_seen();
    lease
}

#[tokio::test]
async fn a_late_renewal_does_not_count_as_a_new_one() {
    let setup = setup().await;
    let lease = held(&setup).await;
    abandoned(&setup, 0, setup.backend.renew(&lease)).await;
    arrives(&setup).await;
    assert_eq!(setup.backend.renew(&lease).await.unwrap(), Renewal::Renewed);
    assert_eq!(setup.wire.take_seen(), ["PUT", "GET", "PUT"], "only a write of this attempt renews");
}

#[tokio::test]
async fn a_renewal_that_arrives_after_the_release_fails() {
    let setup = setup().await;
    let lease = held(&setup).await;
    abandoned(&setup, 0, setup.backend.renew(&lease)).await;
    assert_eq!(setup.backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    arrives(&setup).await;
    assert!(setup.is_free("a").await);
}

#[tokio::test]
// verifies: late-request
async fn requests_that_are_delivered_twice_have_one_effect() {
    let setup = setup().await;
    let twice = request(&name("a"), TTL);
    setup.wire.next(None);
    setup.wire.next(Fault::Duplicate);
    let AcquireOutcome::Granted(grant) = setup.backend.acquire(&twice).await.unwrap() else { panic!("it is free") };
    assert!(grant.already_ours);
    let lease = twice.lease(grant.token);
    setup.wire.next(Fault::Duplicate);
    assert_eq!(setup.backend.renew(&lease).await.unwrap(), Renewal::Renewed);
    setup.wire.next(Fault::Duplicate);
    assert_eq!(setup.backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    assert!(setup.is_free("a").await);
}

#[tokio::test]
async fn a_conflict_of_conditional_writes_is_no_error() {
    let setup = setup().await;
    let conflict = Fault::RefuseXml(409, "ConditionalRequestConflict");
    setup.wire.next(None);
    setup.wire.next(conflict.clone());
    let lease = granted(&*setup.backend, &request(&name("a"), TTL)).await;
    assert_eq!(setup.wire.take_seen(), ["GET", "PUT", "GET", "PUT"]);
    setup.wire.next(conflict.clone());
    assert_eq!(setup.backend.renew(&lease).await.unwrap(), Renewal::Renewed);
    setup.wire.next(conflict);
    assert_eq!(setup.backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
}

#[tokio::test]
async fn a_renewal_that_only_meets_conflicts_is_retryable() {
    let setup = setup().await;
    let lease = held(&setup).await;
    for _ in 0..2 {
        setup.wire.next(Fault::RefuseXml(409, "ConditionalRequestConflict"));
        setup.wire.next(None);
    }
    let error = setup.backend.renew(&lease).await.unwrap_err();
    assert!(error.is_retryable() && error.kind() == ErrorKind::Unavailable, "{error}");
    assert_eq!(setup.backend.renew(&lease).await.unwrap(), Renewal::Renewed);
}

#[tokio::test]
// verifies: throttled
async fn refusals_of_the_service_are_errors_and_never_held() {
    let setup = setup().await;
    for (status, code, kind, is_ambiguous) in [
        (429, "TooManyRequests", ErrorKind::Throttled, false),
        (503, "SlowDown", ErrorKind::Throttled, false),
        (503, "ServiceUnavailable", ErrorKind::Unavailable, true),
        (500, "InternalError", ErrorKind::Unavailable, true),
        (403, "AccessDenied", ErrorKind::PermissionDenied, false),
        (403, "RequestTimeTooSkewed", ErrorKind::PermissionDenied, false),
        (501, "NotImplemented", ErrorKind::Config, false),
        (404, "NoSuchBucket", ErrorKind::StoreNotReady, false),
        (301, "PermanentRedirect", ErrorKind::Config, false),
        (409, "InvalidBucketState", ErrorKind::Other, true),
    ] {
        for passed in [0, 1] {
            if passed == 1 {
                setup.wire.next(None);
            }
            setup.wire.next(Fault::RefuseXml(status, code));
            let error = setup.backend.acquire(&request(&name("a"), TTL)).await.unwrap_err();
            assert_eq!((error.kind(), error.is_ambiguous()), (kind, is_ambiguous), "{status} {code}: {error}");
        }
    }
    assert!(setup.is_free("a").await);
}
