//! Requests to the object store, each once, and what their replies mean for locks.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use http::{HeaderValue, Method, Request, StatusCode, header};
use lock_core::{Error, ErrorKind, backend::StoreClock};
use object_store::{
    Attribute, Attributes, GetOptions, ObjectMeta, ObjectStore, PutMode, PutOptions, UpdateVersion,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsAuthorizer, S3ConditionalPut},
    azure::{AzureAuthorizer, MicrosoftAzure, MicrosoftAzureBuilder},
    client::{HttpRequest, HttpRequestBody},
    gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder},
    path::Path,
    signer::Signer as _,
};

use crate::{
    config::{ObjectConfig, Service},
    error,
    http::{Connector, Exchange, Reply},
};

/// How long the URL of a deletion is valid. It is used at once.
const SIGNED_FOR: Duration = Duration::from_secs(60);

/// A version of an object, for conditions: an `ETag`, on GCS a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tag(pub(crate) String);

/// The answer to a read.
#[derive(Debug)]
pub(crate) struct Read {
    /// None if there is no object.
    pub(crate) object: Option<Object>,
    /// The store's time of the answer, in whole seconds since the Unix epoch.
    pub(crate) date: i64,
}

/// An object.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) tag: Tag,
    pub(crate) body: Bytes,
    /// The time of its last write.
    pub(crate) modified: i64,
}

/// The answer to a conditional request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Written {
    /// It took effect; this is the new version.
    Done(Tag),
    /// The condition did not hold, so nothing was done. The reply's status.
    Refused(StatusCode),
}

#[derive(Debug)]
enum Client {
    S3(AmazonS3),
    Gcs(GoogleCloudStorage),
    Azure(MicrosoftAzure),
}

/// A bucket or container.
#[derive(Debug)]
pub(crate) struct Store {
    config: ObjectConfig,
    client: Client,
    http: Connector,
    clock: Arc<StoreClock>,
}

