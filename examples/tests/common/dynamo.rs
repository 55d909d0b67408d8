//! A lock table of its own on DynamoDB Local for each test.
#![allow(dead_code, reason = "each test file uses its part")]

use std::net::SocketAddr;

use integration::dynamodb::DynamoDbLocal;
use onelock::{
    LeaseId,
    dynamo::{DynamoBackend, DynamoConfig, TableOptions},
};

pub(crate) struct Table {
    server: &'static DynamoDbLocal,
    name: String,
}

impl Table {
    pub(crate) fn new() -> Self {
        let server = DynamoDbLocal::shared();
        let name = format!("locks-{}", LeaseId::random());
        let config = DynamoConfig::new(&name)
            .endpoint(server.endpoint())
            .region("eu-central-1")
            .credentials("test", "test", None);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(DynamoBackend::new(config).init(&TableOptions::default())).expect("the table is created");
        Self { server, name }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub(crate) fn endpoint(&self) -> String {
        self.server.endpoint()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The config string, with further options.
    pub(crate) fn url(&self, options: &str) -> String {
        self.url_at(&self.server.endpoint(), options)
    }

    /// The config string for a client that reaches the server through `endpoint`. All share one clock; the skew is for a busy machine.
    pub(crate) fn url_at(&self, endpoint: &str, options: &str) -> String {
        format!("dynamodb://{}?region=eu-central-1&endpoint={endpoint}&skew_bound=200ms&{options}", self.name)
    }
}
