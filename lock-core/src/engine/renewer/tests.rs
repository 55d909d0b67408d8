//! Renewals of a task that is woken all the time.

use std::sync::{OnceLock, Weak, atomic::AtomicU32};

use async_trait::async_trait;

use super::*;
use crate::{
    backend::{AcquireOutcome, AcquireRequest, Capabilities, Release, Renewal},
    engine::{hold::LeaseStore, limits::HoldLimits, metrics::Metrics, timing::Timing},
    memory::MemoryBackend,
    types::{Lease, LockName, LockOptions, Process, SystemClock},
};

/// How often the clock wakes the task.
const MOST: u32 = 10_000;

/// A clock that wakes the renewal task at each of its first readings.
#[derive(Debug, Default)]
struct WakesAll {
    renewer: OnceLock<Weak<Renewer>>,
    readings: AtomicU32,
}

impl Clock for WakesAll {
    fn now(&self) -> ClockReading {
        if let Some(renewer) = self.renewer.get().and_then(Weak::upgrade)
            && self.readings.fetch_add(1, Ordering::Relaxed) < MOST
        {
            renewer.wake.notify_one();
        }
        SystemClock.now()
    }
}

/// Notes how often the clock had been read at the first renewal.
#[derive(Debug)]
struct Notes {
    store: MemoryBackend,
    clock: Arc<WakesAll>,
    renewed_at: OnceLock<u32>,
}

#[async_trait]
impl Backend for Notes {
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
        let _ = self.renewed_at.set(self.clock.readings.load(Ordering::Relaxed));
        self.store.renew(lease).await
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        self.store.release(lease, hold_for).await
    }
}

#[tokio::test(start_paused = true)]
async fn renewals_go_out_although_each_round_is_woken() {
    let clock = Arc::new(WakesAll::default());
    let notes = Arc::new(Notes { store: MemoryBackend::new(), clock: Arc::clone(&clock), renewed_at: OnceLock::new() });
    let (backend, time): (Arc<dyn Backend>, Arc<dyn Clock>) = (notes.clone(), clock.clone());
    let renewer = Arc::new(Renewer::new(Arc::clone(&backend), Arc::clone(&time)));
    let timing = Timing::new(&LockOptions::default(), backend.capabilities(), backend.timings()).unwrap();
    let request = AcquireRequest::new(LockName::new("job").unwrap(), LeaseId::random(), "a test");
    assert!(matches!(backend.acquire(&request).await, Ok(AcquireOutcome::Granted(_))));
    let store = LeaseStore {
        backend,
        clock: Arc::clone(&time),
        detector: Arc::clone(&renewer.detector),
        metrics: Arc::new(Metrics::new("memory:")),
        process: Process::current(),
    };
    let (now, valid_for) = (time.now(), timing.lease_for(None).1);
    let hold =
        Arc::new(LeaseState::new(request.lease(None), timing, HoldLimits::NONE, now, valid_for, Arc::new(store)));
    renewer.keep(&hold, now);
    // Shortly before the renewal is due, so that earlier rounds do not use the readings up.
    tokio::time::sleep(hold.due_in(time.now()).unwrap() - Duration::from_millis(100)).await;
    clock.renewer.set(Arc::downgrade(&renewer)).unwrap();
    tokio::time::timeout(Duration::from_secs(60), hold.wait_renewed()).await.expect("renewed");
    assert!(*notes.renewed_at.get().unwrap() < MOST, "the renewal waited until nothing woke the task");
    renewer.forget(&hold);
}
