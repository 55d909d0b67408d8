//! The backend: renewal, release and the shared parts. `acquire` and `operators` are files of their
//! own.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use lock_core::{
    Error, ErrorKind, FencingToken, Holder, LockName, LossReason,
    backend::{
        AcquireOutcome, AcquireRequest, Admin, Backend, Break, Capabilities, Finding, FoundOnce, Lease, LeaseId,
        Listing, Release, Renewal, StoreClock, StoreTimings,
    },
    clock::{Clock, SystemClock},
};
use object_store::{client::HttpClient, path::Path};

use crate::{
    config::ObjectConfig,
    error,
    http::{self, Connector},
    keys::Keys,
    memory::{FreeLocks, LeaseWrites, Leases, Version},
    probe::Passed,
    record::Record,
    store::{Store, Tag, Written},
};

const SECOND_US: i64 = 1_000_000;
/// How long the other requests wait for one that probes the store. It may take longer: then they
/// probe too.
const PROBE: Duration = Duration::from_secs(5);

/// Locks in a bucket or container.
///
/// Nothing is connected before the first operation.
pub struct ObjectBackend {
    pub(crate) config: ObjectConfig,
    pub(crate) clock: Arc<StoreClock>,
    pub(crate) store: Store,
    pub(crate) keys: Keys,
    pub(crate) leases: Leases,
    /// Locks that this process released, which it can acquire again by one request.
    pub(crate) free: FreeLocks,
    pub(crate) probed: FoundOnce<()>,
    pub(crate) passed: Passed,
    pub(crate) delete_probed: FoundOnce<()>,
    /// The time of the latest token.
    minted_us: AtomicU64,
}

/// A lock's object as a read showed it.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) version: Option<Version>,
    pub(crate) age: Duration,
    pub(crate) date: i64,
}

impl Seen {
    pub(crate) fn tag(&self) -> Option<&Tag> {
        self.version.as_ref().map(|version| &version.tag)
    }

    pub(crate) fn record(&self) -> Option<&Record> {
        self.version.as_ref().map(|version| &version.record)
    }

    pub(crate) fn is_held_by(&self, id: LeaseId) -> bool {
        self.record().is_some_and(|record| record.id() == Some(id))
    }
}

/// What a record says at its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockState {
    Free,
    /// Refused to other clients for this long.
    Held(Duration),
    /// Its holder did not release it, and its lease is over.
    Dead,
}

/// What became of a change of a lease's record.
#[derive(Debug)]
pub(crate) enum Rewrite {
    Done(Version),
    NotOurs(Seen),
}

impl ObjectBackend {
    /// A backend on the bucket that `config` names.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`], with what is wrong with the settings, or with the files and
    /// environment variables of the credentials.
    pub fn new(config: ObjectConfig) -> Result<Self, Error> {
        Self::with_clock(config, Arc::new(SystemClock))
    }

