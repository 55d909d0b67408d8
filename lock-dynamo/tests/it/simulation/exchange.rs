//! The backend whose requests are answered by a function.

use std::{fmt, sync::Arc, time::SystemTime};

use aws_config::SdkConfig;
use aws_smithy_runtime_api::client::{
    http::{HttpConnector, HttpConnectorFuture},
    orchestrator::HttpRequest,
};
use serde_json::Value;

use super::{model_server::Table, sdk};

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

/// What the model answers to a request, all writes being as they were asked for.
pub(crate) fn ask(model: &mut Table, operation: &str, body: &Value) -> (u16, Value) {
    model.call(operation, body, &|_| {})
}

/// A configuration under which `server` answers all requests.
pub(crate) fn sdk_config(server: Arc<dyn Exchange>) -> SdkConfig {
    sdk::config(Exchanged(server))
}

#[derive(Debug)]
struct Exchanged(Arc<dyn Exchange>);

impl HttpConnector for Exchanged {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let call = sdk::call(&request);
        let body = serde_json::from_str(&call.body).expect("the SDK sends JSON");
        let (status, body) = self.0.exchange(&call.operation, &body);
        let mut response = sdk::response(status, body.to_string(), self.0.date().into());
        if !self.0.is_dynamodb() {
            response.headers_mut().remove("x-amzn-requestid");
        }
        HttpConnectorFuture::ready(Ok(response))
    }
}
