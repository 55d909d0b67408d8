//! Properties of the public types that the compiler checks.

use lock_core::{
    ConfigString, Error, FencingToken, Guard, Holder, LeaderElection, Leadership, LockName, LockOptions, LockRequest,
    Locker, Lost, Registry, TryAcquire,
    backend::{Backend, Capabilities, Lease, LeaseId},
    config::StoreConfig,
    faults::Faulty,
    memory::MemoryBackend,
};

fn send_sync<T: Send + Sync>() {}
fn send<T: Send>(_: &T) {}

#[test]
fn public_types_cross_threads() {
    send_sync::<Locker>();
    send_sync::<Guard>();
    send_sync::<(LeaderElection, Leadership)>();
    send_sync::<LockRequest>();
    send_sync::<TryAcquire>();
    send_sync::<Error>();
    send_sync::<(Lost, Holder, Lease, LeaseId, LockName, FencingToken, LockOptions, Capabilities)>();
    send_sync::<(MemoryBackend, Faulty, Box<dyn Backend>)>();
    send_sync::<(Registry, ConfigString, StoreConfig)>();
}

#[test]
fn public_futures_cross_threads() {
    let locker = Locker::new(MemoryBackend::new()).unwrap();
    send(&locker.try_acquire("a"));
    send(&locker.acquire("a"));
    send(&locker.acquire_within("a", std::time::Duration::ZERO));
    send(&locker.admin().inspect("a"));
    send(&locker.admin().list("a"));
    send(&Registry::new().open("memory:"));
    async fn with_guard(guard: Guard) {
        let _ = guard.renew_if_below(std::time::Duration::ZERO).await;
        let _ = guard.run(async {}).await;
        let _ = guard.lost().await;
        let _ = guard.release().await;
    }
    fn check(guard: Guard) {
        send(&with_guard(guard));
    }
    let _: fn(Guard) = check;
    let mut election = LeaderElection::new(locker.lock("a"));
    send(&election.next());
    send(&election.campaign());
    send(&election.events());
    send(&election.resign());
}
