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

mod ended;
mod factory;
mod holders;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, MutexGuard},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use tokio::{sync::watch, time::Instant};

pub use self::factory::MemoryFactory;
use self::{
    ended::Ended,
    holders::{Decision, Holders, Record},
};
use crate::{
    backend::{
        AcquireOutcome, AcquireRequest, Admin, Backend, Break, Capabilities, Finding, Grant, Listing, ProcessBound,
        Release, Renewal, StoreTimings, Watch,
    },
    mutex::Mutex,
    types::{Error, ErrorKind, FencingToken, Holder, Lease, LockName, LossReason},
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
    names: BTreeMap<LockName, Holders>,
    /// The last token of any name. It is outside the names, because a release may remove its name.
    last_token: Option<FencingToken>,
    /// Outside the names for the same reason.
    ended: Ended,
    scheduled_losses: Vec<(Instant, String)>,
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
        self.locks().names.retain(|held, _| held.as_str() != name);
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
            let Locks { names, scheduled_losses, .. } = &mut *locks;
            scheduled_losses.retain(|(at, name)| {
                let due = *at <= now;
                if due {
                    names.retain(|held, _| held.as_str() != name);
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
        locks.ended.note(lease.id, &lease.name);
        let Some(holders) = locks.names.get_mut(&lease.name) else { return Release::NotHeld(None) };
        let released = holders.release(lease, hold_for, now);
        if holders.is_empty(now) {
            locks.names.remove(&lease.name);
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
            shared: true,
            permits: true,
            hand_over: true,
            fair: true,
        }
    }

    fn timings(&self) -> StoreTimings {
        StoreTimings { renew_batch: 100, ..StoreTimings::default() }
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        let now = Instant::now();
        let wall = self.wall(now);
        let mut locks = self.locks();
        let Locks { names, last_token, ended, .. } = &mut *locks;
        if ended.is_late(request.id, &request.name) {
            let holder = names.get(&request.name).and_then(|holders| holders.holder(now));
            return Ok(AcquireOutcome::Contended(holder.unwrap_or_default()));
        }
        let holders = names.entry(request.name.clone()).or_default();
        let crashed = match holders.decide(request, now)? {
            Decision::Ours(token) => {
                let grant = Grant::default().with_token(token).with_already_ours(true);
                return Ok(AcquireOutcome::Granted(grant));
            }
            Decision::Contended(holder) => return Ok(AcquireOutcome::Contended(holder)),
            Decision::Free(crashed) => crashed,
        };
        let micros = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
        let micros = u64::try_from(micros).unwrap_or(u64::MAX);
        let token = FencingToken::next_after(*last_token, micros, request.reserved_tokens)
            .expect("2^53 microseconds end in the year 2255");
        *last_token = Some(token);
        holders.grant(Record::new(request, token, wall, now), now);
        Ok(AcquireOutcome::Granted(Grant::default().with_token(token).with_crashed(crashed)))
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        let now = Instant::now();
        let mut locks = self.locks();
        let Some(holders) = locks.names.get_mut(&lease.name) else { return Ok(Renewal::Lost(LossReason::RecordGone)) };
        Ok(holders.renew(lease, now).map_or_else(Renewal::Lost, |()| Renewal::Renewed))
    }

    async fn advance_token(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        let mut locks = self.locks();
        let Locks { names, last_token, .. } = &mut *locks;
        let advanced = names.get_mut(&lease.name).is_some_and(|holders| holders.advance(lease, token, Instant::now()));
        if advanced {
            *last_token = (*last_token).max(Some(token));
        }
        Ok(advanced)
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
        Ok(self.locks().names.get(name).and_then(|holders| holders.holder(now)))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        let now = Instant::now();
        let locks = self.locks();
        let asked = locks.names.iter().filter(|(name, _)| name.as_str().starts_with(prefix));
        Ok(Listing::new(asked.filter_map(|(name, holders)| Some((name.clone(), holders.holder(now)?))).collect()))
    }

    async fn break_lock(&self, name: &LockName, version: &str, by: &str) -> Result<Break, Error> {
        let now = Instant::now();
        let mut locks = self.locks();
        let Locks { names, ended, .. } = &mut *locks;
        let Some(holders) = names.get_mut(name) else { return Ok(Break::Changed(None)) };
        let answer = match holders.break_one(version, by, now) {
            Some(broken) => {
                ended.note(broken, name);
                Break::Broken
            }
            None => Break::Changed(holders.holder(now)),
        };
        drop(locks);
        self.announce();
        Ok(answer)
    }

    async fn purge(&self, name: &LockName) -> Result<bool, Error> {
        let now = Instant::now();
        let mut locks = self.locks();
        let unneeded = locks.names.get(name).is_none_or(|holders| holders.is_idle(now));
        if unneeded {
            locks.names.remove(name);
        }
        Ok(unneeded)
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
