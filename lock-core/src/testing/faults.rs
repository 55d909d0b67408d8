//! Injects faults into any backend: lost requests, lost replies, hung and failing calls.
//!
//! Use it in tests of the core, of a backend, or of an application's reaction to store failures.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;

use crate::{
    backend::{
        AcquireOutcome, AcquireRequest, Admin, Backend, Break, Capabilities, Finding, Listing, PastHolder,
        ProcessBound, Relay, Relayed, Release, Renewal, StoreTimings, Watch,
    },
    mutex::Mutex,
    types::{Error, ErrorKind, FencingToken, Holder, Lease, LockName, Operation},
};

/// The fault of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The request never arrives, and no reply is sent.
    LoseRequest,
    /// The request takes effect, but its reply is lost.
    LoseReply,
    /// The request arrives after this delay.
    DelayRequest(Duration),
    /// The request takes effect, and its reply arrives after this delay.
    DelayReply(Duration),
    /// The store refuses the request with an error of this kind, and nothing changes.
    Refuse(ErrorKind),
    /// The request takes effect, but the call returns an error of this kind.
    FailAfter(ErrorKind),
    /// The request arrives twice, and the call returns the second reply.
    Duplicate,
    /// The request takes effect, and the backend panics.
    Panic,
}

/// A backend that injects scripted faults into its requests. Clones share the script.
///
/// It models a store across a network, so it never releases from [`Drop`]:
/// [`ProcessBound::release_now`] returns `false`.
#[derive(Debug, Clone)]
pub struct Faulty {
    inner: Arc<dyn Backend>,
    script: Arc<Mutex<HashMap<Operation, Script>>>,
    chance: Arc<Mutex<Option<Chance>>>,
}

/// Random faults.
#[derive(Debug)]
struct Chance {
    rng: fastrand::Rng,
    share: f64,
    longest: Duration,
}

impl Chance {
    fn fault(&mut self) -> Option<Fault> {
        if self.rng.f64() >= self.share {
            return None;
        }
        let delay = self.longest.mul_f64(self.rng.f64());
        Some(match self.rng.u8(..8) {
            0 => Fault::LoseRequest,
            1 => Fault::LoseReply,
            2 => Fault::DelayRequest(delay),
            3 => Fault::DelayReply(delay),
            4 => Fault::Refuse(ErrorKind::Unavailable),
            5 => Fault::FailAfter(ErrorKind::Unavailable),
            6 => Fault::Refuse(ErrorKind::Throttled),
            _ => Fault::Duplicate,
        })
    }
}

#[derive(Debug, Default)]
struct Script {
    next: VecDeque<Option<Fault>>,
    always: Option<Fault>,
    sent: u64,
}

impl Faulty {
    /// Wraps `inner`. Without a script, all requests pass unchanged.
    pub fn new(inner: impl Backend) -> Self {
        Self::around(Arc::new(inner))
    }

    /// Wraps a shared backend. Other users of that backend see no faults.
    pub fn around(inner: Arc<dyn Backend>) -> Self {
        Self { inner, script: Arc::default(), chance: Arc::default() }
    }

    /// Plans the fault of the next unplanned request of `operation`. `None` lets the request pass.
    pub fn next(&self, operation: Operation, fault: impl Into<Option<Fault>>) {
        self.with(operation, |script| script.next.push_back(fault.into()));
    }

    /// Sets the fault of all requests of `operation` that have no planned fault. `None` lets them
    /// pass.
    pub fn always(&self, operation: Operation, fault: impl Into<Option<Fault>>) {
        self.with(operation, |script| script.always = fault.into());
    }

    /// Injects random faults into a `share` of all requests without a scripted fault.
    ///
    /// Such a request is lost, delayed by up to `longest`, refused, or duplicated. The same `seed`
    /// makes the same choices again.
    pub fn at_random(&self, seed: u64, share: f64, longest: Duration) {
        let chance = Chance { rng: fastrand::Rng::with_seed(seed), share, longest };
        *self.chance.lock() = Some(chance);
    }

    fn by_chance(&self) -> Option<Fault> {
        self.chance.lock().as_mut()?.fault()
    }

    /// Returns the number of requests of `operation` sent so far.
    pub fn sent(&self, operation: Operation) -> u64 {
        self.with(operation, |script| script.sent)
    }

    fn with<T>(&self, operation: Operation, change: impl FnOnce(&mut Script) -> T) -> T {
        let mut scripts = self.script.lock();
        change(scripts.entry(operation).or_default())
    }

