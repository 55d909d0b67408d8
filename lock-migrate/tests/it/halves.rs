//! The calls that a migration makes in each of its two stores.

use std::{
    collections::VecDeque,
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use lock_core::{
    Error, ErrorKind, FencingToken, Holder, LockName, LossReason, Mode, Operation,
    backend::{
        AcquireOutcome, AcquireRequest, Admin, Backend, Break, Capabilities, Grant, Lease, Listing, ProcessBound as _,
        Release, Renewal, StoreTimings,
    },
    memory::MemoryBackend,
};
use lock_migrate::MigrationBackend;

use crate::fixture::{grant, granted, refused, release, writer};

/// A memory store that notes the calls that end a lock, and gives scripted answers first.
#[derive(Debug, Default)]
struct Scripted {
    side: &'static str,
    inner: MemoryBackend,
    calls: Arc<Mutex<Vec<String>>>,
    answers: Mutex<VecDeque<Result<AcquireOutcome, Error>>>,
    renewals: Mutex<VecDeque<Renewal>>,
    /// The next request of this operation gets no answer, and arrives when it is delivered.
    delays: Mutex<Option<Operation>>,
    late_acquire: Mutex<Option<AcquireRequest>>,
    late_release: Mutex<Option<Lease>>,
    /// Acquires right after the next release.
    follower: Mutex<Option<AcquireRequest>>,
}

impl Scripted {
    fn note(&self, call: &str) {
        self.calls.lock().unwrap().push(format!("{call} {}", self.side));
    }

    fn answer(&self, answer: Result<AcquireOutcome, Error>) {
        self.answers.lock().unwrap().push_back(answer);
    }

    fn delay(&self, operation: Operation) {
        *self.delays.lock().unwrap() = Some(operation);
    }

    fn is_delayed(&self, operation: Operation) -> bool {
        self.delays.lock().unwrap().take_if(|delayed| *delayed == operation).is_some()
    }

    /// Lets the acquire that was delayed arrive.
    async fn deliver_acquire(&self) -> AcquireOutcome {
        let request = self.late_acquire.lock().unwrap().take().expect("an acquire was sent");
        self.inner.acquire(&request).await.unwrap()
    }

    /// Lets the release that was delayed arrive.
    async fn deliver_release(&self) -> Release {
        let lease = self.late_release.lock().unwrap().take().expect("a release was sent");
        self.inner.release(&lease, Duration::ZERO).await.unwrap()
    }
}

#[async_trait]
impl Backend for Scripted {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn timings(&self) -> StoreTimings {
        self.inner.timings()
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        if self.is_delayed(Operation::Acquire) {
            *self.late_acquire.lock().unwrap() = Some(request.clone());
            return pending().await;
        }
        let scripted = self.answers.lock().unwrap().pop_front();
        match scripted {
            Some(answer) => answer,
            None => self.inner.acquire(request).await,
        }
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        let scripted = self.renewals.lock().unwrap().pop_front();
        match scripted {
            Some(answer) => Ok(answer),
            None => self.inner.renew(lease).await,
        }
    }

    async fn advance_token(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        self.inner.advance_token(lease, token).await
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        self.note("release");
        if self.is_delayed(Operation::Release) {
            *self.late_release.lock().unwrap() = Some(lease.clone());
            return pending().await;
        }
        let answer = self.inner.release(lease, hold_for).await;
        let follower = self.follower.lock().unwrap().take();
        if let Some(follower) = follower {
            granted(&self.inner, &follower).await;
        }
        answer
    }

    fn admin(&self) -> Option<&dyn Admin> {
        Some(self)
    }

    fn process_bound(&self) -> Option<&dyn lock_core::backend::ProcessBound> {
        self.inner.process_bound()
    }
}

#[async_trait]
impl Admin for Scripted {
    async fn inspect(&self, name: &LockName) -> Result<Option<Holder>, Error> {
        self.inner.inspect(name).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        self.inner.list(prefix).await
    }

    async fn break_lock(&self, name: &LockName, version: &str, by: &str) -> Result<Break, Error> {
        self.note("break");
        self.inner.break_lock(name, version, by).await
    }

    async fn purge(&self, name: &LockName) -> Result<bool, Error> {
        self.inner.purge(name).await
    }
}

/// The old store, the new store, and their migration.
struct Stores {
    from: Arc<Scripted>,
    to: Arc<Scripted>,
    both: MigrationBackend,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Stores {
    fn new() -> Self {
        let calls = Arc::default();
        let store = |side| Arc::new(Scripted { side, calls: Arc::clone(&calls), ..Scripted::default() });
        let (from, to) = (store("from"), store("to"));
        let both = MigrationBackend::new(Arc::clone(&from) as Arc<dyn Backend>, Arc::clone(&to) as Arc<dyn Backend>);
        Self { from, to, both, calls }
    }

    /// Makes an attempt that is dropped, as the core drops an attempt without an answer.
    async fn drop_attempt(&self, request: &AcquireRequest) {
        let answer = tokio::time::timeout(Duration::from_secs(1), self.both.acquire(request)).await;
        assert!(answer.is_err(), "it was answered: {answer:?}");
    }

    fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

#[tokio::test]
// verifies: P12
async fn a_refusal_that_names_no_holder_may_have_left_a_mark() {
    let stores = Stores::new();
    let unseen = || Ok(AcquireOutcome::Contended(Holder::default()));
    for (waits, ended) in [(true, &["release to"][..]), (false, &[])] {
        let request = writer("x").with_waits(waits);
        stores.to.answer(unseen());
        refused(&stores.both, &request).await;
        assert_eq!(stores.take_calls(), ["release from"], "the lock of the old store is released at once");
        stores.both.release(&request.lease(None), Duration::ZERO).await.unwrap();
        assert_eq!(stores.take_calls(), ended, "waits: {waits}");
    }
}

/// The core releases a mark only after a refusal that names another mode, or no holder.
#[tokio::test]
// verifies: P5, P12
async fn a_refusal_without_a_holder_gets_none_of_the_other_store() {
    let stores = Stores::new();
    *stores.from.follower.lock().unwrap() = Some(writer("x"));
    let unseen = AcquireOutcome::Contended(Holder::default());
    stores.to.answer(Ok(unseen.clone()));
    assert_eq!(stores.both.acquire(&writer("x").with_waits(true)).await.unwrap(), unseen);
    assert!(stores.from.inner.inspect(&writer("x").name).await.unwrap().is_some(), "the other store has a holder");
}

#[tokio::test]
async fn a_refusal_that_leaves_nothing_is_not_released() {
    let stores = Stores::new();
    let readers = Holder::default().with_owner("reader".to_owned()).with_mode(Mode::Shared);
    let other = Holder::default().with_owner("writer".to_owned());
    for (waits, holder) in [(false, readers), (true, other)] {
        let request = writer("x").with_waits(waits);
        stores.to.answer(Ok(AcquireOutcome::Contended(holder)));
        refused(&stores.both, &request).await;
        stores.both.release(&request.lease(None), Duration::ZERO).await.unwrap();
        assert_eq!(stores.take_calls(), ["release from"], "waits: {waits}");
    }
    stores.to.answer(Err(Error::new(ErrorKind::Limit, "a full store").with_ambiguous(false)));
    let error = stores.both.acquire(&writer("x")).await.unwrap_err();
    assert!(!error.is_ambiguous(), "{error}");
    assert_eq!(stores.take_calls(), ["release from"], "the new store has nothing after such an error");
}

#[tokio::test(start_paused = true)]
// verifies: P1, late-request
async fn a_late_rollback_spares_a_lock_acquired_again() {
    for late in [0, 1] {
        let stores = Stores::new();
        let store = [&stores.from, &stores.to][late];
        let request = writer("x");
        stores.to.answer(Err(Error::new(ErrorKind::Unavailable, "no answer").with_ambiguous(true)));
        store.delay(Operation::Release);
        stores.drop_attempt(&request).await;
        let lease = granted(&stores.both, &request).await;
        assert!(matches!(store.deliver_release().await, Release::NotHeld(_)), "store {late} was freed");
        assert_eq!(stores.both.renew(&lease).await.unwrap(), Renewal::Renewed);
    }
}

#[tokio::test(start_paused = true)]
// verifies: late-request
async fn a_refused_retry_releases_the_id_of_an_unanswered_attempt() {
    let stores = Stores::new();
    let request = writer("x");
    stores.from.delay(Operation::Acquire);
    stores.drop_attempt(&request).await;
    let other = granted(&stores.from.inner, &writer("x")).await;
    refused(&stores.both, &request).await;
    assert_eq!(stores.take_calls(), ["release from"]);
    release(&stores.from.inner, &other).await;
    let late = stores.from.deliver_acquire().await;
    assert!(matches!(late, AcquireOutcome::Contended(_)), "no client would release this lock: {late:?}");
    granted(&stores.both, &request).await;
}

#[tokio::test(start_paused = true)]
// verifies: P12
async fn a_writer_keeps_its_mark_after_an_unanswered_attempt() {
    let stores = Stores::new();
    let reader = || writer("x").with_mode(Mode::Shared);
    granted(&stores.from.inner, &reader()).await;
    let waiting = writer("x").with_waits(true);
    stores.from.delay(Operation::Acquire);
    stores.drop_attempt(&waiting).await;
    refused(&stores.both, &waiting).await;
    refused(&stores.from.inner, &reader()).await;
    // The release of the whole acquisition ends the mark.
    stores.both.release(&waiting.lease(None), Duration::ZERO).await.unwrap();
    granted(&stores.from.inner, &reader()).await;
}

#[tokio::test]
async fn a_grant_is_one_of_before_only_if_both_stores_say_so() {
    for (from, to) in [(true, true), (true, false), (false, true)] {
        let stores = Stores::new();
        for (store, ours) in [(&stores.from, from), (&stores.to, to)] {
            store.answer(Ok(AcquireOutcome::Granted(Grant::default().with_already_ours(ours))));
        }
        let grant = grant(&stores.both, &writer("x")).await;
        assert_eq!(grant.already_ours, from && to, "{from}, {to}");
    }
}

#[tokio::test]
async fn a_break_of_the_new_store_is_named_before_a_missing_record() {
    let stores = Stores::new();
    let lease = granted(&stores.both, &writer("x")).await;
    let broken = LossReason::BrokenBy("alice".into());
    stores.from.renewals.lock().unwrap().push_back(Renewal::Lost(LossReason::RecordGone));
    stores.to.renewals.lock().unwrap().push_back(Renewal::Lost(broken.clone()));
    assert_eq!(stores.both.renew(&lease).await.unwrap(), Renewal::Lost(broken));
}

/// A client of the old store alone must not meet the holder in the new one.
#[tokio::test]
async fn the_new_store_is_freed_before_the_old_one() {
    let stores = Stores::new();
    let lease = granted(&stores.both, &writer("x")).await;
    stores.both.release(&lease, Duration::ZERO).await.unwrap();
    assert_eq!(stores.take_calls(), ["release to", "release from"]);
    let lease = granted(&stores.both, &writer("x")).await;
    let version = stores.both.inspect(&lease.name).await.unwrap().unwrap().version.unwrap();
    assert_eq!(stores.both.break_lock(&lease.name, &version, "alice").await.unwrap(), Break::Broken);
    assert_eq!(stores.take_calls(), ["break to", "break from"]);
}

#[tokio::test]
async fn a_lock_that_was_released_at_once_is_forgotten() {
    let stores = Stores::new();
    let lease = granted(&stores.both, &writer("x")).await;
    assert!(stores.both.release_now(&lease, Duration::ZERO));
    assert_eq!(stores.both.release(&lease, Duration::ZERO).await.unwrap(), Release::NotHeld(None));
    assert_eq!(stores.take_calls(), Vec::<String>::new(), "the stores are asked again");
}
