//! The [`Backend`] over PostgreSQL.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use lock_core::{
    Error, ErrorKind, FencingToken, Holder, LockName, Operation,
    backend::{
        AcquireOutcome, AcquireRequest, Admin, Backend, Break, Capabilities, Finding, Lease, Listing, PastHolder,
        Release, Renewal, StoreTimings, Watch,
    },
};

use crate::{
    config::{PostgresConfig, Schema},
    connect::{Connector, NoEvents},
    connection::ConnectionSlot,
    doctor,
    environment::completed,
    init::unsuitable,
    listen::Listener,
    shedlock::ShedLock,
    table::Table,
};

/// Locks as rows of a PostgreSQL table. Cheap to clone; clones share the connections.
///
/// Every operation is one statement, so one round trip. Only the refusal of a shared lock, of a
/// permit, or by their holders takes two. The connection is opened by the first one,
/// which also asks for the schema of a table that is named without one, and again by the first one
/// after it broke. Waiters listen on a second connection.
#[derive(Debug, Clone)]
pub struct PostgresBackend {
    table: Arc<Table>,
    /// The operations on the rows of ShedLock, in place of those of the table.
    shedlock: Option<Arc<ShedLock>>,
    listener: Option<Arc<Listener>>,
    /// As given, for a child process, which completes it anew.
    config: Arc<PostgresConfig>,
    store: String,
    attempt_timeout: Duration,
}

impl PostgresBackend {
    /// Checks `config`, completes it from the environment variables of libpq, and reads the
    /// certificates that it names; connects to nothing.
    ///
    /// # Errors
    /// [`Config`](lock_core::ErrorKind::Config) when a setting or a variable is invalid, or a
    /// certificate cannot be read.
    pub fn new(config: PostgresConfig) -> Result<Self, Error> {
        config.check()?;
        let server = completed(&config.server)?;
        let full = PostgresConfig { server: server.clone(), ..config.clone() };
        let store = full.name();
        let in_context = |error: Error| error.with_store(store.clone());
        let shedlock = (config.schema == Schema::ShedLock).then(|| Arc::new(ShedLock::default()));
        // ShedLock notifies no waiter.
        let listener = match (config.wake && shedlock.is_none(), &config.listen) {
            (false, _) => None,
            (true, None) => Some(server.clone()),
            (true, Some(direct)) => Some(completed(direct).map_err(in_context)?),
        };
        let connector = |server| Connector::new(server, config.connect_timeout).map_err(in_context);
        let listener = match listener {
            Some(server) => Some(Arc::new(Listener::new(connector(server)?, config.timeout))),
            None => None,
        };
        let connector = connector(server)?;
        let attempt_timeout = connector.longest().saturating_add(config.timeout);
        let connection = ConnectionSlot::new(connector, config.timeout, config.named_statements, Arc::new(NoEvents));
        let table = Arc::new(Table::new(connection, &full));
        Ok(Self { table, shedlock, listener, config: Arc::new(config), store, attempt_timeout })
    }

    /// Creates the table, or checks the one that is there. Returns whether it was created.
    ///
    /// # Errors
    /// [`StoreNotReady`](ErrorKind::StoreNotReady) when a table of that name is no table of locks;
    /// else when the server cannot be asked, or refuses.
    ///
    /// # Cancel safety
    /// Cancel safe. The table may be created although the caller is gone.
    pub async fn init(&self) -> Result<bool, Error> {
        let created = self.table.init().await.map_err(|error| self.context(error, Operation::Open, None))?;
        self.check().await?;
        Ok(created)
    }