    async fn disturb<T, F>(&self, operation: Operation, call: impl Fn() -> F + Send + Sync) -> Result<T, Error>
    where
        T: Send,
        F: Future<Output = Result<T, Error>> + Send,
    {
        let fault = self.with(operation, |script| {
            script.sent += 1;
            script.next.pop_front().unwrap_or(script.always)
        });
        let fault = fault.or_else(|| self.by_chance());
        match fault {
            None => call().await,
            Some(Fault::LoseRequest) => std::future::pending().await,
            Some(Fault::LoseReply) => {
                let _ = call().await;
                std::future::pending().await
            }
            // The delay is the fault; on a paused clock it takes no time.
            Some(Fault::DelayRequest(delay)) => {
                tokio::time::sleep(delay).await;
                call().await
            }
            Some(Fault::DelayReply(delay)) => {
                let reply = call().await;
                tokio::time::sleep(delay).await;
                reply
            }
            Some(Fault::Refuse(kind)) => Err(Error::new(kind, "refused by the fault script").with_ambiguous(false)),
            Some(Fault::FailAfter(kind)) => {
                let _ = call().await;
                Err(Error::new(kind, "failed by the fault script").with_ambiguous(true))
            }
            Some(Fault::Duplicate) => {
                let _ = call().await;
                call().await
            }
            Some(Fault::Panic) => {
                let _ = call().await;
                panic!("panicked by the fault script");
            }
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods, reason = "a wrapper that forgets a method hides what the backend can do")]
impl Backend for Faulty {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn timings(&self) -> StoreTimings {
        // Renewed one by one, so that the script applies to single renewals.
        StoreTimings { renew_batch: 1, ..self.inner.timings() }
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        self.disturb(Operation::Acquire, || self.inner.acquire(request)).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        self.disturb(Operation::Renew, || self.inner.renew(lease)).await
    }

    async fn renew_many(&self, leases: &[Lease]) -> Vec<Result<Renewal, Error>> {
        // One by one, so that the script speaks of single renewals.
        join_all(leases.iter().map(|lease| self.renew(lease))).await
    }

    async fn advance_token(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        self.inner.advance_token(lease, token).await
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        self.disturb(Operation::Release, || self.inner.release(lease, hold_for)).await
    }

    async fn watch(&self, name: &LockName) -> Result<Option<Box<dyn Watch>>, Error> {
        self.disturb(Operation::Watch, || self.inner.watch(name)).await
    }

    async fn watch_place(&self, request: &AcquireRequest) -> Result<Option<Box<dyn Watch>>, Error> {
        self.disturb(Operation::Watch, || self.inner.watch_place(request)).await
    }

    fn relay(&self) -> Option<&dyn Relay> {
        self.inner.relay().map(|_| self as _)
    }

    fn reopen(&self) -> Result<Arc<dyn Backend>, Error> {
        self.inner.reopen()
    }

    async fn diagnose(&self) -> Vec<Finding> {
        let examined = self.disturb(Operation::Inspect, async || Ok(self.inner.diagnose().await)).await;
        examined.unwrap_or_else(|error| vec![Finding::warning("store", error.to_string())])
    }

    fn admin(&self) -> Option<&dyn Admin> {
        self.inner.admin().map(|_| self as _)
    }

    fn process_bound(&self) -> Option<&dyn ProcessBound> {
        self.inner.process_bound().map(|_| self as _)
    }
}

#[async_trait]
impl Relay for Faulty {
    /// Its script is that of acquires, because one request has one fault.
    async fn relay(&self, lease: &Lease, request: &AcquireRequest) -> Result<Relayed, Error> {
        let relay = async || match self.inner.relay() {
            Some(inner) => inner.relay(lease, request).await,
            None => self.inner.release(lease, Duration::ZERO).await.map(Relayed::released),
        };
        self.disturb(Operation::Acquire, relay).await
    }
}

#[async_trait]
impl Admin for Faulty {
    async fn inspect(&self, name: &LockName) -> Result<Option<Holder>, Error> {
        self.disturb(Operation::Inspect, async || self.inner.require_admin()?.inspect(name).await).await
    }

    async fn last_holder(&self, name: &LockName) -> Result<Option<PastHolder>, Error> {
        self.disturb(Operation::Inspect, async || self.inner.require_admin()?.last_holder(name).await).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        self.disturb(Operation::List, async || self.inner.require_admin()?.list(prefix).await).await
    }

    async fn break_lock(&self, name: &LockName, version: &str, by: &str) -> Result<Break, Error> {
        self.disturb(Operation::Break, async || self.inner.require_admin()?.break_lock(name, version, by).await).await
    }

    async fn purge(&self, name: &LockName) -> Result<bool, Error> {
        self.disturb(Operation::Purge, async || self.inner.require_admin()?.purge(name).await).await
    }
}

impl ProcessBound for Faulty {
    /// A release needs the network, which may lose it.
    fn release_now(&self, _: &Lease, _: Duration) -> bool {
        false
    }

    fn on_lost(&self, lease: &Lease) {
        if let Some(bound) = self.inner.process_bound() {
            bound.on_lost(lease);
        }
    }

    #[cfg(unix)]
    fn descriptors(&self, lease: &Lease) -> std::io::Result<Vec<std::os::fd::OwnedFd>> {
        self.inner.process_bound().map_or_else(|| Ok(Vec::new()), |bound| bound.descriptors(lease))
    }
}
