//! Counts requests with a proxy in front of the server.

use std::{error::Error as _, sync::Arc, time::Duration};

use lock_core::{
    ErrorKind, Locker, LossReason,
    backend::{AcquireOutcome, Admin, Backend, Break, Lease, Release, Renewal},
};
use lock_dynamo::{DynamoBackend, Schema};
use serde_json::json;
use test_support::wire::{Fault, Wire};

use crate::fixture::{Table, outlive, request};

const LONG: Duration = Duration::from_secs(60);

struct Wired {
    table: Table,
    wire: Wire,
    backend: DynamoBackend,
}

async fn wired(schema: Schema) -> Wired {
    let table = Table::new(schema).await;
    let wire = Wire::start(table.server.address());
    let backend = DynamoBackend::new(table.config_at(&wire.endpoint()));
    Wired { table, wire, backend }
}

#[tokio::test]
async fn uncontended_cycle_takes_two_requests_in_every_schema() {
    for &schema in Schema::ALL {
        let Wired { wire, backend, table: _table } = wired(schema).await;
        for _ in 0..5 {
            let request = request("cycle", LONG);
            let AcquireOutcome::Granted(grant) = backend.acquire(&request).await.unwrap() else { panic!("it is free") };
            assert_eq!(wire.take_seen(), ["UpdateItem"], "{schema}: acquire");
            assert_eq!(backend.release(&request.lease(grant.token), Duration::ZERO).await.unwrap(), Release::Released);
            let released = if schema == Schema::Python { "DeleteItem" } else { "UpdateItem" };
            assert_eq!(wire.take_seen(), [released], "{schema}: release");
        }
        assert_eq!(wire.connections(), 1, "{schema}: one connection serves all requests");
    }
}

#[tokio::test]
async fn a_grant_with_reserved_tokens_takes_one_request() {
    let Wired { wire, backend, table: _table } = wired(Schema::Native).await;
    for reserved in [0, 100, 100] {
        let request = request("reserved", LONG).with_reserved_tokens(reserved);
        let AcquireOutcome::Granted(grant) = backend.acquire(&request).await.unwrap() else { panic!("it is free") };
        assert_eq!(wire.take_seen(), ["UpdateItem"], "{reserved}");
        let _ = backend.release(&request.lease(grant.token), Duration::ZERO).await.unwrap();
        wire.take_seen();
    }
}

#[tokio::test]
async fn hand_over_takes_no_request() {
    let Wired { wire, backend, table: _table } = wired(Schema::Native).await;
    let locker = Locker::builder(Arc::new(backend)).hand_over(100).build().unwrap();
    let first = locker.acquire("handed").await.unwrap();
    let (second, third) =
        (tokio::spawn(locker.lock("handed").acquire()), tokio::spawn(locker.lock("handed").acquire()));
    // Until both wait in the process.
    tokio::task::yield_now().await;
    first.release().await.unwrap();
    let second = second.await.unwrap().unwrap();
    wire.take_seen();
    let token = second.token();
    second.release().await.unwrap();
    let third = third.await.unwrap().unwrap();
    assert_eq!(wire.take_seen(), [""; 0]);
    assert!(third.token() > token, "{:?} after {token:?}", third.token());
    third.release().await.unwrap();
    assert_eq!(wire.take_seen(), ["UpdateItem"]);
}

#[tokio::test]
async fn contended_attempt_takes_one_request_and_names_holder() {
    for &schema in Schema::ALL {
        let Wired { table, wire, backend } = wired(schema).await;
        let holder = DynamoBackend::new(table.config());
        assert!(matches!(holder.acquire(&request("held", LONG)).await.unwrap(), AcquireOutcome::Granted(_)));
        for _ in 0..3 {
            match backend.acquire(&request("held", LONG)).await.unwrap() {
                AcquireOutcome::Contended(holder) => assert_eq!(holder.owner.as_deref(), Some("test")),
                AcquireOutcome::Granted(_) => panic!("{schema}: it is held"),
            }
            assert_eq!(wire.take_seen(), ["UpdateItem"], "{schema}");
        }
    }
}

#[tokio::test]
async fn renewal_takes_one_request_even_if_lost() {
    let Wired { wire, backend, table: _table } = wired(Schema::Native).await;
    let request = request("renewed", LONG);
    assert!(matches!(backend.acquire(&request).await.unwrap(), AcquireOutcome::Granted(_)));
    let lease = request.lease(None);
    wire.take_seen();
    for _ in 0..5 {
        assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed);
    }
    assert_eq!(wire.take_seen(), ["UpdateItem"; 5]);
    let _ = backend.release(&lease, Duration::ZERO).await.unwrap();
    wire.take_seen();
    assert!(matches!(backend.renew(&lease).await.unwrap(), Renewal::Lost(_)));
    assert_eq!(wire.take_seen(), ["UpdateItem"]);
}

