//! How a waiter stands back after a series of hand-overs: for how long, and what it leaves if it is
//! cancelled.

use std::{collections::BTreeSet, pin::pin, sync::Arc, time::Duration};

use super::{Waiter, next, queued, slow_to_wake::SlowToWake};
use crate::fixture::*;
use futures_util::poll;
use lock_core::{
    ErrorKind, Guard, Locker, Operation,
    faults::{Fault, Faulty},
    testing::TestClock,
};
use tokio::{
    join,
    time::{Instant, sleep},
};

/// For how long a process stands back at first that has met another one, if releases wake waiters.
/// Also the first pause between two polls.
const STANDS_BACK: Duration = Duration::from_millis(50);

/// How long a request to acquire takes.
const ACQUIRE: Duration = Duration::from_millis(1);

/// A process that hands locks over and has met another process.
struct Met {
    network: Faulty,
    locker: Locker,
    other: Locker,
    /// The last guard of a series.
    guard: Guard,
    /// When the process had the lock after the other one.
    granted: Instant,
}

impl Met {
    async fn at(store: SlowToWake) -> Self {
        let network = Faulty::new(store.clone());
        let clock = Arc::new(TestClock::new());
        let builder = Locker::builder(Arc::new(network.clone())).clock(clock.clone());
        let locker = builder.hand_over(1).build().unwrap();
        let other = Locker::builder(Arc::new(store)).clock(clock).build().unwrap();
        let held = other.acquire(NAME).await.unwrap();
        let waiter = tokio::spawn(locker.lock(NAME).acquire());
        sleep(ms(10)).await;
        let [first, last] = queued([(); 2].map(|()| locker.lock(NAME)));
        release(held).await;
        let met = waiter.await.unwrap().unwrap();
        let granted = Instant::now();
        release(met).await;
        // Only a grant with waiters behind it begins a series.
        let guard = next(first.await.unwrap(), last).await;
        Self { network, locker, other, guard, granted }
    }

    /// Returns how many requests to acquire, to watch and to inspect the process has sent.
    fn sent(&self) -> [u64; 3] {
        [Operation::Acquire, Operation::Watch, Operation::Inspect].map(|operation| self.network.sent(operation))
    }
}

/// Lets another process have its `turn`, and the waiter a turn of its own. Returns when the waiter
/// was granted the lock.
async fn within(waiter: Waiter, turn: impl Future<Output = ()>) -> Instant {
    let waits = async {
        let guard = waiter.await.unwrap();
        let granted = Instant::now();
        release(guard).await;
        granted
    };
    join!(waits, turn).0
}

fn wakes() -> SlowToWake {
    SlowToWake::new(true, true)
}

fn keeps_no_past() -> SlowToWake {
    wakes().without_past()
}

#[tokio::test(start_paused = true)]
// verifies: P4
async fn half_of_a_bounded_wait_is_left_for_attempts() {
    let bound = ms(40);
    assert!(bound < STANDS_BACK);
    let Met { locker, guard, .. } = Met::at(wakes()).await;
    let mut waiter = pin!(locker.lock(NAME).acquire_within(bound));
    assert!(poll!(waiter.as_mut()).is_pending());
    let asked = Instant::now();
    release(guard).await;
    let guard = acquired(waiter.await);
    assert_close(asked.elapsed(), bound / 2 + ACQUIRE);
    release(guard).await;

    let Met { locker, guard, .. } = Met::at(wakes()).await;
    let [waiter] = queued([locker.lock(NAME).deadline(bound)]);
    let asked = Instant::now();
    release(guard).await;
    let guard = waiter.await.expect("an attempt is made before the deadline");
    assert_close(asked.elapsed(), bound / 2 + ACQUIRE);
    release(guard).await;
}

