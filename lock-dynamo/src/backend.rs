//! The backend: renewal, release and the shared parts. `acquire` and `operators` are files of their
//! own.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_dynamodb::{
    Client,
    operation::{
        delete_item::DeleteItemError,
        update_item::{UpdateItemError, builders::UpdateItemFluentBuilder},
    },
    types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure::AllOld},
};
use futures_util::future::join_all;
use lock_core::{
    Error, ErrorKind, FencingToken, Holder, LockName, LossReason, Operation,
    backend::{
        AcquireOutcome, AcquireRequest, Admin, Backend, Break, Capabilities, Finding, Lease, Listing, Observations,
        PastHolder, Release, Renewal, StoreClock, StoreTime, StoreTimings, WaitingMarks,
    },
    clock::{Clock, SystemClock},
};
use tokio::sync::OnceCell;

use crate::{
    acquire::Verdict,
    attributes::{Attribute, Schema},
    batches::{self, Batches},
    client::{self, Clients},
    config::DynamoConfig,
    error::convert,
    record::{Item, LockState, Record},
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
    clients: OnceCell<Clients>,
}

/// What became of a conditional write.
#[derive(Debug)]
pub(crate) enum WriteOutcome {
    Done,
    /// The condition did not hold; this is the item, if there is one.
    Refused(Option<Item>),
}

/// Sends a write under its condition. Here `UpdateItem` and `DeleteItem` differ only in their
/// types.
macro_rules! write_item {
    ($self:ident, $name:ident, $request:ident, $write:ident, $Error:ident) => {{
        let answer = $request
            .table_name(&$self.config.table)
            .set_key(Some($self.key($name)))
            .condition_expression($write.condition)
            // DynamoDB refuses an empty one.
            .set_expression_attribute_names(Some($write.names).filter(|names| !names.is_empty()))
            .set_expression_attribute_values(Some($write.values))
            .return_values_on_condition_check_failure(AllOld)
            .send()
            .await;
        match answer {
            Ok(answer) => Ok(Ok(answer.attributes)),
            Err(error) => match error.as_service_error() {
                Some($Error::ConditionalCheckFailedException(failed)) => Ok(Err(failed.item.clone())),
                _ => Err(convert(error, &$self.config)),
            },
        }
    }};
}