/// Holds so many locks, of which the second is lost.
async fn hold(backend: &DynamoBackend, count: usize) -> Vec<Lease> {
    let requests: Vec<_> = (0..count).map(|i| request(&format!("batch{i}"), LONG)).collect();
    for request in &requests {
        assert!(matches!(backend.acquire(request).await.unwrap(), AcquireOutcome::Granted(_)));
    }
    let leases: Vec<_> = requests.iter().map(|request| request.lease(None)).collect();
    assert_eq!(backend.release(&leases[1], Duration::ZERO).await.unwrap(), Release::Released);
    leases
}

fn renewed(answers: Vec<Result<Renewal, lock_core::Error>>) -> Vec<bool> {
    answers.into_iter().map(|answer| answer.unwrap() == Renewal::Renewed).collect()
}

#[tokio::test]
async fn batch_renews_25_leases_despite_one_lost() {
    for &schema in Schema::ALL {
        let Wired { wire, backend, table } = wired(schema).await;
        let leases = hold(&backend, 25).await;
        assert_eq!(backend.timings().renew_batch, 25);
        let other = DynamoBackend::new(table.config());
        assert!(matches!(other.acquire(&request("batch1", LONG)).await.unwrap(), AcquireOutcome::Granted(_)));
        wire.take_seen();
        let mut answers = backend.renew_many(&leases).await;
        let seen = wire.take_seen();
        assert_eq!(seen[0], "BatchExecuteStatement", "{schema}");
        // DynamoDB Local does not return the item of a refused statement, so there is one more, for
        // who took the lock.
        assert!(seen[1..].len() <= 1, "{schema}: {seen:?}");
        let Renewal::Lost(LossReason::TakenBy(holder)) = answers.remove(1).unwrap() else { panic!("{schema}: taken") };
        assert_eq!(holder.owner.as_deref(), Some("test"));
        assert_eq!(renewed(answers), [true; 24], "{schema}");
    }
}

#[tokio::test]
async fn broken_lease_and_its_successor_share_no_batch() {
    let Wired { wire: _wire, backend, table: _table } = wired(Schema::Native).await;
    let mut leases = hold(&backend, 3).await;
    let version = backend.inspect(&leases[0].name).await.unwrap().unwrap().version.unwrap();
    assert_eq!(backend.break_lock(&leases[0].name, &version, "alice").await.unwrap(), Break::Broken);
    let successor = request("batch0", LONG);
    assert!(matches!(backend.acquire(&successor).await.unwrap(), AcquireOutcome::Granted(_)));
    leases.push(successor.lease(None));
    assert_eq!(renewed(backend.renew_many(&leases).await), [false, false, true, true]);
}

/// Renewals of four locks where a batch is refused like this.
async fn one_by_one(refusal: Fault) {
    let Wired { wire, backend, table: _table } = wired(Schema::Native).await;
    let leases = hold(&backend, 4).await;
    wire.take_seen();
    wire.next(refusal);
    for requests in [5, 4] {
        assert_eq!(renewed(backend.renew_many(&leases).await), [true, false, true, true]);
        assert_eq!(wire.take_seen().len(), requests, "a refused batch is never sent again");
    }
}

#[tokio::test]
async fn renewals_go_one_by_one_without_batch_permission() {
    // The request as a whole is refused, or each statement of it.
    let denied = json!({ "Error": { "Code": "AccessDenied", "Message": "by the test" } });
    let statements = Fault::Answer(json!({ "Responses": vec![denied; 4] }).to_string());
    for refusal in [Fault::Refuse(400, "AccessDeniedException"), statements] {
        one_by_one(refusal).await;
    }
}

#[tokio::test]
async fn renewals_go_one_by_one_without_server_batches() {
    one_by_one(Fault::Refuse(400, "UnknownOperationException")).await;
}

#[tokio::test]
async fn lease_denied_in_a_batch_is_renewed_alone() {
    let Wired { wire, backend, table: _table } = wired(Schema::Native).await;
    let held = hold(&backend, 3).await;
    let leases = [held[0].clone(), held[2].clone()];
    wire.take_seen();
    let denied = json!({ "Error": { "Code": "AccessDenied" } });
    wire.next(Fault::Answer(json!({ "Responses": [{}, denied] }).to_string()));
    for single in [Some("UpdateItem"), None] {
        assert_eq!(renewed(backend.renew_many(&leases).await), [true, true]);
        let expected: Vec<_> = std::iter::once("BatchExecuteStatement").chain(single).collect();
        assert_eq!(wire.take_seen(), expected);
    }
}

