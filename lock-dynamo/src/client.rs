//! Builds the SDK's clients: one set per backend, at its first request, on one HTTP client.

use std::{sync::Arc, time::Duration};

use aws_config::{BehaviorVersion, Region, SdkConfig, sts::AssumeRoleProvider};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_sdk_dynamodb::{Client, config::Builder};
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        interceptors::{
            Intercept, SharedInterceptor,
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
use lock_core::{Error, ErrorKind, Operation, backend::StoreClock, clock::ClockReading};
use metrics::{Unit, describe_counter, describe_gauge};

use crate::{
    config::DynamoConfig,
    http::{self, Checked},
};

/// Gives the recorder the help texts of this store's metrics.
pub(crate) fn describe_metrics() {
    describe_counter!("onelock_dynamodb_requests_total", Unit::Count, "Requests sent to DynamoDB.");
    describe_gauge!(
        "onelock_dynamodb_clock_skew_seconds",
        Unit::Seconds,
        "The least difference between this machine's clock and the store's."
    );
    describe_counter!(
        "onelock_dynamodb_takeovers_refused_total",
        Unit::Count,
        "Dead holders that this machine could not judge, because its clock was too far off."
    );
}

/// Limit on connecting, TLS included.
const CONNECT: Duration = Duration::from_secs(1);
/// Limit on one request. [`ATTEMPT`] leaves time for two of them and part of a third.
const REQUEST: Duration = Duration::from_secs(2);
/// The time that the core allows for one attempt, which takes up to three requests.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(5);
/// Limit on an operation that holds no lock: a page of a list, or a step of creating a table.
/// Covers [`TRIES`] requests.
const PATIENCE: Duration = Duration::from_secs(15);
const TRIES: u32 = 5;

const _: () = assert!(2 * REQUEST.as_millis() < ATTEMPT.as_millis(), "an attempt has time for more than two requests");
const _: () = assert!(TRIES as u128 * REQUEST.as_millis() <= PATIENCE.as_millis(), "all tries fit into the limit");

/// Two configurations of one client.
#[derive(Debug, Clone)]
pub(crate) struct Clients {
    /// For acquire, renew, release and break, without retries. The core retries under the same
    /// lease id while the lease is valid. If the SDK retried, the core could not tell that an
    /// earlier request may have taken effect.
    pub(crate) locks: Client,
    /// For reads and for the table. The SDK retries while the server throttles or fails, because
    /// the callers do not.
    pub(crate) patient: Client,
}

pub(crate) async fn connect(
    config: &DynamoConfig,
    sdk: Option<&SdkConfig>,
    clock: &Arc<StoreClock>,
) -> Result<Clients, Error> {
    config.layout.check().map_err(wrong)?;
    let shared = match sdk {
        None => load(config).await?,
        Some(sdk) => chosen(config, sdk.clone())?,
    };
    let mut builder = Builder::from(&shared)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts(REQUEST))
        // Stall protection is for large bodies; these requests have a limit on their total time.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        // The SDK would sign with the date of any reply, a gateway's too. AWS refuses a wrong one.
        .disable_clock_skew_correction(true);
    let date = ReadDate { clock: Arc::clone(clock), store: config.name().into() };
    // Not `interceptor`: for that, the SDK asks at each of 19 hooks whether a request disables it.
    builder.push_interceptor(SharedInterceptor::permanent(date));
    if let Some(http) = shared.http_client() {
        builder = builder.http_client(Checked(http));
    }
    if let Some(endpoint) = &config.endpoint {
        // For DynamoDB only: a role is assumed at the token service.
        builder = builder.endpoint_url(&endpoint.0);
    }
    if let Some(role) = &config.role {
        let provider = AssumeRoleProvider::builder(role).session_name("onelock").configure(&shared).build().await;
        builder = builder.credentials_provider(SharedCredentialsProvider::new(provider));
    }
    let locks = builder.build();
    let patient = locks
        .to_builder()
        .retry_config(RetryConfig::standard().with_max_attempts(TRIES).with_initial_backoff(Duration::from_millis(100)))
        .timeout_config(timeouts(PATIENCE));
    Ok(Clients { locks: Client::from_conf(locks), patient: Client::from_conf(patient.build()) })
}

fn timeouts(operation: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT)
        .operation_attempt_timeout(REQUEST)
        .operation_timeout(operation)
        .build()
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, message).with_operation(Operation::Open)
}

