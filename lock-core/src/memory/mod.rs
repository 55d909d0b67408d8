//! The in-memory backend: locks of one process. It is the reference implementation, and
//! applications test their loss handling with it.
//!
//! Wrap it in `faults::Faulty` (feature `testing`) to lose requests and replies, and use
//! [`MemoryBackend::lose`] or
//! [`MemoryBackend::lose_after`] to take a lock away:
//!
//! ```
//! use std::time::Duration;
//!
//! use lock_core::{Locker, memory::MemoryBackend};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), lock_core::Error> {
//! let store = MemoryBackend::new();
//! let builder = Locker::builder(std::sync::Arc::new(store.clone()));
//! let locker = builder.ttl(Duration::from_millis(300)).build()?;
//! let guard = locker.acquire("report").await?;
//! store.lose_after("report", Duration::from_millis(50));
//! let lost = guard.run(std::future::pending::<()>()).await.unwrap_err();
//! println!("{lost}");
//! # Ok(())
//! # }
//! ```

mod factory;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, MutexGuard},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use tokio::{sync::watch, time::Instant};

pub use self::factory::MemoryFactory;
use crate::{
    backend::{
        AcquireOutcome, AcquireRequest, Admin, Backend, Break, Capabilities, Finding, Grant, Listing, ProcessBound,
        Release, Renewal, StoreTimings, Watch,
    },
    mutex::Mutex,
    types::{Error, ErrorKind, FencingToken, Holder, Lease, LeaseId, LockName, LossReason},
};

/// Locks in the memory of this process. Clones are clients of the same store.
///
/// Its clock is the runtime's, which guards follow too. So tests on a paused clock need not wait
/// for leases to end.
#[derive(Clone)]
pub struct MemoryBackend {
    store: Arc<Store>,
}

struct Store {
    started: (Instant, SystemTime),
    locks: Mutex<Locks>,
    /// Changes with every release.
    releases: watch::Sender<u64>,
}

#[derive(Default)]
struct Locks {
    records: BTreeMap<LockName, Record>,
    /// The last token of any name. It is outside the records, because a release removes its record.
    last_token: Option<FencingToken>,
    scheduled_losses: Vec<(Instant, String)>,
}

/// A lock that is held, or that is kept for a while after its release.
struct Record {
    id: LeaseId,
    owner: String,
    data: Option<Vec<u8>>,
    token: FencingToken,
    since: SystemTime,
    acquired: Instant,
    expires: Instant,
    released: bool,
    /// The holder before this one, if an operator broke its lock, and who did.
    broken: Option<(LeaseId, String)>,
}

impl Record {
    fn holder(&self, now: Instant) -> Holder {
        Holder {
            owner: Some(self.owner.clone()),
            token: Some(self.token),
            since: Some(self.since),
            held_for: Some(now.duration_since(self.acquired)),
            expires_in: Some(self.expires.duration_since(now)),
            data: self.data.clone(),
            version: (!self.released).then(|| self.id.to_string()),
            foreign: None,
        }
    }

    fn is_held(&self, now: Instant) -> bool {
        now < self.expires
    }

    fn was_broken(&self, id: LeaseId) -> bool {
        self.broken.as_ref().is_some_and(|(broken, _)| *broken == id)
    }

    fn is_held_by(&self, id: LeaseId, now: Instant) -> bool {
        self.id == id && !self.released && self.is_held(now)
    }
}

impl MemoryBackend {
    /// A new, empty store.
    pub fn new() -> Self {
        let (releases, _) = watch::channel(0);
        let started = (Instant::now(), SystemTime::now());
        Self { store: Arc::new(Store { started, locks: Mutex::default(), releases }) }
    }

    /// Takes the lock away from its holder, as a store that loses its data would.
    pub fn lose(&self, name: &str) {
        self.locks().records.retain(|held, _| held.as_str() != name);
        self.announce();
    }