/// How many locks of other people a process remembers having seen.
const OBSERVATIONS: usize = 10_000;

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
            clients: OnceCell::new(),
        }
    }

    /// Uses an AWS configuration of the application's own, its HTTP client included, where the
    /// [`DynamoConfig`] does not say otherwise. Retries and timeouts stay what locks need.
    #[must_use]
    pub fn with_sdk_config(mut self, sdk: SdkConfig) -> Self {
        self.sdk = Some(sdk);
        self.clients = OnceCell::new();
        self
    }

    async fn clients(&self) -> Result<&Clients, Error> {
        self.clients.get_or_try_init(|| client::connect(&self.config, self.sdk.as_ref(), &self.clock)).await
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
        Idle(self.config.collect_after)
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

    /// One conditional `UpdateItem`.
    pub(crate) async fn update(&self, name: &LockName, write: ConditionalWrite<'_>) -> Result<WriteOutcome, Error> {
        let request = self.client().await?.update_item();
        Ok(self.send(name, write, request).await?.map_or_else(WriteOutcome::Refused, |_| WriteOutcome::Done))
    }

    /// One conditional `UpdateItem`, which returns the item as it was before, or the item that
    /// refused it.
    pub(crate) async fn update_and_return(
        &self,
        name: &LockName,
        write: ConditionalWrite<'_>,
    ) -> Result<Result<Option<Item>, Option<Item>>, Error> {
        let request = self.client().await?.update_item().return_values(ReturnValue::AllOld);
        self.send(name, write, request).await
    }

    async fn send(
        &self,
        name: &LockName,
        write: ConditionalWrite<'_>,
        request: UpdateItemFluentBuilder,
    ) -> Result<Result<Option<Item>, Option<Item>>, Error> {
        let request = request.update_expression(write.expression());
        let version = AttributeValue::S(write.version.clone());
        let written: Result<_, Error> = write_item!(self, name, request, write, UpdateItemError);
        Ok(match written? {
            // The network delivered it twice: it was done before.
            Err(Some(item)) if item.get(self.config.layout.name(Attribute::Version)) == Some(&version) => Ok(None),
            written => written,
        })
    }

    async fn delete(&self, name: &LockName, write: ConditionalWrite<'_>) -> Result<WriteOutcome, Error> {
        let request = self.client().await?.delete_item();
        let written: Result<_, Error> = write_item!(self, name, request, write, DeleteItemError);
        Ok(written?.map_or_else(WriteOutcome::Refused, |_: Option<Item>| WriteOutcome::Done))
    }

    /// Makes `lease`, whose item has this version, last from now on, whatever was written before.
    pub(crate) async fn correct(&self, lease: &Lease, version: &str) -> Result<WriteOutcome, Error> {
        self.write_again(
            &lease.name,
            ConditionalWrite::correct(&self.config.layout, lease, self.clock.now(), self.idle(), version),
        )
        .await
    }

    /// Writes an item that is ours already.
    pub(crate) async fn write_again(
        &self,
        name: &LockName,
        write: ConditionalWrite<'_>,
    ) -> Result<WriteOutcome, Error> {
        // What went before this has taken effect, whatever becomes of this.
        self.update(name, write).await.map_err(|error| error.with_ambiguous(true))
    }

    /// Returns whether an expiry written with `reading` is right, now that the reply shows the
    /// store's clock.
    pub(crate) fn stands(&self, reading: StoreTime) -> bool {
        let stands = self.clock.confirms(reading);
        if !stands {
            let skew = self.clock.skew(self.clock.moment()).map(crate::client::seconds);
            tracing::warn!(?skew, table = %self.config.table, "this machine's clock is not the store's; writing the \
                lease again by the store's");
        }
        stands
    }

    /// What a renewal written at `now`, as this version, has come to.
    pub(crate) async fn settle(
        &self,
        lease: &Lease,
        now: StoreTime,
        version: String,
        written: WriteOutcome,
    ) -> Result<Renewal, Error> {
        let version = match written {
            WriteOutcome::Done if self.stands(now) => return Ok(Renewal::Renewed),
            WriteOutcome::Done => version,
            WriteOutcome::Refused(item) => {
                let record = item.map(|item| self.read(&item));
                match record {
                    // Its recorded end is later, so our clock went back. Observers still need a new
                    // version.
                    Some(record) if record.is_held_by(lease.id) => record.version,
                    record => return Ok(Renewal::Lost(self.loss_of(lease, record.as_ref()))),
                }
            }
        };
        match self.correct(lease, &version).await? {
            WriteOutcome::Done => Ok(Renewal::Renewed),
            WriteOutcome::Refused(item) => {
                let record = item.map(|item| self.read(&item));
                if record.as_ref().is_some_and(|record| record.is_held_by(lease.id)) {
                    return Err(overtaken());
                }
                Ok(Renewal::Lost(self.loss_of(lease, record.as_ref())))
            }
        }
    }

    /// Releases the lock of a single holder.
    async fn release_alone(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        let layout = &self.config.layout;
        let written = if layout.schema.deletes_on_release() && hold_for.is_zero() {
            self.delete(&lease.name, ConditionalWrite::delete(layout, lease)).await?
        } else {
            let write = ConditionalWrite::release(layout, lease, hold_for, self.clock.now(), self.idle());
            self.update(&lease.name, write).await?
        };
        let WriteOutcome::Refused(item) = written else { return Ok(Release::Released) };
        let Some(record) = item.map(|item| self.read(&item)) else {
            return Ok(Release::NotHeld(None));
        };
        if record.joined.is_some() {
            return Ok(Release::NotHeld(self.current(&lease.name, &record)));
        }
        let was_broken = record.broken.as_ref().is_some_and(|(id, _)| *id == lease.id);
        if record.id == Some(lease.id) && !was_broken {
            // Released, but still with our id: an earlier request released it, and its reply was
            // lost.
            return Ok(Release::Released);
        }
        let held = record.state != LockState::Released;
        Ok(Release::NotHeld(held.then(|| self.holder(&lease.name, &record))))
    }

    pub(crate) fn loss_of(&self, lease: &Lease, record: Option<&Record>) -> LossReason {
        match record {
            Some(Record { broken: Some((id, by)), .. }) if *id == lease.id => LossReason::BrokenBy(by.clone()),
            _ if lease.mode.may_be_joined() => self.loss_of_part(lease, record),
            Some(Record { joined: Some(_), .. }) => self.loss_of_part(lease, record),
            Some(record) if record.id != Some(lease.id) && record.state == LockState::Held => {
                LossReason::TakenBy(Box::new(self.holder(&lease.name, record)))
            }
            _ => LossReason::RecordGone,
        }
    }
}

/// A delayed request of ours took effect between two others. The lock is ours, but its end is not
/// known.
pub(crate) fn overtaken() -> Error {
    Error::new(ErrorKind::Unavailable, "a late request for the same lease took effect meanwhile; try again")
}

#[async_trait]
impl Backend for DynamoBackend {
    fn describe(&self) -> String {
        self.config.to_string()
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
        if leases.len() > 1
            && self.batches.refusal().is_none()
            && batches::are_distinct(leases)
            && !leases.iter().any(|lease| lease.mode.may_be_joined())
            && let Some(renewals) = self.renew_batch(leases).await
        {
            return renewals;
        }
        join_all(leases.iter().map(|lease| self.renew(lease))).await
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
