//! Tests creating and checking the table.

use std::{collections::BTreeSet, time::Duration};

use aws_sdk_dynamodb::types::{PointInTimeRecoveryStatus, TimeToLiveStatus};
use lock_core::{
    ErrorKind,
    backend::{AcquireOutcome, Backend, LeaseId, Level},
};
use lock_dynamo::{DynamoBackend, DynamoConfig, Schema, TableOptions};
use test_support::moto::Moto;

use crate::fixture::{Table, raw_client, request};

/// A configuration for a table that does not exist yet.
async fn fresh(schema: Schema) -> (Table, DynamoConfig) {
    let table = Table::new(schema).await;
    let config = table.config_for(&format!("{}-new", table.name));
    (table, config)
}

#[tokio::test]
async fn init_creates_a_working_table_and_is_repeatable() {
    for &schema in Schema::ALL {
        let (table, config) = fresh(schema).await;
        let backend = DynamoBackend::new(config);
        let missing = backend.acquire(&request("a", Duration::from_secs(9))).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::StoreNotReady);
        assert!(missing.to_string().contains("onelock init"), "{missing}");
        assert!(backend.check().await.unwrap().problems[0].contains("there is no table"));

        let options = TableOptions::default().deletion_protection(true);
        assert!(backend.init(&options).await.unwrap(), "{schema}: created");
        assert!(!backend.init(&options).await.unwrap(), "{schema}: existed before");
        let check = backend.check().await.unwrap();
        assert!(check.problems.is_empty() && check.warnings.is_empty(), "{schema}: {check:?}");
        assert!(matches!(
            backend.acquire(&request("a", Duration::from_secs(9))).await.unwrap(),
            AcquireOutcome::Granted(_)
        ));

        let name = format!("{}-new", table.name);
        let ttl = table.client.describe_time_to_live().table_name(&name).send().await.unwrap();
        let on = ttl.time_to_live_description.unwrap().time_to_live_status == Some(TimeToLiveStatus::Enabled);
        assert_eq!(on, !matches!(schema, Schema::Java | Schema::Go), "{schema}");
    }
}

#[tokio::test]
async fn unsupported_options_are_reported_in_the_servers_words() {
    let table = Table::new(Schema::Native).await;
    // DynamoDB Local has no tags.
    let error = DynamoBackend::new(table.config()).init(&TableOptions::default().tag("team", "etl")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("Tagging"), "{error}");
}

/// A server that has tags and backups, unlike DynamoDB Local.
#[tokio::test]
async fn options_apply_to_new_and_existing_tables() {
    let moto = tokio::task::spawn_blocking(Moto::start).await.unwrap();
    let client = raw_client(&moto.endpoint());
    for table in ["new", "there"] {
        let config = DynamoConfig::new(table).endpoint(moto.endpoint()).region("eu-central-1");
        let backend = DynamoBackend::new(config.credentials("test", "test", None));
        let is_there = table == "there";
        if is_there {
            assert!(backend.init(&TableOptions::default().collect_idle(false)).await.unwrap());
            assert!(backend.check().await.unwrap().warnings[0].starts_with("TTL is off"));
        }
        let all = TableOptions::default().tag("team", "etl").tag("stage", "prod");
        let all = all.point_in_time_recovery(true).deletion_protection(true);
        for already in [is_there, true] {
            assert_eq!(backend.init(&all).await.unwrap(), !already, "{table}");
            let check = backend.check().await.unwrap();
            assert!(check.problems.is_empty() && check.warnings.is_empty(), "{table}: {check:?}");
            let shown = client.describe_table().table_name(table).send().await.unwrap().table.unwrap();
            assert_eq!(shown.deletion_protection_enabled(), Some(true), "{table}");
            let tags = client.list_tags_of_resource().resource_arn(shown.table_arn().unwrap()).send().await.unwrap();
            // A set, because this emulator keeps duplicate tags.
            let tags: BTreeSet<_> = tags.tags().iter().map(|tag| (tag.key(), tag.value())).collect();
            assert_eq!(tags, BTreeSet::from([("stage", "prod"), ("team", "etl")]), "{table}");
            let backups = client.describe_continuous_backups().table_name(table).send().await.unwrap();
            let recovery = backups.continuous_backups_description.unwrap().point_in_time_recovery_description.unwrap();
            let on = Some(&PointInTimeRecoveryStatus::Enabled);
            assert_eq!(recovery.point_in_time_recovery_status(), on, "{table}");
            // Options that were not set leave the table unchanged.
            assert!(!backend.init(&TableOptions::default()).await.unwrap());
        }
    }
}

