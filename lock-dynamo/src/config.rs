//! Settings: the table, its schema, and how to reach it.

use std::{fmt, time::Duration};

use lock_core::{ConfigString, config::Host};

use crate::attributes::{Attribute, Layout, Schema};

/// When a dead holder's lock may be taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Takeover {
    /// After its recorded expiry plus the [skew bound](DynamoConfig::skew_bound) on the store's
    /// clock, or as in [`Observed`](Self::Observed), whichever is sooner. A process that has just
    /// started can take over this way.
    #[default]
    Absolute,
    /// Only after this process has seen the record unchanged for the holder's whole lease. A live
    /// holder keeps its lock however wrong the clocks are. The end of a
    /// [`min_hold`](lock_core::LockRequest::min_hold) after a release is still judged by the clock,
    /// because the lock has no holder then.
    Observed,
}

/// An access key, its secret, and optionally a session token. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secrets {
    key: String,
    secret: String,
    session: Option<String>,
}

impl Secrets {
    pub(crate) fn expose(&self) -> (&str, &str, Option<&str>) {
        (&self.key, &self.secret, self.session.as_deref())
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A URL whose user and password are never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Endpoint(pub(crate) String);

impl Endpoint {
    /// Without a slash at the end, which would be a second name of the same server.
    pub(crate) fn new(url: impl Into<String>) -> Self {
        Self(url.into().trim_end_matches('/').to_owned())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.find("://"), self.0.rfind('@')) {
            (scheme, Some(at)) => {
                write!(f, "{}***{}", &self.0[..scheme.map_or(0, |end| end + 3).min(at)], &self.0[at..])
            }
            (_, None) => f.write_str(&self.0),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// Settings for a DynamoDB table of locks. The backend connects at the first operation.
///
/// ```
/// use std::time::Duration;
/// use lock_dynamo::{DynamoBackend, DynamoConfig};
///
/// let config =
///     DynamoConfig::new("locks").region("eu-central-1").skew_bound(Duration::from_secs(1));
/// let locker = lock_core::Locker::new(DynamoBackend::new(config))?;
/// # Ok::<(), lock_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DynamoConfig {
    pub(crate) table: String,
    pub(crate) layout: Layout,
    pub(crate) region: Option<String>,
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) profile: Option<String>,
    pub(crate) role: Option<String>,
    pub(crate) credentials: Option<Secrets>,
    pub(crate) fips: bool,
    pub(crate) dual_stack: bool,
    pub(crate) takeover: Takeover,
    pub(crate) skew_bound: Duration,
    pub(crate) collect_after: Duration,
    pub(crate) read_first: bool,
}

impl DynamoConfig {
    /// Creates settings for the table of this name or ARN, in the native schema. Everything else
    /// comes from the AWS environment.
    pub fn new(table: impl Into<String>) -> Self {
        Self {
            table: table.into(),
            layout: Layout::of(Schema::Native),
            region: None,
            endpoint: None,
            profile: None,
            role: None,
            credentials: None,
            fips: false,
            dual_stack: false,
            takeover: Takeover::default(),
            skew_bound: Duration::from_secs(2),
            collect_after: Duration::from_secs(30 * 24 * 3600),
            read_first: false,
        }
    }

    /// Writes items as another client does, to share its table. This resets the attribute names to
    /// that client's defaults, so call it before you choose names.
    #[must_use]
    pub fn schema(mut self, schema: Schema) -> Self {
        self.layout = Layout::of(schema);
        self
    }

    /// Sets the name of the table's partition key. Default `key`, in the Python schema `lock_key`.
    #[must_use]
    pub fn partition_key(mut self, name: impl Into<String>) -> Self {
        self.layout.rename(Attribute::Key, name.into());
        self
    }

    /// Sets the name of the table's sort key, and its value in all items of these locks. Default
    /// none, in the Python schema `sort_key` and `-`.
    #[must_use]
    pub fn sort_key(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.layout.sort = Some((name.into(), value.into()));
        self
    }

    /// Sets the attribute by which DynamoDB deletes idle items, if TTL is on for it. Default
    /// `collect_at`, in the Python schema `expiry_time`, and in the Java and Go schemas none. Their
    /// clients may copy the attribute into an item of their own and leave it as it is. DynamoDB
    /// would then delete the item of a held lock. Name one only if these clients write it
    /// themselves, later than the end of their lease, at each acquisition and heartbeat.
    #[must_use]
    pub fn ttl_attribute(mut self, name: impl Into<String>) -> Self {
        self.layout.rename(Attribute::CollectAt, name.into());
        self
    }

    /// Renames an attribute. Attributes that the client of a foreign schema reads keep their names.
    /// A name may be a word that DynamoDB reserves. Duplicate names are refused before the first
    /// request.
    #[must_use]
    pub fn attribute(mut self, attribute: Attribute, name: impl Into<String>) -> Self {
        self.layout.rename(attribute, name.into());
        self
    }

    /// Sets how long an item stays after its lease before DynamoDB may delete it. Default 30 days,
    /// and never less than the [skew bound](Self::skew_bound) plus 10 s: no item of a held lock is
    /// deleted. The item keeps the fencing token, so it should stay longer than any resource
    /// compares tokens while clocks are wrong. It also keeps the queue of fair requests, so it
    /// should stay longer than their ttl.
    #[must_use]
    pub fn collect_after(mut self, idle: Duration) -> Self {
        self.collect_after = idle;
        self
    }

    /// Sets whether an attempt reads the item before it writes. Default: `false`.
    ///
    /// If the read shows that another client holds the lock, the attempt is refused without a
    /// write. A read costs a fifth of a refused write, and an item takes three times as many reads
    /// as writes. If the lock is free, the attempt costs one read more. So this is for locks that
    /// most attempts find held: that of a fleet with one schedule, or one with many waiters.
    ///
    /// The read is strongly consistent, so a refusal means what it means without this option. It
    /// never grants a lock: that remains a conditional write.
    #[must_use]
    pub fn read_first(mut self, read_first: bool) -> Self {
        self.read_first = read_first;
        self
    }

    /// Sets the AWS region. Default from `AWS_REGION`, the profile, or the instance.
    #[must_use]
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// Sets the URL of a server that speaks DynamoDB's protocol, such as DynamoDB Local or a VPC
    /// endpoint.
    #[must_use]
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(Endpoint::new(url));
        self
    }

    /// Sets the profile in the AWS configuration files. Default from `AWS_PROFILE`.
    #[must_use]
    pub fn profile(mut self, profile: impl Into<String>) -> Self {
        self.profile = Some(profile.into());
        self
    }

    /// Sets the ARN of a role to assume with the configured credentials.
    #[must_use]
    pub fn role(mut self, arn: impl Into<String>) -> Self {
        self.role = Some(arn.into());
        self
    }

    /// Sets fixed credentials. Default from the environment, the profile, the container, the
    /// instance or a web identity. Prefer those: they keep secrets out of the configuration.
    #[must_use]
    pub fn credentials(
        mut self,
        access_key: impl Into<String>,
        secret_key: impl Into<String>,
        session_token: Option<String>,
    ) -> Self {
        self.credentials = Some(Secrets { key: access_key.into(), secret: secret_key.into(), session: session_token });
        self
    }

    /// Uses endpoints whose server-side cryptography is FIPS 140-validated. Default from the AWS
    /// environment, else no.
    #[must_use]
    pub fn fips(mut self, fips: bool) -> Self {
        self.fips = fips;
        self
    }

    /// Uses endpoints that also support IPv6. Default from the AWS environment, else no.
    #[must_use]
    pub fn dual_stack(mut self, dual_stack: bool) -> Self {
        self.dual_stack = dual_stack;
        self
    }

    /// Sets when a dead holder's lock may be taken over. Default [`Takeover::Absolute`].
    #[must_use]
    pub fn takeover(mut self, takeover: Takeover) -> Self {
        self.takeover = takeover;
        self
    }

    /// Sets how far two machines' clocks may differ. Default 2 s. [`Takeover::Absolute`] adds it to
    /// the recorded expiry. If a machine's clock differs from the store's by more than half of the
    /// bound, the machine does not take over that way, and writes its own expiries by the store's
    /// clock. All clients of a table should use the same bound.
    ///
    /// The store shows its clock in whole seconds. A bound below 2 s therefore relies on the
    /// machines' own timekeeping, which on AWS is accurate to milliseconds.
    #[must_use]
    pub fn skew_bound(mut self, bound: Duration) -> Self {
        self.skew_bound = bound;
        self
    }

    /// The schema of the clients that share the table.
    pub(crate) fn shared_with(&self) -> Schema {
        self.layout.schema
    }

    /// Returns what chooses the items of the locks, as a config string without secrets: the name of
    /// the store. Two stores with one name are taken for the same.
    pub(crate) fn name(&self) -> String {
        self.chosen_items().expose()
    }

    fn chosen_items(&self) -> ConfigString {
        let place = if self.table.starts_with("arn:") {
            ConfigString::of("dynamodb", [], &*self.table)
        } else {
            ConfigString::of("dynamodb", [Host { name: self.table.clone(), port: None }], "")
        };
        let schema = self.shared_with();
        let sort = self.layout.sort.as_ref().filter(|sort| Some(*sort) != Layout::of(schema).sort.as_ref());
        place
            .with_setting("region", self.region.as_deref())
            .with_setting("endpoint", self.endpoint.as_ref().map(Endpoint::to_string))
            .with_setting("schema", (schema != Schema::Native).then_some(schema.as_str()))
            .with_setting("sort_key", sort.map(|(name, _)| name.as_str()))
            .with_setting("sort_value", sort.map(|(_, value)| value.as_str()))
            .with_setting("profile", self.profile.as_deref())
            .with_setting("role", self.role.as_deref())
    }

    /// The names that differ from those of the schema, as the option `attributes` has them.
    fn renamed(&self) -> Option<String> {
        let default = Layout::of(self.shared_with());
        let names = Attribute::ALL.iter().filter(|attribute| attribute.is_in_attributes());
        let names = names.map(|attribute| (attribute, self.layout.name(*attribute)));
        let renamed = names.filter(|(attribute, name)| *name != default.name(**attribute));
        let texts: Vec<_> = renamed.map(|(attribute, name)| format!("{attribute}:{name}")).collect();
        (!texts.is_empty()).then(|| texts.join(","))
    }
}

impl fmt::Display for DynamoConfig {
    /// Formats all settings except credentials as a config string, which parses to the same
    /// settings.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = Self::new("").schema(self.shared_with());
        let name = |attribute| self.layout.name(attribute);
        let key = Some(name(Attribute::Key)).filter(|key| *key != default.layout.name(Attribute::Key));
        let ttl = Some((self.layout.has_ttl, name(Attribute::CollectAt)))
            .filter(|ttl| *ttl != (default.layout.has_ttl, default.layout.name(Attribute::CollectAt)));
        let set = |flag: bool| flag.then_some("true");
        let printed = self
            .chosen_items()
            .with_setting("partition_key", key)
            .with_setting("ttl_attribute", ttl.map(|(_, name)| name))
            .with_setting("attributes", self.renamed())
            .with_setting("takeover", (self.takeover == Takeover::Observed).then_some("observed"))
            .with_duration("skew_bound", self.skew_bound, default.skew_bound)
            .with_duration("collect_after", self.collect_after, default.collect_after)
            .with_setting("read_first", set(self.read_first))
            .with_setting("fips", set(self.fips))
            .with_setting("dual_stack", set(self.dual_stack));
        f.write_str(&printed.expose())
    }
}
