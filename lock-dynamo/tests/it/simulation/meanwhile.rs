//! What other clients change between two requests of one attempt.

use std::{
    mem,
    num::NonZeroU16,
    sync::{Arc, Mutex},
    time::Duration,
};

use lock_core::{
    Mode,
    backend::{AcquireOutcome, AcquireRequest, Backend as _, Lease, LeaseId, Release},
};
use lock_dynamo::{DynamoBackend, DynamoConfig};
use serde_json::{Value, json};
use test_support::dynamodb::DynamoDbLocal;

use super::{
    by_hand::{granted, request},
    exchange::{self, Exchange},
};

/// A table of DynamoDB Local in which the item "a" is replaced before the second of the next
/// requests.
#[derive(Debug)]
struct Table {
    server: &'static DynamoDbLocal,
    name: String,
    next: Mutex<Next>,
}

#[derive(Debug, Default)]
enum Next {
    #[default]
    AsIs,
    First(Value),
    Second(Value),
}

impl Exchange for Table {
    fn exchange(&self, operation: &str, body: &Value) -> (u16, Value) {
        let mut next = self.next.lock().unwrap();
        *next = match mem::take(&mut *next) {
            Next::First(item) => Next::Second(item),
            Next::Second(item) => {
                self.put(&item);
                Next::AsIs
            }
            Next::AsIs => Next::AsIs,
        };
        self.server.call(operation, body)
    }
}

impl Table {
    fn item(&self) -> Value {
        let key = json!({ "key": { "S": "a" } });
        let get = json!({ "TableName": self.name, "Key": key, "ConsistentRead": true });
        self.server.call("GetItem", &get).1["Item"].take()
    }

    fn put(&self, item: &Value) {
        let put = json!({ "TableName": self.name, "Item": item });
        assert_eq!(self.server.call("PutItem", &put).0, 200);
    }

    /// Lets other clients change the item to `item` before the second of the next requests.
    fn change_before_the_second(&self, item: Value) {
        *self.next.lock().unwrap() = Next::First(item);
    }

    fn is_changed(&self) -> bool {
        matches!(*self.next.lock().unwrap(), Next::AsIs)
    }
}

async fn new_table() -> (Arc<Table>, DynamoBackend) {
    let create = || {
        let (server, name) = (DynamoDbLocal::shared(), format!("meanwhile-{}", LeaseId::random()));
        server.create_table(&name);
        Arc::new(Table { server, name, next: Mutex::default() })
    };
    let table = tokio::task::spawn_blocking(create).await.unwrap();
    let sdk = exchange::sdk_config(Arc::clone(&table) as Arc<dyn Exchange>);
    let backend = DynamoBackend::new(DynamoConfig::new(&table.name)).with_sdk_config(sdk);
    (table, backend)
}

const TWO: Mode = Mode::Permit { of: NonZeroU16::new(2).unwrap() };

fn asking(mode: Mode) -> AcquireRequest {
    request("a").with_mode(mode).with_ttl(Duration::from_secs(60))
}

async fn held(backend: &DynamoBackend, mode: Mode) -> Lease {
    let request = asking(mode);
    let token = granted(backend.acquire(&request).await).token;
    request.lease(token)
}

async fn refused(backend: &DynamoBackend, request: &AcquireRequest) {
    let outcome = backend.acquire(request).await.unwrap();
    assert!(matches!(outcome, AcquireOutcome::Contended(_)), "{:?}", request.mode);
}

async fn release(backend: &DynamoBackend, lease: &Lease) {
    assert_eq!(backend.release(lease, Duration::ZERO).await.unwrap(), Release::Released);
}

#[tokio::test]
// verifies: P12
async fn a_writer_that_a_reader_beats_has_its_mark() {
    let (table, backend) = new_table().await;
    let lease = held(&backend, Mode::Shared).await;
    let item = table.item();
    release(&backend, &lease).await;
    // The writer sees that the readers are gone, and the item is that of a reader again.
    table.change_before_the_second(item);
    refused(&backend, &asking(Mode::Exclusive).with_waits(true)).await;
    refused(&backend, &asking(Mode::Shared)).await;
    assert!(table.is_changed());
}

#[tokio::test]
// verifies: P12
async fn a_permit_passes_no_mark_that_came_meanwhile() {
    let (table, backend) = new_table().await;
    let (_staying, leaving) = (held(&backend, TWO).await, held(&backend, TWO).await);
    release(&backend, &leaving).await;
    // The part that has ended makes the newcomer look first.
    let before = table.item();
    refused(&backend, &asking(Mode::Exclusive).with_waits(true)).await;
    let marked = table.item();
    table.put(&before);
    table.change_before_the_second(marked);
    refused(&backend, &asking(TWO)).await;
    assert!(table.is_changed());
}

/// A writer that watches one of the readers may take it for alive longer than others do.
#[tokio::test]
// verifies: P12
async fn a_permit_that_takes_over_passes_no_mark_that_came_meanwhile() {
    let (table, backend) = new_table().await;
    let lease = held(&backend, Mode::Shared).await;
    refused(&backend, &asking(Mode::Exclusive).with_waits(true)).await;
    release(&backend, &lease).await;
    let marked = table.item();
    let mut before = marked.clone();
    before.as_object_mut().unwrap().remove("waiting").expect("the writer has left its mark");
    table.put(&before);
    table.change_before_the_second(marked);
    refused(&backend, &asking(TWO)).await;
    assert!(table.is_changed());
}

#[tokio::test]
// verifies: P12
async fn a_reader_passes_no_place_that_came_meanwhile() {
    let (table, backend) = new_table().await;
    let _reading = held(&backend, Mode::Shared).await;
    refused(&backend, &asking(Mode::Exclusive).with_waits(true).with_fair(true)).await;
    let behind_a_writer = table.item();
    // The newcomer sees the place of another reader, which then gives up.
    let mut behind_a_reader = behind_a_writer.clone();
    let place = &mut behind_a_reader["places"]["L"][0]["M"];
    place["mode"] = behind_a_writer["mode"].clone();
    place["version"]["S"] = LeaseId::random().to_string().into();
    table.put(&behind_a_reader);
    table.change_before_the_second(behind_a_writer);
    refused(&backend, &asking(Mode::Shared)).await;
    assert!(table.is_changed());
}
