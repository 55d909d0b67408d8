//! A separate table on DynamoDB Local for each subject.

use std::{
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use onelock::{
    LockName,
    backend::LeaseId,
    dynamo::{DynamoBackend, DynamoConfig},
};
use serde_json::{Value, json};
use test_support::dynamodb::DynamoDbLocal;

/// The skew bound of the tests. All clients share one clock, so it only allows for a busy machine.
pub(crate) const SKEW: Duration = Duration::from_millis(200);

/// What the part of a living holder keeps when time passes. A dead holder's part ends after it.
const LIVING: Duration = Duration::from_secs(5);

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
    ///
    /// The parts of several holders keep [`LIVING`]: those that live would have renewed them.
    pub(crate) fn age(&self, time: Duration) {
        let leased = "attribute_exists(expires_at) OR attribute_exists(parts)";
        let found = self.call("Scan", json!({ "FilterExpression": leased, "ConsistentRead": true }));
        for item in found["Items"].as_array().expect("a scan lists items") {
            if let Some(ends) = millis(&item["expires_at"]) {
                let names = json!({ "#ends": "expires_at" });
                self.end_at(&item["key"], "#ends", names, ends, ends - to_millis(time));
            }
            let least = to_millis(SystemTime::UNIX_EPOCH.elapsed().expect("it is later than 1970") + LIVING);
            for (id, part) in item["parts"]["M"].as_object().into_iter().flatten() {
                let Some(ends) = millis(&part["M"]["expires_at"]).filter(|ends| *ends > least) else { continue };
                let names = json!({ "#id": id, "#ends": "expires_at" });
                self.end_at(&item["key"], "parts.#id.#ends", names, ends, least.max(ends - to_millis(time)));
            }
        }
    }

    /// Lets the lease at `path` end at `ends`, unless it was renewed or released after `seen`.
    fn end_at(&self, key: &Value, path: &str, names: Value, seen: i64, ends: i64) {
        let update = json!({
            "TableName": self.name,
            "Key": { "key": key },
            "UpdateExpression": format!("SET {path} = :ends"),
            "ConditionExpression": format!("{path} = :seen"),
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": {
                ":seen": { "N": seen.to_string() },
                ":ends": { "N": ends.to_string() },
            },
        });
        let (status, answer) = self.server().call("UpdateItem", &update);
        let changed_meanwhile = status == 400 && answer.to_string().contains("ConditionalCheckFailed");
        assert!(status == 200 || changed_meanwhile, "{answer}");
    }
}

fn millis(number: &Value) -> Option<i64> {
    number["N"].as_str()?.parse().ok()
}

fn to_millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).expect("a short time")
}

fn key(name: &LockName) -> Value {
    json!({ "key": { "S": name.as_str() } })
}
