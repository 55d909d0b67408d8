//! A separate table on DynamoDB Local for each subject.

use std::{sync::OnceLock, time::Duration};

use onelock::{
    LockName,
    backend::LeaseId,
    dynamo::{DynamoBackend, DynamoConfig},
};
use serde_json::{Value, json};
use test_support::dynamodb::DynamoDbLocal;

/// The skew bound of the tests. All clients share one clock, so it only allows for a busy machine.
pub(crate) const SKEW: Duration = Duration::from_millis(200);

pub(crate) struct Table {
    name: String,
    created: OnceLock<&'static DynamoDbLocal>,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self { name: format!("migration-{}", LeaseId::random()), created: OnceLock::new() }
    }

    fn server(&self) -> &'static DynamoDbLocal {
        self.created.get_or_init(|| {
            let server = DynamoDbLocal::shared();
            server.create_table(&self.name);
            server
        })
    }

    fn call(&self, operation: &str, mut body: Value) -> Value {
        body["TableName"] = json!(self.name);
        let (status, answer) = self.server().call(operation, &body);
        assert_eq!(status, 200, "{operation}: {answer}");
        answer
    }

    pub(crate) fn client(&self) -> DynamoBackend {
        let config = DynamoConfig::new(&self.name)
            .endpoint(self.server().endpoint())
            .region("eu-central-1")
            .credentials("test", "test", None)
            .skew_bound(SKEW);
        DynamoBackend::new(config)
    }

    /// Deletes the item of a lock without a release.
    pub(crate) fn delete(&self, name: &LockName) {
        self.call("DeleteItem", json!({ "Key": key(name) }));
    }

    /// Puts an item in the place of a lock, as another client would that holds it for ten minutes.
    pub(crate) fn replace(&self, name: &LockName) {
        let mut item = key(name);
        item["owner"] = json!({ "S": "x" });
        item["version"] = json!({ "S": "1-2" });
        item["ttl_ms"] = json!({ "N": "600000" });
        self.call("PutItem", json!({ "Item": item }));
    }

    /// Puts an item of another application in the place of a lock.
    pub(crate) fn put_item_that_is_no_lock(&self, name: &LockName) {
        let mut item = key(name);
        item["version"] = json!({ "N": "7" });
        self.call("PutItem", json!({ "Item": item }));
    }

    /// Makes all leases end earlier by `time`.
    pub(crate) fn age(&self, time: Duration) {
        let leased = json!({ "FilterExpression": "attribute_exists(expires_at)", "ConsistentRead": true });
        let found = self.call("Scan", leased);
        for item in found["Items"].as_array().expect("a scan lists items") {
            let update = json!({
                "TableName": self.name,
                "Key": { "key": item["key"] },
                "UpdateExpression": "SET expires_at = expires_at - :time",
                "ConditionExpression": "attribute_exists(expires_at)",
                "ExpressionAttributeValues": { ":time": { "N": time.as_millis().to_string() } },
            });
            let (status, answer) = self.server().call("UpdateItem", &update);
            let released_meanwhile = status == 400 && answer.to_string().contains("ConditionalCheckFailed");
            assert!(status == 200 || released_meanwhile, "{answer}");
        }
    }
}

fn key(name: &LockName) -> Value {
    json!({ "key": { "S": name.as_str() } })
}
