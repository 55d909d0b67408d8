//! A fork while acquisitions wait: in the queue of the store, for a release, or between two guards.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    task::{Context, Waker},
    time::Duration,
};

use async_trait::async_trait;
use lock_core::{
    Error, FencingToken, Guard, LockName, Locker, Release,
    backend::{AcquireOutcome, AcquireRequest, Backend, Capabilities, Lease, Renewal, StoreTimings, Watch},
    memory::MemoryBackend,
    testing::TestClock,
};
use test_support::fork::forked;
use tokio::runtime::{Builder, Runtime};

type Waiter = Pin<Box<dyn Future<Output = Result<Guard, Error>> + Send>>;

/// A store that counts the requests of its clients, and tells the token before a grant.
#[derive(Debug, Clone)]
struct Counted {
    locks: MemoryBackend,
    acquires: Arc<AtomicU32>,
    releases: Arc<AtomicU32>,
    last: Arc<std::sync::Mutex<Option<FencingToken>>>,
}

impl Counted {
    fn new() -> Self {
        Self { locks: MemoryBackend::new(), acquires: Arc::default(), releases: Arc::default(), last: Arc::default() }
    }

    /// Returns a locker of a process of its own.
    fn process(&self) -> Locker {
        let builder = Locker::builder(Arc::new(self.clone())).clock(Arc::new(TestClock::new()));
        builder.hand_over(1).build().unwrap()
    }

    /// Returns the requests so far, and the tasks that may send more.
    fn state(&self, runtime: &Runtime) -> String {
        let (acquires, releases) = (self.acquires.load(SeqCst), self.releases.load(SeqCst));
        format!("{acquires} acquires, {releases} releases, {} tasks", runtime.metrics().num_alive_tasks())
    }
}

#[async_trait]
impl Backend for Counted {
    fn describe(&self) -> String {
        "counted:".to_owned()
    }

    fn capabilities(&self) -> Capabilities {
        self.locks.capabilities()
    }

    fn timings(&self) -> StoreTimings {
        self.locks.timings()
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        self.acquires.fetch_add(1, SeqCst);
        let outcome = self.locks.acquire(request).await?;
        let AcquireOutcome::Granted(grant) = outcome else { return Ok(outcome) };
        let before = std::mem::replace(&mut *self.last.lock().unwrap(), grant.token);
        Ok(AcquireOutcome::Granted(grant.with_previous_token(before)))
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        self.locks.renew(lease).await
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        self.releases.fetch_add(1, SeqCst);
        self.locks.release(lease, hold_for).await
    }

    async fn watch(&self, name: &LockName) -> Result<Option<Box<dyn Watch>>, Error> {
        self.locks.watch(name).await
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

fn poll(waiter: &mut Waiter) {
    assert!(waiter.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

fn waiting(locker: &Locker, fair: bool) -> Waiter {
    // The options exclude each other.
    let request = if fair { locker.lock("etl").hand_over(0).fair(true) } else { locker.lock("etl") };
    let mut waiter: Waiter = Box::pin(request.acquire());
    poll(&mut waiter);
    waiter
}

/// Drops the waiter in a child, with the tasks that this starts. The parent's one then gets the
/// lock.
fn assert_left_to_the_parent(store: &Counted, runtime: &Runtime, waiter: Waiter, held: Option<Guard>) {
    let before = store.state(runtime);
    let (waiter, said) = forked(waiter, |waiter| {
        drop(waiter);
        store.state(runtime)
    });
    assert_eq!(said, before);
    runtime.block_on(async {
        if let Some(held) = held {
            assert_eq!(held.release().await.unwrap(), Release::Released);
        }
        let guard = waiter.await.unwrap();
        guard.check().unwrap();
        assert_eq!(guard.release().await.unwrap(), Release::Released);
    });
}

#[test]
// verifies: forked
fn a_child_leaves_a_waiter_to_its_parent() {
    for fair in [false, true] {
        let (runtime, store) = (runtime(), Counted::new());
        let _entered = runtime.enter();
        let (locker, other) = (store.process(), store.process());
        let held = runtime.block_on(other.lock("etl").hand_over(0).acquire()).unwrap();
        let waiter = waiting(&locker.clone(), fair);
        assert_left_to_the_parent(&store, &runtime, waiter, Some(held));
    }
}

/// Returns the last guard of a series of hand-overs, and the waiter behind it.
fn end_of_series(store: &Counted, runtime: &Runtime) -> (Guard, Waiter) {
    let locker = store.process();
    let first = runtime.block_on(locker.acquire("etl")).unwrap();
    let [second, third, fourth] = [(); 3].map(|()| waiting(&locker, false));
    let last = runtime.block_on(async {
        first.release().await.unwrap();
        let second = second.await.unwrap();
        let acquires = store.acquires.load(SeqCst);
        second.release().await.unwrap();
        let third = third.await.unwrap();
        assert_eq!(store.acquires.load(SeqCst), acquires, "the lock was handed over");
        third
    });
    (last, fourth)
}

#[test]
// verifies: forked
fn a_child_leaves_a_waiter_that_stands_back_to_its_parent() {
    let (runtime, store) = (runtime(), Counted::new());
    let _entered = runtime.enter();
    let (last, mut waiter) = end_of_series(&store, &runtime);
    runtime.block_on(last.release()).unwrap();
    let acquires = store.acquires.load(SeqCst);
    poll(&mut waiter);
    assert_eq!(store.acquires.load(SeqCst), acquires, "it stands back");
    assert_left_to_the_parent(&store, &runtime, waiter, None);
}

/// The parent's lease waits for the next task, which has not run since.
#[test]
// verifies: forked
fn a_child_leaves_a_lease_between_two_guards_to_its_parent() {
    let (runtime, store) = (runtime(), Counted::new());
    let _entered = runtime.enter();
    let locker = store.process();
    let first = runtime.block_on(locker.acquire("etl")).unwrap();
    let [second, waiter] = [(); 2].map(|()| waiting(&locker, false));
    runtime.block_on(async {
        first.release().await.unwrap();
        second.await.unwrap().release().await.unwrap();
    });
    let before = store.state(&runtime);
    let (value, said) = forked((waiter, locker), |(waiter, locker)| {
        drop((waiter, locker));
        store.state(&runtime)
    });
    assert_eq!(said, before, "the child drops the waiter");
    // Its copy of the renewal task ends the lease, which no waiter takes in time.
    let ((waiter, _locker), said) = forked(value, |_| {
        runtime.block_on(tokio::time::sleep(Duration::from_secs(1)));
        store.state(&runtime)
    });
    assert_eq!(said, before, "the child runs the tasks of its parent");
    let guard = runtime.block_on(waiter).unwrap();
    guard.check().unwrap();
    assert_eq!(runtime.block_on(guard.release()).unwrap(), Release::Released);
}