    /// Like [`new`](Self::new), with other clocks, for tests.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_clock(config: ObjectConfig, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let client = http::client().map_err(|error| error.with_store(config.name()))?;
        Self::with_http(config, clock, client)
    }

    /// Like [`with_clock`](Self::with_clock), with another HTTP client, for tests that replace the
    /// store. The client must send each request once, and must not follow redirects.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_http(config: ObjectConfig, clock: Arc<dyn Clock>, client: HttpClient) -> Result<Self, Error> {
        let wrong = |problem| Error::new(ErrorKind::Config, problem).with_store(config.name());
        config.check().map_err(wrong)?;
        let keys = Keys::new(&config.prefix).map_err(wrong)?;
        let clock = Arc::new(StoreClock::new(clock, config.skew));
        let store = Store::new(config.clone(), Arc::clone(&clock), Connector::new(client))
            .map_err(|error| error.with_store(config.name()))?;
        Ok(Self {
            config,
            clock,
            store,
            keys,
            leases: Leases::default(),
            free: FreeLocks::default(),
            probed: FoundOnce::new(PROBE),
            passed: Passed::default(),
            delete_probed: FoundOnce::new(PROBE),
            minted_us: AtomicU64::new(0),
        })
    }

    /// Reads the lock `name`.
    pub(crate) async fn look(&self, name: &LockName) -> Result<Seen, Error> {
        let path = self.keys.lock(name);
        let seen = self.read(&path).await?;
        match seen.record() {
            Some(record) if !record.is_of(name) => {
                Err(error::stranger(path.as_ref(), "it is the record of another name"))
            }
            _ => Ok(seen),
        }
    }

    /// Reads the lock at `path`.
    pub(crate) async fn read(&self, path: &Path) -> Result<Seen, Error> {
        let read = self.store.get(path).await?;
        let Some(object) = read.object else {
            return Ok(Seen { version: None, age: Duration::ZERO, date: read.date });
        };
        let age = self.age(read.date, object.modified)?;
        let record = Record::parse(&object.body).map_err(|why| error::stranger(path.as_ref(), why))?;
        Ok(Seen { version: Some(Version { tag: object.tag, record }), age, date: read.date })
    }

    /// Returns the age of an object, by the store's clock alone.
    pub(crate) fn age(&self, date: i64, modified: i64) -> Result<Duration, Error> {
        match u64::try_from(date - modified) {
            Ok(age) => Ok(Duration::from_secs(age)),
            Err(_) if Duration::from_secs(modified.abs_diff(date)) <= self.config.skew + Duration::from_secs(1) => {
                Ok(Duration::ZERO)
            }
            Err(_) => Err(error::clock_behind(modified - date, &self.config)),
        }
    }

    pub(crate) fn state(&self, seen: &Seen) -> LockState {
        let Some(record) = seen.record() else { return LockState::Free };
        let left = record.refused_for(seen.age, self.config.skew);
        match (left.is_zero(), record.id()) {
            (false, _) => LockState::Held(left),
            (true, Some(_)) => LockState::Dead,
            (true, None) => LockState::Free,
        }
    }

    /// Describes the holder in a record that was seen.
    pub(crate) fn holder(&self, seen: &Seen) -> Holder {
        let left = seen.record().map_or(Duration::ZERO, |record| record.refused_for(seen.age, self.config.skew));
        let now_us = u64::try_from(seen.date.saturating_mul(SECOND_US)).unwrap_or(0);
        seen.record().map(|record| record.holder(left, now_us)).unwrap_or_default()
    }

    /// The holder, if there is one.
    pub(crate) fn current(&self, seen: &Seen) -> Option<Holder> {
        matches!(self.state(seen), LockState::Held(_)).then(|| self.holder(seen))
    }

    /// Returns the store's time for a new token, in microseconds, later than any that it returned
    /// before.
    ///
    /// The store shows whole seconds. Within them this machine's clock counts, as far as the
    /// replies prove: only two tokens between which the object was deleted depend on it.
    pub(crate) fn mint_us(&self, date: Option<i64>) -> u64 {
        let date = date.unwrap_or(0).saturating_mul(SECOND_US);
        let now = u64::try_from(self.clock.now().micros.max(date)).unwrap_or(0);
        let later = |previous: u64| Some(now.max(previous + 1));
        let previous = self.minted_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
        previous.map_or(now, |previous| now.max(previous + 1))
    }

    pub(crate) async fn put(&self, name: &LockName, record: &Record, on: Option<&Tag>) -> Result<Written, Error> {
        let bytes = record.to_bytes();
        if bytes.len() > crate::record::MAX_BYTES {
            let text = format!("the record would have {} bytes; leave less data in the lock", bytes.len());
            return Err(Error::new(ErrorKind::Limit, text));
        }
        self.store.put(&self.keys.lock(name), bytes, on).await
    }

    /// Changes the record of a lease that holds its lock.
    async fn rewrite(&self, lease: &Lease, change: impl Fn(&Record) -> Record + Send) -> Result<Rewrite, Error> {
        let mut known = match self.leases.get(&lease.id) {
            Some(LeaseWrites::Confirmed(version)) => Some(*version),
            _ => None,
        };
        // Twice: an earlier request of the same lease may arrive late, and take effect before this
        // one. A third write means that something else is wrong.
        for _ in 0..2 {
            let version = match known.take() {
                Some(version) => version,
                None => {
                    let seen = self.look(&lease.name).await?;
                    match seen.version {
                        Some(version) if version.record.id() == Some(lease.id) => version,
                        _ => return Ok(Rewrite::NotOurs(seen)),
                    }
                }
            };
            let record = change(&version.record);
            if let Written::Done(tag) = self.put(&lease.name, &record, Some(&version.tag)).await? {
                return Ok(Rewrite::Done(Version { tag, record }));
            }
        }
        Err(error::overtaken())
    }

    /// Rewrites a lease that stays held. `None` if it was written.
    async fn keep(&self, lease: &Lease, change: impl Fn(&Record) -> Record + Send) -> Result<Option<Seen>, Error> {
        match self.rewrite(lease, change).await? {
            Rewrite::Done(version) => {
                self.leases.put(lease.id, LeaseWrites::Confirmed(Box::new(version)));
                Ok(None)
            }
            Rewrite::NotOurs(seen) => {
                // An unanswered request to acquire must still be countered by the release.
                if matches!(self.leases.get(&lease.id), Some(LeaseWrites::Confirmed(_))) {
                    self.leases.take(&lease.id);
                }
                Ok(Some(seen))
            }
        }
    }

    fn loss_of(&self, lease: &Lease, seen: &Seen) -> LossReason {
        match seen.record() {
            Some(record) if record.id().is_some() => LossReason::TakenBy(Box::new(self.holder(seen))),
            Some(Record { broken_by: Some(by), .. }) if seen.record().and_then(Record::last) == Some(lease.id) => {
                LossReason::BrokenBy(by.clone())
            }
            _ => LossReason::RecordGone,
        }
    }

    /// Answers the release of a lease that does not hold its lock, as a read showed.
    async fn not_held(&self, lease: &Lease, hold_for: Duration, seen: Seen) -> Result<Release, Error> {
        if let Some(LeaseWrites::Unanswered { on, record }) = self.leases.get(&lease.id)
            && on.as_ref() == seen.tag()
        {
            // The request to acquire may still arrive. Its condition holds only on this version, so
            // a new version makes it fail.
            let replacement = seen.record().map_or_else(|| record.released(Duration::ZERO), Record::touched);
            let _: Written = self.put(&lease.name, &replacement, on.as_ref()).await?;
            self.leases.take(&lease.id);
            // If it arrived before, the lease holds the lock now.
            if let Rewrite::Done(version) = self.rewrite(lease, |record| record.released(hold_for)).await? {
                return Ok(self.released(lease, hold_for, version));
            }
            return Ok(Release::NotHeld(self.current(&seen)));
        }
        self.leases.take(&lease.id);
        let was_released = seen.record().is_some_and(|record| {
            record.id().is_none() && record.last() == Some(lease.id) && record.broken_by.is_none()
        });
        // An earlier request released it, and its reply was lost.
        Ok(if was_released { Release::Released } else { Release::NotHeld(self.current(&seen)) })
    }

    fn released(&self, lease: &Lease, hold_for: Duration, version: Version) -> Release {
        self.leases.take(&lease.id);
        if hold_for.is_zero() {
            self.free.put(lease.name.clone(), version);
        }
        Release::Released
    }
}

