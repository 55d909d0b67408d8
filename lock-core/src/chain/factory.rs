//! Config strings for chains.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::ChainBackend;
use crate::{
    backend::Backend,
    config::{ConfigString, StoreConfig},
    error::Error,
    registry::{BackendFactory, Registry},
};

/// Opens `chain:?from=URL&to=URL`, two config strings in one; in each `&` is written `%26`, `@` `%40`, `#` `%23` and `%` `%25`. The options of every store go behind
/// the chain, not into the two. Option `lease`: see [`ChainBackend::lease`].
///
/// ```
/// use lock_core::{Registry, chain::ChainFactory, memory::{MemoryBackend, MemoryFactory}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lock_core::Error> {
/// let registry = Registry::new().with(MemoryFactory::default());
/// let registry = registry.clone().with(ChainFactory::new(registry));
/// let error = registry.open("chain:?from=memory:&to=memory:&ttl=20s").await.unwrap_err();
/// assert!(error.to_string().ends_with("from and to are the same store"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ChainFactory(Registry);

impl ChainFactory {
    /// Opens chains of the stores that `registry` opens.
    pub fn new(registry: Registry) -> Self {
        Self(registry)
    }

    async fn part(&self, config: &StoreConfig, name: &str, url: Option<String>) -> Result<Arc<dyn Backend>, Error> {
        let Some(url) = url else {
            return Err(config.error(format!("{name} is missing; write chain:?from=OLD_STORE&to=NEW_STORE")));
        };
        self.0.backend(ConfigString::parse(&url)?.fetch_secrets()?).await
    }
}

#[async_trait]
impl BackendFactory for ChainFactory {
    fn schemes(&self) -> &[&str] {
        &["chain"]
    }

    async fn open(&self, config: &mut StoreConfig) -> Result<Arc<dyn Backend>, Error> {
        let lease = config.take_duration("lease")?;
        let (from, to) = (config.take_string("from"), config.take_string("to"));
        config.finish()?;
        let (from, to) = (self.part(config, "from", from).await?, self.part(config, "to", to).await?);
        if from.describe() == to.describe() {
            return Err(config.error("from and to are the same store"));
        }
        let chain = ChainBackend::new(from, to);
        let Some(lease) = lease else { return Ok(Arc::new(chain)) };
        if !chain.is_mixed() {
            return Err(
                config.error("lease is for a chain of which one store has ttls and the other has not; leave it out")
            );
        }
        if lease < SHORTEST_LEASE {
            return Err(config.error(format!("lease is {lease:?}, but must be at least {SHORTEST_LEASE:?}")));
        }
        Ok(Arc::new(chain.lease(lease)))
    }
}

/// Below this the renewals of two stores eat the lease up.
const SHORTEST_LEASE: Duration = Duration::from_millis(500);

/// The chain as a config string, of two that have no secrets.
pub(super) fn describe(from: &str, to: &str) -> String {
    let chain = ConfigString::parse("chain:").and_then(|chain| chain.with_option("from", from)?.with_option("to", to));
    chain.map_or_else(|_| "chain:".into(), |chain| chain.expose())
}
