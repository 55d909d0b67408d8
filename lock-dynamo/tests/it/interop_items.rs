//! Tests items and write conditions of the Java client (`amazon-dynamodb-lock-client`) and the Go
//! client (`dynamolock`), in both directions, on one table with onelock.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use lock_core::{
    LossReason,
    backend::{AcquireOutcome, Admin, Backend, Break, Release, Renewal},
};
use lock_dynamo::{DynamoBackend, Schema};

use crate::fixture::{Ages, Table, request};

type Item = HashMap<String, AttributeValue>;

/// No test waits for its end.
const LEASE: Duration = Duration::from_secs(90);
const BOTH: [Schema; 2] = [Schema::Java, Schema::Go];

fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.into())
}

/// A lock in the format of that client, with an attribute that the user added.
fn foreign(schema: Schema, version: &str) -> Item {
    let lease = if schema == Schema::Java { "90000" } else { "90s" };
    let pairs = [
        ("key", "job"),
        ("ownerName", "ip-10-0-0-1_4b3c"),
        ("leaseDuration", lease),
        ("recordVersionNumber", version),
        ("team", "etl"),
    ];
    pairs
        .iter()
        .map(|(name, value)| ((*name).into(), s(value)))
        .chain([("data".into(), AttributeValue::B(b"half".to_vec().into()))])
        .collect()
}

/// Acquires like a foreign client, by a conditional `PutItem`. Returns whether the condition held.
async fn put(table: &Table, item: Item, condition: &str, values: &[(&str, &str)]) -> bool {
    let mut request = table
        .client
        .put_item()
        .table_name(&table.name)
        .set_item(Some(item))
        .condition_expression(condition)
        .expression_attribute_names("#key", "key");
    for (name, value) in values {
        request = request.expression_attribute_values(*name, s(value));
    }
    match request.send().await {
        Ok(_) => true,
        Err(error) if error.as_service_error().is_some_and(|e| e.is_conditional_check_failed_exception()) => false,
        Err(error) => panic!("{error:?}"),
    }
}

const IS_NEW: &str = "attribute_not_exists(#key)";
const IS_RELEASED: &str = "attribute_exists(#key) AND isReleased = :one";
const IS_THAT: &str = "attribute_exists(#key) AND recordVersionNumber = :version";

async fn read(table: &Table) -> Item {
    let request = table.client.get_item().table_name(&table.name).key("key", s("job")).consistent_read(true);
    request.send().await.expect("it answers").item.expect("there is an item")
}

fn text<'a>(item: &'a Item, name: &str) -> &'a str {
    item[name].as_s().expect("it is text")
}

#[tokio::test]
async fn foreign_lock_is_taken_over_only_by_watching() {
    for schema in BOTH {
        let table = Table::new(schema).await;
        assert!(put(&table, foreign(schema, "v1"), IS_NEW, &[]).await);
        // The item has no expiry, so a cold process has to watch it.
        let clock = Arc::new(Ages::default());
        let ours = DynamoBackend::with_clock(table.config(), clock.clone());
        let AcquireOutcome::Contended(holder) = ours.acquire(&request("job", LEASE)).await.unwrap() else {
            panic!("{schema}: stolen")
        };
        assert_eq!(holder.owner.as_deref(), Some("ip-10-0-0-1_4b3c"));
        assert_eq!(holder.data.as_deref(), Some(&b"half"[..]));
        assert!(holder.foreign.is_some() && holder.token.is_none());
        assert!(holder.expires_in.unwrap() <= LEASE);
        // Watching takes time: two of these pauses exceed the lease.
        clock.pass(LEASE * 2 / 3);
        // A heartbeat.
        assert!(put(&table, foreign(schema, "v2"), IS_THAT, &[(":version", "v1")]).await);
        assert!(
            matches!(ours.acquire(&request("job", LEASE)).await.unwrap(), AcquireOutcome::Contended(_)),
            "{schema}"
        );
        clock.pass(LEASE * 2 / 3);
        assert!(
            matches!(ours.acquire(&request("job", LEASE)).await.unwrap(), AcquireOutcome::Contended(_)),
            "{schema}"
        );
        clock.pass(LEASE * 2 / 3);
        let AcquireOutcome::Granted(grant) = ours.acquire(&request("job", LEASE)).await.unwrap() else {
            panic!("{schema}: dead")
        };
        assert_eq!(grant.crashed.unwrap().owner.as_deref(), Some("ip-10-0-0-1_4b3c"));
        // A late heartbeat of the old holder fails.
        assert!(!put(&table, foreign(schema, "v3"), IS_THAT, &[(":version", "v2")]).await, "{schema}");
    }
}

