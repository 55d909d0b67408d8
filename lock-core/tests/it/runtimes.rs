//! Ended runtimes, several runtimes, and panics in backends: no guard leaks, no waiter hangs.

use crate::fixture::*;
use futures_util::FutureExt;
use lock_core::{Guard, LossReason, Operation, Renew, faults::Fault};
use tokio::{
    runtime::{Builder, Runtime},
    time::sleep,
};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// Returns a guard whose runtime ended after `after`, and its fixture.
fn orphan(fixture: impl FnOnce() -> Fixture, after: std::time::Duration) -> (Guard, Fixture) {
    runtime().block_on(async {
        let fixture = fixture();
        let guard = fixture.guard().await;
        sleep(after).await;
        (guard, fixture)
    })
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_one_renewal_affects_no_other() {
    let fixture = Fixture::new();
    let guards = [fixture.guard().await, acquired(fixture.locker.try_acquire("another").await)];
    fixture.network.next(Operation::Renew, Fault::Panic);
    sleep(3 * TTL).await;
    for guard in guards {
        guard.check().unwrap();
        release(guard).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_an_acquire_leaves_no_lock() {
    let fixture = Fixture::new();
    fixture.network.next(Operation::Acquire, Fault::Panic);
    let locker = fixture.locker.clone();
    assert!(tokio::spawn(async move { locker.acquire(NAME).await.map(drop) }).await.unwrap_err().is_panic());
    assert!(fixture.freed_after().await < secs(1));
    release(fixture.locker.acquire(NAME).await.unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn a_panicked_release_is_retried_in_the_background() {
    let fixture = Fixture::new();
    let guard = fixture.guard().await;
    fixture.network.next(Operation::Release, Fault::Panic);
    assert!(tokio::spawn(guard.release()).await.unwrap_err().is_panic());
    assert!(fixture.freed_after().await < secs(1));
    release(fixture.locker.acquire(NAME).await.unwrap()).await;
}

#[test]
fn a_waiter_outlasts_a_guard_of_an_ended_runtime() {
    let (guard, fixture) = orphan(|| Fixture::with(|b| b.renew(Renew::Manual)), secs(0));
    runtime().block_on(async {
        let next = tokio::time::timeout(2 * TTL, fixture.locker.acquire(NAME)).await.expect("the guard's lease ends");
        guard.check().unwrap_err();
        release(next.unwrap()).await;
    });
}

#[test]
fn the_next_runtime_resends_an_interrupted_renewal() {
    let hung = || {
        let fixture = Fixture::new();
        fixture.network.next(Operation::Renew, Fault::LoseRequest);
        fixture
    };
    let (guard, fixture) = orphan(hung, secs(11));
    assert_eq!(fixture.network.sent(Operation::Renew), 1);
    runtime().block_on(async {
        let other = acquired(fixture.locker.try_acquire("another").await);
        sleep(3 * TTL).await;
        guard.check().unwrap();
        release(guard).await;
        release(other).await;
    });
}

#[test]
fn guards_outlive_another_runtime_that_renewed_them() {
    let fixture = runtime().block_on(async { Fixture::new() });
    let first = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let second = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let short = |name: &str| fixture.locker.lock(name).ttl(secs(4)).try_acquire();
    let guards = [first.block_on(short("first")), second.block_on(short("second"))].map(acquired);
    drop(first);
    second.block_on(async {
        // Renewed beyond the last lease that the first runtime may have extended.
        let over = guards.each_ref().map(|guard| guard.expires_at().unwrap() + secs(4));
        while guards.iter().zip(&over).any(|(guard, over)| guard.expires_at().unwrap() < *over) {
            guards.iter().for_each(|guard| guard.check().unwrap());
            sleep(ms(5)).await;
        }
    });
}

/// Returns a guard on `second` to which one on `first` has handed its lock over, and the fixture.
fn handed_over_between(first: &Runtime, second: &Runtime) -> (Guard, Fixture) {
    let fixture = first.block_on(async { Fixture::with(|builder| builder.hand_over(9).ttl(secs(4))) });
    let acquire = || Box::pin(fixture.locker.lock(NAME).acquire());
    let holder = first.block_on(acquire()).unwrap();
    // The second grant reserves tokens for a waiter, and the third guard has it without a request.
    let mut waiters = [acquire(), acquire()];
    for (waiter, runtime) in waiters.iter_mut().zip([first, second]) {
        runtime.block_on(async { assert!(waiter.now_or_never().is_none(), "the lock is held") });
    }
    let [next, last] = waiters;
    first.block_on(async {
        release(holder).await;
        release(next.await.unwrap()).await;
    });
    let guard = second.block_on(last).unwrap();
    assert_eq!(fixture.network.sent(Operation::Acquire), 2, "handed over");
    (guard, fixture)
}

#[test]
fn a_lock_handed_over_outlives_the_runtime_before() {
    let [first, second] = [(); 2].map(|()| Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap());
    let (guard, _fixture) = handed_over_between(&first, &second);
    drop(first);
    second.block_on(async {
        // Renewed beyond the last lease that the first runtime may have extended.
        let over = guard.expires_at().unwrap() + secs(4);
        while guard.expires_at().unwrap() < over {
            guard.check().unwrap();
            sleep(ms(5)).await;
        }
        release(guard).await;
    });
}

#[test]
fn a_guard_of_an_ended_runtime_reports_expiry() {
    let (guard, fixture) = orphan(|| Fixture::with(|b| b.renew(Renew::Manual)), secs(3));
    fixture.clock.suspend(VALID);
    assert_eq!(guard.check().unwrap_err().reason, LossReason::Expired);
}

#[tokio::test(start_paused = true)]
async fn the_renewer_ends_when_no_lease_remains() {
    let fixture = Fixture::new();
    let guard = fixture.guard().await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks(), 1);
    release(guard).await;
    sleep(secs(2)).await;
    assert_eq!(tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_renewer_task_serves_consecutive_locks() {
    let fixture = Fixture::new();
    for _ in 0..5 {
        release(fixture.guard().await).await;
        sleep(ms(10)).await;
        assert_eq!(
            tokio::runtime::Handle::current().metrics().num_alive_tasks(),
            1,
            "the renewer waits for the next lock"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_guard_dropped_on_a_plain_thread_is_released() {
    let fixture = Fixture::new();
    let guard = fixture.guard().await;
    std::thread::spawn(move || drop(guard)).join().unwrap();
    assert!(fixture.freed_after().await <= ms(5));
}

#[test]
fn a_guard_on_another_runtime_detects_a_suspension() {
    let (guard, fixture) = orphan(|| Fixture::with(|b| b.renew(Renew::Manual)), secs(0));
    runtime().block_on(async {
        let suspend = async {
            sleep(ms(100)).await;
            fixture.clock.suspend(secs(60));
        };
        let (lost, ()) = tokio::join!(tokio::time::timeout(secs(2), guard.lost()), suspend);
        lost.expect("the clocks are read once a second");
    });
}

#[test]
fn a_waiter_that_was_first_outlasts_a_guard_of_an_ended_runtime() {
    let (first, second) = (runtime(), runtime());
    let fixture = first.block_on(async { Fixture::with(|b| b.renew(Renew::Manual)) });
    let guard = first.block_on(fixture.guard());
    let mut waiter = Box::pin(fixture.locker.lock(NAME).acquire());
    second.block_on(async { assert!((&mut waiter).now_or_never().is_none(), "the lock is held") });
    drop(first);
    let next = second.block_on(async { tokio::time::timeout(2 * TTL, waiter).await.expect("the guard's lease ends") });
    guard.check().unwrap_err();
    second.block_on(release(next.unwrap()));
}

#[test]
fn a_waiter_outlasts_a_runtime_that_ends_during_its_delay() {
    let (first, second) = (runtime(), runtime());
    let fixture = first.block_on(async { Fixture::with(|b| b.renew(Renew::Manual)) });
    let guard = first.block_on(fixture.guard());
    // It has found that the renewal task runs, and does not wait for its turn yet.
    let mut waiter = Box::pin(fixture.locker.lock(NAME).spread(secs(1)).acquire());
    second.block_on(async { assert!((&mut waiter).now_or_never().is_none(), "it is delayed") });
    drop(first);
    let next = second.block_on(async { tokio::time::timeout(2 * TTL, waiter).await.expect("the guard's lease ends") });
    guard.check().unwrap_err();
    second.block_on(release(next.unwrap()));
}

#[test]
fn a_waiter_outlasts_a_guard_after_a_time_without_leases() {
    let (first, second) = (runtime(), runtime());
    let fixture = first.block_on(async { Fixture::with(|b| b.renew(Renew::Manual)) });
    let other = first.block_on(fixture.other().acquire(NAME)).unwrap();
    let mut waiters = [(); 2].map(|()| Box::pin(fixture.locker.lock(NAME).acquire()));
    for (waiter, runtime) in waiters.iter_mut().zip([&first, &second]) {
        runtime.block_on(async { assert!(waiter.now_or_never().is_none(), "the lock is held") });
    }
    let [next, last] = waiters;
    let guard = first.block_on(async {
        release(acquired(fixture.locker.try_acquire("another").await)).await;
        // The renewal task ends, because this process holds no lease.
        sleep(secs(5)).await;
        let (released, next) = tokio::join!(other.release(), next);
        released.unwrap();
        next.unwrap()
    });
    drop(first);
    let last = second.block_on(async { tokio::time::timeout(2 * TTL, last).await.expect("the guard's lease ends") });
    guard.check().unwrap_err();
    second.block_on(release(last.unwrap()));
}
