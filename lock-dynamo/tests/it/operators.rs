//! Tests inspect, list and init while the server throttles or fails, and reports that follow from
//! its replies.

use std::time::Duration;

use lock_core::{
    ErrorKind, LossReason,
    backend::{AcquireOutcome, Admin, Backend, Renewal},
};
use lock_dynamo::{DynamoBackend, Schema, TableOptions};
use serde_json::json;
use test_support::wire::{Fault, Wire};

use crate::fixture::{Table, request};

const LONG: Duration = Duration::from_secs(60);

async fn wired() -> (Table, Wire, DynamoBackend) {
    let table = Table::new(Schema::Native).await;
    let wire = Wire::start(table.server.address());
    let backend = DynamoBackend::new(table.config_at(&wire.endpoint()));
    (table, wire, backend)
}

const PASSING: [Fault; 3] = [
    Fault::Refuse(400, "ThrottlingException"),
    Fault::Refuse(400, "ProvisionedThroughputExceededException"),
    Fault::Refuse(500, "InternalServerError"),
];

#[tokio::test]
async fn inspect_and_list_retry_transient_failures() {
    let (_table, wire, backend) = wired().await;
    let held = request("held", LONG);
    assert!(matches!(backend.acquire(&held).await.unwrap(), AcquireOutcome::Granted(_)));
    for fault in PASSING {
        wire.take_seen();
        wire.next(fault.clone());
        assert!(backend.inspect(&held.name).await.unwrap().is_some(), "{fault:?}");
        assert_eq!(wire.take_seen(), ["GetItem"; 2], "{fault:?}");
        wire.next(fault.clone());
        wire.next(fault.clone());
        assert_eq!(backend.list("").await.unwrap().locks.len(), 1, "{fault:?}");
        assert_eq!(wire.take_seen(), ["Scan"; 3], "{fault:?}");
    }
    wire.next(Fault::LoseReply);
    assert!(backend.inspect(&held.name).await.unwrap().is_some());
}

#[tokio::test]
async fn list_of_more_than_a_page_is_complete() {
    let table = Table::new(Schema::Native).await;
    let backend = DynamoBackend::new(table.config());
    let big = |i| request(&format!("lock{i}"), LONG).with_data(vec![7; 300_000]);
    let requests: Vec<_> = (0..8).map(big).collect();
    for request in &requests {
        assert!(matches!(backend.acquire(request).await.unwrap(), AcquireOutcome::Granted(_)));
    }
    let page = table.client.scan().table_name(&table.name).send().await.unwrap();
    assert!(page.last_evaluated_key().is_some() && page.count() < 8, "DynamoDB scans one megabyte a page");
    let listed: Vec<_> = backend.list("lock").await.unwrap().locks.into_iter().map(|(name, _)| name).collect();
    assert_eq!(listed, requests.into_iter().map(|request| request.name).collect::<Vec<_>>());
}

#[tokio::test]
async fn init_retries_transient_failures() {
    let (table, wire, _) = wired().await;
    let config = table.config_for(&format!("{}-new", table.name)).endpoint(wire.endpoint());
    let backend = DynamoBackend::new(config);
    for fault in PASSING {
        wire.next(fault);
    }
    assert!(backend.init(&TableOptions::default()).await.unwrap());
    for fault in PASSING {
        wire.next(fault);
    }
    assert_eq!(backend.check().await.unwrap().problems, [""; 0]);
}

