//! Opens the scheme `migrate:`.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use lock_core::{
    ConfigString, Error, Registry,
    backend::Backend,
    config::{BackendFactory, StoreConfig},
};

use crate::backend::MigrationBackend;

/// Opens `migrate:?from=URL&to=URL`, which contains two config strings.
///
/// In both URLs write `&` as `%26`, `@` as `%40`, `#` as `%23` and `%` as `%25`. The options that
/// every store has, such as `ttl`, are options of `migrate:`, not of the two URLs. The option
/// `lease` sets [`MigrationBackend::lease`].
///
/// ```
/// use lock_core::{Registry, memory::MemoryFactory};
/// use lock_migrate::MigrationFactory;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lock_core::Error> {
/// let registry = Registry::new().with(MemoryFactory::default());
/// let registry = registry.clone().with(MigrationFactory::new(registry));
/// let error = registry.open("migrate:?from=memory:&to=memory:&ttl=20s").await.unwrap_err();
/// assert!(error.to_string().ends_with("from and to are the same store"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct MigrationFactory(Registry);

impl MigrationFactory {
    /// Creates a factory for pairs of the stores that `registry` opens.
    pub fn new(registry: Registry) -> Self {
        Self(registry)
    }
}

/// The two stores, and the lease of [`MigrationBackend::lease`].
struct Parts {
    from: ConfigString,
    to: ConfigString,
    lease: Option<Duration>,
}

impl Parts {
    fn take(config: &mut StoreConfig) -> Result<Self, Error> {
        let lease = config.take_duration("lease")?;
        let (from, to) = (config.take_string("from"), config.take_string("to"));
        config.finish()?;
        if lease.is_some_and(|lease| lease < SHORTEST_LEASE) {
            return Err(config.error(format!("lease is {lease:?}, but must be at least {SHORTEST_LEASE:?}")));
        }
        let part = |name: &str, url: Option<String>| match url {
            Some(url) => ConfigString::parse(&url),
            None => Err(config.error(format!("{name} is missing; write migrate:?from=OLD_STORE&to=NEW_STORE"))),
        };
        Ok(Self { from: part("from", from)?, to: part("to", to)?, lease })
    }
}

#[async_trait]
impl BackendFactory for MigrationFactory {
    fn schemes(&self) -> &[&str] {
        &["migrate"]
    }

    async fn open(&self, config: &mut StoreConfig) -> Result<Arc<dyn Backend>, Error> {
        let Parts { from, to, lease } = Parts::take(config)?;
        let from = self.0.open_backend(from.fetch_secrets()?).await?;
        let to = self.0.open_backend(to.fetch_secrets()?).await?;
        if from.describe() == to.describe() {
            return Err(config.error("from and to are the same store"));
        }
        let chain = MigrationBackend::new(from, to);
        let Some(lease) = lease else { return Ok(Arc::new(chain)) };
        if !chain.is_mixed() {
            return Err(config.error("lease applies only if exactly one of the two stores has ttls; leave it out"));
        }
        Ok(Arc::new(chain.lease(lease)))
    }

    fn check(&self, config: &mut StoreConfig) -> Result<(), Error> {
        let Parts { from, to, .. } = Parts::take(config)?;
        self.0.check_backend(from)?;
        self.0.check_backend(to)
    }
}

/// Below this, the renewals in two stores use up the lease.
const SHORTEST_LEASE: Duration = Duration::from_millis(500);