#[tokio::test]
async fn expired_credentials_do_not_disable_batches() {
    let Wired { wire, backend, table: _table } = wired(Schema::Native).await;
    let leases = hold(&backend, 3).await;
    wire.take_seen();
    wire.next(Fault::Refuse(400, "ExpiredTokenException"));
    for answer in backend.renew_many(&leases).await {
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
    assert_eq!(wire.take_seen(), ["BatchExecuteStatement"]);
    assert_eq!(renewed(backend.renew_many(&leases).await), [true, false, true]);
    assert_eq!(wire.take_seen()[0], "BatchExecuteStatement", "batches continue after the credentials are refreshed");
}

#[tokio::test]
async fn leases_of_a_batch_are_retried_concurrently() {
    let Wired { wire, backend, table } = wired(Schema::Native).await;
    let leases = hold(&backend, 5).await;
    for lease in &leases[2..] {
        table.delete_item(&lease.name).await;
    }
    wire.next(None);
    for _ in 1..leases.len() {
        wire.next(Fault::LoseRequest);
    }
    // The longest time that the core gives to one renewal of them all.
    let mut answers = tokio::time::timeout(backend.timings().attempt_timeout, backend.renew_many(&leases))
        .await
        .expect("a hung request delays no other");
    assert_eq!(answers.remove(0).unwrap(), Renewal::Renewed);
    assert!(answers.into_iter().all(|answer| answer.unwrap_err().kind() == ErrorKind::Timeout));
}

#[tokio::test]
async fn failed_batch_is_an_error_but_no_loss() {
    let Wired { wire, backend, table: _table } = wired(Schema::Native).await;
    let leases = hold(&backend, 3).await;
    wire.next(Fault::Refuse(400, "ThrottlingException"));
    for answer in backend.renew_many(&leases).await {
        let error = answer.unwrap_err();
        assert!(error.kind() == ErrorKind::Throttled && error.is_retryable(), "{error}");
        let causes = std::iter::successors(error.source(), |&cause| cause.source());
        assert!(causes.last().expect("it has a cause").to_string().contains("by the test"), "{error:?}");
    }
    assert_eq!(renewed(backend.renew_many(&leases).await), [true, false, true]);
}

#[tokio::test]
async fn takeover_takes_two_requests_in_a_cold_process() {
    let Wired { table, wire, backend } = wired(Schema::Native).await;
    let ttl = Duration::from_millis(300);
    let holder = DynamoBackend::new(table.config());
    assert!(matches!(holder.acquire(&request("dead", ttl)).await.unwrap(), AcquireOutcome::Granted(_)));
    outlive(ttl).await;
    assert!(matches!(backend.acquire(&request("dead", ttl)).await.unwrap(), AcquireOutcome::Granted(_)));
    assert_eq!(wire.take_seen(), ["UpdateItem"; 2]);
}

#[tokio::test]
async fn retry_after_a_lost_reply_takes_two_requests() {
    let Wired { wire, backend, table: _table } = wired(Schema::Native).await;
    let request = request("mine", LONG);
    assert!(matches!(backend.acquire(&request).await.unwrap(), AcquireOutcome::Granted(_)));
    wire.take_seen();
    assert!(matches!(backend.acquire(&request).await.unwrap(), AcquireOutcome::Granted(grant) if grant.already_ours));
    assert_eq!(wire.take_seen(), ["UpdateItem"; 2], "one request to detect it, one for a whole ttl");
}

#[tokio::test]
async fn operators_calls_take_one_request_each() {
    let Wired { wire, backend, table: _table } = wired(Schema::Native).await;
    let request = request("looked at", LONG);
    assert!(matches!(backend.acquire(&request).await.unwrap(), AcquireOutcome::Granted(_)));
    wire.take_seen();
    let holder = backend.inspect(&request.name).await.unwrap().expect("it is held");
    assert_eq!(wire.take_seen(), ["GetItem"]);
    assert_eq!(backend.list("looked").await.unwrap().locks.len(), 1);
    assert_eq!(wire.take_seen(), ["Scan"]);
    let version = holder.version.expect("it can be broken");
    // A heartbeat in between does not prevent the break.
    assert_eq!(backend.renew(&request.lease(None)).await.unwrap(), Renewal::Renewed);
    wire.take_seen();
    assert_eq!(backend.break_lock(&request.name, &version, "alice").await.unwrap(), Break::Broken);
    assert_eq!(wire.take_seen(), ["UpdateItem"]);
}
