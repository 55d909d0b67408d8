//! Creates a separate table on DynamoDB Local for each test.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use aws_sdk_dynamodb::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    types::{AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType},
};
use lock_core::{
    LockName,
    backend::{AcquireOutcome, AcquireRequest, Backend, Lease, LeaseId, Release},
    clock::{Clock, ClockReading, SystemClock},
};
use lock_dynamo::{DynamoBackend, DynamoConfig, Schema};
use test_support::dynamodb::DynamoDbLocal;

/// A server and an empty table in it.
pub(crate) struct Table {
    pub(crate) server: &'static DynamoDbLocal,
    pub(crate) name: String,
    pub(crate) client: Client,
    schema: Schema,
}

impl Table {
    pub(crate) async fn new(schema: Schema) -> Self {
        let server = tokio::task::spawn_blocking(DynamoDbLocal::shared).await.expect("starting does not panic");
        let client = raw_client(&server.endpoint());
        let name = format!("locks-{}", LeaseId::random());
        let mut keys = vec![(KeyType::Hash, "key")];
        if schema == Schema::Python {
            keys = vec![(KeyType::Hash, "lock_key"), (KeyType::Range, "sort_key")];
        }
        let mut create = client.create_table().table_name(&name).billing_mode(BillingMode::PayPerRequest);
        for (kind, key) in keys {
            let element = KeySchemaElement::builder().attribute_name(key).key_type(kind).build().expect("complete");
            let definition = AttributeDefinition::builder().attribute_name(key).attribute_type(ScalarAttributeType::S);
            create = create.key_schema(element).attribute_definitions(definition.build().expect("complete"));
        }
        create.send().await.expect("the table is created");
        Self { server, name, client, schema }
    }

    /// Deletes the item of a lock without a release.
    pub(crate) async fn delete_item(&self, name: &LockName) {
        let request = self.client.delete_item().table_name(&self.name).set_key(Some(self.key(name)));
        request.send().await.expect("the item is deleted");
    }

    /// Adds a lock that a foreign client of the schema holds for ten minutes. In the native schema,
    /// onelock did not write it either.
    pub(crate) async fn put_foreign_item(&self, name: &LockName) {
        let s = |text: &str| AttributeValue::S(text.into());
        let attributes = match self.schema {
            Schema::Java => [("ownerName", s("x")), ("recordVersionNumber", s("1-2")), ("leaseDuration", s("600000"))],
            Schema::Go => [("ownerName", s("x")), ("recordVersionNumber", s("1-2")), ("leaseDuration", s("10m0s"))],
            Schema::Python => [
                ("owner_name", s("x")),
                ("record_version_number", s("1-2")),
                ("lease_duration", AttributeValue::N("600".into())),
            ],
            _ => [("owner", s("x")), ("version", s("1-2")), ("ttl_ms", AttributeValue::N("600000".into()))],
        };
        let mut item = self.key(name);
        item.extend(attributes.map(|(name, value)| (name.to_owned(), value)));
        self.client.put_item().table_name(&self.name).set_item(Some(item)).send().await.expect("the item is put");
    }

    /// Puts an item of another application, whose version is a number.
    pub(crate) async fn put_item_that_is_no_lock(&self, name: &LockName) {
        let version = match self.schema {
            Schema::Java | Schema::Go => "recordVersionNumber",
            Schema::Python => "record_version_number",
            _ => "version",
        };
        let mut item = self.key(name);
        item.insert(version.to_owned(), AttributeValue::N("7".into()));
        self.client.put_item().table_name(&self.name).set_item(Some(item)).send().await.expect("the item is put");
    }

    /// The expiry of the lock in its item, in the native schema.
    pub(crate) async fn expiry(&self, name: &str) -> SystemTime {
        let get = self.client.get_item().table_name(&self.name).key("key", AttributeValue::S(name.into()));
        let item = get.consistent_read(true).send().await.expect("it answers").item.expect("there is a lock");
        let millis = item["expires_at"].as_n().expect("a number").parse().expect("milliseconds");
        SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
    }

    fn key(&self, name: &LockName) -> HashMap<String, AttributeValue> {
        let name = AttributeValue::S(name.as_str().into());
        match self.schema {
            Schema::Python => {
                HashMap::from([("lock_key".into(), name), ("sort_key".into(), AttributeValue::S("-".into()))])
            }
            _ => HashMap::from([("key".into(), name)]),
        }
    }

    /// A configuration for this table, with a skew bound that suits one machine.
    pub(crate) fn config(&self) -> DynamoConfig {
        self.config_at(&self.server.endpoint())
    }

    pub(crate) fn config_at(&self, endpoint: &str) -> DynamoConfig {
        self.config_for(&self.name).endpoint(endpoint)
    }

    /// A configuration for another table on the same server.
    pub(crate) fn config_for(&self, table: &str) -> DynamoConfig {
        DynamoConfig::new(table)
            .schema(self.schema)
            .endpoint(self.server.endpoint())
            .region("eu-central-1")
            .credentials("test", "test", None)
            .skew_bound(SKEW)
    }
}

/// Waits until an unrenewed lease of this length is over for all clients. Only time ends it, so
/// there is no other condition to wait for.
pub(crate) async fn outlive(ttl: Duration) {
    tokio::time::sleep(ttl + SKEW + Duration::from_millis(20)).await;
}

/// The clocks of a machine on which a test lets time pass. Its wall clock stays right.
#[derive(Debug, Default)]
pub(crate) struct Ages(AtomicU64);

impl Ages {
    pub(crate) fn pass(&self, time: Duration) {
        self.0.fetch_add(time.as_secs(), Ordering::Relaxed);
    }
}

impl Clock for Ages {
    fn now(&self) -> ClockReading {
        let ClockReading { boot, wall } = SystemClock.now();
        ClockReading { boot: boot + Duration::from_secs(self.0.load(Ordering::Relaxed)), wall }
    }
}

/// The skew bound of the tests. All clients share one clock, so it only allows for a busy machine.
pub(crate) const SKEW: Duration = Duration::from_millis(200);

pub(crate) fn raw_client(endpoint: &str) -> Client {
    let http = aws_smithy_http_client::Builder::new().build_http();
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("eu-central-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .endpoint_url(endpoint)
        .http_client(http)
        .build();
    Client::from_conf(config)
}

pub(crate) fn request(name: &str, ttl: Duration) -> AcquireRequest {
    AcquireRequest::new(LockName::new(name).expect("a good name"), LeaseId::random(), "test").with_ttl(ttl)
}

pub(crate) async fn granted(backend: &DynamoBackend, request: &AcquireRequest) -> Lease {
    match backend.acquire(request).await.unwrap() {
        AcquireOutcome::Granted(grant) => request.lease(grant.token),
        AcquireOutcome::Contended(holder) => panic!("held by {holder}"),
    }
}

pub(crate) async fn refused(backend: &DynamoBackend, request: &AcquireRequest) {
    let answer = backend.acquire(request).await.unwrap();
    assert!(matches!(answer, AcquireOutcome::Contended(_)), "{answer:?}");
}

pub(crate) async fn released(backend: &DynamoBackend, lease: &Lease) {
    assert_eq!(backend.release(lease, Duration::ZERO).await.unwrap(), Release::Released);
}
