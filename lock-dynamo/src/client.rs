//! The SDK's client: one per backend, built at its first request.

use std::{sync::Arc, time::Duration};

use aws_config::{BehaviorVersion, Region, default_provider::region::DefaultRegionChain, sts::AssumeRoleProvider};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_sdk_dynamodb::{Client, config::Builder};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        interceptors::{
            Intercept,
            context::{BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef},
        },
        runtime_components::RuntimeComponents,
        stalled_stream_protection::StalledStreamProtectionConfig,
    },
};
use aws_smithy_types::{
    DateTime,
    config_bag::{ConfigBag, Storable, StoreReplace},
    date_time::Format,
    retry::RetryConfig,
    timeout::TimeoutConfig,
};
use lock_core::{Error, ErrorKind, Operation, clock::Moment};

use crate::{clock::StoreClock, config::DynamoConfig};

/// Longest time to connect, TLS included.
const CONNECT: Duration = Duration::from_secs(1);
/// Longest time for one request. Two of them, and what a takeover needs, fit into [`ATTEMPT`].
const REQUEST: Duration = Duration::from_secs(2);
/// What the core is told to allow for one attempt, which is up to three requests in the worst case.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(5);

pub(crate) async fn connect(config: &DynamoConfig, clock: &Arc<StoreClock>) -> Result<Client, Error> {
    let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http).region(region(config).await?);
    if let Some(profile) = &config.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(credentials) = &config.credentials {
        let (key, secret, session) = credentials.expose();
        let session = session.map(ToOwned::to_owned);
        loader = loader.credentials_provider(Credentials::new(key, secret, session, None, "dlock configuration"));
    }
    if let Some(endpoint) = &config.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if config.fips {
        loader = loader.use_fips(true);
    }
    if config.dual_stack {
        loader = loader.use_dual_stack(true);
    }
    let shared = loader.load().await;
    let mut builder = Builder::from(&shared)
        // The core tries again, under the same lease id and within the time that the lease leaves. Retries below it would hide
        // from it that an earlier attempt may have taken effect.
        .retry_config(RetryConfig::disabled())
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(CONNECT)
                .operation_attempt_timeout(REQUEST)
                .operation_timeout(REQUEST)
                .build(),
        )
        // Made for large bodies; the time of these requests is bounded as a whole.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .interceptor(ReadDate(Arc::clone(clock)));
    if let Some(role) = &config.role {
        let provider = AssumeRoleProvider::builder(role).session_name("dlock").configure(&shared).build().await;
        builder = builder.credentials_provider(SharedCredentialsProvider::new(provider));
    }
    Ok(Client::from_conf(builder.build()))
}

/// The region that was chosen, or that the environment, the profile or the instance says.
async fn region(config: &DynamoConfig) -> Result<Region, Error> {
    if let Some(region) = &config.region {
        return Ok(Region::new(region.clone()));
    }
    let mut chain = DefaultRegionChain::builder();
    if let Some(profile) = &config.profile {
        chain = chain.profile_name(profile);
    }
    match chain.build().region().await {
        Some(region) => Ok(region),
        // Something that is not AWS does not care; a signature needs one.
        None if config.endpoint.is_some() => Ok(Region::from_static("us-east-1")),
        None => {
            let message = "no AWS region; add region=… to the configuration, or set AWS_REGION";
            Err(Error::new(ErrorKind::Config, message).with_operation(Operation::Open))
        }
    }
}

/// Reads the store's clock from every reply.
#[derive(Debug)]
struct ReadDate(Arc<StoreClock>);

#[derive(Debug)]
struct Sent(Moment);

impl Storable for Sent {
    type Storer = StoreReplace<Self>;
}

impl Intercept for ReadDate {
    fn name(&self) -> &'static str {
        "dlock-date"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        metrics::counter!("dlock_dynamodb_requests_total").increment(1);
        bag.interceptor_state().store_put(Sent(self.0.moment()));
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.response().headers();
        // What a proxy answers by itself has its own date, and no request id of DynamoDB.
        let date = headers.get("x-amzn-requestid").and_then(|_| headers.get("date"));
        let date = date.and_then(|date| DateTime::from_str(date, Format::HttpDate).ok());
        if let (Some(date), Some(Sent(sent))) = (date, bag.load::<Sent>()) {
            self.0.observe(*sent, self.0.moment(), date.secs());
        }
        Ok(())
    }
}
