//! A crowd at a store that takes a limited number of requests a second, on a paused clock.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use futures_util::future::join_all;
use lock_core::{
    Error, ErrorKind, Locker, Operation, TryAcquire,
    backend::{AcquireOutcome, AcquireRequest, Backend, Capabilities, Lease, Release, Renewal, StoreTimings},
    faults::Fault,
    memory::MemoryBackend,
};
use tokio::time::{Instant, sleep};

use crate::fixture::*;

/// A memory store that takes `rate` requests a second, and throttles the others. It saves up the
/// requests of one second.
#[derive(Debug, Clone)]
pub(crate) struct Limited {
    inner: MemoryBackend,
    rate: f64,
    bucket: Arc<Mutex<(Instant, f64)>>,
    pub(crate) sent: Arc<AtomicU64>,
    throttled: Arc<AtomicU64>,
}

impl Limited {
    pub(crate) fn new(rate: u32) -> Self {
        let rate = f64::from(rate);
        Self {
            inner: MemoryBackend::new(),
            rate,
            bucket: Arc::new(Mutex::new((Instant::now(), rate))),
            sent: Arc::default(),
            throttled: Arc::default(),
        }
    }

    async fn admit(&self) -> Result<(), Error> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        sleep(ms(5)).await;
        let mut bucket = self.bucket.lock().unwrap();
        let now = Instant::now();
        bucket.1 = (bucket.1 + now.duration_since(bucket.0).as_secs_f64() * self.rate).min(self.rate);
        bucket.0 = now;
        if bucket.1 < 1.0 {
            self.throttled.fetch_add(1, Ordering::Relaxed);
            return Err(Error::new(ErrorKind::Throttled, "too many requests"));
        }
        bucket.1 -= 1.0;
        Ok(())
    }

    /// One process of its own on this store.
    pub(crate) fn client(&self) -> Locker {
        Locker::new(self.clone()).unwrap()
    }
}

#[async_trait]
impl Backend for Limited {
    fn describe(&self) -> String {
        "limited:".to_owned()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default().with_ttl(true).with_fencing(true).with_holder(true).with_fair(true)
    }

    fn timings(&self) -> StoreTimings {
        StoreTimings::default().with_poll_min(ms(100))
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        self.admit().await?;
        self.inner.acquire(request).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        self.admit().await?;
        self.inner.renew(lease).await
    }

    async fn release(&self, lease: &Lease, hold_for: std::time::Duration) -> Result<Release, Error> {
        self.admit().await?;
        self.inner.release(lease, hold_for).await
    }
}

/// Ten times as many as the store takes in a second.
const CROWD: usize = 1_000;
const RATE: u32 = 100;

#[tokio::test(start_paused = true)]
// verifies: throttled
async fn a_crowd_that_tries_is_told_that_one_holds_the_lock() {
    fastrand::seed(1);
    let store = Limited::new(RATE);
    let outcomes = join_all((0..CROWD).map(|_| {
        let client = store.client();
        tokio::spawn(async move { client.lock(NAME).try_acquire().await })
    }));
    let outcomes: Vec<_> = outcomes.await.into_iter().map(Result::unwrap).collect();
    let failed: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert!(failed.is_empty(), "{} of {CROWD} were told of a failure, such as: {}", failed.len(), failed[0]);
    let acquired = outcomes.iter().flatten().filter(|outcome| matches!(outcome, TryAcquire::Acquired(_)));
    assert_eq!(acquired.count(), 1);
    assert!(store.throttled.load(Ordering::Relaxed) > 0, "the store had to throttle");
}

#[tokio::test(start_paused = true)]
// verifies: throttled
async fn each_waiter_of_a_crowd_gets_its_turn_at_a_throttled_store() {
    fastrand::seed(2);
    let (store, started) = (Limited::new(RATE), Instant::now());
    let waiters = (0..CROWD).map(|_| {
        let client = store.client();
        tokio::spawn(async move {
            let guard = client.acquire(NAME).await?;
            sleep(ms(20)).await;
            guard.check()?;
            let token = guard.token();
            guard.release().await?;
            Ok::<_, Error>(token)
        })
    });
    let mut tokens = Vec::new();
    for waiter in waiters.collect::<Vec<_>>() {
        tokens.push(waiter.await.unwrap().expect("no waiter is told of a failure"));
    }
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), CROWD, "each waiter held the lock once");
    let (sent, throttled) = (store.sent.load(Ordering::Relaxed), store.throttled.load(Ordering::Relaxed));
    println!("{sent} requests, {throttled} throttled, {:?}", started.elapsed());
    assert!(throttled < 8 * CROWD as u64, "{throttled} of {sent} requests of {CROWD} waiters were throttled");
}

