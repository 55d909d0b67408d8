//! Tests the findings about a table, on DynamoDB Local and for descriptions that DynamoDB returns
//! for other tables.

use std::sync::Arc;

use lock_core::{
    backend::{Backend, Finding, Level},
    clock::{Clock, ClockReading, SystemClock},
};
use lock_dynamo::{DynamoBackend, Schema, TableOptions};
use serde_json::{Value, json};
use test_support::wire::{Fault, Wire};

use crate::fixture::Table;

#[track_caller]
fn about<'a>(findings: &'a [Finding], subject: &str) -> &'a Finding {
    findings
        .iter()
        .find(|finding| finding.subject == subject)
        .unwrap_or_else(|| panic!("nothing on {subject}: {findings:?}"))
}

#[tokio::test]
async fn table_created_by_init_is_fit() {
    for &schema in Schema::ALL {
        let table = Table::new(schema).await;
        let backend = DynamoBackend::new(table.config());
        backend.init(&TableOptions::default()).await.unwrap();
        let before = table.client.scan().table_name(&table.name).send().await.unwrap().items;
        let findings = backend.diagnose().await;
        for subject in
            ["table", "keys", "billing", "regions", "idle items", "permission to read", "batches of renewals", "clock"]
        {
            assert_eq!(about(&findings, subject).level, Level::Good, "{schema}: {findings:?}");
        }
        assert!(findings.iter().all(|finding| finding.level <= Level::Note), "{schema}: {findings:?}");
        assert_eq!(table.client.scan().table_name(&table.name).send().await.unwrap().items, before, "{schema}");
    }
}

#[tokio::test]
async fn table_missing_or_with_other_keys_is_unfit() {
    let table = Table::new(Schema::Python).await;
    let missing = DynamoBackend::new(table.config_for("nowhere")).diagnose().await;
    assert_eq!(about(&missing, "table").level, Level::Unfit);
    assert!(missing[0].advice.as_deref().unwrap().contains("onelock init"), "{missing:?}");
    let native = DynamoBackend::new(table.config().schema(Schema::Native)).diagnose().await;
    let keys = about(&native, "keys");
    assert!(keys.level == Level::Unfit && keys.text.contains("sort key \"sort_key\""), "{keys}");
}

#[tokio::test]
async fn items_without_ttl_get_a_warning() {
    let table = Table::new(Schema::Native).await;
    let findings = DynamoBackend::new(table.config()).diagnose().await;
    assert_eq!(
        about(&findings, "idle items").to_string(),
        "warning: idle items: never deleted: TTL is off; switch TTL on for \"collect_at\" (onelock init)"
    );
    DynamoBackend::new(table.config()).init(&TableOptions::default()).await.unwrap();
    let findings = DynamoBackend::new(table.config().ttl_attribute("ttl")).diagnose().await;
    assert!(about(&findings, "idle items").advice.as_deref().unwrap().contains("ttl_attribute=collect_at"));
}

/// The findings if DynamoDB describes the table with these differences.
async fn described(differences: &[(&str, Value)]) -> Vec<Finding> {
    let table = Table::new(Schema::Native).await;
    let wire = Wire::start(table.server.address());
    let mut description = json!({
        "TableName": "locks", "TableStatus": "ACTIVE", "BillingModeSummary": { "BillingMode": "PAY_PER_REQUEST" },
        "KeySchema": [{ "AttributeName": "key", "KeyType": "HASH" }],
        "AttributeDefinitions": [{ "AttributeName": "key", "AttributeType": "S" }],
    });
    for (field, value) in differences {
        description[*field] = value.clone();
    }
    wire.next(Fault::Answer(json!({ "Table": description }).to_string()));
    DynamoBackend::new(table.config_at(&wire.endpoint())).diagnose().await
}

