//! Releases that go to the store with the acquire of the next waiter of the process.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    task::Poll,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::FutureExt;
use lock_core::{
    Error, ErrorKind, Guard, LockRequest, Locker, LockerBuilder, Mode, Operation,
    backend::{
        AcquireOutcome, AcquireRequest, Admin, Backend, Break, Capabilities, Lease, Relay, Relayed, Release, Renewal,
        StoreTimings,
    },
    clock::Clock,
    faults::{Fault, Faulty},
    memory::MemoryBackend,
    testing::TestClock,
};

use crate::fixture::{Fixture, NAME, TTL, ms, secs};

type Waiter = Pin<Box<dyn Future<Output = Result<Guard, Error>> + Send>>;
type Choose = fn(LockRequest) -> LockRequest;

/// The memory store across a network, with relays.
#[derive(Debug, Clone)]
struct Relaying {
    store: MemoryBackend,
    relays: Arc<AtomicU32>,
    /// Another process waits, so no relay acquires.
    leaves_it: bool,
}

#[async_trait]
impl Backend for Relaying {
    fn describe(&self) -> String {
        self.store.describe()
    }

    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    fn timings(&self) -> StoreTimings {
        self.store.timings()
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        self.store.acquire(request).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        self.store.renew(lease).await
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        self.store.release(lease, hold_for).await
    }

    fn admin(&self) -> Option<&dyn Admin> {
        self.store.admin()
    }

    fn relay(&self) -> Option<&dyn Relay> {
        Some(self)
    }
}

#[async_trait]
impl Relay for Relaying {
    async fn relay(&self, lease: &Lease, request: &AcquireRequest) -> Result<Relayed, Error> {
        self.relays.fetch_add(1, SeqCst);
        let released = self.store.release(lease, Duration::ZERO).await?;
        if self.leaves_it || released != Release::Released {
            return Ok(Relayed::released(released));
        }
        Ok(Relayed { released, acquired: Some(self.store.acquire(request).await) })
    }
}

struct Relays {
    fixture: Fixture,
    relays: Arc<AtomicU32>,
    contended: Arc<AtomicU32>,
}

impl Relays {
    fn new() -> Self {
        Self::with(false, |builder| builder)
    }

    fn with(leaves_it: bool, choose: impl FnOnce(LockerBuilder) -> LockerBuilder) -> Self {
        let store = MemoryBackend::new();
        let relays = Arc::new(AtomicU32::new(0));
        let network = Faulty::new(Relaying { store: store.clone(), relays: Arc::clone(&relays), leaves_it });
        let clock = Arc::new(TestClock::new());
        let builder = Locker::builder(Arc::new(network.clone())).clock(clock.clone() as Arc<dyn Clock>);
        let locker = choose(builder).build().unwrap();
        Self { fixture: Fixture { store, network, clock, locker }, relays, contended: Arc::default() }
    }

    /// A waiter in the queue of the process, which counts how often the store refuses it.
    fn waiter(&self, choose: Choose) -> Waiter {
        let (contended, own) = (Arc::clone(&self.contended), AtomicU32::new(0));
        let request = choose(self.fixture.locker.lock(NAME)).on_contention(move |_| {
            // The first time it is the holder of the turn before it.
            if own.fetch_add(1, SeqCst) > 0 {
                contended.fetch_add(1, SeqCst);
            }
        });
        let mut waiter: Waiter = Box::pin(request.acquire());
        assert!((&mut waiter).now_or_never().is_none(), "the lock is held");
        waiter
    }

    /// The number of relays, of requests that acquired, and of those that released.
    fn requests(&self) -> (u32, u64, u64) {
        let sent = |operation| self.fixture.network.sent(operation);
        let relays = self.relays.load(SeqCst);
        (relays, sent(Operation::Acquire) - u64::from(relays), sent(Operation::Release))
    }

    /// Checks that `guard` holds the lock, and that nothing holds it once it is released.
    async fn holds_alone(&self, guard: Guard, what: &str) {
        guard.check().unwrap();
        let holder = self.fixture.other().admin().inspect(NAME).await.unwrap().expect("held");
        assert_eq!(holder.token, guard.token(), "{what}");
        assert_eq!(guard.release().await.unwrap(), Release::Released, "{what}");
        self.fixture.locker.wait_idle().await;
        assert!(self.fixture.is_free().await, "{what}");
    }
}

