//! The watches of one Redis.

use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{Error, LockName, backend::Watch};
use tokio::sync::watch;

use crate::{deployment::Deployment, signal_watch::SignalWatch};

/// Watches a lock by the wake-ups of the clients that share it. `None` if these clients have no
/// wake-ups.
pub(crate) async fn watch(deployment: &Arc<Deployment>, name: &LockName) -> Result<Option<Box<dyn Watch>>, Error> {
    let keys = &deployment.keys;
    if let Some(signal) = keys.signal(name) {
        let watch = SignalWatch::new(Arc::clone(deployment), keys.lock(name), signal).await?;
        return Ok(Some(Box::new(watch)));
    }
    if keys.are_verbatim() {
        // redis-py wakes no waiter. Where redis-py may be the holder, only polling helps.
        return Ok(None);
    }
    Ok(Some(Box::new(RedisWatch::queue(Arc::clone(deployment), name).await?)))
}

/// Waits for one lock to become free.
#[derive(Debug)]
pub(crate) struct RedisWatch {
    deployment: Arc<Deployment>,
    lock: String,
    changes: watch::Receiver<()>,
}

impl RedisWatch {
    /// Joins the queue of `name`. From then on a release wakes this process when its turn comes.
    pub(crate) async fn queue(deployment: Arc<Deployment>, name: &LockName) -> Result<Self, Error> {
        let lock = deployment.keys.lock(name);
        // The watch exists before the request, so that its drop always leaves the queue.
        let watch = Self::new(deployment, lock);
        watch.deployment.enqueue(&watch.lock).await?;
        Ok(watch)
    }

    /// Registers the watch in this process. The caller must then tell the server.
    fn new(deployment: Arc<Deployment>, lock: String) -> Self {
        let changes = deployment.connection.wakers.add(&lock);
        Self { deployment, lock, changes }
    }
}

#[async_trait]
impl Watch for RedisWatch {
    async fn changed(&mut self) {
        // The wake-up removed this process from the queue. Normally a refused acquire has restored
        // its place.
        let seen = !self.changes.has_changed().unwrap_or(true);
        let queues = seen && !self.deployment.connection.wakers.is_queued(&self.lock);
        if !(queues && matches!(self.deployment.enqueue(&self.lock).await, Ok(false))) {
            // The sender lives as long as any watch of this lock, so this cannot fail.
            let _ = self.changes.changed().await;
        }
        self.deployment.pass_on();
    }
}

impl Drop for RedisWatch {
    fn drop(&mut self) {
        if self.deployment.connection.wakers.remove(&self.lock) {
            self.deployment.leave(&self.lock);
        }
    }
}