    /// Like [`lose`](Self::lose), once `after` has passed.
    pub fn lose_after(&self, name: &str, after: Duration) {
        self.locks().scheduled_losses.push((Instant::now() + after, name.to_owned()));
    }

    /// The store with everything done that has come due.
    fn locks(&self) -> MutexGuard<'_, Locks> {
        let mut locks = self.store.locks.lock();
        let now = Instant::now();
        if locks.scheduled_losses.iter().any(|(at, _)| *at <= now) {
            let Locks { records, scheduled_losses, .. } = &mut *locks;
            scheduled_losses.retain(|(at, name)| {
                let due = *at <= now;
                if due {
                    records.retain(|held, _| held.as_str() != name);
                }
                !due
            });
        }
        locks
    }

    fn announce(&self) {
        self.store.releases.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn wall(&self, now: Instant) -> SystemTime {
        self.store.started.1 + now.duration_since(self.store.started.0)
    }

    fn release_sync(&self, lease: &Lease, hold_for: Duration) -> Release {
        let now = Instant::now();
        let mut locks = self.locks();
        let released = match locks.records.get_mut(&lease.name) {
            Some(record) if record.was_broken(lease.id) => return Release::NotHeld(None),
            // A retry: the release took effect and its reply was lost.
            Some(record) if record.id == lease.id && record.released => return Release::Released,
            Some(record) if record.is_held_by(lease.id, now) => {
                record.released = true;
                record.expires = now + hold_for;
                Release::Released
            }
            Some(record) => return Release::NotHeld(record.is_held(now).then(|| record.holder(now))),
            None => return Release::NotHeld(None),
        };
        if hold_for.is_zero() {
            locks.records.remove(&lease.name);
        }
        drop(locks);
        self.announce();
        released
    }
}

impl Default for MemoryBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBackend").finish_non_exhaustive()
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    fn describe(&self) -> String {
        "memory:".into()
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

    fn timings(&self) -> StoreTimings {
        StoreTimings { renew_batch: 100, ..StoreTimings::default() }
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        let now = Instant::now();
        let expires = now + request.ttl;
        let wall = self.wall(now);
        let mut locks = self.locks();
        let Locks { records, last_token, .. } = &mut *locks;
        let previous = records.get_mut(&request.name);
        let (crashed, broken) = match previous {
            Some(record) if record.is_held_by(request.id, now) => {
                record.expires = expires;
                return Ok(AcquireOutcome::Granted(Grant {
                    token: Some(record.token),
                    crashed: None,
                    already_ours: true,
                }));
            }
            Some(record) if record.is_held(now) => return Ok(AcquireOutcome::Contended(record.holder(now))),
            Some(record) => ((!record.released).then(|| record.holder(now)), record.broken.take()),
            None => (None, None),
        };
        let micros = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
        let token = FencingToken::next(*last_token, u64::try_from(micros).unwrap_or(u64::MAX))
            .expect("2^53 microseconds end in the year 2255");
        *last_token = Some(token);
        let record = Record {
            id: request.id,
            owner: request.owner.clone(),
            data: request.data.clone(),
            token,
            since: wall,
            acquired: now,
            expires,
            released: false,
            broken,
        };
        records.insert(request.name.clone(), record);
        Ok(AcquireOutcome::Granted(Grant { token: Some(token), crashed, already_ours: false }))
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        let now = Instant::now();
        let mut locks = self.locks();
        let reason = match locks.records.get_mut(&lease.name) {
            Some(record) if record.is_held_by(lease.id, now) => {
                record.expires = now + lease.ttl;
                return Ok(Renewal::Renewed);
            }
            Some(Record { broken: Some((id, by)), .. }) if *id == lease.id => LossReason::BrokenBy(by.clone()),
            Some(record) if record.id == lease.id && !record.released => LossReason::Expired,
            Some(record) if record.id != lease.id && record.is_held(now) => {
                LossReason::TakenBy(Box::new(record.holder(now)))
            }
            _ => LossReason::RecordGone,
        };
        Ok(Renewal::Lost(reason))
    }

    async fn advance_token(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        let mut locks = self.locks();
        let Locks { records, last_token, .. } = &mut *locks;
        let held = records.get_mut(&lease.name).filter(|record| record.is_held_by(lease.id, Instant::now()));
        let Some(record) = held else { return Ok(false) };
        record.token = record.token.max(token);
        *last_token = (*last_token).max(Some(token));
        Ok(true)
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        Ok(self.release_sync(lease, hold_for))
    }

    async fn watch(&self, _name: &LockName) -> Result<Option<Box<dyn Watch>>, Error> {
        Ok(Some(Box::new(MemoryWatch(self.store.releases.subscribe()))))
    }

    fn reopen(&self) -> Result<Arc<dyn Backend>, Error> {
        let message = "locks in memory exclude no other process, and this process was forked from the one that opened \
                       the store; use a file: store, or open the store after the fork";
        Err(Error::new(ErrorKind::Unsupported, message).with_store(self.describe()))
    }

    async fn diagnose(&self) -> Vec<Finding> {
        let text = "locks in the memory of this process: no other process sees them";
        vec![Finding::warning("reach", text).advice("use it for tests, or for tasks of one process")]
    }

    fn admin(&self) -> Option<&dyn Admin> {
        Some(self)
    }

    fn process_bound(&self) -> Option<&dyn ProcessBound> {
        Some(self)
    }
}

