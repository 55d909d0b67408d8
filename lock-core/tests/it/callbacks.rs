//! Callbacks of backends and metrics recorders may use the lock that they are called about.
//!
//! The core holds none of its mutexes during a callback.

use std::{
    sync::{Arc, Mutex, Weak, mpsc},
    thread,
    time::Duration,
};

use crate::fixture::*;
use async_trait::async_trait;
use lock_core::{
    Error, Guard, Locker,
    backend::{
        AcquireOutcome, AcquireRequest, Backend, Capabilities, Lease, ProcessBound, Release, Renewal, StoreTimings,
    },
    memory::MemoryBackend,
    testing::TestClock,
};
use metrics::{
    Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};

/// The guards that a callback checks.
#[derive(Debug, Default, Clone)]
struct Asked(Arc<Mutex<Vec<Weak<Guard>>>>);

impl Asked {
    fn ask(&self) {
        let guards: Vec<_> = self.0.lock().unwrap().iter().filter_map(Weak::upgrade).collect();
        for guard in guards {
            let _ = guard.check();
            // The drop locks the renewer's schedule.
            drop(guard);
        }
    }
}

impl CounterFn for Asked {
    fn increment(&self, _: u64) {
        self.ask();
    }

    fn absolute(&self, _: u64) {}
}

impl HistogramFn for Asked {
    fn record(&self, _: f64) {
        self.ask();
    }
}

impl Recorder for Asked {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(Arc::new(self.clone()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(self.clone()))
    }
}

/// The memory store, whose `on_lost` checks the guards and drops the guards that it stores.
#[derive(Debug)]
struct Asking(MemoryBackend, Asked, Arc<Mutex<Vec<Arc<Guard>>>>);

#[async_trait]
impl Backend for Asking {
    fn describe(&self) -> String {
        self.0.describe()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn timings(&self) -> StoreTimings {
        self.0.timings()
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        self.0.acquire(request).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        self.0.renew(lease).await
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        self.0.release(lease, hold_for).await
    }

    fn process_bound(&self) -> Option<&dyn ProcessBound> {
        Some(self)
    }
}

impl ProcessBound for Asking {
    fn on_lost(&self, _: &Lease) {
        self.1.ask();
        let guards = std::mem::take(&mut *self.2.lock().unwrap());
        drop(guards);
    }

    fn release_now(&self, _: &Lease, _: Duration) -> bool {
        false
    }

    fn descriptors(&self, _: &Lease) -> std::io::Result<Vec<std::os::fd::OwnedFd>> {
        Ok(Vec::new())
    }
}

/// Runs `test` on its own thread.
///
/// A mutex locked twice would hang the thread, and no timer of a runtime would detect that.
fn ends(test: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    let thread = thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    if is_done.recv_timeout(Duration::from_secs(60)) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("the test hangs in a callback");
    }
    thread.join().unwrap();
}

#[test]
fn callbacks_run_while_no_internal_mutex_is_locked() {
    ends(|| {
        let asked = Asked::default();
        metrics::with_local_recorder(&asked, || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let kept = Arc::<Mutex<Vec<_>>>::default();
                let store = Asking(MemoryBackend::new(), asked.clone(), Arc::clone(&kept));
                let locker = Locker::builder(Arc::new(store)).clock(Arc::new(TestClock::new())).build().unwrap();
                for (name, max_hold) in [("ended by the renewer", secs(5)), ("dropped in a callback", 100 * TTL)] {
                    let guard = Arc::new(acquired(locker.lock(name).max_hold(max_hold).try_acquire().await));
                    asked.0.lock().unwrap().push(Arc::downgrade(&guard));
                    kept.lock().unwrap().push(guard);
                }
                tokio::time::sleep(secs(10)).await;
                assert_eq!(kept.lock().unwrap().len(), 0, "`on_lost` was called");
                for name in ["ended by the renewer", "dropped in a callback"] {
                    assert_eq!(acquired(locker.try_acquire(name).await).release().await.unwrap(), Release::Released);
                }
            });
        });
    });
}
