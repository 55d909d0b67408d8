//! How waiting processes of python-redis-lock are woken: a release pushes one element to a list, and one of those who block on it gets it.

use std::{fmt, future::pending, time::Duration};

use async_trait::async_trait;
use futures_util::{future::BoxFuture, poll};
use lock_core::backend::Watch;
use redis::RedisResult;

use crate::connect::Connection;

/// Longer than any wait, as the connection wants a limit for the answer.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Blocks on the list, on a connection of its own: nothing else can be asked on it meanwhile, and closing it ends the blocking.
pub(crate) struct SignalWatch {
    connection: Connection,
    signal: String,
    /// Kept across calls, for a signal is given once.
    waiting: Option<BoxFuture<'static, RedisResult<redis::Value>>>,
}

impl SignalWatch {
    pub(crate) async fn new(mut connection: Connection, signal: String) -> Self {
        if let Connection::Node(node) = &mut connection {
            node.set_response_timeout(FOR_EVER);
        }
        let mut watch = Self { connection, signal, waiting: None };
        // From now on, for a signal is gone after a second.
        let _ = poll!(watch.waiting());
        watch
    }

    fn waiting(&mut self) -> &mut BoxFuture<'static, RedisResult<redis::Value>> {
        let (connection, signal) = (&self.connection, &self.signal);
        self.waiting.get_or_insert_with(|| {
            let mut connection = connection.clone();
            let mut command = redis::cmd("BLPOP");
            command.arg(signal).arg(0);
            Box::pin(async move { connection.query(&command).await })
        })
    }
}

#[async_trait]
impl Watch for SignalWatch {
    async fn changed(&mut self) {
        let answer = self.waiting().await;
        self.waiting = None;
        if answer.is_err() {
            // The connection has ended. The core comes back by itself.
            pending::<()>().await;
        }
    }
}

impl fmt::Debug for SignalWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignalWatch").field("signal", &self.signal).finish_non_exhaustive()
    }
}
