//! The backend and its clients. The files `acquire`, `held`, `joined`, `fair` and `operators` have
//! the operations.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_dynamodb::{Client, types::AttributeValue};
use lock_core::{
    Error, ErrorKind, FencingToken, Holder, LockName, Operation,
    backend::{
        AcquireOutcome, AcquireRequest, Admin, Backend, Break, Capabilities, Finding, FoundOnce, Lease, Listing,
        Observations, PastHolder, Release, Renewal, StoreClock, StoreTimings, WaitingMarks,
    },
    clock::{Clock, SystemClock},
};

use crate::{
    acquire::Verdict,
    attributes::{Attribute, Schema},
    batches::{self, Batches},
    client::{self, Clients},
    config::DynamoConfig,
    record::{Item, LockState, Record},
    send::WriteOutcome,
    write::{ConditionalWrite, Idle},
};

/// Locks in a DynamoDB table.
///
/// Nothing is connected before the first operation. One HTTP client serves all of them.
pub struct DynamoBackend {
    pub(crate) config: DynamoConfig,
    pub(crate) clock: Arc<StoreClock>,
    pub(crate) observations: Observations,
    pub(crate) batches: Batches,
    pub(crate) waiting_marks: WaitingMarks,
    /// The requests of this process that may have a place in a queue.
    pub(crate) queued: WaitingMarks,
    sdk: Option<SdkConfig>,
    clients: FoundOnce<Clients>,
}

/// How many locks of other people a process remembers having seen.
const OBSERVATIONS: usize = 10_000;
/// How long an item stays at least, beyond its lease and the skew bound. The time of deletion and
/// the store's clock are cut to seconds, and a request that arrives late still finds the item.
const LEAST_IDLE: Duration = Duration::from_secs(10);

impl DynamoBackend {
    /// A backend on the table that `config` names.
    pub fn new(config: DynamoConfig) -> Self {
        Self::with_clock(config, Arc::new(SystemClock))
    }

    /// Like [`new`](Self::new), with other clocks, for tests.
    pub fn with_clock(config: DynamoConfig, clock: Arc<dyn Clock>) -> Self {
        client::describe_metrics();
        let clock = Arc::new(StoreClock::new(clock, config.skew_bound));
        Self {
            config,
            clock,
            observations: Observations::new(OBSERVATIONS),
            batches: Batches::default(),
            waiting_marks: WaitingMarks::default(),
            queued: WaitingMarks::default(),
            sdk: None,
            clients: FoundOnce::new(client::ATTEMPT),
        }
    }

    /// Uses an AWS configuration of the application's own, its HTTP client included, where the
    /// [`DynamoConfig`] does not say otherwise. Retries and timeouts stay what locks need.
    #[must_use]
    pub fn with_sdk_config(mut self, sdk: SdkConfig) -> Self {
        self.sdk = Some(sdk);
        self.clients = FoundOnce::new(client::ATTEMPT);
        self
    }

    async fn clients(&self) -> Result<&Clients, Error> {
        self.clients.get_or_ask(|| client::connect(&self.config, self.sdk.as_ref(), &self.clock)).await
    }

    /// The client for requests that the core repeats.
    pub(crate) async fn client(&self) -> Result<&Client, Error> {
        Ok(&self.clients().await?.locks)
    }

    /// The client for requests that only the client itself repeats.
    pub(crate) async fn patient_client(&self) -> Result<&Client, Error> {
        Ok(&self.clients().await?.patient)
    }

    pub(crate) fn idle(&self) -> Idle {
        Idle(self.config.collect_after.max(self.config.skew_bound.saturating_add(LEAST_IDLE)))
    }

    pub(crate) fn key(&self, name: &LockName) -> HashMap<String, AttributeValue> {
        let layout = &self.config.layout;
        let mut key = HashMap::with_capacity(2);
        key.insert(layout.name(Attribute::Key).to_owned(), AttributeValue::S(name.as_str().to_owned()));
        if let Some((sort, value)) = &layout.sort {
            key.insert(sort.clone(), AttributeValue::S(value.clone()));
        }
        key
    }

    pub(crate) fn read(&self, item: &Item) -> Record {
        Record::read(item, &self.config.layout)
    }
}

#[async_trait]
impl Backend for DynamoBackend {
    fn describe(&self) -> String {
        self.config.name()
    }

    fn capabilities(&self) -> Capabilities {
        let schema = self.config.layout.schema;
        Capabilities::default()
            .with_ttl(true)
            // Kept in the item, which foreign clients replace.
            .with_fencing(schema == Schema::Native)
            .with_loss_signal(true)
            .with_holder(true)
            .with_inspect(true)
            .with_list(true)
            // If only a deleted item is a free lock, the trace for the holder has no place.
            .with_break_lock(!schema.deletes_on_release())
            .with_shared(self.config.layout.has_modes())
            .with_permits(self.config.layout.has_modes())
            .with_hand_over(self.config.layout.fences())
            .with_fair(self.config.layout.has_queue())
    }

