//! Waits as `python-redis-lock` does: blocked on the list of a lock's signals.

use std::{fmt, future::pending, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{FutureExt, future::BoxFuture, poll};
use lock_core::{Error, backend::Watch};
use redis::RedisResult;

use crate::{connect::Connection, deployment::Deployment};

/// Longer than any wait, because the connection requires a response timeout.
const BLOCKING_TIMEOUT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Blocks on the list, on a separate connection. A blocked connection serves no other request, and
/// closing it ends the blocking.
pub(crate) struct SignalWatch {
    deployment: Arc<Deployment>,
    /// The keys of the lock and of its signal.
    keys: [String; 2],
    /// `None` after it broke.
    connection: Option<Connection>,
    /// Whether this watch took a signal that another waiter may need.
    taken: bool,
    /// Kept across calls, because a signal is sent only once.
    waiting: Option<BoxFuture<'static, RedisResult<redis::Value>>>,
}

impl SignalWatch {
    pub(crate) async fn new(deployment: Arc<Deployment>, lock: String, signal: String) -> Result<Self, Error> {
        let mut watch = Self { deployment, keys: [lock, signal], connection: None, taken: false, waiting: None };
        watch.connect().await?;
        // Blocks from now on, because a signal expires after a second.
        if let Some(waiting) = watch.waiting() {
            let _ = poll!(waiting);
        }
        Ok(watch)
    }

    async fn connect(&mut self) -> Result<(), Error> {
        let mut connection = self.deployment.connection.another().await?;
        if let Connection::Node(node) = &mut connection {
            node.set_response_timeout(BLOCKING_TIMEOUT);
        }
        self.connection = Some(connection);
        Ok(())
    }

    fn waiting(&mut self) -> Option<&mut BoxFuture<'static, RedisResult<redis::Value>>> {
        let mut connection = self.connection.clone()?;
        let [_, signal] = &self.keys;
        Some(self.waiting.get_or_insert_with(|| {
            let mut command = redis::cmd("BLPOP");
            command.arg(signal).arg(0);
            Box::pin(async move { connection.query(&command).await })
        }))
    }
}

#[async_trait]
impl Watch for SignalWatch {
    async fn changed(&mut self) {
        if self.connection.is_none() && self.connect().await.is_err() {
            // The core retries by itself, and the next call connects.
            return pending().await;
        }
        let Some(waiting) = self.waiting() else { return };
        let answer = waiting.await;
        self.waiting = None;
        match answer {
            Ok(_) => self.taken = true,
            // A signal may have been lost with the connection, so the waiter checks and reconnects.
            Err(_) => self.connection = None,
        }
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        let unread = self.waiting.take().and_then(|mut waiting| waiting.as_mut().now_or_never());
        if self.taken || matches!(unread, Some(Ok(_))) {
            self.deployment.resignal(&self.keys);
        }
    }
}

impl fmt::Debug for SignalWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignalWatch").field("keys", &self.keys).finish_non_exhaustive()
    }
}
