//! Two stores as one: the conformance suite on two memory stores, and tests of the migration.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use lock_core::{
    Capability, ErrorKind, FencingToken, LockName, Locker, LossReason, Operation, Registry, TryAcquire,
    backend::{
        AcquireOutcome, AcquireRequest, Admin, Backend, Break, Capabilities, Lease, ProcessBound, Release, Renewal,
        StoreTimings,
    },
    faults::{Fault, Faulty},
    memory::{MemoryBackend, MemoryFactory},
    testing::{Subject, Tampering},
};
use lock_migrate::{MigrationBackend, MigrationFactory};

use crate::fixture::{TTL, grant, granted, refused, release, writer};

struct Memories(MemoryBackend, MemoryBackend);

#[async_trait]
impl Subject for Memories {
    async fn client(&self) -> Arc<dyn Backend> {
        Arc::new(MigrationBackend::new(Arc::new(self.0.clone()), Arc::new(self.1.clone())))
    }

    fn may_ask_again(&self) -> bool {
        true
    }

    /// Tampers with the old store: the loss of one record loses both locks.
    async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
        match what {
            Tampering::DeleteRecord => self.0.lose(name.as_str()),
            Tampering::ReplaceRecord => {
                self.0.lose(name.as_str());
                let _ = granted(&self.0, &writer("x").with_name(name.clone()).with_ttl(10 * TTL)).await;
            }
            Tampering::DeleteToken => return self.0.purge(name).await.unwrap() && self.1.purge(name).await.unwrap(),
            _ => return false,
        }
        true
    }
}

mod memories {
    use super::*;

    lock_core::conformance! {
        #[tokio::test(start_paused = true)]
        Memories(MemoryBackend::new(), MemoryBackend::new()),
        except = [
            (hand_over, "a grant has one token"),
            (fair, "waiters have no places in a queue"),
            (an_open_descriptor_keeps_the_lock_held, "a lock in memory does not live in a descriptor"),
            (an_odd_entry_is_listed_and_hides_no_lock, "only its clients reach the memory of a process"),
        ]
    }
}

async fn is_held(backend: &dyn Backend, name: &str) -> bool {
    backend.require_admin().unwrap().inspect(&LockName::new(name).unwrap()).await.unwrap().is_some()
}

/// Returns two stores with injectable faults, and their migration backend.
fn migration() -> (Faulty, Faulty, MigrationBackend) {
    let [from, to] = [(); 2].map(|()| Faulty::new(MemoryBackend::new()));
    let migration = MigrationBackend::new(Arc::new(from.clone()), Arc::new(to.clone()));
    (from, to, migration)
}

#[tokio::test]
async fn single_store_and_migrating_clients_exclude_each_other() {
    let (from, to, migration) = migration();
    for alone in [&from, &to] {
        let lease = granted(alone, &writer("x")).await;
        assert!(refused(&migration, &writer("x")).await.owner.is_some());
        let other = if std::ptr::eq(alone, &from) { &to } else { &from };
        assert!(!is_held(other, "x").await, "a refused attempt left a lock behind");
        release(alone, &lease).await;
        let lease = granted(&migration, &writer("x")).await;
        refused(alone, &writer("x")).await;
        release(&migration, &lease).await;
        assert!(!is_held(&from, "x").await && !is_held(&to, "x").await);
    }
}

#[tokio::test]
async fn a_refused_id_can_retry_until_both_grant() {
    let (_, to, migration) = migration();
    let other = granted(&to, &writer("x")).await;
    let ours = writer("x");
    for _ in 0..3 {
        refused(&migration, &ours).await;
    }
    release(&to, &other).await;
    let grant = grant(&migration, &ours).await;
    assert!(!grant.already_ours);
    let lease = ours.lease(grant.token);
    release(&migration, &lease).await;
}

