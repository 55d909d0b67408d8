//! The queue of fair requests on a server, whose limits the model does not have.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::join_all;
use lock_core::{
    Mode,
    backend::{AcquireRequest, Backend, LeaseId, Renewal},
};
use lock_dynamo::{DynamoBackend, Schema};

use crate::{
    fixture::{Table, granted, outlive, refused, released, request},
    modes::{item, reader},
};

const LONG: Duration = Duration::from_secs(60);
/// The most places of a queue.
const MOST: usize = 100;

fn waiter(ttl: Duration) -> AcquireRequest {
    request("job", ttl).with_waits(true).with_fair(true)
}

/// The ids in the queue.
async fn places(table: &Table) -> Vec<String> {
    let get = table.client.get_item().table_name(&table.name).key("key", AttributeValue::S("job".into()));
    let item: HashMap<_, _> = get.consistent_read(true).send().await.unwrap().item.expect("there is an item");
    let places = item.get("places").map_or(&[][..], |places| places.as_l().unwrap());
    places.iter().map(|place| place.as_m().unwrap()["version"].as_s().unwrap().clone()).collect()
}

#[tokio::test]
// verifies: P12, contention
async fn waiters_that_come_and_go_at_once_have_one_place_each() {
    let table = Table::new(Schema::Native).await;
    let holder = DynamoBackend::new(table.config());
    let held = granted(&holder, &request("job", LONG)).await;
    let waiters: Vec<_> = (0..16).map(|_| (Arc::new(DynamoBackend::new(table.config())), waiter(LONG))).collect();
    join_all(waiters.iter().map(|(backend, waiter)| refused(backend, waiter))).await;
    let queue = places(&table).await;
    let mut distinct = queue.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!((queue.len(), distinct.len()), (16, 16));

    // Half of them give up at once, and the others are served in order.
    let (gone, left): (Vec<_>, Vec<_>) = queue.iter().enumerate().partition(|(index, _)| index % 2 == 0);
    let by_id = |id: &str| waiters.iter().find(|(_, waiter)| waiter.id.to_string() == id).expect("a waiter");
    join_all(gone.iter().map(async |(_, id)| {
        let (backend, waiter) = by_id(id);
        backend.release(&waiter.lease(None), Duration::ZERO).await.unwrap();
    }))
    .await;
    let left: Vec<_> = left.into_iter().map(|(_, id)| id.clone()).collect();
    assert_eq!(places(&table).await, left);
    released(&holder, &held).await;
    for (turn, id) in left.iter().enumerate() {
        for later in &left[turn + 1..] {
            let (backend, waiter) = by_id(later);
            refused(backend, waiter).await;
        }
        let (backend, waiter) = by_id(id);
        let lease = granted(backend, waiter).await;
        released(backend, &lease).await;
    }
    assert!(places(&table).await.is_empty());
}

#[tokio::test]
// verifies: P9, P12
async fn a_full_queue_of_dead_places_fits_into_one_request() {
    let table = Table::new(Schema::Native).await;
    let backend = DynamoBackend::new(table.config());
    for mode in [Mode::Exclusive, Mode::Shared] {
        let held = granted(&backend, &request("job", LONG)).await;
        let ttl = Duration::from_secs(1);
        let owner = "é".repeat(1_000);
        for _ in 0..MOST {
            refused(&backend, &waiter(ttl).with_owner(&owner)).await;
        }
        // On a slow machine the first places have ended by now.
        assert!(places(&table).await.len() == MOST, "the request of a waiter leaves dead places where they are");
        released(&backend, &held).await;
        outlive(ttl).await;
        let lease = granted(&backend, &request("job", LONG).with_mode(mode)).await;
        assert!(places(&table).await.is_empty());
        released(&backend, &lease).await;
    }
}

#[tokio::test]
// verifies: P9, P12
async fn ended_parts_and_dead_places_fit_into_one_request() {
    const ENDED: usize = 200;
    let table = Table::new(Schema::Native).await;
    let backend = DynamoBackend::new(table.config());
    let reading = granted(&backend, &reader("job")).await;
    let ttl = Duration::from_secs(1);
    for _ in 0..MOST {
        refused(&backend, &waiter(ttl)).await;
    }
    let part = [("free_at", AttributeValue::N("1".into())), ("released", AttributeValue::S("1".into()))];
    let part: HashMap<_, _> = part.map(|(name, value)| (name.to_owned(), value)).into();
    let mut parts = item(&table, "job").await["parts"].as_m().unwrap().clone();
    parts.extend((0..ENDED).map(|_| (LeaseId::random().to_string(), AttributeValue::M(part.clone()))));
    let update = table.client.update_item().table_name(&table.name).key("key", AttributeValue::S("job".into()));
    let update = update.update_expression("SET parts = :parts");
    update.expression_attribute_values(":parts", AttributeValue::M(parts)).send().await.unwrap();
    assert_eq!(places(&table).await.len(), MOST);
    outlive(ttl).await;
    // The first one has to remove all places, and the next one the rest of the parts.
    for left in [ENDED - (ENDED - MOST) + 2, 3] {
        granted(&backend, &reader("job")).await;
        assert!(places(&table).await.is_empty());
        assert_eq!(item(&table, "job").await["parts"].as_m().unwrap().len(), left);
    }
    assert_eq!(backend.renew(&reading).await.unwrap(), Renewal::Renewed);
}
