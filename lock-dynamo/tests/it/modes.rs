//! What the item of a lock with several holders costs and keeps.

use std::{num::NonZeroU16, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use lock_core::{
    LockName, Mode,
    backend::{AcquireOutcome, AcquireRequest, Admin, Backend, Break, Lease, LeaseId, Release, Renewal},
};
use lock_dynamo::{DynamoBackend, Schema};
use test_support::wire::Wire;

use crate::fixture::{Table, request};

const LONG: Duration = Duration::from_secs(60);

fn reader(name: &str) -> AcquireRequest {
    request(name, LONG).with_mode(Mode::Shared)
}

fn permit(name: &str, of: u16) -> AcquireRequest {
    request(name, LONG).with_mode(Mode::Permit { of: NonZeroU16::new(of).unwrap() })
}

async fn granted(backend: &DynamoBackend, request: &AcquireRequest) -> Lease {
    match backend.acquire(request).await.unwrap() {
        AcquireOutcome::Granted(grant) => request.lease(grant.token),
        AcquireOutcome::Contended(holder) => panic!("held by {holder}"),
    }
}

async fn refused(backend: &DynamoBackend, request: &AcquireRequest) {
    let answer = backend.acquire(request).await.unwrap();
    assert!(matches!(answer, AcquireOutcome::Contended(_)), "{answer:?}");
}

async fn released(backend: &DynamoBackend, lease: &Lease) {
    assert_eq!(backend.release(lease, Duration::ZERO).await.unwrap(), Release::Released);
}

/// The parts in the item of a lock.
async fn parts(table: &Table, name: &str) -> usize {
    let get = table.client.get_item().table_name(&table.name).key("key", AttributeValue::S(name.into()));
    let item = get.consistent_read(true).send().await.unwrap().item.expect("there is an item");
    item["parts"].as_m().unwrap().len()
}

#[tokio::test]
// verifies: P12
async fn a_part_takes_one_request_for_each_operation() {
    let table = Table::new(Schema::Native).await;
    let wire = Wire::start(table.server.address());
    let backend = DynamoBackend::new(table.config_at(&wire.endpoint()));
    // The first holder of an unused name.
    let first = granted(&backend, &reader("readers")).await;
    assert_eq!(wire.take_seen(), ["UpdateItem"; 2]);
    let second = granted(&backend, &reader("readers")).await;
    assert_eq!(wire.take_seen(), ["UpdateItem"]);
    assert_eq!(backend.renew(&second).await.unwrap(), Renewal::Renewed);
    assert_eq!(wire.take_seen(), ["UpdateItem"]);
    // A writer that waits also leaves a mark.
    refused(&backend, &request("readers", LONG)).await;
    assert_eq!(wire.take_seen(), ["UpdateItem"]);
    let waiting = request("readers", LONG).with_waits(true);
    refused(&backend, &waiting).await;
    assert_eq!(wire.take_seen(), ["UpdateItem"; 2]);
    for lease in [&first, &second] {
        released(&backend, lease).await;
        assert_eq!(wire.take_seen(), ["UpdateItem"]);
    }
    // The last reader left the item to the next holder, who needs its record.
    let writing = granted(&backend, &waiting).await;
    assert_eq!(wire.take_seen(), ["UpdateItem"; 2]);
    released(&backend, &writing).await;
    assert_eq!(wire.take_seen(), ["UpdateItem"]);
}

#[tokio::test]
// verifies: P12, not-ours
async fn many_readers_in_turn_leave_a_small_item() {
    let table = Table::new(Schema::Native).await;
    let backend = DynamoBackend::new(table.config());
    let staying = granted(&backend, &reader("turns")).await;
    for _ in 0..60 {
        let lease = granted(&backend, &reader("turns")).await;
        released(&backend, &lease).await;
        assert!(parts(&table, "turns").await <= 18);
    }
    assert_eq!(backend.renew(&staying).await.unwrap(), Renewal::Renewed);
}

#[tokio::test]
// verifies: late-request, P12
async fn a_late_acquire_takes_no_released_part() {
    let table = Table::new(Schema::Native).await;
    let backend = DynamoBackend::new(table.config());
    for request in [reader("late"), permit("late-permit", 3)] {
        let another = request.clone().with_id(LeaseId::random());
        let staying = granted(&backend, &another).await;
        let lease = granted(&backend, &request).await;
        released(&backend, &lease).await;
        // Another write, so that the version of the item names another client.
        assert_eq!(backend.renew(&staying).await.unwrap(), Renewal::Renewed);
        let error = backend.acquire(&request).await.unwrap_err();
        assert!(error.to_string().contains("was released while"), "{error}");
        // The release that repeats itself is told so.
        released(&backend, &lease).await;
    }
}

#[tokio::test]
// verifies: P3, P6, P12
async fn a_part_is_not_broken_as_a_single_holder() {
    let table = Table::new(Schema::Native).await;
    let backend = DynamoBackend::new(table.config());
    let lease = granted(&backend, &reader("broken")).await;
    let name = LockName::new("broken").unwrap();
    // The version that a single holder with this id would have.
    let answer = backend.break_lock(&name, &lease.id.to_string(), "an operator").await.unwrap();
    assert!(matches!(answer, Break::Changed(Some(_))), "{answer:?}");
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed);
    refused(&backend, &request("broken", LONG)).await;
}

#[tokio::test]
// verifies: P12, not-ours
async fn parts_that_cannot_be_read_keep_the_lock_held() {
    let table = Table::new(Schema::Native).await;
    let backend = DynamoBackend::new(table.config());
    let part = |value| AttributeValue::M([("not an id".to_owned(), value)].into());
    // A reader may join what only hides other readers.
    let joinable = [false, true];
    for (odd, joinable) in
        [AttributeValue::S("x".into()), part(AttributeValue::S("x".into()))].into_iter().zip(joinable)
    {
        let name = format!("odd-{joinable}");
        let lease = granted(&backend, &reader(&name)).await;
        let update = table.client.update_item().table_name(&table.name).key("key", AttributeValue::S(name.clone()));
        let update = update.update_expression("SET parts = :odd").expression_attribute_values(":odd", odd);
        update.send().await.unwrap();
        let mut requests = vec![request(&name, LONG), permit(&name, 2)];
        requests.extend((!joinable).then(|| reader(&name)));
        for request in requests {
            let error = backend.acquire(&request).await.unwrap_err();
            assert!(error.to_string().contains(&name), "{error}");
        }
        drop(lease);
    }
}

#[tokio::test]
// verifies: P12
async fn a_purge_removes_only_a_lock_without_holders() {
    let table = Table::new(Schema::Native).await;
    let backend = DynamoBackend::new(table.config());
    let name = LockName::new("purged").unwrap();
    let lease = granted(&backend, &reader("purged")).await;
    assert!(!backend.purge(&name).await.unwrap());
    released(&backend, &lease).await;
    assert!(backend.purge(&name).await.unwrap());
    let scan = table.client.scan().table_name(&table.name).send().await.unwrap();
    assert_eq!(scan.count(), 0);
}