#[async_trait]
impl Backend for ObjectBackend {
    fn describe(&self) -> String {
        self.config.name()
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
            .with_hand_over(true)
    }

    fn timings(&self) -> StoreTimings {
        StoreTimings::default()
            .with_poll_min(self.config.poll.0)
            .with_poll_max(self.config.poll.1)
            .with_least_ttl(self.config.least_ttl)
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        request.require_exclusive()?;
        self.attempt(request).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        let lost = self.keep(lease, |record| record.renewed(lease.ttl)).await?;
        Ok(lost.map_or(Renewal::Renewed, |seen| Renewal::Lost(self.loss_of(lease, &seen))))
    }

    async fn advance_token(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        Ok(self.keep(lease, |record| record.with_token(token)).await?.is_none())
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        match self.rewrite(lease, |record| record.released(hold_for)).await? {
            Rewrite::Done(version) => Ok(self.released(lease, hold_for, version)),
            Rewrite::NotOurs(seen) => self.not_held(lease, hold_for, seen).await,
        }
    }

    fn admin(&self) -> Option<&dyn Admin> {
        Some(self)
    }

    fn reopen(&self) -> Result<Arc<dyn Backend>, Error> {
        Ok(Arc::new(Self::new(self.config.clone())?))
    }

    async fn diagnose(&self) -> Vec<Finding> {
        self.findings().await
    }
}

#[async_trait]
impl Admin for ObjectBackend {
    async fn inspect(&self, name: &LockName) -> Result<Option<Holder>, Error> {
        Ok(self.current(&self.look(name).await?))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        self.list_held(prefix).await
    }

    async fn break_lock(&self, name: &LockName, version: &str, by: &str) -> Result<Break, Error> {
        self.take_away(name, version, by).await
    }

    async fn purge(&self, name: &LockName) -> Result<bool, Error> {
        self.remove(name).await
    }
}

impl fmt::Debug for ObjectBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectBackend").field("store", &self.describe()).finish_non_exhaustive()
    }
}
