//! The [`Backend`] over Redis.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use lock_core::{
    Error, FencingToken, Holder, LockName, Operation,
    backend::{
        AcquireOutcome, AcquireRequest, Admin, Backend, Break, Capabilities, Finding, Lease, Listing, Relay, Release,
        Renewal, StoreTimings, Watch,
    },
};

use crate::{
    Address, Compat, RedisConfig, Topology,
    compat::redis_py,
    config::DEFAULT_TTL,
    deployment::Deployment,
    doctor,
    fair::PlaceWatch,
    quorum::{Member, Quorum},
    watch,
};

/// Locks on Redis. Cheap to clone; clones share the connection.
///
/// Every operation is one call of a script, so one round trip. Only an exclusive request that
/// several holders refuse makes two, and so does the release of a lock that is no longer held.
/// Requests that several tasks make at once may share a call. The connection is opened by the first
/// one, and again by the first one after it broke.
#[derive(Debug, Clone)]
pub struct RedisBackend {
    servers: Servers,
    /// For the examination, which asks sentinels too.
    config: Arc<RedisConfig>,
    store: String,
    attempt_timeout: Duration,
    wake_up: bool,
}

#[derive(Debug, Clone)]
enum Servers {
    One(Arc<Deployment>),
    Quorum(Arc<Quorum>),
}

impl RedisBackend {
    /// Checks `config` and reads the certificates that it names; connects to nothing.
    ///
    /// # Errors
    /// [`Config`](lock_core::ErrorKind::Config) when settings contradict each other or a
    /// certificate cannot be read.
    pub fn new(config: RedisConfig) -> Result<Self, Error> {
        let store = config.name();
        let in_context = |error: Error| error.with_store(store.clone());
        config.check().map_err(in_context)?;
        let servers = Servers::new(&config).map_err(in_context)?;
        let wake_up = config.compat != Some(Compat::RedisPy);
        let attempt_timeout = config.connect_timeout + config.timeout;
        Ok(Self { servers, config: Arc::new(config), attempt_timeout, wake_up, store })
    }

    fn context(&self, error: Error, operation: Operation, name: Option<&LockName>) -> Error {
        let error = error.with_operation(operation).with_store(self.store.clone());
        match name {
            Some(name) => error.with_name(name),
            None => error,
        }
    }
}

impl Servers {
    fn new(config: &RedisConfig) -> Result<Self, Error> {
        let Topology::Quorum(addresses) = &config.topology else {
            return Ok(Self::One(Arc::new(Deployment::new(config)?)));
        };
        let server = |address: &Address| {
            let alone = RedisConfig { topology: Topology::Standalone(address.clone()), ..config.clone() };
            Ok(Member::new(address.to_string(), Deployment::new(&alone)?))
        };
        let servers = addresses.iter().map(server).collect::<Result<_, Error>>()?;
        Ok(Self::Quorum(Arc::new(Quorum::new(servers, config.timeout))))
    }
}

/// The shortest and the longest pause between two attempts of a waiter that a release wakes. It
/// polls only in case the wake-up was lost, and each poll costs the server a script. So the pauses
/// begin long, and grow to the default ttl, by which the lease of a silent holder has ended.
const POLL_IF_WOKEN: (Duration, Duration) = (Duration::from_millis(200), DEFAULT_TTL);

/// Passes a call on to whatever the servers are.
macro_rules! ask {
    ($backend:ident.$method:ident($($argument:expr),*)) => {
        match &$backend.servers {
            Servers::One(deployment) => deployment.$method($($argument),*).await,
            Servers::Quorum(quorum) => quorum.$method($($argument),*).await,
        }
    };
}

#[async_trait]
impl Backend for RedisBackend {
    fn describe(&self) -> String {
        self.store.clone()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
            .with_ttl(true)
            .with_fencing(true)
            .with_loss_signal(true)
            .with_holder(true)
            .with_inspect(true)
            .with_list(true)
            .with_break_lock(true)
            .with_wake_up(self.wake_up)
            .with_hand_over(true)
            // Other clients know exclusive locks only.
            .with_shared(self.config.compat.is_none())
            // Majorities of different holders may be different servers. Each of three servers may
            // grant two permits, which are six, and three holders have a majority with them.
            .with_permits(self.config.compat.is_none() && matches!(self.servers, Servers::One(_)))
            // The servers of a quorum may see the requests of several clients in different orders.
            .with_fair(self.config.compat.is_none() && matches!(self.servers, Servers::One(_)))
    }