    fn timings(&self) -> StoreTimings {
        StoreTimings::default()
            .with_poll_min(Duration::from_millis(100))
            .with_renew_batch(batches::LARGEST)
            .with_attempt_timeout(client::ATTEMPT)
            // Items have the lease in whole milliseconds, rounded down.
            .with_least_margin(StoreClock::LEAST_MARGIN + Duration::from_millis(1))
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        if !self.config.layout.has_modes() {
            request.require_exclusive()?;
        }
        if let Some(refusal) = self.refusal_by_reading(request).await? {
            return Ok(refusal);
        }
        if request.mode.may_be_joined() { self.attempt_to_join(request).await } else { self.attempt(request).await }
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        if lease.mode.may_be_joined() {
            return self.renew_part(lease).await;
        }
        let now = self.clock.now();
        let write = ConditionalWrite::renew(&self.config.layout, lease, now, self.idle());
        let version = write.version.clone();
        let written = self.update(&lease.name, write).await?;
        self.settle(lease, now, version, written).await
    }

    async fn renew_many(&self, leases: &[Lease]) -> Vec<Result<Renewal, Error>> {
        self.renew_all(leases).await
    }

    async fn advance_token(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        if !self.config.layout.fences() {
            let message = "a schema of foreign clients keeps no tokens";
            return Err(Error::new(ErrorKind::Unsupported, message).with_operation(Operation::Acquire));
        }
        if lease.mode.may_be_joined() {
            return self.advance_part(lease, token).await;
        }
        match self.update(&lease.name, ConditionalWrite::advance_token(&self.config.layout, lease, token)).await? {
            WriteOutcome::Done => Ok(true),
            WriteOutcome::Refused(item) => {
                let record = item.map(|item| self.read(&item));
                // Held by us with a token that is large enough already.
                Ok(record
                    .is_some_and(|r| r.id == Some(lease.id) && r.state == LockState::Held && r.fence >= Some(token)))
            }
        }
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        let released = if lease.mode.may_be_joined() {
            self.release_part(lease, hold_for).await
        } else {
            self.release_alone(lease, hold_for).await
        }?;
        if self.waiting_marks.contains(lease.id) {
            self.unmark(lease).await?;
        }
        if self.queued.contains(lease.id) {
            self.leave(lease).await?;
        }
        Ok(released)
    }

    fn reopen(&self) -> Result<Arc<dyn Backend>, Error> {
        if self.sdk.is_some() {
            let message = "this store uses an AWS configuration of the parent process, whose connections a child \
                cannot \
                           use; open the store again in the child process";
            return Err(Error::new(ErrorKind::Unsupported, message).with_store(self.describe()));
        }
        Ok(Arc::new(Self::new(self.config.clone())))
    }

    async fn diagnose(&self) -> Vec<Finding> {
        self.findings().await
    }

    fn admin(&self) -> Option<&dyn Admin> {
        Some(self)
    }
}

#[async_trait]
impl Admin for DynamoBackend {
    async fn inspect(&self, name: &LockName) -> Result<Option<Holder>, Error> {
        self.look(name).await
    }

    async fn last_holder(&self, name: &LockName) -> Result<Option<PastHolder>, Error> {
        self.look_back(name).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        self.scan(prefix).await
    }

    async fn break_lock(&self, name: &LockName, version: &str, by: &str) -> Result<Break, Error> {
        if !self.capabilities().break_lock {
            let message = "the Python client's schema has no released state that could be told to the holder; delete \
                the item with the AWS tools";
            let error = Error::new(ErrorKind::Unsupported, message);
            return Err(error.with_operation(Operation::Break).with_name(name).with_store(self.describe()));
        }
        self.take_away(name, version, by).await
    }

    async fn purge(&self, name: &LockName) -> Result<bool, Error> {
        let layout = &self.config.layout;
        if layout.schema.deletes_on_release() {
            return Ok(self.item(self.client().await?, name).await?.is_none());
        }
        match self.delete(name, ConditionalWrite::forget(layout)).await? {
            WriteOutcome::Done => Ok(true),
            WriteOutcome::Refused(item) => {
                let record = item.map(|item| self.read(&item));
                let judged = |record: &Record| record.joined.is_some() || !record.places.is_empty();
                let Some(record) = record.filter(judged) else { return Ok(false) };
                if self.judge(name, &record) != Verdict::Free || self.has_waiters(&record) {
                    return Ok(false);
                }
                let write = ConditionalWrite::forget_version(layout, &record.version);
                Ok(matches!(self.delete(name, write).await?, WriteOutcome::Done))
            }
        }
    }
}

impl fmt::Debug for DynamoBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoBackend").field("config", &self.config).finish_non_exhaustive()
    }
}