    /// Compares the table with what locks need, and returns warnings.
    ///
    /// # Errors
    /// [`StoreNotReady`](ErrorKind::StoreNotReady) when the table is missing or unsuitable; else
    /// when the server cannot be asked.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn check(&self) -> Result<Vec<String>, Error> {
        let checked = match self.table.shape().await {
            Ok(Some(shape)) if shape.problems.is_empty() => return Ok(shape.warnings),
            Ok(Some(shape)) => unsuitable(&shape.problems),
            Ok(None) => Error::new(ErrorKind::StoreNotReady, "the table does not exist; run onelock init to create it"),
            Err(error) => error,
        };
        Err(self.context(checked, Operation::Open, None))
    }

    /// Returns the names whose rows [`sweep`](Self::sweep) would delete.
    ///
    /// # Errors
    /// As [`sweep`](Self::sweep).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn idle_names(&self, idle: Duration) -> Result<Vec<LockName>, Error> {
        let names = match &self.shedlock {
            Some(_) => Err(not_in_shedlock("sweeping")),
            None => self.table.idle_names(idle).await,
        };
        names.map_err(|error| self.context(error, Operation::Purge, None))
    }

    /// Deletes the rows of names that are free and were not used for `idle`, and returns the names.
    /// Safe while locks are used: fencing tokens continue to rise.
    ///
    /// Choose a time longer than the pause between two runs of the rarest job. A name whose last
    /// holder crashed keeps its row, because the next holder must be told.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) when `idle` is shorter than a day;
    /// [`Unsupported`](ErrorKind::Unsupported) for the rows of ShedLock; else when the server
    /// cannot be asked, or refuses.
    ///
    /// # Cancel safety
    /// Cancel safe. Some rows may be deleted although the caller is gone.
    pub async fn sweep(&self, idle: Duration) -> Result<Vec<LockName>, Error> {
        let swept = match &self.shedlock {
            Some(_) => Err(not_in_shedlock("sweeping")),
            None => self.table.sweep(idle).await,
        };
        swept.map_err(|error| self.context(error, Operation::Purge, None))
    }

    fn context(&self, error: Error, operation: Operation, name: Option<&LockName>) -> Error {
        let error = error.with_operation(operation).with_store(self.store.clone());
        match name {
            Some(name) => error.with_name(name),
            None => error,
        }
    }
}

/// Passes a call on to the operations for the format of the rows.
macro_rules! ask {
    ($backend:ident.$method:ident($($argument:expr),*)) => {
        match &$backend.shedlock {
            Some(shedlock) => shedlock.$method(&$backend.table, $($argument),*).await,
            None => $backend.table.$method($($argument),*).await,
        }
    };
}

/// The error of an operation for which ShedLock's rows have no room.
fn not_in_shedlock(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{what} is not possible with schema=shedlock"))
}

#[async_trait]
impl Backend for PostgresBackend {
    fn describe(&self) -> String {
        self.store.clone()
    }

    fn capabilities(&self) -> Capabilities {
        let is_native = self.shedlock.is_none();
        Capabilities::default()
            .with_ttl(true)
            .with_fencing(is_native)
            .with_loss_signal(true)
            .with_holder(is_native)
            .with_inspect(true)
            .with_list(true)
            .with_break_lock(is_native)
            .with_wake_up(self.listener.is_some())
            .with_shared(is_native)
            .with_permits(is_native)
            .with_hand_over(is_native)
    }

    fn timings(&self) -> StoreTimings {
        StoreTimings::default()
            .with_poll_min(Duration::from_millis(100))
            .with_poll_max(Duration::from_secs(1))
            .with_renew_batch(100)
            .with_attempt_timeout(self.attempt_timeout)
            // ShedLock's times have milliseconds.
            .with_least_margin(Duration::from_millis(if self.shedlock.is_some() { 2 } else { 1 }))
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        let context = |error| self.context(error, Operation::Acquire, Some(&request.name));
        if !self.capabilities().has_mode(request.mode) {
            request.require_exclusive()?;
        }
        let outcome = ask!(self.acquire(request)).map_err(context)?;
        if let (AcquireOutcome::Contended(holder), Some(listener)) = (&outcome, &self.listener) {
            listener.note_holder(&self.table, &request.name, holder);
            // If this fails, the waiter polls until the next attempt.
            if let Err(error) = listener.announce_again(&self.table, &request.name).await {
                tracing::debug!(name = %request.name, %error, "the waiter was not announced");
            }
        }
        Ok(outcome)
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        let mut results = self.renew_many(std::slice::from_ref(lease)).await;
        results.pop().expect("renew_many answers for each lease")
    }

