//! The memory store by config string.

use std::sync::Arc;

use async_trait::async_trait;

use super::MemoryBackend;
use crate::{
    backend::Backend,
    config::{BackendFactory, StoreConfig},
    types::Error,
};

/// Opens `memory:` in a [`Registry`](crate::Registry). It has one store, so the same config string
/// means the same locks each time.
///
/// When it is made from a [`MemoryBackend`], a test can take locks away from code that opens its
/// store by a config string:
///
/// ```
/// use lock_core::{Registry, memory::{MemoryBackend, MemoryFactory}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lock_core::Error> {
/// let store = MemoryBackend::new();
/// let registry = Registry::new().with(MemoryFactory::from(store.clone()));
/// let guard = registry.open("memory:?renew=manual").await?.acquire("report").await?;
/// store.lose("report");
/// assert!(guard.renew_if_below(std::time::Duration::from_secs(60)).await.is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct MemoryFactory(MemoryBackend);

impl From<MemoryBackend> for MemoryFactory {
    fn from(store: MemoryBackend) -> Self {
        Self(store)
    }
}

#[async_trait]
impl BackendFactory for MemoryFactory {
    fn schemes(&self) -> &[&str] {
        &["memory"]
    }

    async fn open(&self, config: &mut StoreConfig) -> Result<Arc<dyn Backend>, Error> {
        self.check(config)?;
        Ok(Arc::new(self.0.clone()))
    }

    fn check(&self, config: &mut StoreConfig) -> Result<(), Error> {
        config.finish()
    }
}