#[tokio::test]
async fn findings_follow_the_table_description() {
    let replicas = json!([{ "RegionName": "us-west-2" }, { "RegionName": "eu-central-1" }]);
    let index = json!([{ "IndexName": "by_owner" }]);
    for (differences, subject, level, text) in [
        (vec![], "regions", Level::Good, "one"),
        (vec![("Replicas", replicas.clone())], "regions", Level::Unfit, "(us-west-2, eu-central-1)"),
        (
            vec![("Replicas", replicas), ("MultiRegionConsistency", "STRONG".into())],
            "regions",
            Level::Note,
            "strongly consistent",
        ),
        (
            vec![("BillingModeSummary", Value::Null), ("ProvisionedThroughput", json!({ "WriteCapacityUnits": 5 }))],
            "billing",
            Level::Warning,
            "5 write units",
        ),
        (vec![("GlobalSecondaryIndexes", index)], "indexes", Level::Warning, "more expensive"),
        (vec![("DeletionProtectionEnabled", true.into())], "deletion protection", Level::Good, "on"),
        (vec![], "deletion protection", Level::Note, "off"),
        (vec![("TableStatus", "CREATING".into())], "table", Level::Unfit, "CREATING"),
    ] {
        let findings = described(&differences).await;
        let found = about(&findings, subject);
        assert!(found.level == level && found.text.contains(text), "{differences:?}: {found}");
    }
}

#[tokio::test]
async fn denied_checks_name_the_permission_and_are_notes() {
    let table = Table::new(Schema::Native).await;
    let wire = Wire::start(table.server.address());
    wire.always(Fault::Refuse(400, "AccessDeniedException"));
    let findings = DynamoBackend::new(table.config_at(&wire.endpoint())).diagnose().await;
    for (subject, operation) in [
        ("table", "DescribeTable"),
        ("idle items", "DescribeTimeToLive"),
        ("point-in-time recovery", "DescribeContinuousBackups"),
        ("permission to read", "GetItem"),
        ("batches of renewals", "PartiQLUpdate"),
    ] {
        let found = about(&findings, subject);
        assert!(found.advice.as_deref().unwrap().contains(operation), "{found}");
    }
    assert!(findings.iter().all(|finding| finding.level == Level::Note), "{findings:?}");
}

#[tokio::test]
async fn server_without_batches_is_a_note_without_advice() {
    let wire = Wire::alone(Fault::Refuse(400, "UnknownOperationException"));
    let config = Table::new(Schema::Native).await.config_at(&wire.endpoint());
    let findings = DynamoBackend::new(config).diagnose().await;
    let found = about(&findings, "batches of renewals");
    assert!(found.level == Level::Note && found.text.contains("renewals go one by one"), "{found}");
    assert_eq!(found.advice, None, "{found}");
}

#[tokio::test]
async fn point_in_time_recovery_is_noted() {
    let table = Table::new(Schema::Native).await;
    let wire = Wire::start(table.server.address());
    for _ in 0..2 {
        wire.next(None);
    }
    wire.next(Fault::Answer(
        json!({ "ContinuousBackupsDescription": { "ContinuousBackupsStatus": "ENABLED",
            "PointInTimeRecoveryDescription": { "PointInTimeRecoveryStatus": "ENABLED" } } })
        .to_string(),
    ));
    let findings = DynamoBackend::new(table.config_at(&wire.endpoint())).diagnose().await;
    let found = about(&findings, "point-in-time recovery");
    assert!(found.level == Level::Note && found.text.starts_with("on;"), "{found}");
}

/// A machine whose wall clock is an hour ahead.
#[derive(Debug)]
struct Ahead;

impl Clock for Ahead {
    fn now(&self) -> ClockReading {
        let ClockReading { boot, wall } = SystemClock.now();
        ClockReading { boot, wall: wall + std::time::Duration::from_secs(3_600) }
    }
}

#[tokio::test]
async fn wrong_clock_is_measured() {
    let table = Table::new(Schema::Native).await;
    let findings = DynamoBackend::with_clock(table.config(), Arc::new(Ahead)).diagnose().await;
    let found = about(&findings, "clock");
    assert!(
        found.level == Level::Warning && (found.text.starts_with("+3599") || found.text.starts_with("+3600")),
        "{found}"
    );
}
