//! Cases of the core with futures dropped at any await point and guards dropped on any thread.

use std::{pin::pin, sync::Arc, thread, time::Duration};

use futures_util::poll;

use crate::{
    Locker,
    testing::{
        TestClock,
        harness::{Bench, Fixture, acquired_in_the_end, free_soon, granted, refused, release},
    },
    types::Mode,
};

/// More polls than any of the futures needs. A future that waits for the network is polled more
/// often than it has await points.
pub(super) const POLLS: u32 = 40;

/// Returns how often each round polls its future: once more than the round before, later twice as
/// often. The last rounds are long enough for a future to complete on any machine.
pub(super) fn rounds() -> impl Iterator<Item = u32> {
    (0..POLLS).chain((0..10).map(|doubled| POLLS << doubled))
}

/// Polls `future` at most `times` times, then drops it. Returns whether it completed.
pub(super) async fn polled<T>(times: u32, future: impl Future<Output = T>) -> bool {
    let mut future = pin!(future);
    for _ in 0..times {
        if poll!(future.as_mut()).is_ready() {
            return true;
        }
        // A request to a real store takes time: each round drops it a little later.
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
    false
}

// verifies: P5, cancelled
pub(super) async fn a_cancelled_wait_leaves_no_lock_behind(bench: &Bench<'_>) {
    let (fixture, other) = (Fixture::new(bench).await, bench.client().await);
    for times in 1..POLLS / 4 {
        let name = bench.name(&times.to_string());
        let (held, _) = granted(&*other, &bench.request(&name)).await;
        assert!(!polled(times, fixture.locker.acquire(name.as_str())).await, "another client holds the lock");
        release(&*other, &held).await;
        free_soon(bench, &*other, &name).await;
    }
}

// verifies: P5, cancelled
pub(super) async fn a_cancelled_release_still_frees_the_lock(bench: &Bench<'_>) {
    let (fixture, other) = (Fixture::new(bench).await, bench.client().await);
    for times in rounds() {
        let name = bench.name(&times.to_string());
        let done = polled(times, fixture.acquired(&name).await.release()).await;
        free_soon(bench, &*other, &name).await;
        if done {
            return;
        }
    }
    panic!("the release never completes");
}

// verifies: P5, cancelled
pub(super) async fn a_cancelled_renewal_keeps_the_guard_valid(bench: &Bench<'_>) {
    cancel_renewals(bench, Mode::Exclusive).await;
}

/// Drops a renewal of this mode at each of its await points.
pub(super) async fn cancel_renewals(bench: &Bench<'_>, mode: Mode) {
    let (fixture, other) = (Fixture::new(bench).await, bench.client().await);
    for times in rounds() {
        let name = bench.name(&times.to_string());
        let guard = fixture.acquired_in(&name, mode).await;
        fixture.age();
        let done = polled(times, guard.renew_if_below(fixture.rest())).await;
        guard.check().expect("the lease is still valid without a renewal");
        refused(&*other, &bench.request(&name)).await;
        guard.renew_if_below(fixture.rest()).await.expect("the store answers");
        drop(guard);
        free_soon(bench, &*other, &name).await;
        if done {
            return;
        }
    }
    panic!("the renewal of the {mode} lock never completes");
}

// verifies: P10, dropped-guard
pub(super) async fn dropped_guards_free_their_locks_on_any_thread(bench: &Bench<'_>) {
    let (fixture, other) = (Fixture::new(bench).await, bench.client().await);
    let name = bench.name("dropped");
    drop(fixture.acquired(&name).await);
    free_soon(bench, &*other, &name).await;
    let guard = fixture.acquired(&name).await;
    // A thread without a runtime.
    thread::spawn(move || drop(guard)).join().expect("a drop never panics");
    free_soon(bench, &*other, &name).await;
}

/// The drop must neither panic nor block.
///
/// A lock that the drop could not release ends with its lease. Without a lease the lock ends
/// immediately, although other clones of the locker stay alive.
// verifies: P10, dropped-guard
pub(super) async fn dropping_at_runtime_shutdown_frees_the_lock(bench: &Bench<'_>) {
    let other = bench.client().await;
    let name = bench.name("ended");
    let alive = thread::scope(|scope| {
        let ends = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a second runtime");
            runtime.block_on(async {
                let client = bench.client().await;
                let ttl = Some(bench.subject.ttl()).filter(|_| client.capabilities().ttl);
                let locker =
                    Locker::builder(client).clock(Arc::new(TestClock::new())).build().expect("the defaults fit");
                let request = || locker.lock(name.as_str());
                let guard = acquired_in_the_end(|| match ttl {
                    Some(ttl) => request().ttl(ttl),
                    None => request(),
                })
                .await;
                let held = tokio::spawn(async move {
                    let _guard = guard;
                    std::future::pending::<()>().await;
                });
                tokio::task::yield_now().await;
                assert!(!held.is_finished());
                locker
            })
        };
        // A runtime cannot block within another.
        scope.spawn(ends).join().expect("a drop never panics")
    });
    let (next, _) = bench.granted_in_the_end(&*other, &bench.request(&name)).await;
    drop(alive);
    release(&*other, &next).await;
}
