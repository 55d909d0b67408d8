//! Every call on a migration reaches both stores.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use lock_core::{
    Error, ErrorKind, FencingToken, Holder, LockName,
    backend::{
        AcquireOutcome, AcquireRequest, Admin, Backend, Break, Capabilities, Finding, Lease, LeaseId, Listing,
        PastHolder, ProcessBound, Relay, Release, Renewal, StoreTimings, Watch,
    },
    memory::MemoryBackend,
};
use lock_migrate::MigrationBackend;

use crate::fixture::{granted, writer};

/// A memory store that records which of its methods were called.
#[derive(Debug, Clone)]
struct Recording {
    inner: MemoryBackend,
    calls: Arc<Mutex<BTreeSet<&'static str>>>,
    /// The sizes of the batches that it was given.
    batches: Arc<Mutex<Vec<usize>>>,
    batch: usize,
    /// Whether it leaves out the last answer of each batch.
    forgets: bool,
    /// Whether the process has no descriptor left for it.
    is_full: bool,
}

impl Recording {
    fn new(batch: usize) -> Self {
        Self {
            inner: MemoryBackend::new(),
            calls: Arc::default(),
            batches: Arc::default(),
            batch,
            forgets: false,
            is_full: false,
        }
    }

    fn note(&self, method: &'static str) {
        self.calls.lock().unwrap().insert(method);
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods, reason = "a method that is not here is not tested")]
impl Backend for Recording {
    fn describe(&self) -> String {
        self.note("describe");
        self.inner.describe()
    }

    fn capabilities(&self) -> Capabilities {
        self.note("capabilities");
        self.inner.capabilities()
    }

    fn timings(&self) -> StoreTimings {
        self.note("timings");
        self.inner.timings().with_renew_batch(self.batch)
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        self.note("acquire");
        self.inner.acquire(request).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        self.note("renew");
        self.inner.renew(lease).await
    }

    async fn advance_token(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        self.note("advance_token");
        self.inner.advance_token(lease, token).await
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        self.note("release");
        self.inner.release(lease, hold_for).await
    }

    async fn renew_many(&self, leases: &[Lease]) -> Vec<Result<Renewal, Error>> {
        self.note("renew_many");
        self.batches.lock().unwrap().push(leases.len());
        let mut answers = self.inner.renew_many(leases).await;
        if self.forgets {
            answers.pop();
        }
        answers
    }

    async fn watch(&self, name: &LockName) -> Result<Option<Box<dyn Watch>>, Error> {
        self.note("watch");
        self.inner.watch(name).await
    }

    async fn watch_place(&self, request: &AcquireRequest) -> Result<Option<Box<dyn Watch>>, Error> {
        self.note("watch_place");
        self.inner.watch_place(request).await
    }

    fn admin(&self) -> Option<&dyn Admin> {
        self.note("admin");
        Some(self)
    }

    fn process_bound(&self) -> Option<&dyn ProcessBound> {
        self.note("process_bound");
        Some(self)
    }

    fn relay(&self) -> Option<&dyn Relay> {
        self.note("relay");
        self.inner.relay()
    }

    fn reopen(&self) -> Result<Arc<dyn Backend>, Error> {
        self.note("reopen");
        Ok(Arc::new(self.clone()))
    }

    async fn diagnose(&self) -> Vec<Finding> {
        self.note("diagnose");
        vec![Finding::warning("clock", "late")]
    }
}

#[async_trait]
impl Admin for Recording {
    async fn inspect(&self, name: &LockName) -> Result<Option<Holder>, Error> {
        self.note("inspect");
        self.inner.inspect(name).await
    }

    async fn last_holder(&self, name: &LockName) -> Result<Option<PastHolder>, Error> {
        self.note("last_holder");
        self.inner.last_holder(name).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        self.note("list");
        self.inner.list(prefix).await
    }

    async fn break_lock(&self, name: &LockName, version: &str, by: &str) -> Result<Break, Error> {
        self.note("break_lock");
        self.inner.break_lock(name, version, by).await
    }

    async fn purge(&self, name: &LockName) -> Result<bool, Error> {
        self.note("purge");
        self.inner.purge(name).await
    }
}

impl ProcessBound for Recording {
    fn release_now(&self, lease: &Lease, hold_for: Duration) -> bool {
        self.note("release_now");
        self.inner.release_now(lease, hold_for)
    }

    fn on_lost(&self, lease: &Lease) {
        self.note("on_lost");
        self.inner.on_lost(lease);
    }

    fn descriptors(&self, _: &Lease) -> io::Result<Vec<OwnedFd>> {
        self.note("descriptors");
        if self.is_full {
            return Err(io::Error::other("too many open files"));
        }
        Ok(vec![File::open("/dev/null")?.into()])
    }
}

fn migration(stores: &[Recording; 2]) -> MigrationBackend {
    MigrationBackend::new(Arc::new(stores[0].clone()), Arc::new(stores[1].clone()))
}