    async fn advance_token(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        let result = match &self.shedlock {
            Some(_) => Err(not_in_shedlock("raising a token")),
            None => self.table.advance_token(lease, token).await,
        };
        result.map_err(|error| self.context(error, Operation::Acquire, Some(&lease.name)))
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        let result = ask!(self.release(lease, hold_for));
        result.map_err(|error| self.context(error, Operation::Release, Some(&lease.name)))
    }

    async fn renew_many(&self, leases: &[Lease]) -> Vec<Result<Renewal, Error>> {
        let results = ask!(self.renew_many(leases));
        let named = |(result, lease): (Result<Renewal, Error>, &Lease)| {
            result.map_err(|error| self.context(error, Operation::Renew, Some(&lease.name)))
        };
        results.into_iter().zip(leases).map(named).collect()
    }

    async fn watch(&self, name: &LockName) -> Result<Option<Box<dyn Watch>>, Error> {
        let Some(listener) = &self.listener else { return Ok(None) };
        let watch = listener.watch(&self.table, name).await;
        watch.map_err(|error| self.context(error, Operation::Watch, Some(name)))
    }

    fn reopen(&self) -> Result<Arc<dyn Backend>, Error> {
        Ok(Arc::new(Self::new(PostgresConfig::clone(&self.config))?))
    }

    async fn diagnose(&self) -> Vec<Finding> {
        doctor::examine(&self.table, self.config.replicas, self.listener.as_ref()).await
    }

    fn admin(&self) -> Option<&dyn Admin> {
        Some(self)
    }
}

#[async_trait]
impl Admin for PostgresBackend {
    async fn inspect(&self, name: &LockName) -> Result<Option<Holder>, Error> {
        ask!(self.inspect(name)).map_err(|error| self.context(error, Operation::Inspect, Some(name)))
    }

    async fn last_holder(&self, name: &LockName) -> Result<Option<PastHolder>, Error> {
        match &self.shedlock {
            // The rows of ShedLock tell no end.
            Some(_) => Ok(None),
            None => self.table.last_holder(name).await,
        }
        .map_err(|error| self.context(error, Operation::Inspect, Some(name)))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        ask!(self.list(prefix)).map_err(|error| self.context(error, Operation::List, None))
    }

    async fn break_lock(&self, name: &LockName, version: &str, by: &str) -> Result<Break, Error> {
        let result = match &self.shedlock {
            Some(_) => Err(not_in_shedlock("breaking a lock")),
            None => self.table.break_lock(name, version, by).await,
        };
        result.map_err(|error| self.context(error, Operation::Break, Some(name)))
    }

    async fn purge(&self, name: &LockName) -> Result<bool, Error> {
        let result = match &self.shedlock {
            // ShedLock would not insert the row again.
            Some(_) => Err(not_in_shedlock("purging a name")),
            None => self.table.purge(name).await,
        };
        result.map_err(|error| self.context(error, Operation::Purge, Some(name)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lock_core::backend::LeaseId;
    use test_support::postgres::PostgresServer;

    use super::*;

    #[tokio::test]
    async fn a_waiter_counts_the_holders_that_refuse_it() {
        let server = PostgresServer::start();
        let open = || PostgresBackend::new(PostgresConfig::from_url(&server.url()).unwrap()).unwrap();
        let (other, waiter, name) = (open(), open(), LockName::new("n").unwrap());
        other.init().await.unwrap();
        let _watch = waiter.watch(&name).await.unwrap().expect("notifications arrive");
        let request =
            |owner: &str| AcquireRequest::new(name.clone(), LeaseId::random(), owner).with_ttl(Duration::from_secs(60));
        for (owner, met) in [("one", 1), ("one", 1), ("another", 2)] {
            let held = request(owner);
            assert!(matches!(other.acquire(&held).await.unwrap(), AcquireOutcome::Granted(_)));
            assert!(matches!(waiter.acquire(&request("waiter")).await.unwrap(), AcquireOutcome::Contended(_)));
            assert_eq!(waiter.listener.as_ref().unwrap().others(&waiter.table, &name), met);
            other.release(&held.lease(None), Duration::ZERO).await.unwrap();
        }
    }
}