impl Store {
    /// Reads the environment, and the files of credentials that it names. Connects nowhere.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub(crate) fn new(config: ObjectConfig, clock: Arc<StoreClock>, http: Connector) -> Result<Self, Error> {
        let client = connect(&config, &http)?;
        Ok(Self { config, client, http, clock })
    }

    fn objects(&self) -> &dyn ObjectStore {
        match &self.client {
            Client::S3(client) => client,
            Client::Gcs(client) => client,
            Client::Azure(client) => client,
        }
    }

    /// Reads an object.
    ///
    /// # Errors
    /// When the store cannot say, or does not show its clock.
    pub(crate) async fn get(&self, path: &Path) -> Result<Read, Error> {
        let exchange = Exchange::default();
        let mut options = GetOptions::default();
        options.extensions.insert(exchange.clone());
        let reply = self.reply(&exchange, self.objects().get_opts(path, options)).await?;
        let date = || reply.seconds("date").ok_or_else(|| error::no_clock("Date"));
        match reply.status {
            StatusCode::OK => {
                let modified = reply.seconds("last-modified").ok_or_else(|| error::no_clock("Last-Modified"))?;
                let object = Object { tag: self.tag(&reply)?, modified, body: reply.body.clone() };
                Ok(Read { object: Some(object), date: date()? })
            }
            StatusCode::NOT_FOUND if error::is_missing_object(&reply) => Ok(Read { object: None, date: date()? }),
            _ => Err(error::refused(&reply, &self.config)),
        }
    }

    /// Writes an object if it still has the version `on`, or if there is none.
    ///
    /// # Errors
    /// When it is not known whether the condition held.
    pub(crate) async fn put(&self, path: &Path, body: Vec<u8>, on: Option<&Tag>) -> Result<Written, Error> {
        let exchange = Exchange::default();
        let mode = match on {
            None => PutMode::Create,
            Some(Tag(tag)) => PutMode::Update(UpdateVersion { e_tag: Some(tag.clone()), version: Some(tag.clone()) }),
        };
        let mut options = PutOptions { mode, ..PutOptions::default() };
        options.attributes = Attributes::from_iter([
            (Attribute::ContentType, "application/json"),
            // GCS caches objects that anyone may read.
            (Attribute::CacheControl, "no-store"),
        ]);
        options.extensions.insert(exchange.clone());
        let reply = self.reply(&exchange, self.objects().put_opts(path, body.into(), options)).await?;
        self.written(&reply)
    }

    /// Deletes an object if it still has the version `on`.
    ///
    /// # Errors
    /// When it is not known whether the condition held.
    pub(crate) async fn delete(&self, path: &Path, on: &Tag) -> Result<Written, Error> {
        let failed = |error| error::failed(&Exchange::default(), &error, &self.config);
        let request = match &self.client {
            Client::S3(client) => {
                // The signature of a URL does not cover this header, which S3 allows.
                let mut url = client.signed_url(Method::DELETE, path, SIGNED_FOR).await.map_err(failed)?;
                if self.config.anonymous {
                    url.set_query(None);
                }
                deletion(url.as_str(), "if-match", on)?
            }
            Client::Gcs(client) => {
                let credential = client.credentials().get_credential().await.map_err(failed)?;
                let mut request = deletion(&self.config.url_of(path), "x-goog-if-generation-match", on)?;
                let bearer = HeaderValue::try_from(format!("Bearer {}", credential.bearer));
                let bearer = bearer.map_err(|_| error::wrong_address("the token of the credentials is malformed"))?;
                request.headers_mut().insert(header::AUTHORIZATION, bearer);
                request
            }
            Client::Azure(client) => {
                let credential = client.credentials().get_credential().await.map_err(failed)?;
                let mut request = deletion(&self.config.url_of(path), "if-match", on)?;
                let account = self.config.account.as_deref().unwrap_or_default();
                AzureAuthorizer::new(&credential, account).try_authorize(&mut request).map_err(failed)?;
                request
            }
        };
        let sent = self.clock.moment();
        let reply = self.http.send(request).await.map_err(|error| error::lost(&error, &self.config))?;
        self.note_date(sent, &reply);
        match reply.status {
            StatusCode::OK | StatusCode::ACCEPTED | StatusCode::NO_CONTENT => Ok(Written::Done(on.clone())),
            _ => self.written(&reply),
        }
    }

    /// Lists all objects below a prefix.
    pub(crate) fn list(&self, prefix: Option<&Path>) -> BoxStream<'_, Result<ObjectMeta, Error>> {
        let list = self.objects().list(prefix);
        list.map(|listed| listed.map_err(|error| error::failed(&Exchange::default(), &error, &self.config))).boxed()
    }

    /// Asks S3 about a setting of the bucket, such as `versioning`. `None` on other services.
    ///
    /// # Errors
    /// When the request could not be made.
    pub(crate) async fn bucket_setting(&self, setting: &str) -> Result<Option<Reply>, Error> {
        let Client::S3(client) = &self.client else { return Ok(None) };
        let failed = |error| error::failed(&Exchange::default(), &error, &self.config);
        let builder = s3(&self.config, &self.http);
        let value = |key| builder.get_config_value(&key);
        let region = value(AmazonS3ConfigKey::Region).unwrap_or_else(|| "us-east-1".into());
        let endpoint = value(AmazonS3ConfigKey::S3Endpoint).or_else(|| value(AmazonS3ConfigKey::Endpoint));
        let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
        let url = format!("{}/{}?{setting}", endpoint.trim_end_matches('/'), self.config.bucket);
        let request = Request::builder().uri(url).body(HttpRequestBody::empty());
        let mut request = request.map_err(|error| error::wrong_address(&error.to_string()))?;
        if !self.config.anonymous {
            let credential = client.credentials().get_credential().await.map_err(failed)?;
            AwsAuthorizer::new(&credential, "s3", &region).try_authorize(&mut request, None).map_err(failed)?;
        }
        self.http.send(request).await.map(Some).map_err(|error| error::lost(&error, &self.config))
    }

    /// Waits for the reply to a request of the library, whose own result says less.
    async fn reply<T>(
        &self,
        exchange: &Exchange,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<Reply, Error> {
        let sent = self.clock.moment();
        let result = request.await.map(drop);
        match (exchange.take_reply(), result) {
            (Some(reply), _) => {
                self.note_date(sent, &reply);
                Ok(reply)
            }
            (None, Err(error)) => Err(error::failed(exchange, &error, &self.config)),
            (None, Ok(())) => unreachable!("the connector records every reply"),
        }
    }

    fn note_date(&self, sent: lock_core::clock::ClockReading, reply: &Reply) {
        if let Some(date) = reply.seconds("date") {
            self.clock.observe(sent, self.clock.moment(), date);
        }
    }

    fn written(&self, reply: &Reply) -> Result<Written, Error> {
        match reply.status {
            StatusCode::OK | StatusCode::CREATED => Ok(Written::Done(self.tag(reply)?)),
            _ if error::is_failed_condition(reply) => Ok(Written::Refused(reply.status)),
            _ => Err(error::refused(reply, &self.config)),
        }
    }

    fn tag(&self, reply: &Reply) -> Result<Tag, Error> {
        let header = if self.config.service == Service::Gcs { "x-goog-generation" } else { "etag" };
        reply.header(header).map(|tag| Tag(tag.to_owned())).ok_or_else(|| error::no_version(header))
    }
}

