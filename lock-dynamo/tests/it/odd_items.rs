//! Items of shared locks and permits that an earlier version, an operator or another client has
//! changed.

use aws_sdk_dynamodb::types::AttributeValue;
use lock_core::{
    LockName, LossReason,
    backend::{Admin, Backend, Break, LeaseId, Release, Renewal},
    clock::{Clock, SystemClock},
};
use lock_dynamo::{DynamoBackend, Schema};

use crate::{
    fixture::{Table, granted, refused, released, request},
    modes::{LONG, item, permit, reader},
};

/// Changes the item of a lock.
async fn set(table: &Table, name: &str, expression: &str, values: &[(&str, AttributeValue)]) {
    let mut update = table.client.update_item().table_name(&table.name).key("key", AttributeValue::S(name.into()));
    update = update.update_expression(expression);
    for (placeholder, value) in values {
        update = update.expression_attribute_values(*placeholder, value.clone());
    }
    update.send().await.unwrap();
}

#[tokio::test]
// verifies: P1, P12
async fn an_item_that_an_earlier_version_changed_has_one_mode() {
    let table = Table::new(Schema::Native).await;
    let backend = DynamoBackend::new(table.config());
    let (name, one) = (LockName::new("job").unwrap(), AttributeValue::S("1".into()));
    let reading = granted(&backend, &reader("job")).await;
    // The break of a version that knows no parts.
    set(&table, "job", "SET released = :one", &[(":one", one.clone())]).await;
    refused(&backend, &request("job", LONG)).await;
    assert!(!backend.purge(&name).await.unwrap(), "it has a holder");
    let broken = backend.break_lock(&name, &LeaseId::random().to_string(), "alice").await.unwrap();
    assert!(matches!(broken, Break::Changed(Some(_))), "it has a holder: {broken:?}");
    assert_eq!(backend.list("").await.unwrap().locks.len(), 1, "it is held");
    assert_eq!(backend.renew(&reading).await.unwrap(), Renewal::Renewed);
    // Such a version takes the lock, and leaves the mode and the parts.
    let earlier = AttributeValue::S(format!("{}.0123456789abcdef", LeaseId::random()));
    let end = AttributeValue::N((SystemClock.now().wall.as_millis() + 600_000).to_string());
    let ttl = AttributeValue::N("600000".into());
    let taken = "SET version = :version, ttl_ms = :ttl, expires_at = :end REMOVE released";
    set(&table, "job", taken, &[(":version", earlier.clone()), (":ttl", ttl), (":end", end)]).await;
    for request in [reader("job"), permit("job", 2), request("job", LONG)] {
        refused(&backend, &request).await;
    }
    let lost = backend.renew(&reading).await.unwrap();
    assert!(matches!(lost, Renewal::Lost(LossReason::TakenBy(_))), "{lost:?}");
    assert!(matches!(backend.release(&reading, std::time::Duration::ZERO).await.unwrap(), Release::NotHeld(Some(_))));
    assert_eq!(item(&table, "job").await["version"], earlier, "the holder is untouched");
    // It releases: the next holder finds no leftovers.
    set(&table, "job", "SET released = :one", &[(":one", one)]).await;
    let writer = granted(&backend, &request("job", LONG)).await;
    assert!(!item(&table, "job").await.contains_key("parts"));
    refused(&backend, &reader("job")).await;
    released(&backend, &writer).await;
}

#[tokio::test]
// verifies: P1
async fn a_minimum_hold_that_an_operator_released_leaves_no_trace() {
    let table = Table::new(Schema::Native).await;
    let backend = DynamoBackend::new(table.config());
    let before = granted(&backend, &request("job", LONG)).await;
    assert_eq!(backend.release(&before, LONG).await.unwrap(), Release::Released);
    refused(&backend, &request("job", LONG)).await;
    set(&table, "job", "SET released = :one", &[(":one", AttributeValue::S("1".into()))]).await;
    let next = granted(&backend, &request("job", LONG)).await;
    assert_eq!(backend.renew(&next).await.unwrap(), Renewal::Renewed);
    refused(&backend, &request("job", LONG)).await;
    released(&backend, &next).await;
    let last = granted(&backend, &request("job", LONG)).await;
    released(&backend, &last).await;
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
// verifies: odd-entries
async fn an_odd_attribute_keeps_no_holder_out() {
    let table = Table::new(Schema::Native).await;
    let backend = DynamoBackend::new(table.config());
    let (text, number) = (AttributeValue::S("x".into()), AttributeValue::N("7".into()));
    let mark = AttributeValue::M([("version".to_owned(), text.clone())].into());
    for (attribute, value) in [
        ("waiting", Some(text.clone())),
        ("waiting", Some(number)),
        ("waiting", Some(mark)),
        ("places", Some(AttributeValue::L(vec![text.clone()]))),
        ("places", Some(text)),
        ("fence", None),
    ] {
        for request in [reader, |name: &str| permit(name, 3)] {
            let name = LeaseId::random().to_string();
            let first = granted(&backend, &request(&name)).await;
            let update = table.client.update_item().table_name(&table.name).key("key", AttributeValue::S(name.clone()));
            let update = update.expression_attribute_names("#odd", attribute);
            let update = match &value {
                Some(value) => {
                    update.update_expression("SET #odd = :odd").expression_attribute_values(":odd", value.clone())
                }
                None => update.update_expression("REMOVE #odd"),
            };
            update.send().await.unwrap();
            let second = granted(&backend, &request(&name)).await;
            let third = granted(&backend, &request(&name)).await;
            for lease in [first, second, third] {
                assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed, "{attribute} {value:?}");
                released(&backend, &lease).await;
            }
            let writer = granted(&backend, &self::request(&name, LONG)).await;
            released(&backend, &writer).await;
        }
    }
}
