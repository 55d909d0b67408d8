//! First come, first served: what the core adds to the stores.

use std::{sync::Arc, time::Duration};

use crate::changed::{Change, Changed};
use lock_core::{
    ErrorKind, LockName, Locker, Operation, Registry, TryAcquire,
    backend::Capabilities,
    faults::Faulty,
    memory::{MemoryBackend, MemoryFactory},
};

/// A store that cannot serve its waiters in order.
#[derive(Debug)]
struct Unfair;

impl Change for Unfair {
    fn capabilities(&self, capabilities: Capabilities) -> Capabilities {
        capabilities.with_fair(false)
    }
}

fn unfair() -> (Faulty, Locker) {
    let network = Faulty::new(Changed::new(Unfair));
    (network.clone(), Locker::new(network).unwrap())
}

#[tokio::test(start_paused = true)]
// verifies: P11, P12
async fn fair_waiting_is_refused_where_the_store_lacks_it() {
    let (network, locker) = unfair();
    let error = locker.lock("job").fair(true).try_acquire().await.unwrap_err();
    assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::Unsupported, false));
    let error = locker.lock("job").fair(true).acquire().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "lock \"job\": first come, first served (fair) is not possible on this store; leave fair out, or \
         choose a store with the capability \"fair\""
    );
    assert_eq!(network.sent(Operation::Acquire), 0);
    let error = Locker::builder(Arc::new(network)).fair(true).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
// verifies: P11
async fn a_config_string_makes_waiters_fair() {
    let registry = || Registry::new().with(MemoryFactory::from(MemoryBackend::new()));
    registry().open("memory:?fair=true&require=fair").await.unwrap();
    let error = registry().open("memory:?fair=true&hand_over=9").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("fair and hand_over contradict each other"), "{error}");
}

#[tokio::test(start_paused = true)]
// verifies: P12, contention
async fn waiters_of_one_process_do_not_overtake_others() {
    let store = MemoryBackend::new();
    let [one, other] = [(); 2].map(|()| Locker::new(store.clone()).unwrap());
    let name = LockName::new("job").unwrap();
    let held = one.acquire(name.clone()).await.unwrap();
    let fair = |locker: &Locker| tokio::spawn(locker.lock("job").fair(true).acquire());
    let first = fair(&other);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let second = fair(&one);
    tokio::time::sleep(Duration::from_millis(1)).await;
    // A waiter that is not fair waits for all that are.
    let last = tokio::spawn(one.lock("job").acquire());
    held.release().await.unwrap();
    for waiter in [first, second] {
        let guard = waiter.await.unwrap().unwrap();
        assert!(matches!(other.try_acquire("job").await.unwrap(), TryAcquire::Contended(_)));
        assert!(!last.is_finished());
        guard.release().await.unwrap();
    }
    let _ = last.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
// verifies: P12
async fn a_fair_waiter_keeps_its_place_for_longer_than_a_ttl() {
    let store = MemoryBackend::new();
    let locker = Locker::builder(Arc::new(store.clone())).ttl(Duration::from_secs(2)).build().unwrap();
    let held = locker.acquire("job").await.unwrap();
    let waiter = tokio::spawn(locker.lock("job").fair(true).acquire());
    tokio::time::sleep(Duration::from_secs(60)).await;
    held.release().await.unwrap();
    let newcomer = Locker::new(store).unwrap();
    assert!(matches!(newcomer.try_acquire("job").await.unwrap(), TryAcquire::Contended(_)));
    let _ = waiter.await.unwrap().unwrap();
}