    fn timings(&self) -> StoreTimings {
        let (poll_min, poll_max) = if self.wake_up { POLL_IF_WOKEN } else { redis_py::POLL };
        StoreTimings::default()
            .with_poll_min(poll_min)
            .with_poll_max(poll_max)
            .with_renew_batch(100)
            .with_attempt_timeout(self.attempt_timeout)
            // Redis reads its clock in whole milliseconds, and may have read it before the command.
            .with_least_margin(Duration::from_millis(2))
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        if !self.capabilities().has_mode(request.mode) {
            request.require_exclusive()?;
        }
        let result = ask!(self.acquire(request));
        result.map_err(|error| self.context(error, Operation::Acquire, Some(&request.name)))
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        let mut results = self.renew_many(std::slice::from_ref(lease)).await;
        results.pop().expect("renew_many answers for each lease")
    }

    async fn advance_token(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        let result = match &self.servers {
            Servers::One(deployment) => deployment.advance_token(lease, token).await,
            Servers::Quorum(quorum) => quorum.advance_token(lease, token).await,
        };
        result.map_err(|error| self.context(error, Operation::Acquire, Some(&lease.name)))
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        let result = ask!(self.release(lease, hold_for));
        result.map_err(|error| self.context(error, Operation::Release, Some(&lease.name)))
    }

    async fn renew_many(&self, leases: &[Lease]) -> Vec<Result<Renewal, Error>> {
        let context = |error, lease: &Lease| self.context(error, Operation::Renew, Some(&lease.name));
        ask!(self.renew_many(leases))
            .into_iter()
            .zip(leases)
            .map(|(result, lease)| result.map_err(|error| context(error, lease)))
            .collect()
    }

    async fn watch(&self, name: &LockName) -> Result<Option<Box<dyn Watch>>, Error> {
        let watch: Result<Option<Box<dyn Watch>>, Error> = match &self.servers {
            Servers::One(deployment) => watch::watch(deployment, name).await,
            Servers::Quorum(quorum) => quorum.watch(name).await.map(|watch| Some(Box::new(watch) as _)),
        };
        watch.map_err(|error| self.context(error, Operation::Watch, Some(name)))
    }

    async fn watch_place(&self, request: &AcquireRequest) -> Result<Option<Box<dyn Watch>>, Error> {
        let Servers::One(deployment) = &self.servers else { return self.watch(&request.name).await };
        match PlaceWatch::new(Arc::clone(deployment), request).await {
            Ok(watch) => Ok(Some(Box::new(watch))),
            Err(error) => Err(self.context(error, Operation::Watch, Some(&request.name))),
        }
    }

    fn reopen(&self) -> Result<Arc<dyn Backend>, Error> {
        Ok(Arc::new(Self::new(RedisConfig::clone(&self.config))?))
    }

    async fn diagnose(&self) -> Vec<Finding> {
        match &self.servers {
            Servers::One(deployment) => doctor::examine_deployment(&self.config, deployment).await,
            Servers::Quorum(quorum) => doctor::examine_quorum(&self.config, quorum).await,
        }
    }

    fn admin(&self) -> Option<&dyn Admin> {
        Some(self)
    }

    fn relay(&self) -> Option<&dyn Relay> {
        match &self.servers {
            Servers::One(deployment) if deployment.relays => Some(&**deployment),
            _ => None,
        }
    }
}

#[async_trait]
impl Admin for RedisBackend {
    async fn inspect(&self, name: &LockName) -> Result<Option<Holder>, Error> {
        let result = ask!(self.inspect(name));
        result.map_err(|error| self.context(error, Operation::Inspect, Some(name)))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        ask!(self.list(prefix)).map_err(|error| self.context(error, Operation::List, None))
    }

    async fn break_lock(&self, name: &LockName, version: &str, by: &str) -> Result<Break, Error> {
        let result = match &self.servers {
            Servers::One(deployment) => deployment.break_lock(name, version, by, false).await,
            Servers::Quorum(quorum) => quorum.break_lock(name, version, by).await,
        };
        result.map_err(|error| self.context(error, Operation::Break, Some(name)))
    }

    async fn purge(&self, name: &LockName) -> Result<bool, Error> {
        ask!(self.purge(name)).map_err(|error| self.context(error, Operation::Purge, Some(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_ttl_is_that_of_the_core() {
        let backend = RedisBackend::new(RedisConfig::standalone(Address::tcp("h", 1))).unwrap();
        let locker = lock_core::Locker::new(backend).unwrap();
        assert_eq!(locker.timing().ttl, Some(DEFAULT_TTL));
    }
}
