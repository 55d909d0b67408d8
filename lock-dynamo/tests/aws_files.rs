//! The policy and the templates on this crate's page against what the code does.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use aws_sdk_dynamodb::types::{KeyType, ScalarAttributeType};
use common::{Table, claim};
use integration::wire::Wire;
use lock_core::backend::Backend;
use lock_dynamo::{DynamoBackend, Schema, TableOptions};
use serde_json::Value;

const POLICY: &str = include_str!("../aws/policy.json");
const CLOUD_FORMATION: &str = include_str!("../aws/table.cloudformation.json");
const TERRAFORM: &str = include_str!("../aws/table.tf");

/// The operations that each statement allows.
fn allowed() -> BTreeMap<String, BTreeSet<String>> {
    let policy: Value = serde_json::from_str(POLICY).expect("it is JSON");
    let statements = policy["Statement"].as_array().expect("a list").iter();
    let action =
        |action: &Value| action.as_str().expect("text").strip_prefix("dynamodb:").expect("of DynamoDB").to_owned();
    let actions = |statement: &Value| statement["Action"].as_array().expect("a list").iter().map(action).collect();
    statements.map(|statement| (statement["Sid"].as_str().expect("text").to_owned(), actions(statement))).collect()
}

fn seen(wire: &Wire) -> BTreeSet<String> {
    wire.take_seen().into_iter().collect()
}

async fn lock_and_release(backend: &DynamoBackend) {
    for hold_for in [Duration::ZERO, Duration::from_millis(1)] {
        let claim = claim("a", Duration::from_secs(60));
        let _ = backend.acquire(&claim).await.unwrap();
        // Refused, found to be ours, renewed, lost, broken.
        let _ = backend.acquire(&common::claim("a", Duration::from_secs(60))).await.unwrap();
        let _ = backend.acquire(&claim).await.unwrap();
        let _ = backend.renew(&claim.lease(None)).await.unwrap();
        let other = common::claim("b", Duration::from_secs(60)).lease(None);
        let _ = backend.renew_many(&[claim.lease(None), other]).await;
        let _ = backend.release(&claim.lease(None), hold_for).await.unwrap();
        let _ = backend.renew(&claim.lease(None)).await.unwrap();
        let _ = backend.break_lock(&claim.name, &claim.id.to_string(), "alice").await;
    }
}

#[tokio::test]
async fn the_policy_allows_what_is_called_and_nothing_else() {
    let allowed = allowed();
    for &schema in Schema::ALL {
        let table = Table::new(schema).await;
        let wire = Wire::start(table.server.address());
        let backend = DynamoBackend::new(table.config_at(&wire.endpoint()));
        lock_and_release(&backend).await;
        let mut expected = allowed["Locks"].clone();
        // The name of the operation and of its permission differ.
        assert_eq!(allowed["BatchesOfRenewals"], BTreeSet::from(["PartiQLUpdate".to_owned()]));
        expected.insert("BatchExecuteStatement".into());
        if schema == Schema::Python {
            expected.extend(allowed["LocksOfThePythonSchema"].clone());
        }
        assert_eq!(seen(&wire), expected, "{schema}: locking");

        backend.inspect(&claim("a", Duration::ZERO).name).await.unwrap();
        backend.list("").await.unwrap();
        assert_eq!(seen(&wire), allowed["InspectAndList"], "{schema}: looking");

        let _ = backend.check().await.unwrap();
        assert_eq!(seen(&wire), allowed["Check"], "{schema}: checking");

        let _ = backend.examine().await;
        let mut examining = allowed["Doctor"].clone();
        for others in ["InspectAndList", "Check"] {
            examining.extend(allowed[others].clone());
        }
        examining.extend(["BatchExecuteStatement".to_owned(), "UpdateItem".to_owned()]);
        assert_eq!(seen(&wire), examining, "{schema}: examining");

        backend.forget(&claim("b", Duration::ZERO).name).await.unwrap();
        if schema != Schema::Python {
            assert_eq!(seen(&wire), allowed["Forget"], "{schema}: forgetting");
        }
    }
}

#[tokio::test]
async fn the_policy_allows_what_init_calls_and_nothing_else() {
    let table = Table::new(Schema::Native).await;
    let wire = Wire::start(table.server.address());
    let fresh = table.config_for(&format!("{}-new", table.name)).endpoint(wire.endpoint());
    let options = TableOptions::default().deletion_protection(true);
    DynamoBackend::new(fresh).init(&options).await.unwrap();
    let there = DynamoBackend::new(table.config_at(&wire.endpoint()));
    there.init(&options).await.unwrap();
    // DynamoDB Local has neither tags nor backups, and says so; that they are called is what counts.
    there.init(&TableOptions::default().tag("team", "etl")).await.unwrap_err();
    there.init(&TableOptions::default().point_in_time_recovery(true)).await.unwrap_err();
    assert_eq!(seen(&wire), allowed()["Init"]);
}

/// What `init` creates, to compare the templates with.
async fn created() -> (String, String) {
    let table = Table::new(Schema::Native).await;
    let name = format!("{}-new", table.name);
    DynamoBackend::new(table.config_for(&name)).init(&TableOptions::default()).await.unwrap();
    let there = table.client.describe_table().table_name(&name).send().await.unwrap().table.unwrap();
    let [key] = there.key_schema() else { panic!("one key") };
    let [definition] = there.attribute_definitions() else { panic!("one attribute") };
    assert_eq!((key.key_type(), definition.attribute_type()), (&KeyType::Hash, &ScalarAttributeType::S));
    assert_eq!(there.billing_mode_summary().unwrap().billing_mode().unwrap().as_str(), "PAY_PER_REQUEST");
    let ttl = table.client.describe_time_to_live().table_name(&name).send().await.unwrap();
    let collected_by = ttl.time_to_live_description.unwrap().attribute_name.unwrap();
    (key.attribute_name().to_owned(), collected_by)
}

#[tokio::test]
async fn cloud_formation_creates_the_table_that_init_creates() {
    let (key, collected_by) = created().await;
    let template: Value = serde_json::from_str(CLOUD_FORMATION).expect("it is JSON");
    let table = &template["Resources"]["Locks"];
    assert_eq!(table["Type"], "AWS::DynamoDB::Table");
    let table = &table["Properties"];
    assert_eq!(table["KeySchema"], serde_json::json!([{ "AttributeName": key, "KeyType": "HASH" }]));
    assert_eq!(table["AttributeDefinitions"], serde_json::json!([{ "AttributeName": key, "AttributeType": "S" }]));
    assert_eq!(table["BillingMode"], "PAY_PER_REQUEST");
    assert_eq!(table["TimeToLiveSpecification"]["AttributeName"], *collected_by);
    assert_eq!(table["TimeToLiveSpecification"]["Enabled"], true);
}

#[tokio::test]
async fn terraform_creates_the_table_that_init_creates() {
    let (key, collected_by) = created().await;
    // A parser, because `terraform validate` downloads a provider of half a gigabyte.
    let file: Value = hcl::from_str(TERRAFORM).expect("it is HCL");
    let table = &file["resource"]["aws_dynamodb_table"]["locks"];
    assert_eq!(table["hash_key"], *key);
    assert_eq!(table.get("range_key"), None);
    assert_eq!(table["attribute"], serde_json::json!({ "name": key, "type": "S" }));
    assert_eq!(table["billing_mode"], "PAY_PER_REQUEST");
    assert_eq!(table["ttl"], serde_json::json!({ "attribute_name": collected_by, "enabled": true }));
}