#[tokio::test]
async fn foreign_clients_read_our_items_and_keep_attributes() {
    for schema in BOTH {
        let table = Table::new(schema).await;
        let mut released = foreign(schema, "v1");
        released.insert("isReleased".into(), s("1"));
        assert!(put(&table, released, IS_NEW, &[]).await);
        let ours = DynamoBackend::new(table.config());
        let request = request("job", Duration::from_secs(20));
        let AcquireOutcome::Granted(grant) = ours.acquire(&request).await.unwrap() else {
            panic!("{schema}: it is released")
        };
        assert_eq!(grant.crashed, None);
        let acquired = read(&table).await;
        assert_eq!(text(&acquired, "ownerName"), "test");
        assert_eq!(text(&acquired, "leaseDuration"), if schema == Schema::Java { "20000" } else { "20000ms" });
        assert!(!acquired.contains_key("isReleased"), "{schema}: its presence alone means released");
        assert_eq!(text(&acquired, "team"), "etl");
        // To foreign clients the lock is neither new nor released.
        assert!(!put(&table, foreign(schema, "x"), IS_NEW, &[]).await);
        assert!(!put(&table, foreign(schema, "x"), IS_RELEASED, &[(":one", "1")]).await);

        assert_eq!(ours.renew(&request.lease(None)).await.unwrap(), Renewal::Renewed);
        let renewed = read(&table).await;
        assert_ne!(text(&acquired, "recordVersionNumber"), text(&renewed, "recordVersionNumber"), "a heartbeat");

        assert_eq!(ours.release(&request.lease(None), Duration::ZERO).await.unwrap(), Release::Released);
        let item = read(&table).await;
        assert_eq!((text(&item, "isReleased"), text(&item, "team")), ("1", "etl"));
        for needed in ["ownerName", "leaseDuration", "recordVersionNumber"] {
            assert!(!text(&item, needed).is_empty(), "{schema}: readers throw without {needed}");
        }
        assert!(
            put(&table, foreign(schema, "v9"), IS_RELEASED, &[(":one", "1")]).await,
            "{schema}: free for foreign clients"
        );
    }
}

#[tokio::test]
// verifies: foreign-client
async fn foreign_takeover_is_reported_as_loss() {
    for schema in BOTH {
        let table = Table::new(schema).await;
        let ours = DynamoBackend::new(table.config());
        let request = request("job", Duration::from_secs(20));
        assert!(matches!(ours.acquire(&request).await.unwrap(), AcquireOutcome::Granted(_)));
        // dynamolock merges all attributes of the previous item into its own.
        let mut merged = read(&table).await;
        let version = text(&merged, "recordVersionNumber").to_owned();
        merged.extend(foreign(schema, "v1"));
        assert!(put(&table, merged, IS_THAT, &[(":version", &version)]).await);
        let Renewal::Lost(LossReason::TakenBy(holder)) = ours.renew(&request.lease(None)).await.unwrap() else {
            panic!("{schema}: it is theirs");
        };
        assert_eq!(holder.owner.as_deref(), Some("ip-10-0-0-1_4b3c"));
        assert!(matches!(ours.release(&request.lease(None), Duration::ZERO).await.unwrap(), Release::NotHeld(Some(_))));
        assert_eq!(text(&read(&table).await, "recordVersionNumber"), "v1");
    }
}

#[tokio::test]
async fn broken_foreign_lock_fails_its_next_heartbeat() {
    for schema in BOTH {
        let table = Table::new(schema).await;
        assert!(put(&table, foreign(schema, "v1"), IS_NEW, &[]).await);
        let ours = DynamoBackend::new(table.config());
        let request = request("job", LEASE);
        let version = ours.inspect(&request.name).await.unwrap().unwrap().version.unwrap();
        assert!(put(&table, foreign(schema, "v2"), IS_THAT, &[(":version", "v1")]).await);
        assert!(matches!(ours.break_lock(&request.name, &version, "alice").await.unwrap(), Break::Changed(Some(_))));
        let version = ours.inspect(&request.name).await.unwrap().unwrap().version.unwrap();
        assert_eq!(ours.break_lock(&request.name, &version, "alice").await.unwrap(), Break::Broken);
        assert!(!put(&table, foreign(schema, "v3"), IS_THAT, &[(":version", "v2")]).await);
        assert!(matches!(ours.acquire(&request).await.unwrap(), AcquireOutcome::Granted(_)));
    }
}

#[tokio::test]
async fn lease_of_another_client_is_never_judged() {
    for schema in BOTH {
        let table = Table::new(schema).await;
        let mut item = foreign(schema, "v1");
        // Java's milliseconds on a table of Go, and vice versa.
        item.insert("leaseDuration".into(), s(if schema == Schema::Java { "10ms" } else { "10" }));
        assert!(put(&table, item, IS_NEW, &[]).await);
        let ours = DynamoBackend::new(table.config());
        for _ in 0..5 {
            let AcquireOutcome::Contended(holder) = ours.acquire(&request("job", LEASE)).await.unwrap() else {
                panic!("{schema}")
            };
            assert_eq!(holder.expires_in, None, "its lease is not readable");
            // Longer than the lease that it would be to its other reader: that it does not end
            // shows only as time passes.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn min_hold_looks_like_a_dead_holder_to_foreign_clients() {
    for schema in BOTH {
        let table = Table::new(schema).await;
        let ours = DynamoBackend::new(table.config());
        let request = request("job", Duration::from_secs(20));
        assert!(matches!(ours.acquire(&request).await.unwrap(), AcquireOutcome::Granted(_)));
        assert_eq!(ours.release(&request.lease(None), Duration::from_secs(5)).await.unwrap(), Release::Released);
        let item = read(&table).await;
        assert!(!item.contains_key("isReleased"), "{schema}");
        assert_eq!(text(&item, "leaseDuration"), if schema == Schema::Java { "5000" } else { "5000ms" });
    }
}