#[tokio::test]
async fn fencing_tokens_increase_through_the_whole_migration() {
    for ahead in [0, 1] {
        let stores = [MemoryBackend::new(), MemoryBackend::new()];
        // Advances the token as if the clock of this store were a day ahead.
        let lease = granted(&stores[ahead], &writer("x")).await;
        let tomorrow = FencingToken::new(lease.token.unwrap().get() + 86_400_000_000).unwrap();
        assert!(stores[ahead].advance_token(&lease, tomorrow).await.unwrap());
        assert_eq!(stores[ahead].release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
        let [from, to] = &stores;
        let migration = MigrationBackend::new(Arc::new(from.clone()), Arc::new(to.clone()));
        let mut last = None;
        let backends: [&dyn Backend; 9] = [from, &migration, from, &migration, &migration, to, &migration, to, to];
        for (step, backend) in backends.into_iter().enumerate() {
            let lease = granted(backend, &writer("x")).await;
            assert!(lease.token > last, "step {step}, store {ahead} ahead: {:?} after {last:?}", lease.token);
            last = lease.token;
            release(backend, &lease).await;
        }
    }
}

#[tokio::test]
async fn losing_either_lock_loses_both_locks() {
    for lost in [0, 1] {
        let stores = [MemoryBackend::new(), MemoryBackend::new()];
        let migration = MigrationBackend::new(Arc::new(stores[0].clone()), Arc::new(stores[1].clone()));
        let lease = granted(&migration, &writer("x")).await;
        assert_eq!(migration.renew(&lease).await.unwrap(), Renewal::Renewed);
        stores[lost].lose("x");
        assert!(matches!(migration.renew(&lease).await.unwrap(), Renewal::Lost(_)));
        assert!(!is_held(&stores[1 - lost], "x").await, "the other lock was not released");
        assert!(matches!(migration.release(&lease, Duration::ZERO).await.unwrap(), Release::NotHeld(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_requires_both_stores_to_answer() {
    let (_, to, migration) = migration();
    let lease = granted(&migration, &writer("x")).await;
    to.next(Operation::Renew, Fault::Refuse(ErrorKind::Unavailable));
    assert_eq!(migration.renew(&lease).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(migration.renew(&lease).await.unwrap(), Renewal::Renewed);
}

#[tokio::test]
async fn a_partial_acquire_is_rolled_back_and_reported() {
    let (from, to, migration) = migration();
    for (fault, ambiguous) in
        [(Fault::Refuse(ErrorKind::Unavailable), false), (Fault::FailAfter(ErrorKind::Unavailable), false)]
    {
        to.next(Operation::Acquire, fault);
        let error = migration.acquire(&writer("x")).await.unwrap_err();
        assert_eq!(error.is_ambiguous(), ambiguous, "{fault:?}");
        assert!(!is_held(&from, "x").await && !is_held(&to, "x").await, "{fault:?}");
    }
    // If the rollback fails, the error is ambiguous, and the following release frees the lock.
    let ours = writer("x");
    to.next(Operation::Acquire, Fault::FailAfter(ErrorKind::Unavailable));
    to.next(Operation::Release, Fault::Refuse(ErrorKind::Unavailable));
    assert!(migration.acquire(&ours).await.unwrap_err().is_ambiguous());
    assert!(!is_held(&from, "x").await && is_held(&to, "x").await);
    assert_eq!(migration.release(&ours.lease(None), Duration::ZERO).await.unwrap(), Release::Released);
    assert!(!is_held(&to, "x").await);
}

#[tokio::test]
async fn a_half_failed_release_frees_the_other_store() {
    let (from, to, migration) = migration();
    let lease = granted(&migration, &writer("x")).await;
    to.next(Operation::Release, Fault::Refuse(ErrorKind::Unavailable));
    assert!(migration.release(&lease, Duration::ZERO).await.unwrap_err().is_ambiguous());
    assert!(!is_held(&from, "x").await && is_held(&to, "x").await);
    release(&migration, &lease).await;
    assert!(!is_held(&to, "x").await);
}

/// The old store has a synchronous release, the new store has none.
#[tokio::test]
async fn a_synchronous_release_needs_both_stores() {
    let (from, to) = (MemoryBackend::new(), Faulty::new(MemoryBackend::new()));
    let migration = MigrationBackend::new(Arc::new(from.clone()), Arc::new(to.clone()));
    let lease = granted(&migration, &writer("x")).await;
    assert!(!migration.release_now(&lease, Duration::ZERO), "the new store has no synchronous release");
    assert!(is_held(&from, "x").await && is_held(&to, "x").await);
    release(&migration, &lease).await;
    assert!(!is_held(&from, "x").await && !is_held(&to, "x").await);
}

#[tokio::test]
async fn purging_a_name_removes_it_from_both_stores() {
    let (from, to, migration) = migration();
    let name = LockName::new("x").unwrap();
    for alone in [&from, &to] {
        let lease = granted(alone, &writer("x")).await;
        assert!(!migration.purge(&name).await.unwrap(), "purge removed a name that one store holds");
        release(alone, &lease).await;
    }
    assert!(migration.purge(&name).await.unwrap());
    for side in [&from, &to] {
        assert!(side.sent(Operation::Purge) > 0);
    }
}

#[tokio::test]
async fn operators_list_and_break_locks_of_either_store() {
    let (from, to, migration) = migration();
    let _leases = [
        granted(&from, &writer("old")).await,
        granted(&to, &writer("new")).await,
        granted(&migration, &writer("both")).await,
    ];
    let names: Vec<_> = migration.list("").await.unwrap().locks.into_iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, ["both", "new", "old"]);
    for name in ["old", "new", "both"] {
        let name = LockName::new(name).unwrap();
        let version = migration.inspect(&name).await.unwrap().unwrap().version.unwrap();
        assert_eq!(migration.break_lock(&name, &version, "alice").await.unwrap(), Break::Broken);
        assert_eq!(migration.inspect(&name).await.unwrap(), None);
        assert_eq!(migration.break_lock(&name, &version, "alice").await.unwrap(), Break::Changed(None));
    }
}

fn registry() -> Registry {
    let registry = Registry::new().with(MemoryFactory::default());
    registry.clone().with(MigrationFactory::new(registry))
}

#[tokio::test]
async fn errors_in_migration_config_strings_are_named() {
    for (text, words) in [
        ("migrate:", "from is missing; write migrate:?from=OLD_STORE&to=NEW_STORE"),
        ("migrate:?from=memory:", "to is missing"),
        ("migrate:?from=memory:&to=memory:", "from and to are the same store"),
        ("migrate:?from=memroy:&to=memory:", "open on memroy:: there is no scheme \"memroy\""),
        ("migrate:?from=memory:?ttl=3s&to=memory:", "open on memory:?ttl=3s: there is no option \"ttl\""),
        ("migrate:?frm=memory:&to=memory:", "there is no option \"frm\"; did you mean \"from\"?"),
        ("migrate:?from=migration:&to=memory:", "there is no scheme \"migration\""),
    ] {
        let error = registry().open(text).await.unwrap_err().to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
    let secret = registry().open("migrate:?from=redis://u:hunter2%40h&to=memory:").await.unwrap_err();
    assert!(!format!("{secret} {secret:?}").contains("hunter2"), "{secret}");
}

#[tokio::test]
async fn a_migrating_locker_waits_for_clients_of_one_store() {
    let (from, to, migration) = migration();
    let migration = Locker::new(migration).unwrap();
    assert!(migration.capabilities().has(Capability::Fencing) && migration.capabilities().has(Capability::WakeUp));
    for alone in [&from, &to] {
        let alone = Locker::new(alone.clone()).unwrap();
        let held = alone.acquire("x").await.unwrap();
        let TryAcquire::Contended(_) = migration.try_acquire("x").await.unwrap() else {
            panic!("two clients hold the lock")
        };
        let tries = from.sent(Operation::Acquire);
        let (waited, released) = tokio::join!(migration.acquire("x"), async {
            while from.sent(Operation::Acquire) == tries {
                tokio::task::yield_now().await;
            }
            held.release().await
        });
        assert_eq!(released.unwrap(), Release::Released);
        assert_eq!(waited.unwrap().release().await.unwrap(), Release::Released);
    }
}

/// The memory store with a clock that may be wrong by a second. It counts the renewals of each
/// batch.
#[derive(Debug, Default)]
struct Imprecise(MemoryBackend, Mutex<Vec<usize>>);

#[async_trait]
impl Backend for Imprecise {
    fn describe(&self) -> String {
        self.0.describe()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn timings(&self) -> StoreTimings {
        self.0.timings().with_least_margin(Duration::from_secs(1)).with_least_ttl(Duration::from_secs(20))
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, lock_core::Error> {
        self.0.acquire(request).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, lock_core::Error> {
        self.0.renew(lease).await
    }

    async fn advance_token(&self, lease: &Lease, token: FencingToken) -> Result<bool, lock_core::Error> {
        self.0.advance_token(lease, token).await
    }

    async fn renew_many(&self, leases: &[Lease]) -> Vec<Result<Renewal, lock_core::Error>> {
        self.1.lock().unwrap().push(leases.len());
        self.0.renew_many(leases).await
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, lock_core::Error> {
        self.0.release(lease, hold_for).await
    }
}

#[tokio::test]
// verifies: P2, least-margin
async fn larger_least_margin_of_the_two_stores_counts() {
    let [precise, imprecise]: [Arc<dyn Backend>; 2] = [Arc::new(MemoryBackend::new()), Arc::new(Imprecise::default())];
    for (from, to) in [(&precise, &imprecise), (&imprecise, &precise)] {
        let both = || Locker::builder(Arc::new(MigrationBackend::new(Arc::clone(from), Arc::clone(to))));
        let error = both().margin(Duration::from_millis(900)).build().unwrap_err();
        assert!(error.to_string().contains("margin (900ms) must be at least 1.03s"), "{error}");
        both().margin(Duration::from_millis(1_030)).build().unwrap();
    }
}

#[tokio::test]
async fn larger_least_ttl_of_the_two_stores_counts() {
    let [quick, slow]: [Arc<dyn Backend>; 2] = [Arc::new(MemoryBackend::new()), Arc::new(Imprecise::default())];
    for (from, to) in [(&quick, &slow), (&slow, &quick)] {
        let both = || Locker::builder(Arc::new(MigrationBackend::new(Arc::clone(from), Arc::clone(to))));
        let error = both().ttl(Duration::from_secs(19)).build().unwrap_err();
        assert!(error.to_string().contains("ttl is 19s, but must be at least 20s"), "{error}");
        both().ttl(Duration::from_secs(20)).build().unwrap();
    }
}

#[tokio::test]
async fn many_locks_are_renewed_by_one_request_to_each_store() {
    let stores: [Arc<Imprecise>; 2] = Default::default();
    let migration = MigrationBackend::new(Arc::new(Arc::clone(&stores[0])), Arc::new(Arc::clone(&stores[1])));
    assert_eq!(migration.timings().renew_batch, 100, "as many as both stores take");
    let mut leases = Vec::new();
    for name in ["a", "b", "c", "d"] {
        leases.push(granted(&migration, &writer(name)).await);
    }
    // One is unknown, and one lost its part in the new store.
    let _ = migration.release(&leases[1], Duration::ZERO).await.unwrap();
    stores[1].0.lose("c");
    let lost = |answer: &Result<Renewal, _>| matches!(answer, Ok(Renewal::Lost(LossReason::RecordGone)));
    let answers = migration.renew_many(&leases).await;
    assert_eq!(answers.iter().map(lost).collect::<Vec<_>>(), [false, true, true, false], "{answers:?}");
    for store in &stores {
        assert_eq!(*store.1.lock().unwrap(), [3], "one request, without the lock that was released");
    }
    assert!(!is_held(&stores[0].0, "c").await, "what was left of the lost lock is released");
}
