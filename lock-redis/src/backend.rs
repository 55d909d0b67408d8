//! The [`Backend`] over Redis.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use lock_core::{
    Error, Holder, Lease, LockName, Operation,
    backend::{Attempt, Backend, Break, Claim, Release, Renewal, Watch},
    capabilities::{Capabilities, Pace},
};

use crate::{RedisConfig, node::Node};

/// Locks on Redis. Cheap to clone; clones share the connection.
///
/// Every operation is one call of a script, so one round trip. The connection is opened by the first one, and again by
/// the first one after it broke.
#[derive(Debug, Clone)]
pub struct RedisBackend {
    node: Arc<Node>,
    store: String,
    attempt_timeout: Duration,
}

impl RedisBackend {
    /// Checks `config` and reads the certificates that it names; connects to nothing.
    ///
    /// # Errors
    /// [`Config`](lock_core::ErrorKind::Config) when settings contradict each other or a certificate cannot be read.
    pub fn new(config: RedisConfig) -> Result<Self, Error> {
        let store = config.to_string();
        let in_context = |error: Error| error.with_store(store.clone());
        config.check().map_err(in_context)?;
        let node = Arc::new(Node::new(&config).map_err(in_context)?);
        Ok(Self { node, attempt_timeout: config.connect_timeout + config.timeout, store })
    }

    fn context(&self, error: Error, operation: Operation, name: Option<&LockName>) -> Error {
        let error = error.with_operation(operation).with_store(self.store.clone());
        match name {
            Some(name) => error.with_name(name),
            None => error,
        }
    }
}

#[async_trait]
impl Backend for RedisBackend {
    fn describe(&self) -> String {
        self.store.clone()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            ttl: true,
            fencing: true,
            loss_signal: true,
            holder: true,
            inspect: true,
            list: true,
            break_lock: true,
            wake_up: true,
            shared: false,
        }
    }

    fn pace(&self) -> Pace {
        Pace {
            // Waiters are woken; polling is for notifications that were lost, and every waiter polls.
            poll_min: Duration::from_millis(200),
            poll_max: Duration::from_secs(30),
            renew_batch: 100,
            attempt_timeout: self.attempt_timeout,
            ..Pace::default()
        }
    }

    async fn acquire(&self, claim: &Claim) -> Result<Attempt, Error> {
        let result = self.node.acquire(claim).await;
        result.map_err(|error| self.context(error, Operation::Acquire, Some(&claim.name)))
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        let mut results = self.renew_many(std::slice::from_ref(lease)).await;
        results.pop().expect("renew_many answers for each lease")
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        let result = self.node.release(lease, hold_for).await;
        result.map_err(|error| self.context(error, Operation::Release, Some(&lease.name)))
    }

    async fn renew_many(&self, leases: &[Lease]) -> Vec<Result<Renewal, Error>> {
        let context = |error, lease: &Lease| self.context(error, Operation::Renew, Some(&lease.name));
        self.node
            .renew_many(leases)
            .await
            .into_iter()
            .zip(leases)
            .map(|(result, lease)| result.map_err(|error| context(error, lease)))
            .collect()
    }

    async fn watch(&self, name: &LockName) -> Result<Option<Box<dyn Watch>>, Error> {
        let watch = self.node.watch(name).await;
        let watch = watch.map_err(|error| self.context(error, Operation::Watch, Some(name)))?;
        Ok(Some(Box::new(watch)))
    }

    async fn inspect(&self, name: &LockName) -> Result<Option<Holder>, Error> {
        let result = self.node.inspect(name).await;
        result.map_err(|error| self.context(error, Operation::Inspect, Some(name)))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(LockName, Holder)>, Error> {
        self.node.list(prefix).await.map_err(|error| self.context(error, Operation::List, None))
    }

    async fn break_lock(&self, name: &LockName, version: &str, by: &str) -> Result<Break, Error> {
        let result = self.node.break_lock(name, version, by).await;
        result.map_err(|error| self.context(error, Operation::Break, Some(name)))
    }
}
