//! Opens a [`Locker`] from a config string: schemes, and the factories that open them.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use crate::{
    backend::Backend,
    config::{Common, ConfigString, StoreConfig, suggest::did_you_mean},
    locker::Locker,
    types::{Error, ErrorKind, Operation},
};

/// Opens the stores of some schemes. For implementors of backends.
#[async_trait]
pub trait BackendFactory: fmt::Debug + Send + Sync + 'static {
    /// Returns the schemes that this factory opens, in lower case.
    fn schemes(&self) -> &[&str];

    /// Opens the store that `config` describes.
    ///
    /// An implementation takes the options that it knows out of `config`, and calls
    /// [`StoreConfig::finish`]. Only then it does I/O, so that a misspelt option is reported before
    /// an unreachable server. The options of every store have been taken already.
    ///
    /// The backend's [`describe`](Backend::describe) must not contain secrets;
    /// [`StoreConfig::redacted`] contains none.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`] if a setting is invalid or missing. Of another kind if the
    /// store cannot be used.
    ///
    /// # Cancel safety
    /// Cancel safe: open connections and files are closed.
    async fn open(&self, config: &mut StoreConfig) -> Result<Arc<dyn Backend>, Error>;

    /// Checks `config` as [`open`](Self::open) does before its first I/O. A store that does not
    /// implement it reports a wrong option only when it is opened.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`] if a setting is invalid or missing.
    fn check(&self, config: &mut StoreConfig) -> Result<(), Error> {
        let _ = config;
        Ok(())
    }
}

/// The schemes that config strings may have. Registries are values and independent of each other.
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
///     "open on redis://db.internal: redis is not part of this build; \
///      build with the cargo feature \"redis\""
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
    /// Creates a registry without schemes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the schemes of `factory`. If two factories have the same scheme, the one added last
    /// opens it.
    #[must_use]
    pub fn with(mut self, factory: impl BackendFactory) -> Self {
        self.factories.push(Arc::new(factory));
        self
    }

    /// Adds a `scheme` that is not part of this build, with a `hint` how to add it. Has no effect
    /// if a factory opens the scheme.
    #[must_use]
    pub fn known_but_absent(mut self, scheme: impl Into<String>, hint: impl Into<String>) -> Self {
        self.absent.push((scheme.into(), hint.into()));
        self
    }

    /// Returns the schemes that can be opened, in alphabetical order.
    pub fn schemes(&self) -> Vec<&str> {
        let mut schemes: Vec<_> = self.factories.iter().flat_map(|factory| factory.schemes()).copied().collect();
        schemes.sort_unstable();
        schemes.dedup();
        schemes
    }

    /// Opens the store that `config` describes: a config string, as text or parsed, or
    /// [`Settings`](crate::config::Settings) (feature `serde`).
    ///
    /// Reads secrets from files and environment variables if `config` refers to them.
    ///
    /// # Errors
    /// - [`ErrorKind::Config`] if `config` cannot be parsed, the scheme or an option is unknown, a
    ///   secret cannot be read, or options contradict each other or the store.
    /// - [`ErrorKind::Unsupported`] if the scheme is not part of this build, or a required
    ///   capability is missing.
    /// - Any other kind if the store cannot be used.
    ///
    /// # Cancel safety
    /// Cancel safe: open connections and files are closed.
    pub async fn open(&self, config: impl TryInto<ConfigString, Error: Into<Error>> + Send) -> Result<Locker, Error> {
        let config = config.try_into().map_err(Into::into)?.fetch_secrets()?;
        let mut config = StoreConfig::from(config);
        self.factory(&config)?;
        let common = Common::take(&mut config)?;
        let backend = self.connect(&mut config).await?;
        common.apply(Locker::builder(backend)).build()
    }

    /// Checks `config` without I/O: the scheme, the options and their values. So a program reports
    /// a wrong config string when it starts, and connects at the first lock.
    ///
    /// ```
    /// use lock_core::{ErrorKind, Registry, memory::MemoryFactory};
    ///
    /// let registry = Registry::new().with(MemoryFactory::default());
    /// assert!(registry.check("memory:?ttl=3s").is_ok());
    /// let error = registry.check("memory:?tttl=3s").unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Config);
    /// assert!(error.to_string().contains("there is no option \"tttl\"; did you mean \"ttl\"?"));
    /// ```
    ///
    /// # Errors
    /// As [`open`](Self::open), except for errors that only the store or a file of a secret can
    /// show, such as options that contradict the store's timing.
    pub fn check(&self, config: impl TryInto<ConfigString, Error: Into<Error>>) -> Result<(), Error> {
        let mut config = StoreConfig::from(config.try_into().map_err(Into::into)?.without_secrets()?);
        let factory = self.factory(&config)?;
        Common::take(&mut config)?;
        let checked = factory.check(&mut config);
        checked.map_err(|e| e.with_operation(Operation::Open).with_store(config.redacted()))
    }

    /// Checks `config` like [`check`](Self::check), as a part of another store.
    ///
    /// # Errors
    /// As [`open_backend`](Self::open_backend), without its I/O.
    pub fn check_backend(&self, config: ConfigString) -> Result<(), Error> {
        let mut config = StoreConfig::from(config.without_secrets()?);
        let checked = self.factory(&config)?.check(&mut config);
        checked.map_err(|e| e.with_operation(Operation::Open).with_store(config.redacted()))
    }

    /// Opens a store as a part of another store, without the options that every store has, such as
    /// `ttl`.
    ///
    /// For backends that consist of other backends. Applications call [`open`](Self::open).
    ///
    /// # Errors
    /// As [`open`](Self::open). A ttl, a prefix and the other options of every store are unknown
    /// options here.
    ///
    /// # Cancel safety
    /// Cancel safe: open connections and files are closed.
    pub async fn open_backend(&self, config: ConfigString) -> Result<Arc<dyn Backend>, Error> {
        let mut config = StoreConfig::from(config);
        self.connect(&mut config).await
    }

    async fn connect(&self, config: &mut StoreConfig) -> Result<Arc<dyn Backend>, Error> {
        let backend = self.factory(config)?.open(config).await;
        let backend = backend.map_err(|e| e.with_operation(Operation::Open).with_store(config.redacted()))?;
        // Repeated here, in case that the factory does not call it.
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