#[tokio::test(start_paused = true)]
async fn a_short_wait_leaves_the_rest_to_the_next_waiter() {
    let Met { locker, guard, .. } = Met::at(wakes()).await;
    let mut short = pin!(locker.lock(NAME).acquire_within(ms(40)));
    assert!(poll!(short.as_mut()).is_pending());
    let [next] = queued([locker.lock(NAME)]);
    let asked = Instant::now();
    release(guard).await;
    let guard = acquired(short.await);
    assert_close(asked.elapsed(), ms(20) + ACQUIRE);
    // Others could not have the lock meanwhile.
    sleep(ms(10)).await;
    release(guard).await;
    let released = Instant::now();
    let guard = next.await.unwrap();
    assert_close(released.elapsed(), STANDS_BACK - ms(20) + ACQUIRE);
    release(guard).await;
}

#[tokio::test(start_paused = true)]
async fn a_release_does_not_wait_for_a_waiter_that_stands_back() {
    let Met { locker, other, guard, .. } = Met::at(wakes().with_relays()).await;
    let mut short = pin!(locker.lock(NAME).acquire_within(ms(40)));
    assert!(poll!(short.as_mut()).is_pending());
    release(guard).await;
    let guard = acquired(short.await);
    let [second, third] = queued([(); 2].map(|()| locker.lock(NAME)));
    let second = tokio::spawn(second);
    release(guard).await;
    // The time for others goes on, so the lock is free for them.
    release(acquired(other.try_acquire(NAME).await)).await;
    let guard = next(second.await.unwrap().unwrap(), third).await;
    release(guard).await;
}

#[tokio::test(start_paused = true)]
async fn a_release_by_another_process_ends_it() {
    let Met { locker, other, guard, .. } = Met::at(wakes()).await;
    let [waiter] = queued([locker.lock(NAME)]);
    release(guard).await;
    let released = Instant::now();
    let turn = async {
        let guard = other.acquire(NAME).await.unwrap();
        sleep(ms(10)).await;
        release(guard).await;
    };
    // The store wakes waiters after 5 ms.
    let waited = within(waiter, turn).await.duration_since(released);
    assert_close(waited, ACQUIRE + ms(10) + ms(5) + ACQUIRE);
}

#[tokio::test(start_paused = true)]
async fn a_turn_of_another_process_before_the_watch_ends_it() {
    let met = Met::at(wakes()).await;
    met.network.next(Operation::Watch, Fault::DelayRequest(ms(10)));
    let [waiter] = queued([met.locker.lock(NAME)]);
    release(met.guard).await;
    let released = Instant::now();
    let turn = async { release(met.other.acquire(NAME).await.unwrap()).await };
    let waited = within(waiter, turn).await.duration_since(released);
    assert_close(waited, ms(10) + ACQUIRE);
}

