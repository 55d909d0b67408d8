//! Shared locks and permits through two stores.

use std::{
    num::NonZeroU16,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use lock_core::{
    Capability, Error, ErrorKind, FencingToken, LockName, Locker, Mode, Operation,
    backend::{
        AcquireOutcome, AcquireRequest, Admin, Backend, Break, Capabilities, Lease, LeaseId, Release, Renewal,
        StoreTimings,
    },
    faults::{Fault, Faulty},
    memory::MemoryBackend,
};
use lock_migrate::MigrationBackend;

use crate::fixture::{TTL, grant, granted, refused, release, writer};

/// The old store, the new store, and their migration.
fn stores() -> (MemoryBackend, MemoryBackend, MigrationBackend) {
    let (from, to) = (MemoryBackend::new(), MemoryBackend::new());
    let both = MigrationBackend::new(Arc::new(from.clone()), Arc::new(to.clone()));
    (from, to, both)
}

fn name() -> LockName {
    LockName::new("x").unwrap()
}

fn request(mode: Mode) -> AcquireRequest {
    writer("x").with_mode(mode)
}

#[tokio::test]
// verifies: P1, P12
async fn readers_and_writers_of_one_or_both_stores_exclude() {
    let (from, to, both) = stores();
    for alone in [&from, &to] {
        let reading = granted(&both, &request(Mode::Shared)).await;
        let other = granted(alone, &request(Mode::Shared)).await;
        refused(alone, &request(Mode::Exclusive)).await;
        release(&both, &reading).await;
        refused(&both, &request(Mode::Exclusive)).await;
        release(alone, &other).await;
        let writing = granted(&both, &request(Mode::Exclusive)).await;
        refused(alone, &request(Mode::Shared)).await;
        release(&both, &writing).await;
        let writing = granted(alone, &request(Mode::Exclusive)).await;
        refused(&both, &request(Mode::Shared)).await;
        release(alone, &writing).await;
    }
    for store in [&from, &to] {
        assert_eq!(store.inspect(&name()).await.unwrap(), None, "a refused attempt left a lock behind");
    }
}

#[tokio::test]
// verifies: P1, P12
async fn permits_of_one_store_and_of_both_are_counted_together() {
    let three = Mode::Permit { of: NonZeroU16::new(3).unwrap() };
    let (from, to, both) = stores();
    for alone in [&from, &to] {
        let held = granted(&both, &request(three)).await;
        let others = [granted(alone, &request(three)).await, granted(alone, &request(three)).await];
        refused(&both, &request(three)).await;
        refused(alone, &request(three)).await;
        release(alone, &others[0]).await;
        let next = granted(&both, &request(three)).await;
        refused(alone, &request(three)).await;
        for (store, lease) in [(alone as &dyn Backend, &others[1]), (&both, &held), (&both, &next)] {
            release(store, lease).await;
        }
    }
}

#[tokio::test]
// verifies: P12
async fn a_waiting_writer_keeps_readers_of_either_store_out() {
    let (from, to, both) = stores();
    for alone in [&from, &to] {
        let reading = granted(alone, &request(Mode::Shared)).await;
        let waiting = request(Mode::Exclusive).with_waits(true);
        for _ in 0..3 {
            refused(&both, &waiting).await;
            // Between the attempts, too.
            refused(alone, &request(Mode::Shared)).await;
            refused(&both, &request(Mode::Shared)).await;
        }
        release(alone, &reading).await;
        refused(alone, &request(Mode::Shared)).await;
        let writing = granted(&both, &waiting).await;
        release(&both, &writing).await;
        let reading = granted(&both, &request(Mode::Shared)).await;
        release(&both, &reading).await;
    }
}

#[tokio::test]
// verifies: P12
async fn a_writer_that_gives_up_leaves_no_mark_in_either_store() {
    let (from, to, both) = stores();
    let old = granted(&from, &request(Mode::Shared)).await;
    let new = granted(&to, &request(Mode::Shared)).await;
    let waiting = request(Mode::Exclusive).with_waits(true);
    refused(&both, &waiting).await;
    release(&from, &old).await;
    refused(&both, &waiting).await;
    // The old store refuses the writer again, while the new one keeps its mark.
    let old = granted(&from, &request(Mode::Shared)).await;
    refused(&both, &waiting).await;
    let answer = both.release(&waiting.lease(None), Duration::ZERO).await.unwrap();
    assert!(matches!(answer, Release::NotHeld(_)), "{answer:?}");
    for (store, lease) in [(&from, old), (&to, new)] {
        let joined = granted(store, &request(Mode::Shared)).await;
        release(store, &joined).await;
        release(store, &lease).await;
    }
}

#[tokio::test]
// verifies: P4, P12
async fn a_holder_of_both_stores_counts_once() {
    let (from, to, both) = stores();
    let named = |owner: &str| request(Mode::Shared).with_owner(owner);
    granted(&from, &named("old")).await;
    let first = granted(&both, &named("first")).await;
    let second = granted(&both, &named("second")).await;
    granted(&to, &named("new")).await;
    let holder = both.inspect(&name()).await.unwrap().unwrap();
    let mut owners: Vec<_> = [&holder].into_iter().chain(&holder.others).map(|one| one.owner.clone()).collect();
    owners.sort();
    assert_eq!(owners, ["first", "new", "old", "second"].map(|owner| Some(owner.to_owned())));
    assert_eq!((holder.count(), holder.mode), (4, Mode::Shared));

    let all = [&holder].into_iter().chain(&holder.others);
    let seen = all.clone().find(|one| one.owner.as_deref() == Some("first")).unwrap();
    let version = seen.version.clone().unwrap();
    assert_eq!(both.break_lock(&name(), &version, "alice").await.unwrap(), Break::Broken);
    assert!(matches!(both.renew(&first).await.unwrap(), Renewal::Lost(_)));
    assert_eq!(both.renew(&second).await.unwrap(), Renewal::Renewed);
    for store in [&from, &to] {
        assert_eq!(store.inspect(&name()).await.unwrap().unwrap().count(), 2, "both halves were broken");
    }
}

#[tokio::test]
async fn a_mark_ends_with_its_wait_though_another_writer_came_first() {
    let (from, to, both) = stores();
    for alone in [&from, &to] {
        let reading = granted(alone, &request(Mode::Shared)).await;
        let waiting = request(Mode::Exclusive).with_waits(true);
        refused(&both, &waiting).await;
        release(alone, &reading).await;
        let writing = granted(alone, &request(Mode::Exclusive)).await;
        refused(&both, &waiting).await;
        let answer = both.release(&waiting.lease(None), Duration::ZERO).await.unwrap();
        assert!(matches!(answer, Release::NotHeld(_)), "{answer:?}");
        release(alone, &writing).await;
        let reading = granted(alone, &request(Mode::Shared)).await;
        release(alone, &reading).await;
    }
}

#[tokio::test]
async fn a_break_ends_both_halves_of_one_of_two_readers_of_one_owner() {
    let (_, to, both) = stores();
    let reading = granted(&both, &request(Mode::Shared)).await;
    // The new store names it first, because it expires first.
    let other = granted(&to, &request(Mode::Shared).with_ttl(TTL / 2)).await;
    let holder = both.inspect(&name()).await.unwrap().unwrap();
    let seen = [&holder].into_iter().chain(&holder.others).find(|one| one.token == reading.token).unwrap();
    let version = seen.version.clone().unwrap();
    assert_eq!(both.break_lock(&name(), &version, "alice").await.unwrap(), Break::Broken);
    assert_eq!(to.renew(&other).await.unwrap(), Renewal::Renewed);
    assert_eq!(to.inspect(&name()).await.unwrap().unwrap().count(), 1);
}

#[tokio::test]
// verifies: P1
async fn a_break_of_a_waiter_spares_the_holder_of_the_new_store() {
    let (from, to, both) = stores();
    let held = granted(&to, &request(Mode::Exclusive).with_owner("holder")).await;
    let larger = FencingToken::new(held.token.unwrap().get() + 1_000_000_000).unwrap();
    assert!(to.advance_token(&held, larger).await.unwrap());
    // A waiter on the migration has the lock of the old store for a moment in each attempt.
    let waiting = granted(&from, &request(Mode::Exclusive).with_owner("waiter")).await;
    let holder = both.inspect(&name()).await.unwrap().unwrap();
    let seen = [&holder].into_iter().chain(&holder.others).find(|one| one.token == waiting.token).unwrap();
    let version = seen.version.clone().unwrap();
    assert_eq!(both.break_lock(&name(), &version, "alice").await.unwrap(), Break::Broken);
    assert!(matches!(from.renew(&waiting).await.unwrap(), Renewal::Lost(_)));
    assert_eq!(to.renew(&held.with_token(larger)).await.unwrap(), Renewal::Renewed);
}

#[tokio::test]
async fn holders_that_neither_store_names_are_counted() {
    let (_, _, both) = stores();
    for _ in 0..40 {
        granted(&both, &request(Mode::Shared)).await;
    }
    assert_eq!(both.inspect(&name()).await.unwrap().unwrap().count(), 40);
}

#[tokio::test]
async fn a_refusal_names_no_holder_of_the_other_store_alone() {
    let (from, to, both) = stores();
    granted(&from, &request(Mode::Shared).with_owner("old")).await;
    granted(&to, &request(Mode::Shared).with_owner("new")).await;
    let holder = refused(&both, &request(Mode::Exclusive)).await;
    assert_eq!((holder.owner.as_deref(), holder.count()), (Some("old"), 1));
}

#[tokio::test(start_paused = true)]
async fn a_crash_in_either_store_is_reported() {
    let (from, to, both) = stores();
    for alone in [&from, &to] {
        granted(alone, &request(Mode::Exclusive).with_owner("crashed")).await;
        tokio::time::sleep(TTL).await;
        let next = request(Mode::Exclusive);
        let grant = grant(&both, &next).await;
        assert_eq!(grant.crashed.and_then(|holder| holder.owner).as_deref(), Some("crashed"));
        release(&both, &next.lease(grant.token)).await;
    }
}

/// A store with exclusive locks only. It refuses an id that was released, as Redis and DynamoDB do.
#[derive(Debug, Default)]
struct Exclusive(MemoryBackend, Mutex<Vec<LeaseId>>);

#[async_trait]
impl Backend for Exclusive {
    fn describe(&self) -> String {
        self.0.describe()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities().with_shared(false).with_permits(false)
    }

    fn timings(&self) -> StoreTimings {
        self.0.timings()
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        request.require_exclusive()?;
        if self.1.lock().unwrap().contains(&request.id) {
            return Err(Error::new(ErrorKind::Other, "this id was released"));
        }
        self.0.acquire(request).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        self.0.renew(lease).await
    }

    async fn advance_token(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        self.0.advance_token(lease, token).await
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        self.1.lock().unwrap().push(lease.id);
        self.0.release(lease, hold_for).await
    }
}

#[tokio::test]
async fn an_attempt_after_a_refusal_uses_no_released_id() {
    let (from, to) = (Arc::new(Exclusive::default()), MemoryBackend::new());
    let both = MigrationBackend::new(from, Arc::new(to.clone()));
    let reading = granted(&to, &request(Mode::Shared)).await;
    let waiting = request(Mode::Exclusive).with_waits(true);
    // Each attempt releases the lock of the old store, and keeps the mark in the new one.
    for _ in 0..2 {
        refused(&both, &waiting).await;
    }
    release(&to, &reading).await;
    let lease = granted(&both, &waiting).await;
    release(&both, &lease).await;
}

#[tokio::test]
// verifies: lost-reply
async fn a_rollback_without_a_reply_does_not_fail_the_next_attempt() {
    let (from, to) = (Faulty::new(Exclusive::default()), MemoryBackend::new());
    let both = MigrationBackend::new(Arc::new(from.clone()), Arc::new(to.clone()));
    let writing = granted(&to, &request(Mode::Exclusive)).await;
    let waiting = request(Mode::Exclusive).with_waits(true);
    from.next(Operation::Release, Fault::FailAfter(ErrorKind::Unavailable));
    let error = both.acquire(&waiting).await.unwrap_err();
    assert!(error.is_retryable() && error.is_ambiguous(), "{error}");
    release(&to, &writing).await;
    let lease = granted(&both, &waiting).await;
    release(&both, &lease).await;
}

#[tokio::test]
// verifies: P11, P12
async fn a_mode_that_one_store_lacks_is_refused_at_once() {
    let (from, _, both) = stores();
    let both = Locker::new(both).unwrap();
    assert!(both.capabilities().has(Capability::Shared) && both.capabilities().has(Capability::Permits));
    let half = MigrationBackend::new(Arc::new(from.clone()), Arc::new(Exclusive::default()));
    for mode in [Mode::Shared, Mode::Permit { of: NonZeroU16::MIN }] {
        assert!(!half.capabilities().has_mode(mode));
        // A writer that holds the old store would be met before the error of the new one.
        let writing = granted(&from, &request(Mode::Exclusive)).await;
        let error = half.acquire(&request(mode)).await.unwrap_err();
        assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::Unsupported, false), "{error}");
        release(&from, &writing).await;
    }
}
