//! Settings: the bucket, and how to reach it.

use std::{fmt, path::PathBuf, time::Duration};

use lock_core::{
    ConfigString,
    config::{Host, Secret},
};
use object_store::path::Path;

/// An object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Service {
    /// Amazon S3, or a server that speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
}

impl Service {
    /// Returns the scheme of its config strings.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gs",
            Self::Azure => "az",
        }
    }
}

/// Settings for locks in a bucket or container. The backend connects at the first operation.
///
/// ```
/// use std::time::Duration;
/// use lock_object::{ObjectBackend, ObjectConfig};
///
/// let config = ObjectConfig::s3("my-bucket").prefix("locks").region("eu-central-1");
/// let locker = lock_core::Locker::new(ObjectBackend::new(config)?)?;
/// # Ok::<(), lock_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectConfig {
    pub(crate) service: Service,
    pub(crate) bucket: String,
    pub(crate) account: Option<String>,
    pub(crate) prefix: String,
    pub(crate) region: Option<String>,
    pub(crate) endpoint: Option<String>,
    pub(crate) access_key: Option<(Secret, Secret, Option<Secret>)>,
    pub(crate) account_key: Option<Secret>,
    pub(crate) service_account: Option<PathBuf>,
    pub(crate) anonymous: bool,
    pub(crate) skew: Duration,
    pub(crate) probe: bool,
    pub(crate) poll: (Duration, Duration),
    pub(crate) least_ttl: Duration,
    pub(crate) is_tflock: bool,
}

impl ObjectConfig {
    fn new(service: Service, bucket: String) -> Self {
        Self {
            service,
            bucket,
            account: None,
            prefix: String::new(),
            region: None,
            endpoint: None,
            access_key: None,
            account_key: None,
            service_account: None,
            anonymous: false,
            skew: Duration::from_secs(2),
            probe: true,
            poll: (Duration::from_secs(1), Duration::from_secs(5)),
            least_ttl: Duration::from_secs(10),
            is_tflock: false,
        }
    }

    /// Creates settings for a bucket of S3. Everything else comes from the AWS environment
    /// variables, the container or the instance.
    pub fn s3(bucket: impl Into<String>) -> Self {
        Self::new(Service::S3, bucket.into())
    }

    /// Creates settings for a bucket of Google Cloud Storage, with the application default
    /// credentials.
    pub fn gcs(bucket: impl Into<String>) -> Self {
        Self::new(Service::Gcs, bucket.into())
    }

    /// Creates settings for a container of an Azure storage account. Credentials come from the
    /// Azure environment variables or the managed identity.
    pub fn azure(account: impl Into<String>, container: impl Into<String>) -> Self {
        Self { account: Some(account.into()), ..Self::new(Service::Azure, container.into()) }
    }