fn deletion(url: &str, condition: &str, on: &Tag) -> Result<HttpRequest, Error> {
    let request = Request::builder().method(Method::DELETE).uri(url).header(condition, &on.0);
    request.body(HttpRequestBody::empty()).map_err(|error| error::wrong_address(&error.to_string()))
}

/// Requests are never repeated by the library: a repeated write is refused by its own effect.
fn retries() -> object_store::RetryConfig {
    object_store::RetryConfig { max_retries: 0, ..object_store::RetryConfig::default() }
}

fn connect(config: &ObjectConfig, http: &Connector) -> Result<Client, Error> {
    let redirected = [AmazonS3ConfigKey::Endpoint, AmazonS3ConfigKey::S3Endpoint];
    let builder = AmazonS3Builder::from_env();
    if !config.probe && redirected.iter().any(|key| builder.get_config_value(key).is_some()) {
        let text = "probe=off is for Amazon's own S3 only, but AWS_ENDPOINT_URL names another server; leave it out";
        return Err(Error::new(ErrorKind::Config, text));
    }
    let client = match config.service {
        Service::S3 => s3(config, http).build().map(Client::S3),
        Service::Gcs => gcs(config, http).build().map(Client::Gcs),
        Service::Azure => azure(config, http).build().map(Client::Azure),
    };
    client.map_err(|error| error::wrong_settings(&error))
}

fn s3(config: &ObjectConfig, http: &Connector) -> AmazonS3Builder {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(&config.bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_retry(retries())
        .with_http_connector(http.clone())
        .with_skip_signature(config.anonymous);
    if let Some(region) = &config.region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint).with_allow_http(true);
    }
    if let Some((key, secret, session)) = &config.access_key {
        builder = builder.with_access_key_id(key.expose()).with_secret_access_key(secret.expose());
        if let Some(session) = session {
            builder = builder.with_token(session.expose());
        }
    }
    if config.anonymous {
        // An address is signed even so, before the signature is cut off.
        builder = builder.with_access_key_id("anonymous").with_secret_access_key("anonymous");
    }
    builder
}

fn gcs(config: &ObjectConfig, http: &Connector) -> GoogleCloudStorageBuilder {
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(&config.bucket)
        .with_retry(retries())
        .with_http_connector(http.clone());
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    if let Some(file) = &config.service_account {
        builder = builder.with_service_account_path(file.to_string_lossy());
    }
    if config.anonymous {
        builder = builder.with_skip_signature(true).with_bearer_token("");
    }
    builder
}

fn azure(config: &ObjectConfig, http: &Connector) -> MicrosoftAzureBuilder {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_account(config.account.as_deref().unwrap_or_default())
        .with_container_name(&config.bucket)
        .with_retry(retries())
        .with_http_connector(http.clone())
        .with_skip_signature(config.anonymous);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint.clone()).with_allow_http(true);
    }
    if let Some(key) = &config.account_key {
        builder = builder.with_access_key(key.expose());
    }
    builder
}
