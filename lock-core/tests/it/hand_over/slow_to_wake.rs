//! A store whose releasing client asks again before another one has heard of the release.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use lock_core::{
    Error, FencingToken, Holder, LockName,
    backend::{
        AcquireOutcome, AcquireRequest, Admin, Backend, Break, Capabilities, End, Lease, Listing, PastHolder,
        ProcessBound, Relay, Relayed, Release, Renewal, StoreTimings, Watch,
    },
    memory::MemoryBackend,
};
use tokio::time::sleep;

use crate::fixture::ms;

#[derive(Debug, Clone)]
pub(super) struct SlowToWake {
    locks: MemoryBackend,
    last_token: Arc<Mutex<Option<FencingToken>>>,
    past: Arc<Mutex<Option<PastHolder>>>,
    wakes: bool,
    /// Whether a grant shows the token before it.
    tells: bool,
    /// Whether clients may watch, if the store wakes them.
    watches: bool,
    /// Whether the store keeps the last holder of a free lock.
    keeps_past: bool,
    /// Whether a drop releases a lock without an `await`.
    releases_at_once: bool,
    /// How long a release is on its way to the store.
    release_takes: Duration,
    /// Whether one request can release and acquire.
    relays: bool,
}

impl SlowToWake {
    pub(super) fn new(wakes: bool, tells: bool) -> Self {
        let (locks, last_token, past) = (MemoryBackend::new(), Arc::default(), Arc::default());
        Self {
            locks,
            last_token,
            past,
            wakes,
            tells,
            watches: true,
            keeps_past: true,
            releases_at_once: false,
            release_takes: Duration::ZERO,
            relays: false,
        }
    }

    /// Refuses to watch, although it declares that it wakes its clients.
    pub(super) fn without_watch(self) -> Self {
        Self { watches: false, ..self }
    }

    /// Releases and acquires in one request.
    pub(super) fn with_relays(self) -> Self {
        Self { relays: true, ..self }
    }

    /// Keeps nothing of a free lock.
    pub(super) fn without_past(self) -> Self {
        Self { keeps_past: false, ..self }
    }

    pub(super) fn releasing_in(self, release_takes: Duration) -> Self {
        Self { release_takes, ..self }
    }

    pub(super) fn releasing_at_once(self) -> Self {
        Self { releases_at_once: true, ..self }
    }
}

#[async_trait]
impl Backend for SlowToWake {
    fn describe(&self) -> String {
        "slow:".to_owned()
    }

    fn capabilities(&self) -> Capabilities {
        self.locks.capabilities().with_wake_up(self.wakes)
    }

    fn timings(&self) -> StoreTimings {
        self.locks.timings()
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        let outcome = self.locks.acquire(request).await?;
        // The reply takes its time, so a request behind a release meets no other one.
        sleep(ms(1)).await;
        let AcquireOutcome::Granted(grant) = outcome else { return Ok(outcome) };
        let before = std::mem::replace(&mut *self.last_token.lock().unwrap(), grant.token);
        Ok(AcquireOutcome::Granted(grant.with_previous_token(before.filter(|_| self.tells))))
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        self.locks.renew(lease).await
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        sleep(self.release_takes).await;
        let released = self.locks.release(lease, hold_for).await?;
        if released == Release::Released {
            let holder = Holder::default().with_token(lease.token);
            *self.past.lock().unwrap() = Some(PastHolder::new(holder, End::Released));
        }
        Ok(released)
    }

    async fn watch(&self, name: &LockName) -> Result<Option<Box<dyn Watch>>, Error> {
        let watch = self.locks.watch(name).await?.filter(|_| self.watches);
        Ok(watch.map(|watch| Box::new(Late(watch)) as _))
    }

    fn process_bound(&self) -> Option<&dyn ProcessBound> {
        self.locks.process_bound().filter(|_| self.releases_at_once)
    }

    fn admin(&self) -> Option<&dyn Admin> {
        Some(self)
    }

    fn relay(&self) -> Option<&dyn Relay> {
        self.relays.then_some(self as _)
    }
}

#[async_trait]
impl Relay for SlowToWake {
    async fn relay(&self, lease: &Lease, request: &AcquireRequest) -> Result<Relayed, Error> {
        let released = self.release(lease, Duration::ZERO).await?;
        Ok(Relayed { released, acquired: Some(self.acquire(request).await) })
    }
}

#[async_trait]
impl Admin for SlowToWake {
    async fn inspect(&self, name: &LockName) -> Result<Option<Holder>, Error> {
        self.locks.inspect(name).await
    }

    async fn last_holder(&self, name: &LockName) -> Result<Option<PastHolder>, Error> {
        let is_held = self.locks.inspect(name).await?.is_some();
        Ok(self.past.lock().unwrap().clone().filter(|_| self.keeps_past && !is_held))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        self.locks.list(prefix).await
    }

    async fn break_lock(&self, name: &LockName, version: &str, by: &str) -> Result<Break, Error> {
        self.locks.break_lock(name, version, by).await
    }

    async fn purge(&self, name: &LockName) -> Result<bool, Error> {
        self.locks.purge(name).await
    }
}

#[derive(Debug)]
struct Late(Box<dyn Watch>);

#[async_trait]
impl Watch for Late {
    async fn changed(&mut self) {
        self.0.changed().await;
        sleep(ms(3)).await;
    }
}
