//! Waits that end on time and do not poll the store too often.

use std::sync::{Arc, Mutex};

use crate::{
    changed::{Change, Changed},
    fixture::*,
};
use async_trait::async_trait;
use lock_core::{
    Error, ErrorKind, Holder, LockName, Locker, Mode, Operation, Renew, TryAcquire,
    backend::{AcquireOutcome, AcquireRequest, Backend, Capabilities, LeaseId, Release, Renewal, Watch},
    clock::Clock,
    faults::Fault,
    testing::TestClock,
};
use tokio::time::{Instant, sleep};

/// A store that always reports the same holder, or fails if there is none.
///
/// The store records the requested ttls.
#[derive(Debug, Default)]
struct Stubborn {
    holder: Option<Holder>,
    wakes: bool,
    ttls: Mutex<Vec<std::time::Duration>>,
}

#[async_trait]
impl Backend for Stubborn {
    fn describe(&self) -> String {
        "stubborn:".into()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default().with_ttl(true).with_wake_up(self.wakes)
    }

    fn timings(&self) -> lock_core::backend::StoreTimings {
        lock_core::backend::StoreTimings::default()
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        self.ttls.lock().unwrap().push(request.ttl);
        let fails = || Error::new(ErrorKind::Unavailable, "no answer");
        self.holder.clone().map(AcquireOutcome::Contended).ok_or_else(fails)
    }

    async fn renew(&self, _: &lock_core::backend::Lease) -> Result<Renewal, Error> {
        unreachable!("no client holds a lock")
    }

    async fn release(&self, _: &lock_core::backend::Lease, _: std::time::Duration) -> Result<Release, Error> {
        Ok(Release::NotHeld(None))
    }

    async fn watch(&self, _: &lock_core::LockName) -> Result<Option<Box<dyn Watch>>, Error> {
        Ok(Some(Box::new(Restless)))
    }
}

/// A watch that wakes repeatedly without a change, like a broken subscription.
#[derive(Debug)]
struct Restless;

#[async_trait]
impl Watch for Restless {
    async fn changed(&mut self) {
        sleep(std::time::Duration::from_micros(100)).await;
    }
}

