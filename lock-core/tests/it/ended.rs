//! `Backend::on_lost` is called for locks that the core expired or that no runtime can release.
//!
//! It is called for no other lock.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::fixture::*;
use async_trait::async_trait;
use lock_core::{
    Error, Guard, Locker, LossReason, Operation,
    backend::{
        AcquireOutcome, AcquireRequest, Backend, Capabilities, Grant, Lease, ProcessBound, Release, Renewal,
        StoreTimings,
    },
    faults::{Fault, Faulty},
    testing::TestClock,
};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tokio::{runtime::Builder, time::sleep};

/// A store without a ttl, whose server drops unrenewed locks. It records the `on_lost` calls.
#[derive(Debug, Default, Clone)]
struct Noting {
    ended: Arc<Mutex<Vec<Lease>>>,
    gone: bool,
}

impl Noting {
    fn ended(&self) -> Vec<Lease> {
        self.ended.lock().unwrap().clone()
    }
}

#[async_trait]
impl Backend for Noting {
    fn describe(&self) -> String {
        "noting:".into()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default().with_loss_signal(true)
    }

    fn timings(&self) -> StoreTimings {
        StoreTimings::default().with_lease(TTL)
    }

    async fn acquire(&self, _: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        Ok(AcquireOutcome::Granted(Grant::default()))
    }

    async fn renew(&self, _: &Lease) -> Result<Renewal, Error> {
        Ok(if self.gone { Renewal::Lost(LossReason::RecordGone) } else { Renewal::Renewed })
    }

    async fn release(&self, _: &Lease, _: Duration) -> Result<Release, Error> {
        Ok(Release::Released)
    }

    fn process_bound(&self) -> Option<&dyn ProcessBound> {
        Some(self)
    }
}

impl ProcessBound for Noting {
    fn on_lost(&self, lease: &Lease) {
        self.ended.lock().unwrap().push(lease.clone());
    }

    fn release_now(&self, _: &Lease, _: Duration) -> bool {
        false
    }

    fn descriptors(&self, _: &Lease) -> std::io::Result<Vec<std::os::fd::OwnedFd>> {
        Ok(Vec::new())
    }
}

async fn guard(store: &Faulty, max_hold: Option<Duration>) -> Guard {
    let locker = Locker::builder(Arc::new(store.clone())).clock(Arc::new(TestClock::new())).build().unwrap();
    let request = locker.lock(NAME);
    acquired(if let Some(max_hold) = max_hold { request.max_hold(max_hold) } else { request }.try_acquire().await)
}

#[tokio::test(start_paused = true)]
async fn on_lost_runs_once_when_a_live_guard_expires() {
    for unreachable in [true, false] {
        let store = Noting::default();
        let network = Faulty::new(store.clone());
        let guard = guard(&network, (!unreachable).then_some(TTL / 2)).await;
        if unreachable {
            network.always(Operation::Renew, Fault::LoseRequest);
        }
        // The test does not check the guard: the renewer alone ends it.
        sleep(2 * TTL).await;
        let told: Vec<_> = store.ended().iter().map(|lease| lease.name.as_str().to_owned()).collect();
        assert_eq!(told, [NAME], "unreachable: {unreachable}");
        guard.check().unwrap_err();
        sleep(2 * TTL).await;
        drop(guard);
        assert_eq!(store.ended().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn on_lost_skips_released_and_store_reported_losses() {
    let store = Noting { gone: true, ..Noting::default() };
    let lost = guard(&Faulty::new(store.clone()), None).await;
    assert_eq!(lost.lost().await.reason, LossReason::RecordGone);
    let network = Faulty::new(store.clone());
    let released = guard(&network, Some(secs(2))).await;
    network.always(Operation::Release, Fault::DelayReply(secs(4)));
    drop(released);
    sleep(4 * TTL).await;
    assert_eq!(store.ended(), []);
}

/// Returns the counters of dropped guards, by outcome.
fn dropped(recorder: &DebuggingRecorder) -> Vec<(String, u64)> {
    let all = recorder.snapshotter().snapshot().into_vec().into_iter();
    let dropped = all.filter(|(key, ..)| key.key().name() == "onelock_guards_dropped_total");
    let counted = dropped.map(|(key, _, _, value)| {
        let DebugValue::Counter(count) = value else { panic!("not a counter") };
        let then = key.key().labels().find(|label| label.key() == "then");
        (then.expect("it says what became of the lock").value().to_owned(), count)
    });
    counted.collect()
}

/// An open file keeps its lock as long as the process lives, and other clones of the locker may
/// keep the file open.
#[test]
fn on_lost_runs_when_runtime_shutdown_leaks_a_guard() {
    let (store, recorder) = (Noting::default(), DebuggingRecorder::new());
    let network = Faulty::new(store.clone());
    metrics::with_local_recorder(&recorder, || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let locker = Locker::new(network.clone()).unwrap();
        let guard = runtime.block_on(async { acquired(locker.try_acquire(NAME).await) });
        runtime.spawn(async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        });
        runtime.block_on(tokio::task::yield_now());
        assert_eq!(store.ended(), []);
        drop(runtime);
        assert_eq!(store.ended().len(), 1);
        drop(locker);
    });
    assert_eq!(dropped(&recorder), [("leaked".to_owned(), 1)], "the leaked guard is counted once");
}

#[test]
fn on_lost_runs_when_shutdown_prevents_a_rollback() {
    let (store, recorder) = (Noting::default(), DebuggingRecorder::new());
    let network = Faulty::new(store.clone());
    network.always(Operation::Acquire, Fault::LoseReply);
    metrics::with_local_recorder(&recorder, || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let locker = Locker::new(network.clone()).unwrap();
        let waiting = locker.clone();
        runtime.spawn(async move { waiting.acquire(NAME).await.map(drop) });
        runtime.block_on(tokio::task::yield_now());
        assert_eq!(network.sent(Operation::Acquire), 1);
        drop(runtime);
        assert_eq!(store.ended().len(), 1);
        drop(locker);
    });
    assert_eq!(dropped(&recorder), [], "an acquisition in flight is not a guard");
}
