//! Tests lost requests and replies, hung connections and throttling: which client holds the lock
//! afterwards, and whether a loss is reported in time.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use lock_core::{
    ErrorKind, Guard, Locker, LossReason, Renew, TryAcquire,
    backend::{AcquireOutcome, Backend, Release, Renewal},
};
use lock_dynamo::{DynamoBackend, Schema};
use test_support::{
    until,
    wire::{Fault, Wire},
};

use crate::fixture::{Table, outlive, request};

const TTL: Duration = Duration::from_secs(2);

struct Setup {
    table: Table,
    wire: Wire,
    locker: Locker,
}

async fn setup() -> Setup {
    let table = Table::new(Schema::Native).await;
    let wire = Wire::start(table.server.address());
    let backend = DynamoBackend::new(table.config_at(&wire.endpoint()));
    let locker = Locker::builder(Arc::new(backend)).ttl(TTL).renew(Renew::Manual).build().unwrap();
    Setup { table, wire, locker }
}

async fn acquired(locker: &Locker, name: &str) -> Guard {
    match locker.try_acquire(name).await.unwrap() {
        TryAcquire::Acquired(guard) => guard,
        TryAcquire::Contended(holder) => panic!("held by {holder}"),
    }
}

/// Whether another process finds the lock free.
async fn is_free(table: &Table, name: &str) -> bool {
    let other = DynamoBackend::new(table.config());
    let request = request(name, TTL);
    match other.acquire(&request).await.unwrap() {
        AcquireOutcome::Granted(grant) => {
            let _ = other.release(&request.lease(grant.token), Duration::ZERO).await.unwrap();
            true
        }
        AcquireOutcome::Contended(_) => false,
    }
}

#[tokio::test]
// verifies: lost-reply
async fn a_lost_reply_to_an_acquire_is_found_to_be_ours() {
    let Setup { table, wire, locker } = setup().await;
    wire.next(Fault::LoseReply);
    let guard = acquired(&locker, "a").await;
    assert_eq!(wire.take_seen().len(), 3, "the lost request, one that finds its effect, one for a whole ttl");
    guard.check().unwrap();
    assert!(!is_free(&table, "a").await);
    assert_eq!(guard.release().await.unwrap(), Release::Released);
    assert!(is_free(&table, "a").await);
}

#[tokio::test]
// verifies: lost-request
async fn a_lost_request_to_acquire_is_sent_again() {
    let Setup { table, wire, locker } = setup().await;
    wire.next(Fault::LoseRequest);
    let guard = acquired(&locker, "a").await;
    assert!(!is_free(&table, "a").await);
    assert_eq!(guard.release().await.unwrap(), Release::Released);
}

#[tokio::test]
// verifies: lost-reply
async fn a_lost_reply_to_a_takeover_is_found_to_be_ours() {
    let Setup { table, wire, locker } = setup().await;
    let dead = DynamoBackend::new(table.config());
    let short = Duration::from_millis(100);
    assert!(matches!(dead.acquire(&request("a", short)).await.unwrap(), AcquireOutcome::Granted(_)));
    outlive(short).await;
    wire.next(None);
    wire.next(Fault::LoseReply);
    let guard = acquired(&locker, "a").await;
    assert!(!is_free(&table, "a").await);
    assert_eq!(guard.release().await.unwrap(), Release::Released);
}

#[tokio::test]
async fn interrupted_three_request_attempt_is_found_to_be_ours() {
    let Setup { table, wire, locker: _locker } = setup().await;
    let backend = DynamoBackend::new(table.config_at(&wire.endpoint()));
    let locker = Locker::builder(Arc::new(backend)).ttl(3 * TTL).renew(Renew::Manual).build().unwrap();
    let dead = DynamoBackend::new(table.config());
    let short = Duration::from_millis(100);
    assert!(matches!(dead.acquire(&request("a", short)).await.unwrap(), AcquireOutcome::Granted(_)));
    outlive(short).await;
    // The server returns no item with the refusal. A read and a takeover follow, which together
    // exceed the time of an attempt.
    let limit = locker.timing().attempt_timeout;
    wire.next(Fault::Refuse(400, "ConditionalCheckFailedException"));
    wire.next(Fault::DelayRequest(limit * 2 / 3));
    wire.next(Fault::DelayRequest(limit * 2 / 3));
    let guard = acquired(&locker, "a").await;
    assert_eq!(wire.take_seen()[..3], ["UpdateItem", "GetItem", "UpdateItem"]);
    guard.check().unwrap();
    assert!(!is_free(&table, "a").await);
    assert_eq!(guard.release().await.unwrap(), Release::Released);
    assert!(is_free(&table, "a").await);
}

#[tokio::test]
// verifies: lost-reply
async fn a_lost_reply_to_a_renewal_is_no_loss() {
    let Setup { table, wire, locker } = setup().await;
    let request = locker.lock("a").renew(Renew::Every(Duration::from_millis(200)));
    let Ok(TryAcquire::Acquired(guard)) = request.try_acquire().await else { panic!("it is free") };
    let acquired = Instant::now();
    wire.next(Fault::LoseReply);
    // By now only renewals after the lost one can have kept the lock.
    tokio::time::sleep_until((acquired + TTL + TTL / 4).into()).await;
    guard.check().unwrap();
    assert!(!is_free(&table, "a").await);
    assert_eq!(guard.release().await.unwrap(), Release::Released);
}