fn locker(store: &Arc<Stubborn>) -> Locker {
    let clock = Arc::new(lock_core::testing::TestClock::new()) as Arc<dyn Clock>;
    Locker::builder(Arc::clone(store) as Arc<dyn Backend>).clock(clock).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_holder_always_about_to_expire_is_polled_slowly() {
    for expires_in in [ms(0), ms(1)] {
        let holder = Holder::default().with_expires_in(expires_in);
        let store = Arc::new(Stubborn { holder: Some(holder), ..Stubborn::default() });
        let _ = locker(&store).acquire_within(NAME, secs(10)).await.unwrap();
        let attempts = store.ttls.lock().unwrap().len();
        assert!(attempts < 40, "{attempts} attempts in 10 s");
    }
}

#[tokio::test(start_paused = true)]
async fn spurious_wake_ups_cause_no_tight_polling_loop() {
    for holder in [Some(Holder::default()), None] {
        let store = Arc::new(Stubborn { wakes: true, holder, ..Stubborn::default() });
        let _ = locker(&store).acquire_within(NAME, secs(10)).await;
        let attempts = store.ttls.lock().unwrap().len();
        assert!(attempts < 300, "{attempts} attempts in 10 s");
    }
}

#[tokio::test(start_paused = true)]
async fn no_empty_ttl_is_requested_at_the_deadline() {
    let store = Arc::new(Stubborn { holder: Some(Holder::default()), ..Stubborn::default() });
    let request = || locker(&store).lock(NAME).deadline(secs(5));
    assert_eq!(request().acquire().await.unwrap_err().kind(), ErrorKind::Timeout);
    assert!(matches!(request().acquire_within(secs(9)).await.unwrap(), TryAcquire::Contended(_)));
    assert!(store.ttls.lock().unwrap().iter().all(|ttl| *ttl >= ms(1)));
    store.ttls.lock().unwrap().clear();
    let error = request().deadline(ms(0)).try_acquire().await.unwrap_err();
    assert!(error.to_string().contains("deadline") && !error.is_retryable(), "{error}");
    assert!(store.ttls.lock().unwrap().is_empty(), "an acquire past its deadline sends no request");
}

#[tokio::test(start_paused = true)]
async fn a_hung_store_delays_no_caller_past_its_deadline() {
    for wait in [None, Some(secs(0)), Some(secs(60))] {
        let fixture = Fixture::new();
        fixture.network.always(Operation::Acquire, Fault::LoseReply);
        let started = Instant::now();
        let request = fixture.locker.lock(NAME).deadline(secs(2));
        match wait {
            None => request.acquire().await.map(drop).unwrap_err(),
            Some(wait) => request.acquire_within(wait).await.map(drop).unwrap_err(),
        };
        assert_close(started.elapsed(), secs(2));
        assert!(fixture.freed_after().await < secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_bounded_wait_takes_one_request_longer_at_most() {
    let fixture = Fixture::new();
    fixture.network.always(Operation::Acquire, Fault::LoseRequest);
    let started = Instant::now();
    fixture.locker.acquire_within(NAME, secs(1)).await.unwrap_err();
    assert_close(started.elapsed(), secs(5));
    // An attempt is in flight when the time ends.
    let started = Instant::now();
    fixture.locker.acquire_within(NAME, secs(12)).await.unwrap_err();
    assert!((secs(12)..=secs(17)).contains(&started.elapsed()), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_waiter_with_a_late_grant_keeps_its_turn() {
    let fixture = Fixture::with(|b| b.ttl(secs(1)).renew(Renew::Manual));
    fixture.network.next(Operation::Acquire, Fault::LoseReply);
    fixture.network.next(Operation::Acquire, Fault::LoseReply);
    fixture.network.next(Operation::Acquire, Fault::DelayReply(ms(350)));
    // Without a watch the waiter sleeps after its late grant. It must keep its turn meanwhile.
    fixture.network.always(Operation::Watch, Fault::Refuse(ErrorKind::Unsupported));
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut waiters = Vec::new();
    for i in 0..3 {
        let (locker, order) = (fixture.locker.clone(), Arc::clone(&order));
        waiters.push(tokio::spawn(async move {
            let guard = locker.acquire(NAME).await.unwrap();
            order.lock().unwrap().push(i);
            release(guard).await;
        }));
        tokio::task::yield_now().await;
    }
    for waiter in waiters {
        waiter.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [0, 1, 2]);
    assert_eq!(fixture.network.sent(Operation::Acquire), 6, "only one waiter of the process may contend at a time");
}

#[tokio::test(start_paused = true)]
async fn a_release_before_the_watch_is_noticed_immediately() {
    let fixture = Fixture::new();
    let held = acquired(fixture.other().try_acquire(NAME).await);
    fixture.network.next(Operation::Watch, Fault::DelayRequest(secs(1)));
    let started = Instant::now();
    let releaser = async {
        sleep(ms(500)).await;
        release(held).await;
    };
    let (guard, ()) = tokio::join!(fixture.locker.acquire(NAME), releaser);
    assert_close(started.elapsed(), secs(1));
    release(guard.unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_watch_is_retried_until_it_wakes() {
    let fixture = Fixture::new();
    let held = acquired(fixture.other().lock(NAME).ttl(secs(3600)).try_acquire().await);
    fixture.network.next(Operation::Watch, Fault::Refuse(ErrorKind::Unavailable));
    fixture.network.next(Operation::Watch, Fault::LoseReply);
    let releaser = async {
        sleep(secs(900)).await;
        let watched = fixture.network.sent(Operation::Watch);
        assert_eq!(watched, 3, "a working watch must not be restarted");
        let released = Instant::now();
        release(held).await;
        released
    };
    let (guard, released) = tokio::join!(fixture.locker.acquire(NAME), releaser);
    assert_close(released.elapsed(), secs(0));
    release(guard.unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn two_distant_short_outages_do_not_add_up() {
    let fixture = Fixture::new();
    let held = acquired(fixture.other().try_acquire(NAME).await);
    fixture.network.next(Operation::Acquire, Fault::Refuse(ErrorKind::Unavailable));
    let troubles = async {
        sleep(secs(40)).await;
        fixture.network.next(Operation::Acquire, Fault::Refuse(ErrorKind::Unavailable));
        sleep(secs(2)).await;
        release(held).await;
    };
    let (guard, ()) = tokio::join!(fixture.locker.acquire(NAME), troubles);
    release(guard.unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn a_bounded_wait_behind_a_waiter_reports_the_holder() {
    let fixture = Fixture::new();
    let _held = acquired(fixture.other().lock(NAME).owner("busy").try_acquire().await);
    let first = fixture.locker.acquire_within(NAME, secs(9));
    let (_, second) = tokio::join!(first, fixture.locker.acquire_within(NAME, secs(3)));
    match second.unwrap() {
        TryAcquire::Contended(holder) => assert_eq!(holder.owner.as_deref(), Some("busy")),
        TryAcquire::Acquired(_) => panic!("two holders"),
    }
}

/// Returns a fixture whose next acquire is granted only after its lease has expired.
fn late() -> Fixture {
    let fixture = Fixture::with(|b| b.ttl(secs(1)).renew(Renew::Manual));
    fixture.network.next(Operation::Acquire, Fault::LoseReply);
    fixture.network.next(Operation::Acquire, Fault::LoseReply);
    fixture.network.next(Operation::Acquire, Fault::DelayReply(ms(350)));
    fixture
}

#[tokio::test(start_paused = true)]
async fn a_late_release_does_not_free_the_next_grant() {
    let fixture = late();
    for _ in 0..3 {
        fixture.network.next(Operation::Release, Fault::Refuse(ErrorKind::Throttled));
    }
    fixture.network.next(Operation::Release, Fault::DelayRequest(ms(200)));
    let guard = fixture.locker.acquire(NAME).await.unwrap();
    sleep(ms(300)).await;
    guard.check().unwrap();
    assert!(!fixture.is_free().await);
    release(guard).await;
}

#[tokio::test(start_paused = true)]
async fn cancelling_still_releases_a_late_grant() {
    let fixture = late();
    fixture.network.next(Operation::Release, Fault::LoseRequest);
    let giving_back = async {
        while fixture.network.sent(Operation::Release) == 0 {
            sleep(ms(1)).await;
        }
    };
    tokio::select! {
        _ = fixture.locker.acquire(NAME) => panic!("the release hangs"),
        () = giving_back => {}
    }
    assert!(fixture.freed_after().await < ms(100));
}

/// The last refusal does not show the mark that an earlier attempt has left.
#[tokio::test(start_paused = true)]
// verifies: P12, cancelled
async fn a_dropped_wait_removes_the_mark_of_an_earlier_attempt() {
    let fixture = Fixture::new();
    let request =
        |mode| AcquireRequest::new(LockName::new(NAME).unwrap(), LeaseId::random(), "another client").with_mode(mode);
    let (reader, writer) = (request(Mode::Shared), request(Mode::Exclusive));
    let is_granted = |outcome| matches!(outcome, Ok(AcquireOutcome::Granted(_)));
    assert!(is_granted(fixture.store.acquire(&reader).await));
    let before = fixture.network.sent(Operation::Acquire);
    {
        let mut waiting = std::pin::pin!(fixture.locker.lock(NAME).acquire());
        tokio::select! {
            _ = waiting.as_mut() => panic!("a reader holds the lock"),
            () = sleep(ms(500)) => {}
        }
        fixture.store.release(&reader.lease(None), ms(0)).await.unwrap();
        assert!(is_granted(fixture.store.acquire(&writer).await), "the waiting request has not asked again");
        tokio::select! {
            _ = waiting.as_mut() => panic!("a writer holds the lock"),
            () = sleep(secs(5)) => {}
        }
    }
    assert!(fixture.network.sent(Operation::Acquire) > before + 1, "it asked again and was refused");
    sleep(ms(500)).await;
    fixture.store.release(&writer.lease(None), ms(0)).await.unwrap();
    assert!(is_granted(fixture.store.acquire(&request(Mode::Shared)).await));
}

/// A store that names no holder, as if it had ended since the refusal.
#[derive(Debug)]
struct Unseen;

impl Change for Unseen {
    fn outcome(&self, outcome: AcquireOutcome) -> AcquireOutcome {
        match outcome {
            AcquireOutcome::Contended(_) => AcquireOutcome::Contended(Holder::default()),
            granted @ AcquireOutcome::Granted(_) => granted,
        }
    }
}

#[tokio::test(start_paused = true)]
// verifies: P12
async fn a_mark_ends_with_its_wait_though_no_holder_was_named() {
    let store = Arc::new(Changed::new(Unseen));
    let locker = || Locker::builder(store.clone()).clock(Arc::new(TestClock::new())).ttl(secs(30)).build().unwrap();
    let [first, writer, second] = [locker(), locker(), locker()];
    let _reading = first.lock(NAME).mode(Mode::Shared).acquire().await.unwrap();
    assert!(matches!(writer.lock(NAME).acquire_within(secs(1)).await, Ok(TryAcquire::Contended(_))));
    writer.wait_idle().await;
    acquired(second.lock(NAME).mode(Mode::Shared).try_acquire().await).release().await.unwrap();
}
