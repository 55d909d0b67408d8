//! A locker on a memory store across a faulty network, on a paused clock.

use std::{sync::Arc, time::Duration};

use lock_core::{
    Error, Guard, Locker, LockerBuilder, TryAcquire, backend::Release, clock::Clock, faults::Faulty,
    memory::MemoryBackend, testing::TestClock,
};

pub(crate) const NAME: &str = "nightly-etl";
pub(crate) const TTL: Duration = Duration::from_secs(30);
/// 30 s less the default margin of a tenth.
pub(crate) const VALID: Duration = Duration::from_secs(27);

pub(crate) struct Fixture {
    pub(crate) store: MemoryBackend,
    pub(crate) network: Faulty,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) locker: Locker,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(|builder| builder)
    }

    pub(crate) fn with(choose: impl FnOnce(LockerBuilder) -> LockerBuilder) -> Self {
        let store = MemoryBackend::new();
        let network = Faulty::new(store.clone());
        let clock = Arc::new(TestClock::new());
        let builder = Locker::builder(Arc::new(network.clone())).clock(clock.clone() as Arc<dyn Clock>);
        let locker = choose(builder).build().unwrap();
        Self { store, network, clock, locker }
    }

    pub(crate) async fn guard(&self) -> Guard {
        acquired(self.locker.try_acquire(NAME).await)
    }

    /// Another process on the same store, without faults.
    pub(crate) fn other(&self) -> Locker {
        Locker::builder(Arc::new(self.store.clone())).clock(self.clock.clone()).build().unwrap()
    }

    pub(crate) async fn is_free(&self) -> bool {
        self.other().admin().inspect(NAME).await.unwrap().is_none()
    }

    /// Advances time until the lock is free, and returns how long that took.
    pub(crate) async fn freed_after(&self) -> Duration {
        let started = tokio::time::Instant::now();
        while !self.is_free().await {
            assert!(started.elapsed() < 10 * TTL, "the lock was not freed within 10 ttls");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        started.elapsed()
    }
}

pub(crate) fn acquired(outcome: Result<TryAcquire, Error>) -> Guard {
    match outcome.unwrap() {
        TryAcquire::Acquired(guard) => guard,
        TryAcquire::Contended(holder) => panic!("held by {holder}"),
    }
}

pub(crate) fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Asserts that two durations are equal, except for the rounding of timers to milliseconds.
#[track_caller]
pub(crate) fn assert_close(a: Duration, b: Duration) {
    assert!(a.abs_diff(b) <= ms(2), "{a:?} is not {b:?}");
}

/// Returns whether the store keeps nothing of the lock: no holder, no waiter, and no holder whose
/// lease ended without a release. A waiter on a paused clock takes no notice of such an end.
pub(crate) async fn is_forgotten(locker: &Locker) -> bool {
    locker.wait_idle().await;
    locker.admin().purge(NAME).await.unwrap()
}

pub(crate) async fn release(guard: Guard) {
    assert_eq!(guard.release().await.unwrap(), Release::Released);
}