#[tokio::test]
async fn reads_fail_after_five_tries_and_refusals_at_once() {
    let (_table, wire, backend) = wired().await;
    wire.always(Fault::Refuse(400, "ThrottlingException"));
    let error = backend.list("").await.unwrap_err();
    assert!(error.kind() == ErrorKind::Throttled && error.is_retryable(), "{error}");
    assert_eq!(wire.take_seen(), ["Scan"; 5]);
    wire.always(Fault::Refuse(400, "AccessDeniedException"));
    assert_eq!(backend.list("").await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(wire.take_seen(), ["Scan"]);
    // The core retries the operations on locks.
    wire.always(Fault::Refuse(400, "ThrottlingException"));
    assert_eq!(backend.acquire(&request("a", LONG)).await.unwrap_err().kind(), ErrorKind::Throttled);
    assert_eq!(wire.take_seen(), ["UpdateItem"]);
}

#[tokio::test]
async fn batch_reports_each_loss_without_another_request() {
    let (_table, wire, backend) = wired().await;
    let leases: Vec<_> = (0..25).map(|i| request(&format!("lock{i}"), LONG).lease(None)).collect();
    let mut responses = vec![json!({}); 25];
    // DynamoDB returns the item; DynamoDB Local does not.
    responses[3] = json!({ "Error": { "Code": "ConditionalCheckFailed", "Message": "The conditional request \
        failed", "Item": {
        "key": { "S": "lock3" }, "owner": { "S": "etl-7" }, "ttl_ms": { "N": "20000" }, "fence": { "N": "9" },
        "version": { "S": format!("{}.0123456789abcdef", lock_core::backend::LeaseId::from(7)) },
    } } });
    responses[4] = json!({ "Error": { "Code": "ThrottlingError", "Message": "slow down" } });
    responses[5] = json!({ "Error": { "Code": "InternalServerError", "Message": "?" } });
    wire.next(Fault::Answer(json!({ "Responses": responses }).to_string()));
    let answers = backend.renew_many(&leases).await;
    assert_eq!(wire.take_seen(), ["BatchExecuteStatement"]);
    for (i, answer) in answers.into_iter().enumerate() {
        match (i, answer) {
            (3, Ok(Renewal::Lost(LossReason::TakenBy(holder)))) => {
                assert_eq!(holder.owner.as_deref(), Some("etl-7"));
                assert_eq!(holder.token.map(lock_core::FencingToken::get), Some(9));
            }
            (4, Err(error)) => assert!(error.kind() == ErrorKind::Throttled && !error.is_ambiguous(), "{error}"),
            (5, Err(error)) => assert!(error.kind() == ErrorKind::Unavailable && error.is_ambiguous(), "{error}"),
            (_, Ok(Renewal::Renewed)) => assert!(![3, 4, 5].contains(&i), "{i}"),
            (i, other) => panic!("{i}: {other:?}"),
        }
    }
}

/// The description of a table that is one of several replicas.
fn global(consistency: &str) -> String {
    json!({ "Table": {
        "TableName": "locks", "TableStatus": "ACTIVE", "MultiRegionConsistency": consistency,
        "GlobalTableVersion": "2019.11.21",
        "KeySchema": [{ "AttributeName": "key", "KeyType": "HASH" }],
        "AttributeDefinitions": [{ "AttributeName": "key", "AttributeType": "S" }],
        "Replicas": [
            { "RegionName": "us-west-2", "ReplicaStatus": "ACTIVE" },
            { "RegionName": "eu-central-1", "ReplicaStatus": "ACTIVE" },
        ],
    } })
    .to_string()
}

#[tokio::test]
async fn global_table_is_detected_by_its_replicas() {
    let (_table, wire, backend) = wired().await;
    wire.next(Fault::Answer(global("EVENTUAL")));
    let check = backend.check().await.unwrap();
    assert!(check.problems[0].contains("global table (us-west-2, eu-central-1)"), "{check:?}");
    assert!(check.problems[0].contains("use a table of one region"), "{check:?}");
    for _ in 0..2 {
        wire.next(Fault::Answer(global("EVENTUAL")));
    }
    let error = backend.init(&TableOptions::default()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::StoreNotReady && error.to_string().contains("us-west-2"), "{error}");
    wire.next(Fault::Answer(global("STRONG")));
    let check = backend.check().await.unwrap();
    assert!(!check.warnings.iter().chain(&check.problems).any(|found| found.contains("global")), "{check:?}");
}