#[tokio::test]
// verifies: lost-reply
async fn a_lost_reply_to_a_release_is_a_release() {
    let Setup { table, wire, locker } = setup().await;
    let guard = acquired(&locker, "a").await;
    wire.next(Fault::LoseReply);
    assert_eq!(guard.release().await.unwrap(), Release::Released);
    assert!(is_free(&table, "a").await);
}

/// Drops a call as soon as its request is under way.
async fn abandon_once_sent<T: std::fmt::Debug>(wire: &Wire, call: impl Future<Output = T>) {
    wire.take_seen();
    tokio::select! {
        biased;
        answer = call => panic!("the request is delayed, but the answer is {answer:?}"),
        () = until("the request", async || !wire.take_seen().is_empty()) => {}
    }
}

#[tokio::test]
// verifies: late-request
async fn an_acquire_that_arrives_after_its_own_release_leaves_no_lock() {
    let Setup { table, wire, locker: _locker } = setup().await;
    let backend = DynamoBackend::new(table.config_at(&wire.endpoint()));
    let late = request("a", Duration::from_secs(60));
    let before = wire.answered();
    wire.next(Fault::Hold);
    abandon_once_sent(&wire, backend.acquire(&late)).await;
    // The retried acquisition succeeds and is released; then the first request arrives.
    let AcquireOutcome::Granted(grant) = backend.acquire(&late).await.unwrap() else { panic!("it is free") };
    let _ = backend.release(&late.lease(grant.token), Duration::ZERO).await.unwrap();
    wire.let_go();
    until("the first request to arrive", async || wire.answered() >= before + 3).await;
    assert!(is_free(&table, "a").await);
}

#[tokio::test]
// verifies: late-request
async fn delayed_renewal_does_not_shorten_a_later_one() {
    let Setup { table, wire, locker: _locker } = setup().await;
    let backend = DynamoBackend::new(table.config_at(&wire.endpoint()));
    let request = request("a", Duration::from_secs(60));
    assert!(matches!(backend.acquire(&request).await.unwrap(), AcquireOutcome::Granted(_)));
    let lease = request.lease(None);
    let before = wire.answered();
    wire.next(Fault::Hold);
    abandon_once_sent(&wire, backend.renew(&lease)).await;
    // Without a pause both renewals could end at the same millisecond.
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed);
    let later = table.expiry("a").await;
    wire.let_go();
    until("the first to arrive", async || wire.answered() >= before + 2).await;
    assert_eq!(table.expiry("a").await, later);
}

/// Renews in the background until the store fails. The loss must be reported while the item still
/// excludes other clients. The item must not exclude them for longer than a ttl after the last
/// possible renewal.
async fn lost_in_time(fault: Fault, expected: &str) {
    let Setup { table, wire, locker } = setup().await;
    let Ok(TryAcquire::Acquired(guard)) = locker.lock("a").renew(Renew::Auto).try_acquire().await else {
        panic!("it is free")
    };
    let acquired = wire.answered();
    until("a renewal in the background", async || wire.answered() > acquired).await;
    guard.check().unwrap();
    wire.always(fault);
    let last_chance = SystemTime::now();
    let lost =
        tokio::time::timeout(2 * TTL, guard.lost()).await.expect("a loss is reported while the store is unreachable");
    let LossReason::Unreachable { last_error, .. } = &lost.reason else { panic!("{lost}") };
    assert!(last_error.contains(expected), "{last_error}");
    assert!(!is_free(&table, "a").await, "the loss is reported before another client can acquire the lock");
    // Expiries are written to the millisecond, rounded up.
    let latest = last_chance + TTL + Duration::from_millis(1);
    assert!(table.expiry("a").await <= latest, "no item blocks others past its ttl");
    until("the item to let others in", async || is_free(&table, "a").await).await;
}

#[tokio::test]
// verifies: hung-renewal
async fn hung_connection_is_reported_as_loss_in_time() {
    lost_in_time(Fault::LoseRequest, "did not answer").await;
}

#[tokio::test]
// verifies: throttled
async fn throttling_past_the_deadline_is_a_loss_in_time() {
    lost_in_time(Fault::Refuse(400, "ProvisionedThroughputExceededException"), "throttles requests").await;
}

#[tokio::test]
// verifies: throttled
async fn short_throttling_is_retried_until_it_ends() {
    let Setup { wire, locker, table: _table } = setup().await;
    for _ in 0..2 {
        wire.next(Fault::Refuse(400, "ThrottlingException"));
    }
    let guard = acquired(&locker, "a").await;
    wire.next(Fault::Refuse(400, "ThrottlingException"));
    wire.next(Fault::Refuse(500, "InternalServerError"));
    assert_eq!(guard.release().await.unwrap(), Release::Released);
}

#[tokio::test]
async fn refused_requests_are_not_retried() {
    for (status, code, kind) in [
        (400, "AccessDeniedException", ErrorKind::PermissionDenied),
        (400, "ExpiredTokenException", ErrorKind::PermissionDenied),
        (400, "UnrecognizedClientException", ErrorKind::PermissionDenied),
        (400, "ResourceNotFoundException", ErrorKind::StoreNotReady),
        (400, "ValidationException", ErrorKind::Config),
    ] {
        let Setup { wire, locker, table: _table } = setup().await;
        wire.always(Fault::Refuse(status, code));
        let error = locker.try_acquire("a").await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(wire.take_seen().len(), 1, "{code}: a retry cannot help");
    }
}
