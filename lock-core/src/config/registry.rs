//! From a config string to a [`Locker`]: which schemes there are, and who opens them.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use crate::{
    backend::Backend,
    config::{Common, ConfigString, StoreConfig, suggest::did_you_mean},
    locker::Locker,
    types::{Error, ErrorKind, Operation},
};

/// Opens the stores of some schemes; for implementors of backends.
#[async_trait]
pub trait BackendFactory: fmt::Debug + Send + Sync + 'static {
    /// The schemes that this factory opens, in lower case.
    fn schemes(&self) -> &[&str];

    /// Opens the store that `config` describes.
    ///
    /// Takes what it knows out of `config`, calls [`StoreConfig::finish`], and only then does I/O: a misspelt option must
    /// show before a server that does not answer. The options of every store are taken already. The backend's
    /// [`describe`](Backend::describe) has no secrets: [`StoreConfig::redacted`] has none.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`] when a setting is wrong or missing; else when the store cannot be used.
    ///
    /// # Cancel safety
    /// Cancel safe: what was opened is closed.
    async fn open(&self, config: &mut StoreConfig) -> Result<Arc<dyn Backend>, Error>;
}

/// The schemes that config strings may have, as a value: two registries know nothing of each other.
///
/// ```
/// use lock_core::{Registry, memory::MemoryFactory};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lock_core::Error> {
/// let registry = Registry::new()
///     .with(MemoryFactory::default())
///     .known_but_absent("redis", "build with the cargo feature \"redis\"");
/// let locker = registry.open("memory:?ttl=3s&require=fencing").await?;
/// locker.acquire("nightly-etl").await?.release().await?;
///
/// let error = registry.open("redis://db.internal").await.unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "open on redis://db.internal: redis is not part of this build; build with the cargo feature \"redis\""
/// );
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Registry {
    factories: Vec<Arc<dyn BackendFactory>>,
    absent: Vec<(String, String)>,
}

impl Registry {
    /// A registry without any scheme.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the schemes of `factory`. Of two factories for one scheme the one added last opens it.
    #[must_use]
    pub fn with(mut self, factory: impl BackendFactory) -> Self {
        self.factories.push(Arc::new(factory));
        self
    }

    /// Says that `scheme` exists but is not built in, and in `hint` what adds it. Does nothing where a factory opens it.
    #[must_use]
    pub fn known_but_absent(mut self, scheme: impl Into<String>, hint: impl Into<String>) -> Self {
        self.absent.push((scheme.into(), hint.into()));
        self
    }

    /// The schemes that can be opened, in alphabetical order.
    pub fn schemes(&self) -> Vec<&str> {
        let mut schemes: Vec<_> = self.factories.iter().flat_map(|factory| factory.schemes()).copied().collect();
        schemes.sort_unstable();
        schemes.dedup();
        schemes
    }

    /// Opens the store that `config` describes: a config string, as text or parsed, or [`Settings`](crate::config::Settings) (feature `serde`). Fetches
    /// the secrets that stand elsewhere.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`] when `config` is a text that is no config string, its scheme or an option is unknown, a secret is not where it
    /// should be, or options contradict each other or the store; [`ErrorKind::Unsupported`] when the scheme is not built in or a required capability
    /// is missing; else when the store cannot be used.
    ///
    /// # Cancel safety
    /// Cancel safe: what was opened is closed.
    pub async fn open(&self, config: impl TryInto<ConfigString, Error: Into<Error>> + Send) -> Result<Locker, Error> {
        let config = config.try_into().map_err(Into::into)?.fetch_secrets()?;
        let mut config = StoreConfig::from(config);
        self.factory(&config)?;
        let common = Common::take(&mut config)?;
        let backend = self.connect(&mut config).await?;
        common.apply(Locker::builder(backend)).build()
    }

    /// Opens a store for use as a part of another store: without the options that every store has,
    /// such as `ttl`.
    ///
    /// For backends that are made of other backends; applications call [`open`](Self::open).
    ///
    /// # Errors
    /// As [`open`](Self::open); a ttl, a prefix and the other options of every store are unknown
    /// here.
    ///
    /// # Cancel safety
    /// Cancel safe: what was opened is closed.
    pub async fn open_backend(&self, config: ConfigString) -> Result<Arc<dyn Backend>, Error> {
        let mut config = StoreConfig::from(config);
        self.connect(&mut config).await
    }

    async fn connect(&self, config: &mut StoreConfig) -> Result<Arc<dyn Backend>, Error> {
        let backend = self.factory(config)?.open(config).await;
        let backend = backend.map_err(|e| e.with_operation(Operation::Open).with_store(config.redacted()))?;
        // Once more, for a factory that has forgotten it.
        config.finish()?;
        Ok(backend)
    }

    fn factory(&self, config: &StoreConfig) -> Result<&Arc<dyn BackendFactory>, Error> {
        let scheme = config.scheme();
        if let Some(factory) = self.factories.iter().rev().find(|factory| factory.schemes().contains(&scheme)) {
            return Ok(factory);
        }
        let fail =
            |kind, message| Error::new(kind, message).with_operation(Operation::Open).with_store(config.redacted());
        if let Some((_, hint)) = self.absent.iter().find(|(absent, _)| absent == scheme) {
            return Err(fail(ErrorKind::Unsupported, format!("{scheme} is not part of this build; {hint}")));
        }
        let available = self.schemes();
        let absent = self.absent.iter().map(|(absent, _)| absent.as_str());
        let near = did_you_mean(scheme, available.iter().copied().chain(absent));
        let end = if near.is_empty() { "." } else { "" };
        let available = if available.is_empty() { "none".into() } else { available.join(", ") };
        let message = format!("there is no scheme \"{scheme}\"{near}{end} Available: {available}");
        Err(fail(ErrorKind::Config, message))
    }
}