#[tokio::test(start_paused = true)]
async fn a_holder_at_a_store_without_a_past_ends_it() {
    let met = Met::at(keeps_no_past()).await;
    let before = met.sent();
    met.network.next(Operation::Watch, Fault::DelayRequest(ms(10)));
    let [waiter] = queued([met.locker.lock(NAME)]);
    let (network, other) = (met.network.clone(), met.other.clone());
    release(met.guard).await;
    let turn = async {
        let guard = other.acquire(NAME).await.unwrap();
        sleep(ms(30)).await;
        assert_eq!(network.sent(Operation::Acquire), before[0] + 1, "the waiter has asked");
        release(guard).await;
    };
    within(waiter, turn).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_sign_of_others_it_lasts_for_the_whole_time() {
    let fault = Fault::Refuse(ErrorKind::Unavailable);
    for (store, fault) in [(wakes(), None), (keeps_no_past(), None), (wakes(), Some(fault))] {
        let met = Met::at(store).await;
        met.network.always(Operation::Inspect, fault);
        let [waiter] = queued([met.locker.lock(NAME)]);
        release(met.guard).await;
        let released = Instant::now();
        let guard = waiter.await.unwrap();
        assert!(met.network.sent(Operation::Inspect) > 0, "the store was asked");
        assert_close(released.elapsed(), STANDS_BACK + ACQUIRE);
        release(guard).await;
    }
}

#[tokio::test(start_paused = true)]
async fn others_are_taken_to_poll_if_the_store_refuses_to_watch() {
    let met = Met::at(wakes().without_watch()).await;
    let [first, second, third] = queued([(); 3].map(|()| met.locker.lock(NAME)));
    release(met.guard).await;
    let released = Instant::now();
    let guard = first.await.unwrap();
    assert_close(released.elapsed(), STANDS_BACK + ACQUIRE);
    let guard = next(guard, second).await;
    // Long against the time for waiters that a release wakes, and shorter than the longest poll.
    let turn = met.granted.elapsed();
    release(guard).await;
    let released = Instant::now();
    let guard = third.await.unwrap();
    assert_close(released.elapsed(), STANDS_BACK + 2 * turn + ACQUIRE);
    release(guard).await;
}

#[tokio::test(start_paused = true)]
// verifies: P5
async fn a_cancelled_waiter_leaves_no_lock_and_no_request() {
    let mut dropped = BTreeSet::new();
    for polls in 1.. {
        let mut met = Met::at(keeps_no_past()).await;
        for operation in [Operation::Watch, Operation::Inspect, Operation::Inspect] {
            met.network.next(operation, Fault::DelayReply(ms(10)));
        }
        let [mut waiter, behind] = queued([(); 2].map(|()| met.locker.lock(NAME)));
        let guard = std::mem::replace(&mut met.guard, acquired(met.other.try_acquire("another").await));
        release(guard).await;
        let (released, before) = (Instant::now(), met.sent());
        let releases = met.network.sent(Operation::Release);
        for _ in 0..polls {
            assert!(poll!(&mut waiter).is_pending());
            sleep(ms(4)).await;
        }
        let sent = met.sent();
        drop(waiter);
        let ends = STANDS_BACK.max(released.elapsed());
        let has_asked = sent[0] > before[0];
        if !has_asked {
            dropped.insert([1, 2].map(|operation| sent[operation] - before[operation]));
            // It has sent nothing to the store that a release would have to end.
            sleep(ms(1)).await;
            assert_eq!(met.network.sent(Operation::Release), releases, "dropped after {polls} polls");
            release(acquired(met.other.try_acquire(NAME).await)).await;
        }
        let guard = behind.await.unwrap();
        let waited = released.elapsed();
        // After one that was granted at once, and a pause as long.
        assert!(waited <= ends + 3 * ACQUIRE, "dropped after {polls} polls: {waited:?}");
        assert_eq!(guard.crashed_holder(), None, "dropped after {polls} polls");
        release(guard).await;
        release(acquired(met.locker.try_acquire(NAME).await)).await;
        assert!(is_forgotten(&met.locker).await, "dropped after {polls} polls");
        if has_asked {
            break;
        }
    }
    assert_eq!(dropped, BTreeSet::from([[1, 0], [1, 1], [1, 2]]), "a watch, and one or two questions");
}

/// Lets a process use the lock alone for `time`, and returns how long a second one then waits for
/// its first turn. No release wakes it.
async fn first_turn_after(time: Duration) -> Duration {
    fastrand::seed(7);
    let store = SlowToWake::new(false, true);
    let locker = Locker::builder(Arc::new(store.clone())).hand_over(3).build().unwrap();
    let work = || {
        let locker = locker.clone();
        tokio::spawn(async move {
            loop {
                let guard = locker.acquire(NAME).await.unwrap();
                sleep(ms(40)).await;
                release(guard).await;
            }
        })
    };
    let tasks = [work(), work()];
    sleep(time).await;
    let asked = Instant::now();
    let guard = Locker::new(store).unwrap().acquire(NAME).await.unwrap();
    let waited = asked.elapsed();
    for task in tasks {
        task.abort();
    }
    release(guard).await;
    waited
}

#[tokio::test(start_paused = true)]
async fn a_second_process_has_its_first_turn_after_21_pauses() {
    let longest_pause = secs(1);
    let mut longest = Duration::ZERO;
    for after in (60_000..82_000).step_by(1_100) {
        longest = longest.max(first_turn_after(ms(after)).await);
    }
    assert!(longest <= 21 * longest_pause, "{longest:?}");
    assert!(longest > 19 * longest_pause, "no time was the worst one: {longest:?}");
}
