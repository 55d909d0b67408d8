//! The backend over the model, on a paused clock: hours of a lock, and a store that throttles for
//! longer than a lease.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use lock_core::{ErrorKind, Locker, LossReason, TryAcquire, backend::Backend, testing::TestClock};
use lock_object::{ObjectBackend, ObjectConfig};
use object_store::client::{HttpClient, HttpError, HttpRequest, HttpResponse, HttpService};
use test_support::sim::real::{Server as _, Trouble};
use tokio::time::{Instant, sleep};

use super::model::{self, Bucket};

const HOUR: Duration = Duration::from_secs(3_600);

/// One bucket, on the paused clock.
#[derive(Debug, Clone)]
struct World(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    bucket: Bucket,
    started: Instant,
    trouble: Option<Trouble>,
    seen: BTreeMap<String, usize>,
    /// How many requests of a probe arrive until the next attempt, if not all of them.
    probes: Option<usize>,
}

impl State {
    /// Returns whether a request for the object at `path` is lost.
    fn loses(&mut self, path: &str) -> bool {
        match &mut self.probes {
            None => false,
            // An attempt begins with a read of the lock.
            Some(left) if path.ends_with(".lock") => {
                *left = 1;
                false
            }
            Some(left) => {
                let is_lost = *left == 0;
                *left = 0;
                is_lost
            }
        }
    }
}

impl World {
    fn new() -> Self {
        let (bucket, started) = (Bucket::new(None), Instant::now());
        Self(Arc::new(Mutex::new(State { bucket, started, trouble: None, seen: BTreeMap::new(), probes: None })))
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn throttles(&self, throttles: bool) {
        self.change(|state| state.trouble = throttles.then_some(Trouble::Throttled));
    }

    /// The reads and the writes since the last call.
    fn counted(&self) -> (usize, usize) {
        let seen = self.change(|state| std::mem::take(&mut state.seen));
        let count = |method: &str| seen.get(method).copied().unwrap_or_default();
        (count("GET"), count("PUT"))
    }

    /// Another process with the default settings.
    fn locker(&self) -> Locker {
        let clock = Arc::new(TestClock::new());
        let config = ObjectConfig::s3("bucket").region("us-east-1").anonymous(true);
        let backend = ObjectBackend::with_http(config, Arc::clone(&clock) as _, HttpClient::new(self.clone()));
        let backend: Arc<dyn Backend> = Arc::new(backend.expect("a good configuration"));
        Locker::builder(backend).clock(clock).build().expect("the defaults fit")
    }
}

#[async_trait]
impl HttpService for World {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let path = request.uri().path().to_owned();
        if self.change(|state| state.loses(&path)) {
            std::future::pending::<()>().await;
        }
        let call = model::call(request, String::new()).await;
        let answer = self.change(|state| {
            *state.seen.entry(call.operation.clone()).or_default() += 1;
            state.bucket.handle(state.started.elapsed(), &call, state.trouble)
        });
        Ok(model::response(&answer))
    }
}

#[tokio::test(start_paused = true)]
async fn a_day_of_a_lock_costs_what_the_page_says() {
    let world = World::new();
    let (holder, waiter) = (world.locker(), world.locker());
    let guard = holder.acquire("a").await.unwrap();
    world.counted();
    sleep(24 * HOUR).await;
    guard.check().unwrap();
    let (reads, writes) = world.counted();
    // Each renewal comes a little before its ten seconds, at random.
    assert!(reads == 0 && writes.abs_diff(9_100) <= 100, "{reads} reads and {writes} writes in a day");

    let TryAcquire::Contended(_) = waiter.try_acquire("a").await.unwrap() else { panic!("two hold the lock") };
    assert_eq!(world.counted(), (1, 0), "a process that skips");
    let TryAcquire::Contended(_) = waiter.acquire_within("a", HOUR).await.unwrap() else { panic!("it is held") };
    let (reads, writes) = world.counted();
    assert!(writes.abs_diff(380) <= 20, "{writes} writes of the holder in an hour");
    assert!(reads.abs_diff(960) <= 50, "{reads} reads of the waiter in an hour");
    guard.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
// verifies: throttled, P3
async fn throttling_longer_than_the_lease_ends_the_lock() {
    let world = World::new();
    let (holder, other) = (world.locker(), world.locker());
    let guard = holder.acquire("a").await.unwrap();
    sleep(Duration::from_secs(25)).await;
    world.throttles(true);
    let lost = guard.lost().await;
    let LossReason::Unreachable { last_error, .. } = &lost.reason else { panic!("{lost}") };
    assert!(last_error.contains("too many"), "{last_error}");
    let error = other.acquire("a").await.expect_err("a throttled waiter learns of no holder");
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Throttled, true), "{error}");
    world.throttles(false);
    let next = other.acquire("a").await.unwrap();
    assert!(next.token() > guard.token());
    assert!(next.crashed_holder().is_some(), "its holder could not release it");
    guard.release().await.unwrap();
    next.check().unwrap();
    assert!(matches!(holder.try_acquire("a").await.unwrap(), TryAcquire::Contended(_)));
}

#[tokio::test(start_paused = true)]
// verifies: throttled
async fn throttling_shorter_than_the_lease_ends_nothing() {
    let world = World::new();
    let guard = world.locker().acquire("a").await.unwrap();
    for _ in 0..20 {
        world.throttles(true);
        // A renewal is due each ten seconds, and the lease ends after 27.
        sleep(Duration::from_secs(12)).await;
        world.throttles(false);
        guard.renewed().await;
        guard.check().unwrap();
    }
    guard.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn attempts_that_are_cut_off_pass_the_probe_together() {
    let world = World::new();
    // The objects exist, so the probe has four requests.
    let guard = world.locker().acquire("a").await.unwrap();
    guard.release().await.unwrap();
    world.change(|state| state.probes = Some(0));
    world.counted();
    let guard = world.locker().acquire("a").await.expect("each attempt passes a step");
    guard.check().unwrap();
    assert_eq!(world.counted(), (5, 4), "four attempts, each with a step of the probe, and the grant");
}
