//! Items of other applications in the place of a lock: they are not free, never change, and hide no
//! lock.

use std::{collections::HashMap, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use lock_core::{
    ErrorKind, LockName,
    backend::{AcquireOutcome, Admin, Backend, Break, LeaseId, Release, Renewal},
};
use lock_dynamo::{DynamoBackend, Schema};

use crate::fixture::{Table, request};

const LONG: Duration = Duration::from_secs(60);

type Item = HashMap<String, AttributeValue>;

fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.into())
}

fn n(number: &str) -> AttributeValue {
    AttributeValue::N(number.into())
}

fn is_python(schema: Schema) -> bool {
    schema == Schema::Python
}

fn key(schema: Schema, name: &str) -> Item {
    if is_python(schema) {
        return [("lock_key".to_owned(), s(name)), ("sort_key".to_owned(), s("-"))].into();
    }
    [("key".to_owned(), s(name))].into()
}

/// The attributes of an application's item, and whether it looks like no lock at all.
fn strangers(schema: Schema) -> Vec<(Item, bool)> {
    let (version, released) = match schema {
        Schema::Java | Schema::Go => ("recordVersionNumber", "isReleased"),
        Schema::Python => ("record_version_number", "onelock_released"),
        _ => ("version", "released"),
    };
    let items = [
        (vec![], true),
        (vec![("note", s("kept")), ("collect_at", n("1"))], true),
        (vec![(released, s("1"))], true),
        (vec![(version, n("7"))], true),
        (vec![(version, n("7")), (released, s("1")), ("fence", n("1"))], true),
        (vec![(version, AttributeValue::Null(true))], true),
        (vec![(version, s("1.2.3"))], false),
        (vec![(version, s("1.2.3")), (released, s("1"))], false),
    ];
    let named = |pairs: Vec<(&str, AttributeValue)>| -> Item {
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    };
    items.into_iter().map(|(pairs, is_stranger)| (named(pairs), is_stranger)).collect()
}

async fn read(table: &Table, key: &Item) -> Option<Item> {
    let request = table.client.get_item().table_name(&table.name).set_key(Some(key.clone())).consistent_read(true);
    request.send().await.expect("it answers").item
}

#[tokio::test]
// verifies: not-ours
async fn other_applications_items_are_not_free_and_never_change() {
    for &schema in Schema::ALL {
        let table = Table::new(schema).await;
        let backend = DynamoBackend::new(table.config());
        let mine = request("mine", LONG);
        assert!(matches!(backend.acquire(&mine).await.unwrap(), AcquireOutcome::Granted(_)));
        for (attributes, is_stranger) in strangers(schema) {
            let key = key(schema, "job");
            let item: Item = key.clone().into_iter().chain(attributes).collect();
            let put = table.client.put_item().table_name(&table.name).set_item(Some(item.clone()));
            put.send().await.expect("the item is put");

            let job = request("job", LONG);
            let lease = job.lease(None);
            if is_stranger {
                for error in [
                    backend.acquire(&job).await.map(drop).unwrap_err(),
                    backend.inspect(&job.name).await.map(drop).unwrap_err(),
                ] {
                    let text = error.to_string();
                    assert_eq!(error.kind(), ErrorKind::StoreNotReady, "{schema}: {text} for {item:?}");
                    assert!(text.contains("\"job\"") && text.contains(&table.name), "{text}");
                }
            } else {
                let AcquireOutcome::Contended(holder) = backend.acquire(&job).await.unwrap() else {
                    panic!("{schema}: {item:?} was taken for a free lock")
                };
                assert!(holder.foreign.is_some() && holder.version.is_none(), "{schema}: {holder:?}");
            }
            assert!(matches!(backend.renew(&lease).await.unwrap(), Renewal::Lost(_)), "{schema}: {item:?}");
            let both = [lease.clone(), request("other", LONG).lease(None)];
            assert!(matches!(backend.renew_many(&both).await[0], Ok(Renewal::Lost(_))), "{schema}: {item:?}");
            for hold_for in [Duration::ZERO, LONG] {
                let release = backend.release(&lease, hold_for).await.unwrap();
                assert!(matches!(release, Release::NotHeld(Some(_))), "{schema}: {item:?}");
            }
            if !is_python(schema) {
                for version in [LeaseId::random().to_string(), "1.2.3".into(), String::new(), "7".into()] {
                    let broken = backend.break_lock(&job.name, &version, "alice").await.unwrap();
                    assert!(matches!(broken, Break::Changed(Some(_))), "{schema}: {item:?}: {broken:?}");
                }
            }
            assert!(!backend.purge(&job.name).await.unwrap(), "{schema}: {item:?}");
            assert_eq!(read(&table, &key).await, Some(item), "{schema}");
        }
    }
}

