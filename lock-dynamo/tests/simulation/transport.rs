//! The SDK's HTTP client, replaced: by the simulated network, or by a function.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region, SharedCredentialsProvider};
use aws_smithy_runtime_api::{
    client::{
        http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn},
        orchestrator::{HttpRequest, HttpResponse},
    },
    http::StatusCode,
};
use aws_smithy_types::{DateTime, body::SdkBody, date_time::Format};
use integration::sim::{
    Mistake,
    dynamodb::DynamoServer,
    real::{Call, Real, Server, Transport},
};
use lock_core::{backend::Backend, clock::Clock};
use lock_dynamo::{DynamoBackend, DynamoConfig, Takeover};
use serde_json::Value;

#[derive(Debug)]
pub(crate) struct SimulatedDynamo;

impl Real for SimulatedDynamo {
    fn server(&self, mistake: Option<Mistake>) -> Box<dyn Server> {
        Box::new(DynamoServer::new(mistake))
    }

    fn backend(&self, seed: u64, transport: Transport, clock: Arc<dyn Clock>) -> Arc<dyn Backend> {
        let takeover = if seed.is_multiple_of(3) { Takeover::Observed } else { Takeover::Absolute };
        let config = DynamoConfig::new("locks").takeover(takeover).skew_bound(SKEW_BOUND);
        Arc::new(DynamoBackend::with_clock(config, clock).with_sdk_config(sdk(Simulated(transport))))
    }

    fn slack(&self) -> Duration {
        // The bound itself, and what a cut date adds to it.
        SKEW_BOUND + Duration::from_secs(2)
    }
}

const SKEW_BOUND: Duration = Duration::from_secs(2);

fn sdk(connector: impl HttpConnector + 'static) -> SdkConfig {
    let connector = SharedHttpConnector::new(connector);
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("eu-central-1"))
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new("k", "s", None, None, "test")))
        .http_client(http_client_fn(move |_, _| connector.clone()))
        .build()
}

fn call(request: &HttpRequest) -> Call {
    let target = request.headers().get("x-amz-target").expect("the SDK says what to do");
    let operation = target.rsplit('.').next().expect("a split has a part").to_owned();
    let body = request.body().bytes().expect("the SDK sends it in one piece");
    Call { operation, body: String::from_utf8(body.to_vec()).expect("JSON is UTF-8") }
}

fn response(status: u16, body: String, date: DateTime) -> HttpResponse {
    let status = StatusCode::try_from(status).expect("servers know HTTP");
    let mut response = HttpResponse::new(status, SdkBody::from(body));
    response.headers_mut().insert("date", date.fmt(Format::HttpDate).expect("it is this century"));
    response.headers_mut().insert("x-amzn-requestid", "made");
    response
}

#[derive(Debug)]
struct Simulated(Transport);

impl HttpConnector for Simulated {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (call, transport) = (call(&request), self.0.clone());
        HttpConnectorFuture::new(async move {
            let answer = transport.call(call).await;
            let date = DateTime::from_secs(answer.date());
            Ok(response(answer.status, answer.body, date))
        })
    }
}

/// Something that answers at once.
pub(crate) trait Exchange: fmt::Debug + Send + Sync {
    fn exchange(&self, operation: &str, body: &Value) -> (u16, Value);

    fn date(&self) -> SystemTime {
        SystemTime::now()
    }

    /// Whether the answers carry DynamoDB's request id.
    fn is_dynamodb(&self) -> bool {
        true
    }
}

/// A configuration under which `server` answers all requests.
pub(crate) fn sdk_config(server: Arc<dyn Exchange>) -> SdkConfig {
    sdk(Exchanged(server))
}

#[derive(Debug)]
struct Exchanged(Arc<dyn Exchange>);

impl HttpConnector for Exchanged {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let call = call(&request);
        let body = serde_json::from_str(&call.body).expect("the SDK sends JSON");
        let (status, body) = self.0.exchange(&call.operation, &body);
        let mut response = response(status, body.to_string(), self.0.date().into());
        if !self.0.is_dynamodb() {
            response.headers_mut().remove("x-amzn-requestid");
        }
        HttpConnectorFuture::ready(Ok(response))
    }
}