/// Loads the settings of `config`, and the rest from the AWS environment.
async fn load(config: &DynamoConfig) -> Result<SdkConfig, Error> {
    // The credential providers for instance, container and token service use it too.
    let http = http::from_environment().map_err(wrong)?;
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http);
    if let Some(region) = &config.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(profile) = &config.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(credentials) = credentials(config) {
        loader = loader.credentials_provider(credentials);
    }
    if config.fips {
        loader = loader.use_fips(true);
    }
    if config.dual_stack {
        loader = loader.use_dual_stack(true);
    }
    in_a_region(config, loader.load().await)
}

/// Applies the settings of `config` to the application's own AWS configuration.
fn chosen(config: &DynamoConfig, sdk: SdkConfig) -> Result<SdkConfig, Error> {
    if config.profile.is_some() {
        return Err(wrong(
            "a profile has no effect on an AWS configuration that the application passes in; load the profile into \
             that configuration",
        ));
    }
    let mut builder = sdk.into_builder();
    if let Some(region) = &config.region {
        builder = builder.region(Region::new(region.clone()));
    }
    if let Some(credentials) = credentials(config) {
        builder = builder.credentials_provider(SharedCredentialsProvider::new(credentials));
    }
    if config.fips {
        builder = builder.use_fips(true);
    }
    if config.dual_stack {
        builder = builder.use_dual_stack(true);
    }
    in_a_region(config, builder.build())
}

fn in_a_region(config: &DynamoConfig, sdk: SdkConfig) -> Result<SdkConfig, Error> {
    if sdk.region().is_some() {
        return Ok(sdk);
    }
    if config.endpoint.is_none() && sdk.endpoint_url().is_none() {
        return Err(wrong("no AWS region; add region=… to the configuration, or set AWS_REGION"));
    }
    // An emulator ignores the region, but a signature needs one.
    Ok(sdk.into_builder().region(Region::from_static("us-east-1")).build())
}

fn credentials(config: &DynamoConfig) -> Option<Credentials> {
    let (key, secret, session) = config.credentials.as_ref()?.expose();
    Some(Credentials::new(key, secret, session.map(ToOwned::to_owned), None, "onelock configuration"))
}

/// Reads the store's clock from every reply.
#[derive(Debug)]
struct ReadDate {
    clock: Arc<StoreClock>,
    /// The store, as the metrics show it.
    store: Arc<str>,
}

#[derive(Debug)]
struct SentAt(ClockReading);

impl Storable for SentAt {
    type Storer = StoreReplace<Self>;
}

impl Intercept for ReadDate {
    fn name(&self) -> &'static str {
        "onelock-date"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        metrics::counter!("onelock_dynamodb_requests_total", "store" => Arc::clone(&self.store)).increment(1);
        bag.interceptor_state().store_put(SentAt(self.clock.moment()));
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.response().headers();
        // A proxy's own reply has the proxy's date, and no request id from DynamoDB.
        let date = headers.get("x-amzn-requestid").and_then(|_| headers.get("date"));
        let date = date.and_then(|date| DateTime::from_str(date, Format::HttpDate).ok());
        if let (Some(date), Some(SentAt(sent))) = (date, bag.load::<SentAt>()) {
            let received = self.clock.moment();
            self.clock.observe(*sent, received, date.secs());
            if let Some(skew) = self.clock.skew(received) {
                let store = Arc::clone(&self.store);
                metrics::gauge!("onelock_dynamodb_clock_skew_seconds", "store" => store).set(seconds(skew));
            }
        }
        Ok(())
    }
}

/// Microseconds as seconds, for people and gauges.
#[expect(clippy::cast_precision_loss, reason = "shown with three decimals at most")]
pub(crate) fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use metrics_util::debugging::DebuggingRecorder;

    use crate::{DynamoBackend, DynamoConfig};

    #[test]
    fn every_metric_has_a_help_text() {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        metrics::with_local_recorder(&recorder, || {
            drop(DynamoBackend::new(DynamoConfig::new("locks")));
            metrics::counter!("onelock_dynamodb_requests_total").increment(1);
            metrics::gauge!("onelock_dynamodb_clock_skew_seconds").set(0.0);
            metrics::counter!("onelock_dynamodb_takeovers_refused_total").increment(1);
        });
        for (key, unit, help, _) in snapshotter.snapshot().into_vec() {
            assert!(unit.is_some() && help.is_some(), "{}", key.key().name());
        }
    }
}