/// Makes a call, and checks that both stores got it.
macro_rules! reaches_both {
    ($stores:ident, $method:literal, $call:expr) => {{
        for store in &$stores {
            store.calls.lock().unwrap().clear();
        }
        let answer = $call;
        for (side, store) in ["from", "to"].into_iter().zip(&$stores) {
            assert!(store.calls.lock().unwrap().contains($method), "{} did not reach {side}", $method);
        }
        answer
    }};
}

#[tokio::test]
async fn every_call_of_the_contract_reaches_both_stores() {
    let stores = [Recording::new(2), Recording::new(2)];
    let both = migration(&stores);
    let name = LockName::new("x").unwrap();
    reaches_both!(stores, "describe", both.describe());
    reaches_both!(stores, "capabilities", both.capabilities());
    reaches_both!(stores, "timings", both.timings());
    let lease = reaches_both!(stores, "acquire", granted(&both, &writer("x")).await);
    assert_eq!(reaches_both!(stores, "renew", both.renew(&lease).await).unwrap(), Renewal::Renewed);
    let many = std::slice::from_ref(&lease);
    assert_eq!(reaches_both!(stores, "renew_many", both.renew_many(many).await).len(), 1);
    let larger = FencingToken::new(lease.token.unwrap().get() + 1_000_000).unwrap();
    assert!(reaches_both!(stores, "advance_token", both.advance_token(&lease, larger).await).unwrap());
    assert!(reaches_both!(stores, "watch", both.watch(&name).await).unwrap().is_some());
    // No request has a place in two queues.
    let place = AcquireRequest::new(name.clone(), LeaseId::random(), "test");
    assert!(reaches_both!(stores, "watch", both.watch_place(&place).await).unwrap().is_some());
    assert_eq!(reaches_both!(stores, "diagnose", both.diagnose().await).len(), 2);
    reaches_both!(stores, "admin", both.admin().is_some().then_some(()).unwrap());
    let holder = reaches_both!(stores, "inspect", both.inspect(&name).await).unwrap().unwrap();
    assert_eq!(reaches_both!(stores, "last_holder", both.last_holder(&name).await).unwrap(), None);
    assert_eq!(reaches_both!(stores, "list", both.list("").await).unwrap().locks.len(), 1);
    assert_eq!(reaches_both!(stores, "descriptors", both.descriptors(&lease)).unwrap().len(), 2);
    reaches_both!(stores, "process_bound", both.on_lost(&lease));
    let lease = granted(&both, &writer("y")).await;
    reaches_both!(stores, "on_lost", both.on_lost(&lease));
    let lease = granted(&both, &writer("z")).await;
    assert!(reaches_both!(stores, "release_now", both.release_now(&lease, Duration::ZERO)));
    let lease = granted(&both, &writer("z")).await;
    assert_eq!(
        reaches_both!(stores, "release", both.release(&lease, Duration::ZERO).await).unwrap(),
        Release::Released
    );
    assert!(reaches_both!(stores, "purge", both.purge(&lease.name).await).unwrap());
    let version = holder.version.unwrap();
    let broken = reaches_both!(stores, "break_lock", both.break_lock(&name, &version, "alice").await);
    assert_eq!(broken.unwrap(), Break::Broken);
    let child = reaches_both!(stores, "reopen", both.reopen()).unwrap();
    assert_eq!(child.describe(), both.describe());
}

#[tokio::test]
async fn each_store_gets_batches_of_its_own_size() {
    let mut stores = [Recording::new(1), Recording::new(3)];
    let both = migration(&stores);
    assert_eq!(both.timings().renew_batch, 3, "the store that takes many must get many");
    let leases =
        [granted(&both, &writer("a")).await, granted(&both, &writer("b")).await, granted(&both, &writer("c")).await];
    for answer in both.renew_many(&leases).await {
        assert_eq!(answer.unwrap(), Renewal::Renewed);
    }
    assert_eq!(*stores[0].batches.lock().unwrap(), [1, 1, 1]);
    assert_eq!(*stores[1].batches.lock().unwrap(), [3]);
    // An answer that a store leaves out belongs to the last lock of its batch.
    stores[1].forgets = true;
    let both = migration(&stores);
    let leases =
        [granted(&both, &writer("d")).await, granted(&both, &writer("e")).await, granted(&both, &writer("f")).await];
    let answers = both.renew_many(&leases).await;
    let renewed: Vec<_> = answers.iter().map(|answer| answer.as_ref().map_err(Error::kind).cloned()).collect();
    assert_eq!(renewed, [Ok(Renewal::Renewed), Ok(Renewal::Renewed), Err(ErrorKind::Unavailable)]);
}

#[tokio::test]
async fn a_half_of_the_descriptors_is_an_error() {
    let mut stores = [Recording::new(1), Recording::new(1)];
    stores[1].is_full = true;
    let both = migration(&stores);
    let lease = granted(&both, &writer("x")).await;
    assert_eq!(both.descriptors(&lease).unwrap_err().to_string(), "too many open files");
}
