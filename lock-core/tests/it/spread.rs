//! The first attempts of a fleet are spread over a window, on a paused clock.

use std::time::Duration;

use futures_util::future::join_all;
use lock_core::{ErrorKind, Operation, TryAcquire, faults::Fault};
use tokio::time::{Instant, sleep};

use crate::fixture::*;

#[tokio::test(start_paused = true)]
async fn first_attempts_are_spread_evenly_over_the_window() {
    let fixture = Fixture::with(|builder| builder.spread(secs(2)));
    let _held = acquired(fixture.other().try_acquire(NAME).await);
    let started = Instant::now();
    let delays = join_all((0..1_000).map(|_| async {
        let outcome = fixture.locker.try_acquire(NAME).await.unwrap();
        assert!(matches!(outcome, TryAcquire::Contended(_)));
        started.elapsed()
    }));
    let delays = delays.await;
    assert!(delays.iter().all(|delay| *delay <= ms(2_001)), "{:?}", delays.iter().max());
    for quarter in 0..4 {
        let begin = quarter * ms(500);
        let of_quarter = delays.iter().filter(|delay| (begin..begin + ms(500)).contains(*delay)).count();
        // Six times the standard deviation of 250.
        assert!((167..333).contains(&of_quarter), "{of_quarter} of 1,000 in quarter {quarter}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_is_delayed_once_and_within_the_window() {
    let (window, fixture) = (secs(1_000), Fixture::new());
    let mut longest = Duration::ZERO;
    for _ in 0..100 {
        let started = Instant::now();
        let request = fixture.locker.lock(NAME).spread(window);
        release(request.acquire().await.unwrap()).await;
        longest = longest.max(started.elapsed());
    }
    // A hundred delays of two draws, or of a larger window, are not all within it.
    assert!(longest <= window + ms(1), "{longest:?}");
    assert!(longest >= window / 2, "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_delayed_waiter_is_not_in_the_queue() {
    for tries in [false, true] {
        let fixture = Fixture::new();
        let request = fixture.locker.lock(NAME).spread(secs(1_000_000));
        let delayed = tokio::spawn(async move {
            if tries { acquired(request.try_acquire().await) } else { request.acquire().await.unwrap() }
        });
        sleep(ms(1)).await;
        let started = Instant::now();
        release(acquired(fixture.locker.lock(NAME).acquire_within(secs(1)).await)).await;
        assert!(started.elapsed() < secs(1) && !delayed.is_finished(), "other tasks of the process go first");
        release(delayed.await.unwrap()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_process_draw_different_delays() {
    let fixture = Fixture::with(|builder| builder.spread(secs(1_000_000)));
    let mut delays = std::collections::HashSet::new();
    for _ in 0..3 {
        // A clone of a memory image begins with the state of its original.
        fastrand::seed(1);
        let started = Instant::now();
        release(acquired(fixture.locker.try_acquire(NAME).await)).await;
        delays.insert(started.elapsed());
    }
    assert_eq!(delays.len(), 3, "{delays:?}");
}

#[tokio::test(start_paused = true)]
async fn a_short_wait_or_deadline_narrows_the_window() {
    let fixture = Fixture::with(|builder| builder.spread(secs(600)));
    let holder = acquired(fixture.other().try_acquire(NAME).await);
    for _ in 0..20 {
        let (started, sent) = (Instant::now(), fixture.network.sent(Operation::Acquire));
        let outcome = fixture.locker.lock(NAME).acquire_within(secs(10)).await.unwrap();
        assert!(matches!(outcome, TryAcquire::Contended(_)));
        assert_close(started.elapsed(), secs(10));
        assert!(fixture.network.sent(Operation::Acquire) > sent + 1, "at least half of the wait is left for attempts");
    }
    release(holder).await;
    for _ in 0..20 {
        let started = Instant::now();
        let guard = acquired(fixture.locker.lock(NAME).deadline(secs(10)).try_acquire().await);
        assert!(started.elapsed() <= ms(5_001), "{:?}", started.elapsed());
        guard.check().unwrap();
        release(guard).await;
    }
}

#[tokio::test(start_paused = true)]
// verifies: cancelled
async fn a_cancelled_delay_leaves_nothing_behind() {
    for wait in [None, Some(Duration::ZERO), Some(secs(5_000))] {
        let fixture = Fixture::new();
        let request = fixture.locker.lock(NAME).spread(secs(1_000));
        let work = async {
            match wait {
                None => request.acquire().await.map(drop),
                Some(wait) => request.acquire_within(wait).await.map(drop),
            }
        };
        tokio::time::timeout(ms(1), work).await.expect_err("the delay is longer");
        sleep(secs(1)).await;
        let sent = [Operation::Acquire, Operation::Release].map(|operation| fixture.network.sent(operation));
        assert_eq!(sent, [0, 0], "{wait:?}");
        let next = fixture.locker.lock(NAME).acquire_within(secs(1)).await;
        release(acquired(next)).await;
        assert_eq!(fixture.network.sent(Operation::Acquire), 1, "no place in the queue is left: {wait:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_first_attempt_is_delayed() {
    let fixture = Fixture::with(|builder| builder.spread(ms(10)));
    fixture.network.next(Operation::Acquire, Fault::Refuse(ErrorKind::Unavailable));
    let started = Instant::now();
    release(acquired(fixture.locker.try_acquire(NAME).await)).await;
    assert!(started.elapsed() <= ms(61), "one delay and one pause: {:?}", started.elapsed());
    assert_eq!(fixture.network.sent(Operation::Acquire), 2);
}
