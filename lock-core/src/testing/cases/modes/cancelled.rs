//! Cases of shared locks and permits whose futures are dropped at any await point.

use std::{pin::pin, time::Duration};

use futures_util::poll;

use super::{joinable, reader, renewed};
use crate::{
    testing::{
        cases::drops::{POLLS, cancel_renewals, polled, rounds},
        faults::Fault,
        harness::{Bench, Fixture, free_soon, granted, granted_soon, release},
    },
    types::Operation,
};

// verifies: P12, cancelled
pub(in crate::testing::cases) async fn a_cancelled_wait_of_a_writer_lets_readers_in(bench: &Bench<'_>) {
    let (fixture, other) = (Fixture::new(bench).await, bench.client().await);
    // The last number is enough for the answer to the first attempt.
    for polls in [1, 2, 3, 5, 20] {
        let name = bench.name("cancelled-wait");
        let (reading, _) = granted(&*other, &reader(bench, &name)).await;
        {
            let mut wait = pin!(fixture.locker.lock(name.as_str()).acquire());
            for _ in 0..polls {
                assert!(poll!(wait.as_mut()).is_pending(), "a reader holds the lock");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        granted_soon(&other, &reader(bench, &name)).await;
        release(&*other, &reading).await;
    }
    assert!(fixture.network.sent(Operation::Acquire) > 0);
}

// verifies: P5, P10, cancelled, P12
pub(in crate::testing::cases) async fn a_cancelled_acquire_of_any_mode_leaves_no_part(bench: &Bench<'_>) {
    for mode in joinable(&*bench.client().await) {
        let fixture = Fixture::new(bench).await;
        let other = bench.client().await;
        for fault in [Fault::DelayRequest(Duration::from_millis(40)), Fault::DelayReply(Duration::from_millis(40))] {
            let mut done = false;
            for polls in 1..100 {
                let name = bench.name("cancelled");
                fixture.network.next(Operation::Acquire, fault);
                {
                    let mut acquiring = pin!(fixture.locker.lock(name.as_str()).mode(mode).try_acquire());
                    for _ in 0..polls {
                        done = poll!(acquiring.as_mut()).is_ready();
                        if done {
                            break;
                        }
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
                granted_soon(&other, &bench.request(&name)).await;
                if done {
                    break;
                }
            }
            assert!(done, "the attempt for a {mode} lock never completes");
        }
    }
}

// verifies: P5, cancelled, P12
pub(in crate::testing::cases) async fn a_cancelled_wait_of_any_mode_leaves_no_part(bench: &Bench<'_>) {
    let (fixture, other) = (Fixture::new(bench).await, bench.client().await);
    for mode in joinable(&*other) {
        for times in 1..POLLS / 4 {
            let name = bench.name(&times.to_string());
            let (held, _) = granted(&*other, &bench.request(&name)).await;
            let waiting = fixture.locker.lock(name.as_str()).mode(mode).acquire();
            assert!(!polled(times, waiting).await, "another client holds the lock");
            release(&*other, &held).await;
            free_soon(bench, &*other, &name).await;
        }
    }
}

// verifies: P5, cancelled, P12
pub(in crate::testing::cases) async fn a_cancelled_release_of_any_mode_frees_its_part(bench: &Bench<'_>) {
    let (fixture, other) = (Fixture::new(bench).await, bench.client().await);
    for mode in joinable(&*other) {
        let mut done = false;
        for times in rounds() {
            let name = bench.name(&times.to_string());
            let (staying, _) = granted(&*other, &bench.request(&name).with_mode(mode)).await;
            done = polled(times, fixture.acquired_in(&name, mode).await.release()).await;
            renewed(&*other, &staying).await;
            release(&*other, &staying).await;
            free_soon(bench, &*other, &name).await;
            if done {
                break;
            }
        }
        assert!(done, "the release of the {mode} lock never completes");
    }
}

// verifies: P5, cancelled, P12
pub(in crate::testing::cases) async fn a_cancelled_renewal_of_any_mode_keeps_its_part(bench: &Bench<'_>) {
    for mode in joinable(&*bench.client().await) {
        cancel_renewals(bench, mode).await;
    }
}
