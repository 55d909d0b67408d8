//! Tests renamed attributes: reserved words, and characters that expressions use.

use std::{collections::HashMap, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use lock_core::{
    ErrorKind, LossReason,
    backend::{AcquireOutcome, Admin, Backend, Break, Release, Renewal},
};
use lock_dynamo::{Attribute, DynamoBackend, DynamoConfig, Schema, TableOptions};

use crate::fixture::{Table, outlive, request};

const LONG: Duration = Duration::from_secs(60);
const NAMES: [&str; 14] = [
    "name",
    "status",
    "value",
    "timestamp",
    "hash",
    "a.b",
    "with space",
    "ünï",
    "#x",
    ":y",
    "0",
    "size",
    "SELECT",
    "list[0]",
];

/// All names that may be chosen in `schema`, chosen.
fn chosen(config: DynamoConfig, schema: Schema) -> DynamoConfig {
    let foreign = |attribute: &&Attribute| match attribute {
        Attribute::Version | Attribute::Owner | Attribute::Lease => true,
        Attribute::Released | Attribute::Data => schema != Schema::Native,
        Attribute::Fence => true,
        _ => false,
    };
    let fixed = |attribute: &&Attribute| match schema {
        Schema::Native => **attribute == Attribute::Lease,
        _ => foreign(attribute),
    };
    let renamed = Attribute::ALL.iter().zip(NAMES).filter(|(attribute, _)| !fixed(attribute));
    let config = renamed.fold(config.schema(schema), |config, (attribute, name)| config.attribute(*attribute, name));
    config.sort_key("date", "ttl")
}

#[tokio::test]
async fn renamed_attributes_work_and_others_stay_unchanged() {
    for &schema in Schema::ALL {
        let table = Table::new(schema).await;
        let name = format!("{}-named", table.name);
        let config = || chosen(table.config_for(&name), schema);
        let backend = DynamoBackend::new(config());
        assert!(backend.init(&TableOptions::default()).await.unwrap(), "{schema}");
        let key = HashMap::from([
            ("name".to_owned(), AttributeValue::S("a".into())),
            ("date".to_owned(), AttributeValue::S("ttl".into())),
        ]);
        let team = AttributeValue::S("etl".into());
        // Acquired, refused, renewed alone and in a batch, seen.
        let mut first = request("a", LONG);
        first.data = Some(b"data".to_vec());
        let AcquireOutcome::Granted(grant) = backend.acquire(&first).await.unwrap() else {
            panic!("{schema}: it is free")
        };
        let update = table.client.update_item().table_name(&name).set_key(Some(key.clone()));
        let update = update.update_expression("SET team = :team").expression_attribute_values(":team", team.clone());
        update.send().await.unwrap();
        let AcquireOutcome::Contended(holder) =
            DynamoBackend::new(config()).acquire(&request("a", LONG)).await.unwrap()
        else {
            panic!("{schema}: it is held")
        };
        assert_eq!((holder.owner.as_deref(), holder.data.as_deref()), (Some("test"), Some(&b"data"[..])), "{schema}");
        assert!(
            holder.expires_in.is_some_and(|left| left > LONG / 2) && holder.since.is_some(),
            "{schema}: {holder:?}"
        );
        let lease = first.lease(grant.token);
        assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed, "{schema}");
        let other = request("b", LONG);
        assert!(matches!(backend.acquire(&other).await.unwrap(), AcquireOutcome::Granted(_)));
        for answer in backend.renew_many(&[lease.clone(), other.lease(None)]).await {
            assert_eq!(answer.unwrap(), Renewal::Renewed, "{schema}");
        }
        let names: Vec<_> =
            backend.list("").await.unwrap().locks.into_iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["a", "b"], "{schema}");
        let seen = backend.inspect(&first.name).await.unwrap().unwrap();

        // Broken, where that can be told, and released.
        if backend.capabilities().break_lock {
            assert_eq!(backend.break_lock(&first.name, &seen.version.unwrap(), "alice").await.unwrap(), Break::Broken);
            assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Lost(LossReason::BrokenBy("alice".into())));
            // Released by the item that stays.
            let item = table.client.get_item().table_name(&name).set_key(Some(key.clone())).send().await.unwrap();
            assert_eq!(item.item.unwrap().get("team"), Some(&team), "{schema}");
        } else {
            assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
        }
        assert!(!backend.list("a").await.unwrap().locks.iter().any(|(name, _)| name.as_str() == "a"), "{schema}");

        // Parked, free again, and taken over by a cold process after a crash.
        let short = request("a", Duration::from_millis(150));
        assert!(matches!(backend.acquire(&short).await.unwrap(), AcquireOutcome::Granted(_)), "{schema}");
        assert_eq!(backend.release(&short.lease(None), LONG).await.unwrap(), Release::Released);
        assert!(
            matches!(backend.acquire(&request("a", LONG)).await.unwrap(), AcquireOutcome::Contended(_)),
            "{schema}: parked"
        );
        let dead = request("c", Duration::from_millis(150));
        assert!(matches!(backend.acquire(&dead).await.unwrap(), AcquireOutcome::Granted(_)));
        outlive(Duration::from_millis(150)).await;
        let AcquireOutcome::Granted(grant) = DynamoBackend::new(config()).acquire(&request("c", LONG)).await.unwrap()
        else {
            panic!("{schema}: its holder is dead")
        };
        assert!(grant.crashed.is_some(), "{schema}");
    }
}

#[tokio::test]
async fn contradictory_names_are_refused_before_any_request() {
    let table = Table::new(Schema::Native).await;
    for config in [
        table.config().attribute(Attribute::Fence, "owner"),
        table.config().partition_key("version"),
        table.config().schema(Schema::Java).attribute(Attribute::Owner, "mine"),
    ] {
        let backend = DynamoBackend::new(config.endpoint("http://127.0.0.1:9"));
        let error = backend.acquire(&request("a", LONG)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(!error.is_retryable() && !error.is_ambiguous());
    }
}
