//! Watches a name in both stores.

use async_trait::async_trait;
use futures_util::future::select_all;
use lock_core::backend::Watch;

/// Completes with either.
#[derive(Debug)]
pub(super) struct MigrationWatch(pub(super) [Box<dyn Watch>; 2]);

#[async_trait]
impl Watch for MigrationWatch {
    async fn changed(&mut self) {
        select_all(self.0.iter_mut().map(|watch| watch.changed())).await;
    }
}
