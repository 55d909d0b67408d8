//! A store without a ttl but with its own lease, such as NFS, gives the same guarantees.

use std::sync::Arc;

use crate::{
    changed::{Change, Changed},
    fixture::*,
};
use lock_core::{
    Locker, LossReason, Operation,
    backend::{AcquireRequest, Capabilities, StoreTimings},
    clock::Clock,
    faults::{Fault, Faulty},
    memory::MemoryBackend,
    testing::TestClock,
};
use tokio::time::{Instant, sleep};

/// A file system that drops the locks of silent clients.
#[derive(Debug)]
struct Forgetful;

impl Change for Forgetful {
    fn capabilities(&self, capabilities: Capabilities) -> Capabilities {
        capabilities.with_ttl(false)
    }

    fn timings(&self, timings: StoreTimings) -> StoreTimings {
        timings.with_lease(secs(10))
    }

    fn acquire(&self, request: AcquireRequest) -> AcquireRequest {
        assert_eq!(request.ttl, secs(30), "the default, which this store ignores");
        request
    }
}

fn locker() -> (Faulty, Locker) {
    let network = Faulty::new(Changed::new(Forgetful));
    let clock: Arc<dyn Clock> = Arc::new(TestClock::new());
    let locker = Locker::builder(Arc::new(network.clone())).clock(clock).build().unwrap();
    (network, locker)
}

#[tokio::test(start_paused = true)]
async fn validity_ends_before_the_stores_lease_while_a_probe_hangs() {
    let (network, locker) = locker();
    network.always(Operation::Renew, Fault::LoseRequest);
    let started = Instant::now();
    let guard = acquired(locker.try_acquire(NAME).await);
    assert_close(guard.remaining().unwrap(), secs(9));
    let lost = guard.lost().await;
    assert_close(started.elapsed(), secs(9));
    assert!(matches!(lost.reason, LossReason::Unreachable { .. }), "{lost}");
}

#[tokio::test(start_paused = true)]
async fn successful_probes_extend_validity_from_their_start() {
    let (network, locker) = locker();
    let guard = acquired(locker.try_acquire(NAME).await);
    sleep(secs(100)).await;
    guard.check().unwrap();
    network.always(Operation::Renew, Fault::DelayReply(secs(3)));
    guard.renewed().await;
    guard.renewed().await;
    assert_close(guard.remaining().unwrap(), secs(6));
    release(guard).await;
}

#[tokio::test(start_paused = true)]
async fn a_ttl_if_supported_counts_where_there_are_ttls() {
    // The store checks that it gets the default, which it ignores.
    let (_, files) = locker();
    let guard = acquired(files.lock(NAME).ttl_if_supported(secs(5)).try_acquire().await);
    assert_close(guard.remaining().unwrap(), secs(9));
    let error = files.lock("other").ttl(secs(5)).try_acquire().await.unwrap_err();
    assert!(error.to_string().contains("ttl cannot be set on this store"), "{error}");

    let memory = Locker::new(MemoryBackend::new()).unwrap();
    let guard = acquired(memory.lock(NAME).ttl_if_supported(secs(5)).try_acquire().await);
    assert!(guard.remaining().unwrap() < secs(5), "the ttl without its margin");
}
