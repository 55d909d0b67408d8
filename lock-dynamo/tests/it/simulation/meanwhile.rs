//! What other clients change between two requests of one attempt.

use std::{
    mem,
    sync::{Arc, Mutex},
    time::Duration,
};

use lock_core::{
    Mode,
    backend::{AcquireOutcome, AcquireRequest, Backend as _, LeaseId, Release},
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

impl Table {
    fn item(&self) -> Value {
        let key = json!({ "key": { "S": "a" } });
        let get = json!({ "TableName": self.name, "Key": key, "ConsistentRead": true });
        self.server.call("GetItem", &get).1["Item"].take()
    }
}

impl Exchange for Table {
    fn exchange(&self, operation: &str, body: &Value) -> (u16, Value) {
        let mut next = self.next.lock().unwrap();
        *next = match mem::take(&mut *next) {
            Next::First(item) => Next::Second(item),
            Next::Second(item) => {
                let put = json!({ "TableName": self.name, "Item": item });
                assert_eq!(self.server.call("PutItem", &put).0, 200);
                Next::AsIs
            }
            Next::AsIs => Next::AsIs,
        };
        self.server.call(operation, body)
    }
}

#[tokio::test]
// verifies: P12
async fn a_writer_that_a_reader_beats_has_its_mark() {
    let table = tokio::task::spawn_blocking(|| {
        let (server, name) = (DynamoDbLocal::shared(), format!("meanwhile-{}", LeaseId::random()));
        server.create_table(&name);
        Arc::new(Table { server, name, next: Mutex::default() })
    })
    .await
    .unwrap();
    let backend = DynamoBackend::new(DynamoConfig::new(&table.name))
        .with_sdk_config(exchange::sdk_config(Arc::clone(&table) as Arc<dyn Exchange>));
    let reader = |request: AcquireRequest| request.with_mode(Mode::Shared).with_ttl(Duration::from_secs(60));
    let first = reader(request("a"));
    let lease = first.lease(granted(backend.acquire(&first).await).token);
    let held = table.item();
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    // The writer sees that the readers are gone, and the item is that of a reader again.
    *table.next.lock().unwrap() = Next::First(held);
    let writer = request("a").with_waits(true);
    for newcomer in [writer, reader(request("a"))] {
        let outcome = backend.acquire(&newcomer).await.unwrap();
        assert!(matches!(outcome, AcquireOutcome::Contended(_)), "{:?}", newcomer.mode);
    }
    assert!(matches!(*table.next.lock().unwrap(), Next::AsIs), "the item was replaced");
}