#[tokio::test(start_paused = true)]
// verifies: throttled
async fn a_crowd_that_polls_does_not_end_the_holders_lease() {
    fastrand::seed(3);
    let store = Limited::new(RATE);
    let guard = acquired(store.client().try_acquire(NAME).await);
    let waiters: Vec<_> = (0..CROWD)
        .map(|_| {
            let client = store.client();
            tokio::spawn(async move { client.acquire_within(NAME, secs(200)).await })
        })
        .collect();
    sleep(secs(190)).await;
    guard.check().expect("renewals get through");
    for waiter in waiters {
        let outcome = waiter.await.unwrap();
        assert!(matches!(outcome, Ok(TryAcquire::Contended(_))), "{outcome:?}");
    }
    guard.check().expect("renewals get through");
    let throttled = store.throttled.load(Ordering::Relaxed);
    assert!(throttled > 0, "the store had to throttle");
}

#[tokio::test(start_paused = true)]
// verifies: throttled
async fn a_waiter_outlasts_throttling_that_would_be_an_outage() {
    let fixture = Fixture::new();
    fixture.network.always(Operation::Acquire, Fault::Refuse(ErrorKind::Throttled));
    let waiter = tokio::spawn(fixture.locker.lock(NAME).acquire());
    sleep(secs(290)).await;
    assert!(!waiter.is_finished(), "a throttled waiter goes on");
    fixture.network.always(Operation::Acquire, None);
    release(waiter.await.unwrap().unwrap()).await;

    fixture.network.always(Operation::Acquire, Fault::Refuse(ErrorKind::Throttled));
    let started = Instant::now();
    assert_eq!(fixture.locker.acquire(NAME).await.unwrap_err().kind(), ErrorKind::Throttled);
    assert!((secs(300)..secs(332)).contains(&started.elapsed()), "{:?}", started.elapsed());
    let started = Instant::now();
    assert_eq!(fixture.locker.acquire_within(NAME, secs(3)).await.unwrap_err().kind(), ErrorKind::Throttled);
    assert_close(started.elapsed(), secs(3));
}

#[tokio::test(start_paused = true)]
// verifies: throttled
async fn a_wait_that_ends_in_a_failure_names_no_holder() {
    use ErrorKind::{Throttled, Unavailable};
    let ends: [(&[ErrorKind], Option<ErrorKind>); 6] = [
        (&[], None),
        (&[Throttled], None),
        (&[Throttled, Throttled], None),
        (&[Unavailable], Some(Unavailable)),
        (&[Throttled, Unavailable], Some(Unavailable)),
        (&[Unavailable, Throttled], Some(Throttled)),
    ];
    for (answers, expected) in ends {
        let fixture = Fixture::new();
        let sent = || fixture.network.sent(Operation::Acquire);
        let holder = acquired(fixture.other().try_acquire(NAME).await);
        let waiter = tokio::spawn(fixture.locker.lock(NAME).acquire_within(secs(20)));
        // The store refuses the first attempt. The last one is at the end of the wait.
        for answer in answers {
            let before = sent();
            while sent() == before {
                assert!(!waiter.is_finished(), "too few attempts for {answers:?}");
                sleep(ms(1)).await;
            }
            fixture.network.always(Operation::Acquire, Fault::Refuse(*answer));
        }
        match (waiter.await.unwrap(), expected) {
            (Ok(TryAcquire::Contended(known)), None) => {
                assert_eq!(known.token, holder.token(), "{answers:?}");
                assert_eq!(known.expires_in.is_some(), answers.is_empty(), "its age is not known: {answers:?}");
            }
            (Err(error), Some(kind)) => assert_eq!(error.kind(), kind, "{answers:?}"),
            (outcome, _) => panic!("{answers:?} end with {outcome:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
// verifies: throttled
async fn a_try_repeats_a_throttled_request_for_a_bounded_time() {
    let fixture = Fixture::new();
    fixture.network.always(Operation::Acquire, Fault::Refuse(ErrorKind::Throttled));
    let longest = fixture.locker.timing().attempt_timeout * 3;
    let started = Instant::now();
    assert_eq!(fixture.locker.try_acquire(NAME).await.unwrap_err().kind(), ErrorKind::Throttled);
    assert_close(started.elapsed(), longest);
    let sent = fixture.network.sent(Operation::Acquire);
    assert!((7..=12).contains(&sent), "the pauses grow: {sent} requests in {longest:?}");
    let started = Instant::now();
    let request = fixture.locker.lock(NAME).deadline(secs(4));
    assert_eq!(request.try_acquire().await.unwrap_err().kind(), ErrorKind::Throttled);
    assert!(started.elapsed() < secs(4), "the answer comes before the deadline");
    sleep(secs(1)).await;
    assert_eq!(fixture.network.sent(Operation::Release), 0, "a throttled request needs no rollback");
}