#[async_trait]
impl Admin for MemoryBackend {
    async fn inspect(&self, name: &LockName) -> Result<Option<Holder>, Error> {
        let now = Instant::now();
        Ok(self.locks().records.get(name).filter(|record| record.is_held(now)).map(|record| record.holder(now)))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        let now = Instant::now();
        let locks = self.locks();
        let held =
            locks.records.iter().filter(|(name, record)| name.as_str().starts_with(prefix) && record.is_held(now));
        Ok(Listing::new(held.map(|(name, record)| (name.clone(), record.holder(now))).collect()))
    }

    async fn break_lock(&self, name: &LockName, version: &str, by: &str) -> Result<Break, Error> {
        let now = Instant::now();
        let mut locks = self.locks();
        match locks.records.get_mut(name) {
            Some(record) if record.is_held(now) && record.holder(now).version.as_deref() == Some(version) => {
                record.broken = Some((record.id, by.to_owned()));
                record.released = true;
                record.expires = now;
            }
            Some(record) => return Ok(Break::Changed(record.is_held(now).then(|| record.holder(now)))),
            None => return Ok(Break::Changed(None)),
        }
        drop(locks);
        self.announce();
        Ok(Break::Broken)
    }

    async fn purge(&self, name: &LockName) -> Result<bool, Error> {
        let now = Instant::now();
        let mut locks = self.locks();
        let needed = locks.records.get(name).is_some_and(|record| record.is_held(now) || !record.released);
        if !needed {
            locks.records.remove(name);
        }
        Ok(!needed)
    }
}

impl ProcessBound for MemoryBackend {
    fn release_now(&self, lease: &Lease, hold_for: Duration) -> bool {
        // Whatever the answer is, this lease does not hold the lock any more.
        let _ = self.release_sync(lease, hold_for);
        true
    }

    fn on_lost(&self, _: &Lease) {
        // The ttl ends the lock.
    }

    #[cfg(unix)]
    fn descriptors(&self, _: &Lease) -> std::io::Result<Vec<std::os::fd::OwnedFd>> {
        Ok(Vec::new())
    }
}

#[derive(Debug)]
struct MemoryWatch(watch::Receiver<u64>);

#[async_trait]
impl Watch for MemoryWatch {
    async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // The store is gone, and with it every client that could release.
            std::future::pending::<()>().await;
        }
    }
}
