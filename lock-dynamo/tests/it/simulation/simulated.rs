//! The backend whose requests go through the simulated network.

use std::{sync::Arc, time::Duration};

use aws_smithy_runtime_api::client::{
    http::{HttpConnector, HttpConnectorFuture},
    orchestrator::HttpRequest,
};
use aws_smithy_types::DateTime;
use lock_core::{backend::Backend, clock::Clock};
use lock_dynamo::{DynamoBackend, DynamoConfig, Takeover};
use test_support::sim::{
    Mistake,
    real::{Real, Server, Transport},
};

use super::{model_server::DynamoServer, sdk};

#[derive(Debug)]
pub(crate) struct SimulatedDynamo;

impl Real for SimulatedDynamo {
    fn server(&self, mistake: Option<Mistake>) -> Box<dyn Server> {
        Box::new(DynamoServer::new(mistake))
    }

    fn backend(&self, seed: u64, transport: Transport, clock: Arc<dyn Clock>) -> Arc<dyn Backend> {
        let takeover = if seed.is_multiple_of(3) { Takeover::Observed } else { Takeover::Absolute };
        let config = DynamoConfig::new("locks").takeover(takeover).skew_bound(SKEW_BOUND);
        let mut config = config.read_first(seed.is_multiple_of(2));
        if seed % 4 < 2 {
            // The server deletes each item as early as DynamoDB may.
            config = config.collect_after(Duration::ZERO);
        }
        Arc::new(DynamoBackend::with_clock(config, clock).with_sdk_config(sdk::config(Simulated(transport))))
    }

    fn slack(&self) -> Duration {
        // The bound itself, and what a cut date adds to it.
        SKEW_BOUND + Duration::from_secs(2)
    }
}

const SKEW_BOUND: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Simulated(Transport);

impl HttpConnector for Simulated {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (call, transport) = (sdk::call(&request), self.0.clone());
        HttpConnectorFuture::new(async move {
            let answer = transport.call(call).await;
            let date = DateTime::from_secs(answer.date());
            Ok(sdk::response(answer.status, answer.body, date))
        })
    }
}
