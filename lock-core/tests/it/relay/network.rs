//! A store with relays, across a network with faults.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    task::Poll,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::FutureExt;
use lock_core::{
    Error, Guard, LockRequest, Locker, LockerBuilder, Operation,
    backend::{
        AcquireOutcome, AcquireRequest, Admin, Backend, Capabilities, Lease, Relay, Relayed, Release, Renewal,
        StoreTimings,
    },
    clock::Clock,
    faults::Faulty,
    memory::MemoryBackend,
    testing::TestClock,
};

use crate::fixture::{Fixture, NAME, is_forgotten};

pub(super) type Waiter = Pin<Box<dyn Future<Output = Result<Guard, Error>> + Send>>;
pub(super) type Choose = fn(LockRequest) -> LockRequest;

/// The memory store across a network, with relays.
#[derive(Debug, Clone)]
pub(super) struct Relaying {
    store: MemoryBackend,
    relays: Arc<AtomicU32>,
    /// Another process waits, so no relay acquires.
    leaves_it: bool,
}

#[async_trait]
impl Backend for Relaying {
    fn describe(&self) -> String {
        self.store.describe()
    }

    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    fn timings(&self) -> StoreTimings {
        self.store.timings()
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        self.store.acquire(request).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        self.store.renew(lease).await
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        self.store.release(lease, hold_for).await
    }

    fn admin(&self) -> Option<&dyn Admin> {
        self.store.admin()
    }

    fn relay(&self) -> Option<&dyn Relay> {
        Some(self)
    }
}

#[async_trait]
impl Relay for Relaying {
    async fn relay(&self, lease: &Lease, request: &AcquireRequest) -> Result<Relayed, Error> {
        self.relays.fetch_add(1, SeqCst);
        let released = self.store.release(lease, Duration::ZERO).await?;
        if self.leaves_it || released != Release::Released {
            return Ok(Relayed::released(released));
        }
        Ok(Relayed { released, acquired: Some(self.store.acquire(request).await) })
    }
}

pub(super) struct Relays {
    pub(super) fixture: Fixture,
    pub(super) relays: Arc<AtomicU32>,
    pub(super) contended: Arc<AtomicU32>,
}

impl Relays {
    pub(super) fn new() -> Self {
        Self::with(false, |builder| builder)
    }

    pub(super) fn with(leaves_it: bool, choose: impl FnOnce(LockerBuilder) -> LockerBuilder) -> Self {
        let store = MemoryBackend::new();
        let relays = Arc::new(AtomicU32::new(0));
        let network = Faulty::new(Relaying { store: store.clone(), relays: Arc::clone(&relays), leaves_it });
        let clock = Arc::new(TestClock::new());
        let builder = Locker::builder(Arc::new(network.clone())).clock(clock.clone() as Arc<dyn Clock>);
        let locker = choose(builder).build().unwrap();
        Self { fixture: Fixture { store, network, clock, locker }, relays, contended: Arc::default() }
    }

    /// A waiter in the queue of the process, which counts how often the store refuses it.
    pub(super) fn waiter(&self, choose: Choose) -> Waiter {
        let (contended, own) = (Arc::clone(&self.contended), AtomicU32::new(0));
        let request = choose(self.fixture.locker.lock(NAME)).on_contention(move |_| {
            // The first time it is the holder of the turn before it.
            if own.fetch_add(1, SeqCst) > 0 {
                contended.fetch_add(1, SeqCst);
            }
        });
        let mut waiter: Waiter = Box::pin(request.acquire());
        assert!((&mut waiter).now_or_never().is_none(), "the lock is held");
        waiter
    }

    /// The number of relays, of requests that acquired, and of those that released.
    pub(super) fn requests(&self) -> (u32, u64, u64) {
        let sent = |operation| self.fixture.network.sent(operation);
        let relays = self.relays.load(SeqCst);
        (relays, sent(Operation::Acquire) - u64::from(relays), sent(Operation::Release))
    }

    /// Checks that `guard` holds the lock, and that the store keeps nothing once it is released.
    pub(super) async fn holds_alone(&self, guard: Guard, what: &str) {
        assert_eq!(guard.crashed_holder(), None, "{what}: an earlier lease was not released");
        self.holds_at_last(guard, what).await;
    }

    /// As [`holds_alone`](Self::holds_alone), after an earlier lease that may have expired.
    pub(super) async fn holds_at_last(&self, guard: Guard, what: &str) {
        guard.check().unwrap();
        let holder = self.fixture.other().admin().inspect(NAME).await.unwrap().expect("held");
        assert_eq!(holder.token, guard.token(), "{what}");
        assert_eq!(guard.release().await.unwrap(), Release::Released, "{what}");
        assert!(is_forgotten(&self.fixture.locker).await, "{what}");
    }
}

/// Polls `future` so many times at most, and then drops it.
pub(super) async fn polled<T>(mut future: Pin<Box<dyn Future<Output = T> + Send>>, times: u32) -> Option<T> {
    let mut polls = 0;
    poll_fn(move |context| {
        if polls == times {
            return Poll::Ready(None);
        }
        polls += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if polls == times => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
