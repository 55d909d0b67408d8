//! Tests which endpoint a configuration selects, on AWS too, and which credentials sign: the
//! requests are caught before they are sent.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use aws_config::{Region, SdkConfig};
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, SharedCredentialsProvider};
use aws_smithy_runtime_api::{
    client::{
        http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn},
        orchestrator::{HttpRequest, HttpResponse},
    },
    http::StatusCode,
};
use aws_smithy_types::body::SdkBody;
use lock_core::{
    ErrorKind, LockName,
    backend::{Admin, Backend},
};
use lock_dynamo::{DynamoBackend, DynamoConfig};

use crate::fixture::request;

/// The URI of each request, and the header with its signature. Answers with an error and a wrong
/// date.
#[derive(Debug, Clone, Default)]
struct Caught(Arc<Mutex<Vec<(String, String)>>>);

impl HttpConnector for Caught {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let signature = request.headers().get("authorization").unwrap_or_default();
        self.0.lock().unwrap().push((request.uri().to_owned(), signature.to_owned()));
        let mut reply = HttpResponse::new(StatusCode::try_from(400).unwrap(), SdkBody::empty());
        reply.headers_mut().insert("x-amzn-requestid", "made");
        reply.headers_mut().insert("date", "Thu, 01 Jan 2015 00:00:00 GMT");
        HttpConnectorFuture::ready(Ok(reply))
    }
}

impl Caught {
    fn signatures(&self) -> Vec<String> {
        self.0.lock().unwrap().drain(..).map(|(_, signature)| signature).collect()
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
    let (uri, _) = caught.0.lock().unwrap().pop().expect("it was asked");
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

/// Temporary credentials that are new each time, because they have expired.
#[derive(Debug, Default)]
struct Rotated(AtomicU32);

impl ProvideCredentials for Rotated {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let key = format!("ASIA{}", self.0.fetch_add(1, Ordering::Relaxed));
        future::ProvideCredentials::ready(Ok(Credentials::new(key, "s", None, Some(SystemTime::now()), "test")))
    }
}

#[tokio::test]
async fn each_request_is_signed_by_credentials_that_have_not_expired() {
    let caught = Caught::default();
    let sdk = application(&caught).into_builder();
    let sdk = sdk.credentials_provider(SharedCredentialsProvider::new(Rotated::default())).build();
    let backend = DynamoBackend::new(DynamoConfig::new("locks")).with_sdk_config(sdk);
    let request = request("a", Duration::from_secs(15));
    for _ in 0..3 {
        backend.acquire(&request).await.unwrap_err();
    }
    let seen = caught.signatures();
    for (number, signature) in seen.iter().enumerate() {
        assert!(signature.contains(&format!("Credential=ASIA{number}/")), "{number}: {signature}");
    }
    assert_eq!(seen.len(), 3);
}

#[tokio::test]
async fn the_date_of_a_reply_does_not_change_the_time_of_signatures() {
    let caught = Caught::default();
    let sdk = application(&caught).into_builder().disable_clock_skew_correction(false).build();
    let backend = DynamoBackend::new(DynamoConfig::new("locks")).with_sdk_config(sdk);
    let request = request("a", Duration::from_secs(15));
    for _ in 0..2 {
        backend.acquire(&request).await.unwrap_err();
    }
    let seen = caught.signatures();
    assert_eq!(seen.len(), 2);
    for signature in seen {
        assert!(signature.contains("Credential=k/2") && !signature.contains("/2015"), "{signature}");
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