    /// Sets the part of the bucket that the locks are in, like a directory. Default: the whole
    /// bucket.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets the AWS region. Default from `AWS_REGION`, else us-east-1.
    #[must_use]
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// Sets the URL of a server that speaks the protocol of the store, such as a VPC endpoint, an
    /// S3-compatible store or an emulator. For Azure it ends with the account if the server has the
    /// account in its paths.
    #[must_use]
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into().trim_end_matches('/').to_owned());
        self
    }

    /// Sets a fixed access key of S3. Prefer the environment: it keeps secrets out of the
    /// configuration.
    #[must_use]
    pub fn access_key(mut self, id: impl Into<String>, secret: impl Into<String>, session: Option<String>) -> Self {
        self.access_key = Some((Secret::new(id), Secret::new(secret), session.map(Secret::new)));
        self
    }

    /// Sets the shared key of an Azure storage account.
    #[must_use]
    pub fn account_key(mut self, key: impl Into<String>) -> Self {
        self.account_key = Some(Secret::new(key));
        self
    }

    /// Sets the file with the key of a Google service account.
    #[must_use]
    pub fn service_account(mut self, file: impl Into<PathBuf>) -> Self {
        self.service_account = Some(file.into());
        self
    }

    /// Sends requests without a signature, for a server that asks for none. Default: no.
    #[must_use]
    pub fn anonymous(mut self, anonymous: bool) -> Self {
        self.anonymous = anonymous;
        self
    }

    /// Sets how far the clocks of the store's own servers may differ. A dead holder's lock becomes
    /// free this much later. Default 2 s. The clocks of clients do not matter.
    #[must_use]
    pub fn skew(mut self, skew: Duration) -> Self {
        self.skew = skew;
        self
    }

    /// Sets whether the store has to refuse wrong conditions before the first lock is granted.
    /// Default yes. Only Amazon's own S3 may go without.
    #[must_use]
    pub fn probe(mut self, probe: bool) -> Self {
        self.probe = probe;
        self
    }

    /// Sets the shortest and the longest pause of a waiter between two requests. Default 1 s and
    /// 5 s. Each costs a read.
    #[must_use]
    pub fn poll(mut self, shortest: Duration, longest: Duration) -> Self {
        self.poll = (shortest, longest);
        self
    }

    /// Sets the shortest ttl that a [`Locker`](lock_core::Locker) may be built with, for tests on
    /// an emulator. Default 10 s, because ages are whole seconds, each renewal is a write, and
    /// Google accepts one write a second of an object.
    #[must_use]
    pub fn least_ttl(mut self, ttl: Duration) -> Self {
        self.least_ttl = ttl;
        self
    }

    /// Writes lock files as Terraform and OpenTofu do; see
    /// [`TflockBackend`](crate::TflockBackend).
    pub(crate) fn tflock(self) -> Self {
        Self { is_tflock: true, ..self }
    }

    /// Returns what is wrong with the settings.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.bucket.is_empty() {
            return Err(format!("the name of the {} is empty", self.container()));
        }
        if self.endpoint.as_deref().is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
            return Err("endpoint must begin with https:// or http://".into());
        }
        if self.endpoint.as_deref().is_some_and(|url| url.contains('@')) {
            return Err("endpoint takes no user and password; leave them out".into());
        }
        if !self.probe && (self.service != Service::S3 || self.endpoint.is_some()) {
            return Err("probe=off is for Amazon's own S3 only, which has no endpoint; leave it out".into());
        }
        if self.is_tflock && self.service != Service::S3 {
            return Err("schema=tflock is for S3 only: on other stores Terraform keeps its locks in another way".into());
        }
        if self.poll.0.is_zero() || self.poll.0 > self.poll.1 {
            return Err(format!(
                "poll_min ({:?}) must be above zero and at most poll_max ({:?})",
                self.poll.0, self.poll.1
            ));
        }
        Ok(())
    }

    /// What the service calls a bucket.
    pub(crate) fn container(&self) -> &'static str {
        if self.service == Service::Azure { "container" } else { "bucket" }
    }

    /// The address for messages.
    pub(crate) fn address(&self) -> String {
        self.endpoint.clone().unwrap_or_else(|| "its usual address".into())
    }

    /// The URL of an object, on GCS and Azure.
    pub(crate) fn url_of(&self, path: &Path) -> String {
        use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

        const KEPT: &percent_encoding::AsciiSet =
            &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'/').remove(b'~');
        let base = self.endpoint.clone().unwrap_or_else(|| match &self.account {
            Some(account) => format!("https://{account}.blob.core.windows.net"),
            None => "https://storage.googleapis.com".into(),
        });
        format!("{base}/{}/{}", self.bucket, utf8_percent_encode(path.as_ref(), KEPT))
    }
}

impl ObjectConfig {
    /// Returns what chooses the objects of the locks, as a config string without secrets: the name
    /// of the store in logs and errors.
    pub(crate) fn name(&self) -> String {
        self.chosen_objects().expose()
    }

    fn chosen_objects(&self) -> ConfigString {
        let prefix = if self.prefix.is_empty() { String::new() } else { format!("/{}", self.prefix) };
        let (host, path) = match &self.account {
            Some(account) => (account, format!("/{}{prefix}", self.bucket)),
            None => (&self.bucket, prefix),
        };
        ConfigString::of(self.service.scheme(), [Host { name: host.clone(), port: None }], path)
            .with_setting("region", self.region.as_deref())
            .with_setting("endpoint", self.endpoint.as_deref())
            .with_setting("schema", self.is_tflock.then_some("tflock"))
    }
}

impl fmt::Display for ObjectConfig {
    /// Formats all settings except credentials as a config string, which parses to the same
    /// settings.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = Self::s3("");
        let printed = self
            .chosen_objects()
            .with_setting("service_account", self.service_account.as_ref().map(|path| path.to_string_lossy()))
            .with_setting("anonymous", self.anonymous.then_some("true"))
            .with_setting("probe", (!self.probe).then_some("off"))
            .with_duration("skew", self.skew, default.skew)
            .with_duration("poll_min", self.poll.0, default.poll.0)
            .with_duration("poll_max", self.poll.1, default.poll.1);
        f.write_str(&printed.expose())
    }
}
