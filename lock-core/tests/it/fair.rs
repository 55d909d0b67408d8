//! First come, first served: what the core adds to the stores.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use crate::{
    changed::{Change, Changed},
    fixture::{NAME, assert_close, ms, secs},
    throttled::Limited,
};
use lock_core::{
    ErrorKind, LockName, Locker, Mode, Operation, Registry, TryAcquire,
    backend::{AcquireOutcome, AcquireRequest, Backend, Capabilities, LeaseId, StoreTimings},
    faults::Faulty,
    memory::{MemoryBackend, MemoryFactory},
    testing::TestClock,
};
use tokio::time::{Instant, sleep};

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
        "acquire \"job\" on memory:: first come, first served (fair) is not possible on this store; leave fair out, or \
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
    let locker = || Locker::builder(Arc::new(store.clone())).ttl(secs(2)).build().unwrap();
    let (one, other) = (locker(), locker());
    let held = one.acquire("job").await.unwrap();
    let fair = |locker: &Locker| tokio::spawn(locker.lock("job").fair(true).acquire());
    let first = fair(&one);
    sleep(ms(1)).await;
    let second = fair(&other);
    sleep(secs(60)).await;
    held.release().await.unwrap();
    let newcomer = Locker::new(store.clone()).unwrap();
    for waiter in [first, second] {
        assert!(matches!(newcomer.try_acquire("job").await.unwrap(), TryAcquire::Contended(_)));
        let guard = tokio::time::timeout(secs(60), waiter).await.expect("not overtaken").unwrap().unwrap();
        guard.release().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
// verifies: P12
async fn a_waiting_writer_stays_before_a_queue_beyond_its_ttl() {
    let store = MemoryBackend::new();
    let request = || AcquireRequest::new(LockName::new(NAME).unwrap(), LeaseId::random(), "test").with_ttl(secs(30));
    let reader = || request().with_mode(Mode::Shared).with_ttl(secs(3_600));
    assert!(matches!(store.acquire(&reader()).await.unwrap(), AcquireOutcome::Granted(_)));
    let (writer, behind) = (request().with_waits(true), reader().with_fair(true).with_waits(true));
    for _ in 0..4 {
        for waiting in [&writer, &behind] {
            assert!(matches!(store.acquire(waiting).await.unwrap(), AcquireOutcome::Contended(_)));
        }
        sleep(secs(20)).await;
    }
}

/// A store that does not tell when a lock or a place ends.
#[derive(Debug)]
struct Silent;

impl Change for Silent {
    fn capabilities(&self, capabilities: Capabilities) -> Capabilities {
        capabilities.with_wake_up(false)
    }

    fn timings(&self, timings: StoreTimings) -> StoreTimings {
        timings.with_poll_min(secs(3_600)).with_poll_max(secs(3_600))
    }

    fn outcome(&self, outcome: AcquireOutcome) -> AcquireOutcome {
        match outcome {
            AcquireOutcome::Contended(holder) => AcquireOutcome::Contended(holder.with_expires_in(None)),
            granted @ AcquireOutcome::Granted(_) => granted,
        }
    }
}

#[tokio::test(start_paused = true)]
// verifies: P9, P12
async fn a_dead_fair_waiter_costs_its_ttl_and_a_third_of_the_next() {
    let [of_the_dead, own] = [secs(20), secs(30)];
    let mut longest = Duration::ZERO;
    for later in [0, 1, 4_000, 9_998].map(ms) {
        let store = Arc::new(Changed::new(Silent));
        let locker = Locker::builder(store.clone()).clock(Arc::new(TestClock::new())).ttl(own).build().unwrap();
        let held = locker.acquire(NAME).await.unwrap();
        let mut request = AcquireRequest::new(LockName::new(NAME).unwrap(), LeaseId::random(), "dead");
        (request.ttl, request.fair, request.waits) = (of_the_dead, true, true);
        assert!(matches!(store.acquire(&request).await.unwrap(), AcquireOutcome::Contended(_)));
        let died = Instant::now();
        sleep(later).await;
        let waiter = tokio::spawn(locker.lock(NAME).fair(true).acquire());
        sleep(ms(1)).await;
        held.release().await.unwrap();
        let _guard = waiter.await.unwrap().unwrap();
        let waited = died.elapsed();
        assert!(waited >= of_the_dead, "{later:?} after the dead waiter: overtaken after {waited:?}");
        assert!(waited <= of_the_dead + own / 3, "{later:?} after the dead waiter: {waited:?}");
        longest = longest.max(waited);
    }
    assert_close(longest, of_the_dead + own / 3);
}

/// What the waiters of a store that wakes no client did in ten minutes.
struct Turns {
    /// How often each of them held the lock.
    counts: Vec<u64>,
    longest_wait: Duration,
    requests: u64,
}

/// Each of 16 processes holds the lock for 20 ms, and waits for it again.
async fn turns_at_a_polled_store(fair: bool) -> Turns {
    fastrand::seed(4);
    let (store, end) = (Limited::new(u32::MAX), Instant::now() + secs(600));
    let waiters = (0..16).map(|_| {
        let client = store.client();
        tokio::spawn(async move {
            let (mut count, mut longest) = (0, Duration::ZERO);
            while Instant::now() < end {
                let began = Instant::now();
                let guard = client.lock(NAME).fair(fair).acquire().await.expect("the store answers");
                longest = longest.max(began.elapsed());
                count += 1;
                sleep(ms(20)).await;
                guard.release().await.expect("the store answers");
            }
            (count, longest)
        })
    });
    let mut turns = Turns { counts: Vec::new(), longest_wait: Duration::ZERO, requests: 0 };
    for waiter in waiters.collect::<Vec<_>>() {
        let (count, longest) = waiter.await.unwrap();
        turns.counts.push(count);
        turns.longest_wait = turns.longest_wait.max(longest);
    }
    turns.requests = store.sent.load(Ordering::Relaxed);
    let all: u64 = turns.counts.iter().sum();
    println!(
        "fair={fair}: {:.2} turns a second, {:.1} requests for each, the longest wait {:?}, turns of each: {:?}",
        all as f64 / 600.0,
        turns.requests as f64 / all as f64,
        turns.longest_wait,
        turns.counts
    );
    turns
}

#[tokio::test(start_paused = true)]
// verifies: P12
async fn waiters_that_poll_have_turns_in_order_and_fewer_of_them() {
    let [by_chance, fair] = [turns_at_a_polled_store(false).await, turns_at_a_polled_store(true).await];
    let spread = |turns: &Turns| turns.counts.iter().max().unwrap() - turns.counts.iter().min().unwrap();
    assert!(spread(&fair) <= 1, "{:?}", fair.counts);
    assert!(spread(&by_chance) > 1, "{:?}", by_chance.counts);
    assert!(fair.longest_wait < by_chance.longest_wait, "{:?} and {:?}", fair.longest_wait, by_chance.longest_wait);
    // A free lock waits for the poll of the first, once a second.
    assert!(fair.longest_wait < secs(16 * 2), "{:?}", fair.longest_wait);
}