/// Polls `future` so many times at most, and then drops it.
async fn polled<T>(mut future: Pin<Box<dyn Future<Output = T> + Send>>, times: u32) -> Option<T> {
    let mut polls = 0;
    poll_fn(move |context| {
        if polls == times {
            return Poll::Ready(None);
        }
        polls += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if polls == times => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn each_waiter_makes_one_request_and_has_a_larger_token() {
    let relays = Relays::new();
    let mut guard = relays.fixture.guard().await;
    let waiters = [(); 3].map(|()| relays.waiter(|request| request));
    for (i, waiter) in (1..).zip(waiters) {
        let last = guard.token();
        let (released, next) = tokio::join!(guard.release(), waiter);
        assert_eq!(released.unwrap(), Release::Released);
        guard = next.unwrap();
        assert!(guard.token() > last);
        assert_eq!(relays.requests(), (i, 1, 0));
    }
    // Renewals are those of any lease.
    guard.renewed().await;
    relays.holds_alone(guard, "the last waiter").await;
    assert_eq!((relays.requests(), relays.contended.load(SeqCst)), ((3, 1, 1), 0));
}

#[tokio::test(start_paused = true)]
async fn the_lease_of_the_waiter_counts_from_the_request() {
    let relays = Relays::new();
    let guard = relays.fixture.guard().await;
    let waiter = relays.waiter(|request| request);
    relays.fixture.network.next(Operation::Acquire, Fault::DelayReply(ms(500)));
    let clock = &relays.fixture.clock;
    let sent = clock.now();
    let (_, next) = tokio::join!(guard.release(), waiter);
    let next = next.unwrap();
    let until = next.valid_until().unwrap();
    assert_eq!(until.boot, sent.boot + TTL - TTL / 10);
    relays.holds_alone(next, "a late reply").await;
}

#[tokio::test(start_paused = true)]
async fn a_waiter_asks_anew_if_the_release_woke_another_process() {
    let relays = Relays::with(true, |builder| builder);
    let guard = relays.fixture.guard().await;
    let waiter = relays.waiter(|request| request);
    let (released, next) = tokio::join!(guard.release(), waiter);
    assert_eq!(released.unwrap(), Release::Released);
    assert_eq!(relays.requests(), (1, 2, 0));
    relays.holds_alone(next.unwrap(), "after a wake-up").await;
}

#[tokio::test(start_paused = true)]
// verifies: lost-reply
async fn a_faulty_request_neither_loses_nor_keeps_a_lock() {
    let (short, long) = (ms(300), secs(120));
    let faults = [
        Fault::LoseRequest,
        Fault::LoseReply,
        Fault::DelayRequest(short),
        Fault::DelayReply(short),
        Fault::DelayRequest(long),
        Fault::DelayReply(long),
        Fault::Refuse(ErrorKind::Unavailable),
        Fault::Refuse(ErrorKind::Throttled),
        Fault::FailAfter(ErrorKind::Unavailable),
        Fault::Duplicate,
    ];
    for fault in faults {
        let what = format!("{fault:?}");
        let relays = Relays::new();
        let guard = relays.fixture.guard().await;
        let waiter = relays.waiter(|request| request);
        let behind = relays.waiter(|request| request);
        relays.fixture.network.next(Operation::Acquire, fault);
        let (released, next) = tokio::join!(guard.release(), waiter);
        // The reply to a duplicate is that of a second release.
        let expected = if fault == Fault::Duplicate { Release::NotHeld(None) } else { Release::Released };
        let released = match released.unwrap() {
            Release::NotHeld(_) => Release::NotHeld(None),
            released => released,
        };
        assert_eq!(released, expected, "{what}");
        assert_eq!(relays.contended.load(SeqCst), 0, "{what}: its own process looked like another holder");
        let (released, next) = tokio::join!(next.unwrap().release(), behind);
        assert_eq!(released.unwrap(), Release::Released, "{what}");
        relays.holds_alone(next.unwrap(), &what).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_waiter_asks_again_only_once_the_guard_has_released() {
    let relays = Relays::new();
    let guard = relays.fixture.guard().await;
    let waiter = relays.waiter(|request| request);
    // The release by itself takes long enough for the waiter to ask before it.
    relays.fixture.network.next(Operation::Acquire, Fault::Refuse(ErrorKind::Unavailable));
    relays.fixture.network.next(Operation::Release, Fault::DelayRequest(secs(1)));
    let (released, next) = tokio::join!(guard.release(), waiter);
    assert_eq!(released.unwrap(), Release::Released);
    assert_eq!(relays.contended.load(SeqCst), 0);
    relays.holds_alone(next.unwrap(), "a slow release").await;
}

#[tokio::test(start_paused = true)]
async fn a_third_waiter_waits_for_the_release_too() {
    let relays = Relays::new();
    let guard = relays.fixture.guard().await;
    let waiter = relays.waiter(|request| request);
    let behind = relays.waiter(|request| request);
    relays.fixture.network.next(Operation::Acquire, Fault::Refuse(ErrorKind::Unavailable));
    relays.fixture.network.next(Operation::Release, Fault::DelayRequest(secs(1)));
    let gives_up = tokio::time::timeout(ms(10), waiter);
    let (released, gone, next) = tokio::join!(guard.release(), gives_up, behind);
    assert_eq!(released.unwrap(), Release::Released);
    assert!(gone.is_err());
    assert_eq!(relays.contended.load(SeqCst), 0, "the lock of this process looked like another holder's");
    relays.holds_alone(next.unwrap(), "the third").await;
}

#[tokio::test(start_paused = true)]
// verifies: cancelled
async fn a_cancelled_waiter_leaves_no_lock_at_any_await() {
    for times in 1..12 {
        for fault in [None, Some(Fault::DelayRequest(ms(5))), Some(Fault::DelayReply(ms(5)))] {
            let what = format!("after {times} polls, {fault:?}");
            let relays = Relays::new();
            let guard = relays.fixture.guard().await;
            let waiter = relays.waiter(|request| request);
            let behind = relays.waiter(|request| request);
            relays.fixture.network.next(Operation::Acquire, fault);
            let gives_up = async { drop(polled(waiter, times).await) };
            let (released, (), next) = tokio::join!(guard.release(), gives_up, behind);
            assert_eq!(released.unwrap(), Release::Released, "{what}");
            relays.holds_alone(next.unwrap(), &what).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_release_lets_the_waiter_in_at_any_await() {
    for times in 0..8 {
        for fault in [None, Some(Fault::DelayReply(ms(5))), Some(Fault::LoseReply), Some(Fault::LoseRequest)] {
            let what = format!("after {times} polls, {fault:?}");
            let relays = Relays::new();
            let guard = relays.fixture.guard().await;
            let waiter = relays.waiter(|request| request);
            relays.fixture.network.next(Operation::Acquire, fault);
            let (_, next) = tokio::join!(polled(Box::pin(guard.release()), times), waiter);
            assert_eq!(relays.contended.load(SeqCst), 0, "{what}");
            relays.holds_alone(next.unwrap(), &what).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn neither_task_needs_the_other_to_run() {
    let relays = Relays::new();
    let guard = relays.fixture.guard().await;
    let [mut second, third] = [(); 2].map(|()| relays.waiter(|request| request));
    relays.fixture.network.next(Operation::Acquire, Fault::DelayReply(ms(5)));
    // The waiter has sent the request, and does not run.
    let mut release = Box::pin(guard.release());
    assert!((&mut release).now_or_never().is_none());
    assert!((&mut second).now_or_never().is_none());
    let started = tokio::time::Instant::now();
    assert_eq!(release.await.unwrap(), Release::Released);
    assert!(started.elapsed() < ms(50));
    // The guard has sent nothing yet, and does not run.
    let mut release = Box::pin(second.await.unwrap().release());
    assert!((&mut release).now_or_never().is_none());
    let third = third.await.unwrap();
    let fourth = relays.waiter(|request| request);
    let (released, fourth) = tokio::join!(third.release(), fourth);
    assert_eq!(released.unwrap(), Release::Released);
    assert_eq!(release.await.unwrap(), Release::Released);
    relays.holds_alone(fourth.unwrap(), "the fourth").await;
    assert_eq!(relays.requests(), (3, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_does_not_run_delays_the_release_by_100_ms() {
    let relays = Relays::new();
    let guard = relays.fixture.guard().await;
    let waiter = relays.waiter(|request| request);
    let started = tokio::time::Instant::now();
    assert_eq!(guard.release().await.unwrap(), Release::Released);
    assert!(started.elapsed() <= ms(101), "{:?}", started.elapsed());
    assert!(relays.fixture.is_free().await);
    relays.holds_alone(waiter.await.unwrap(), "it runs again").await;
    assert_eq!(relays.requests(), (0, 2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_shared_request_is_sent_after_the_release() {
    let relays = Relays::new();
    let guard = relays.fixture.guard().await;
    let waiter = relays.waiter(|request| request.mode(Mode::Shared));
    relays.fixture.network.next(Operation::Release, Fault::DelayRequest(ms(5)));
    let (released, next) = tokio::join!(guard.release(), waiter);
    assert_eq!(released.unwrap(), Release::Released);
    assert_eq!((relays.requests(), relays.contended.load(SeqCst)), ((0, 2, 1), 0));
    next.unwrap().release().await.unwrap();
    assert!(relays.fixture.is_free().await);
}

#[tokio::test(start_paused = true)]
async fn one_request_ends_a_series_of_hand_overs_and_begins_the_next() {
    let relays = Relays::new();
    let mut guard = relays.fixture.guard().await;
    let waiters = [(); 6].map(|()| relays.waiter(|request| request.hand_over(2)));
    for (i, waiter) in waiters.into_iter().enumerate() {
        let last = guard.token();
        let (released, next) = tokio::join!(guard.release(), waiter);
        assert_eq!(released.unwrap(), Release::Released);
        guard = next.unwrap();
        assert!(guard.token() > last, "waiter {i}");
        // Each series is a grant and two hand-overs.
        assert_eq!(relays.requests(), (1 + i as u32 / 3, 1, 0), "waiter {i}");
    }
    relays.holds_alone(guard, "the last waiter").await;
}

#[tokio::test(start_paused = true)]
async fn two_tasks_hand_their_lock_over() {
    let relays = Relays::new();
    let guard = relays.fixture.locker.lock(NAME).hand_over(2).acquire().await.unwrap();
    let waiter = relays.waiter(|request| request.hand_over(2));
    let other = async {
        guard.release().await.unwrap();
        relays.waiter(|request| request.hand_over(2)).await.unwrap()
    };
    let (next, other) = tokio::join!(
        async {
            let next = waiter.await.unwrap();
            let token = next.token();
            next.release().await.unwrap();
            token
        },
        other
    );
    assert_eq!(other.token().unwrap().get(), next.unwrap().get() + 1, "handed over");
    assert_eq!(relays.requests(), (0, 2, 1));
    assert_eq!(other.release().await.unwrap(), Release::Released);
    assert!(relays.fixture.is_free().await);
}

#[tokio::test(start_paused = true)]
async fn a_minimum_hold_is_kept() {
    let relays = Relays::with(false, |builder| builder.min_hold(secs(5)));
    let guard = relays.fixture.guard().await;
    let started = tokio::time::Instant::now();
    let waiter = relays.waiter(|request| request);
    let (released, next) = tokio::join!(guard.release(), waiter);
    assert_eq!(released.unwrap(), Release::Released);
    assert!(started.elapsed() >= secs(5));
    assert_eq!(relays.relays.load(SeqCst), 0);
    next.unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_lock_is_not_reported_as_released() {
    let relays = Relays::new();
    let guard = relays.fixture.guard().await;
    let waiter = relays.waiter(|request| request);
    let admin = relays.fixture.other();
    let holder = admin.admin().inspect(NAME).await.unwrap().expect("held");
    assert_eq!(admin.admin().break_lock(NAME, &holder, "alice").await.unwrap(), Break::Broken);
    let (released, next) = tokio::join!(guard.release(), waiter);
    assert!(matches!(released.unwrap(), Release::NotHeld(_)));
    relays.holds_alone(next.unwrap(), "after a break").await;
}
