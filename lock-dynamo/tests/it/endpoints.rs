//! Tests which endpoint a configuration selects, on AWS too: the requests are caught before they
//! are sent.

use std::sync::{Arc, Mutex};

use aws_config::{Region, SdkConfig};
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, SharedCredentialsProvider};
use aws_smithy_runtime_api::client::{
    http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn},
    orchestrator::HttpRequest,
    result::ConnectorError,
};
use lock_core::{ErrorKind, LockName, backend::Admin};
use lock_dynamo::{DynamoBackend, DynamoConfig};

#[derive(Debug, Clone, Default)]
struct Caught(Arc<Mutex<Vec<String>>>);

impl HttpConnector for Caught {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        self.0.lock().unwrap().push(request.uri().to_owned());
        HttpConnectorFuture::ready(Err(ConnectorError::user("caught".into())))
    }
}

/// An application's own configuration, for the region `us-east-1`.
fn application(caught: &Caught) -> aws_config::SdkConfig {
    let connector = SharedHttpConnector::new(caught.clone());
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new("k", "s", None, None, "test")))
        .http_client(http_client_fn(move |_, _| connector.clone()))
        .build()
}

/// The endpoint that requests of `config` are sent to.
async fn endpoint(config: DynamoConfig) -> String {
    let caught = Caught::default();
    let backend = DynamoBackend::new(config).with_sdk_config(application(&caught));
    backend.inspect(&LockName::new("a").unwrap()).await.unwrap_err();
    let uri = caught.0.lock().unwrap().pop().expect("it was asked");
    uri.trim_end_matches('/').to_owned()
}

#[tokio::test]
async fn region_fips_and_dual_stack_choose_the_endpoint() {
    let new = || DynamoConfig::new("locks");
    for (config, expected) in [
        (new(), "https://dynamodb.us-east-1.amazonaws.com"),
        (new().region("eu-central-1"), "https://dynamodb.eu-central-1.amazonaws.com"),
        (new().region("cn-north-1"), "https://dynamodb.cn-north-1.amazonaws.com.cn"),
        (new().fips(true), "https://dynamodb-fips.us-east-1.amazonaws.com"),
        (new().region("eu-central-1").dual_stack(true), "https://dynamodb.eu-central-1.api.aws"),
        (new().fips(true).dual_stack(true), "https://dynamodb-fips.us-east-1.api.aws"),
        (
            new().endpoint("https://vpce-1.dynamodb.us-east-1.vpce.amazonaws.com"),
            "https://vpce-1.dynamodb.us-east-1.vpce.amazonaws.com",
        ),
        (
            DynamoConfig::new("arn:aws:dynamodb:us-east-1:123456789012:table/locks"),
            "https://123456789012.ddb.us-east-1.amazonaws.com",
        ),
    ] {
        let what = format!("{config:?}");
        assert_eq!(endpoint(config).await, expected, "{what}");
    }
}

#[tokio::test]
async fn profile_with_an_application_configuration_is_refused() {
    let caught = Caught::default();
    let backend = DynamoBackend::new(DynamoConfig::new("locks").profile("ops")).with_sdk_config(application(&caught));
    let error = backend.inspect(&LockName::new("a").unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(caught.0.lock().unwrap().is_empty());
}