#[tokio::test]
async fn concurrent_inits_both_succeed() {
    let (_table, config) = fresh(Schema::Native).await;
    let (a, b) = (DynamoBackend::new(config.clone()), DynamoBackend::new(config));
    let options = TableOptions::default();
    let (a, b) = tokio::join!(a.init(&options), b.init(&options));
    assert!(a.unwrap() ^ b.unwrap(), "exactly one call created it");
}

#[tokio::test]
async fn table_with_other_keys_is_refused_with_its_problems() {
    let table = Table::new(Schema::Python).await;
    let native = DynamoBackend::new(table.config().schema(Schema::Native));
    let error = native.init(&TableOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreNotReady);
    assert!(error.to_string().contains("sort key \"sort_key\""), "{error}");
    let error = native.acquire(&request("a", Duration::from_secs(9))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreNotReady, "{error}");
    assert!(error.to_string().contains("partition key \"key\""), "{error}");
}

#[tokio::test]
async fn table_without_ttl_gets_a_warning() {
    let table = Table::new(Schema::Native).await;
    let backend = DynamoBackend::new(table.config());
    let check = backend.check().await.unwrap();
    assert_eq!(check.problems, [""; 0]);
    assert!(check.warnings[0].contains("\"collect_at\""), "{check:?}");
    assert!(!backend.init(&TableOptions::default()).await.unwrap());
    assert_eq!(backend.check().await.unwrap().warnings, [""; 0]);
    let other = DynamoBackend::new(table.config().ttl_attribute("ttl"));
    assert!(other.check().await.unwrap().warnings[0].contains("ttl_attribute=collect_at"));
}

#[tokio::test]
async fn ttl_of_a_table_whose_items_do_not_follow_it_gets_a_warning() {
    for schema in [Schema::Java, Schema::Go] {
        let table = Table::new(schema).await;
        let plain = DynamoBackend::new(table.config());
        assert!(plain.check().await.unwrap().warnings.is_empty(), "{schema}: TTL is off");
        let named = DynamoBackend::new(table.config().ttl_attribute("theirs"));
        assert!(named.check().await.unwrap().warnings[0].contains("TTL is off"), "{schema}");
        named.init(&TableOptions::default()).await.unwrap();
        assert_eq!(named.check().await.unwrap().warnings, [""; 0], "{schema}");
        let warning = &plain.check().await.unwrap().warnings[0];
        assert!(warning.contains("\"theirs\"") && warning.contains("the item of a held lock"), "{schema}: {warning}");
        let findings = plain.diagnose().await;
        let finding = findings.iter().find(|finding| finding.subject == "idle items").unwrap();
        assert!(finding.level == Level::Warning && finding.text == *warning, "{schema}: {finding}");
    }
}

#[tokio::test]
async fn oversized_data_is_a_limit_error() {
    let table = Table::new(Schema::Native).await;
    let mut request = request("a", Duration::from_secs(9));
    request.data = Some(vec![7; 500_000]);
    let error = DynamoBackend::new(table.config()).acquire(&request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    assert!(error.to_string().contains("400 KB"), "{error}");
}

#[tokio::test]
async fn idle_items_are_collected_long_after_their_use() {
    let table = Table::new(Schema::Native).await;
    let backend = DynamoBackend::new(table.config());
    let request = request(&LeaseId::random().to_string(), Duration::from_secs(60));
    assert!(matches!(backend.acquire(&request).await.unwrap(), AcquireOutcome::Granted(_)));
    for released in [false, true] {
        if released {
            let _ = backend.release(&request.lease(None), Duration::ZERO).await.unwrap();
        }
        let item = &table.client.scan().table_name(&table.name).send().await.unwrap().items.unwrap()[0];
        let at: u64 = item["collect_at"].as_n().unwrap().parse().unwrap();
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let days = (at - now) / 86_400;
        assert!((29..=30).contains(&days), "in {days} days");
    }
}

#[tokio::test]
async fn collect_after_may_exceed_all_representable_seconds() {
    let table = Table::new(Schema::Native).await;
    let backend = DynamoBackend::new(table.config().collect_after(Duration::MAX));
    assert!(matches!(
        backend.acquire(&request("a", Duration::from_secs(60))).await.unwrap(),
        AcquireOutcome::Granted(_)
    ));
}