#[tokio::test]
// verifies: odd-entries
async fn list_names_odd_items_and_hides_no_lock() {
    for &schema in Schema::ALL {
        let table = Table::new(schema).await;
        let backend = DynamoBackend::new(table.config());
        for name in ["a", "z"] {
            assert!(matches!(backend.acquire(&request(name, LONG)).await.unwrap(), AcquireOutcome::Granted(_)));
        }
        for (i, (attributes, _)) in strangers(schema).into_iter().enumerate() {
            let item = key(schema, &format!("odd{i}")).into_iter().chain(attributes);
            let put = table.client.put_item().table_name(&table.name).set_item(Some(item.collect()));
            put.send().await.expect("the item is put");
        }
        // A key that is not the name of a lock.
        let too_long = "k".repeat(LockName::MAX_BYTES + 1);
        let item = key(schema, &too_long).into_iter().chain(strangers(schema).remove(3).0);
        let put = table.client.put_item().table_name(&table.name).set_item(Some(item.collect()));
        put.send().await.expect("the item is put");
        let listed = backend.list("").await.unwrap();
        let names = |is_foreign: bool| {
            let locks = listed.locks.iter().filter(move |(_, holder)| holder.foreign.is_some() == is_foreign);
            locks.map(|(name, _)| name.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(names(false), ["a", "z"], "{schema}");
        // A foreign client's lock, or an item that looks like one.
        assert!(names(true).contains(&"odd6") && !names(true).contains(&"odd3"), "{schema}: {:?}", names(true));
        let places: Vec<_> = listed.odd().iter().map(|entry| entry.place.as_str()).collect();
        for (place, why) in [("odd3", "a version that is a number"), ("odd5", "a version that is null")] {
            assert!(places.contains(&&*format!("the item \"{place}\"")), "{schema}: {why}: {places:?}");
        }
        assert!(places.contains(&&*format!("the item \"{}\"", &too_long[..100])), "{schema}: {places:?}");
        assert!(!places.contains(&"the item \"odd1\""), "{schema}: no version at all: {places:?}");
        let odd3 = listed.odd().iter().find(|entry| entry.place.contains("odd3")).unwrap();
        assert!(odd3.reason.contains("is not a lock") && odd3.reason.contains(&table.name), "{schema}: {odd3}");
    }
}

#[tokio::test]
// verifies: not-ours
async fn no_smaller_token_follows_one_that_cannot_be_read() {
    let table = Table::new(Schema::Native).await;
    let backend = DynamoBackend::new(table.config());
    let first = request("job", LONG);
    let AcquireOutcome::Granted(grant) = backend.acquire(&first).await.unwrap() else { panic!("it is free") };
    assert_eq!(backend.release(&first.lease(grant.token), Duration::ZERO).await.unwrap(), Release::Released);
    for token in [n("1E38"), n("9007199254740991"), s("text")] {
        let key = key(Schema::Native, "job");
        let mut item = read(&table, &key).await.expect("it is kept");
        item.insert("fence".into(), token.clone());
        table.client.put_item().table_name(&table.name).set_item(Some(item)).send().await.expect("the item is put");
        let error = backend.acquire(&request("job", LONG)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{token:?}: {error}");
    }
}
