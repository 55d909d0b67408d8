//! The SDK with its HTTP client replaced.

use aws_config::SdkConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region, SharedCredentialsProvider};
use aws_smithy_runtime_api::{
    client::{
        http::{HttpConnector, SharedHttpConnector, http_client_fn},
        orchestrator::{HttpRequest, HttpResponse},
    },
    http::StatusCode,
};
use aws_smithy_types::{DateTime, body::SdkBody, date_time::Format};
use test_support::sim::real::Call;

/// A configuration under which all requests go through `connector`.
pub(crate) fn config(connector: impl HttpConnector + 'static) -> SdkConfig {
    let connector = SharedHttpConnector::new(connector);
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("eu-central-1"))
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new("k", "s", None, None, "test")))
        .http_client(http_client_fn(move |_, _| connector.clone()))
        .build()
}

pub(crate) fn call(request: &HttpRequest) -> Call {
    let target = request.headers().get("x-amz-target").expect("the SDK says what to do");
    let operation = target.rsplit('.').next().expect("a split has a part").to_owned();
    let body = request.body().bytes().expect("the SDK sends it in one piece");
    Call { operation, body: String::from_utf8(body.to_vec()).expect("JSON is UTF-8") }
}

pub(crate) fn response(status: u16, body: String, date: DateTime) -> HttpResponse {
    let status = StatusCode::try_from(status).expect("servers know HTTP");
    let mut response = HttpResponse::new(status, SdkBody::from(body));
    response.headers_mut().insert("date", date.fmt(Format::HttpDate).expect("it is this century"));
    response.headers_mut().insert("content-type", "application/x-amz-json-1.0");
    response.headers_mut().insert("x-amzn-requestid", "made");
    response
}
