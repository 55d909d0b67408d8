//! The blocking interface: the same guarantees without an async runtime.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use lock_core::{
    ErrorKind, LossReason, Registry, TryRun,
    backend::Release,
    blocking::{Guard, Locker, TryAcquire},
    faults::Faulty,
    memory::{MemoryBackend, MemoryFactory},
};

const NAME: &str = "nightly-etl";

fn locker(store: &MemoryBackend, options: &str) -> Locker {
    let registry = Registry::new().with(MemoryFactory::from(store.clone()));
    Locker::open(&registry, format!("memory:?{options}")).unwrap()
}

/// Opens a locker whose drops need a runtime: `Faulty` has no synchronous release.
fn over_a_network(store: &MemoryBackend) -> Locker {
    let backend = Arc::new(Faulty::new(store.clone()));
    Locker::open_with(async { lock_core::Locker::builder(backend).build() }).unwrap()
}

fn acquired(outcome: TryAcquire) -> Guard {
    match outcome {
        TryAcquire::Acquired(guard) => guard,
        TryAcquire::Contended(holder) => panic!("held by {holder}"),
    }
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited 20 s for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn is_free(locker: &Locker) -> bool {
    locker.block_on(locker.as_async().admin().inspect(NAME)).unwrap().unwrap().is_none()
}

#[test]
fn lock_is_renewed_while_the_caller_computes() {
    let store = MemoryBackend::new();
    let (ours, theirs) = (locker(&store, "renew=100ms"), locker(&store, ""));
    let guard = ours.acquire(NAME).unwrap();
    let first = guard.valid_until().unwrap();
    // The caller's thread does not drive a runtime here.
    until("three renewals", || guard.valid_until().unwrap().since(first) > Duration::from_millis(300));
    assert!(
        matches!(theirs.try_acquire(NAME).unwrap(), TryAcquire::Contended(holder) if holder.token == guard.token())
    );
    guard.check().unwrap();
    assert_eq!(guard.release().unwrap(), Release::Released);
    assert_eq!(acquired(theirs.try_acquire(NAME).unwrap()).release().unwrap(), Release::Released);
}

#[test]
fn waiter_on_a_thread_is_woken_by_the_release() {
    let store = MemoryBackend::new();
    let (ours, theirs) = (locker(&store, ""), locker(&store, ""));
    let guard = ours.acquire(NAME).unwrap();
    let before = guard.require_token().unwrap();
    let waiter = thread::spawn(move || acquired(theirs.acquire_within(NAME, Duration::from_secs(60)).unwrap()));
    guard.release().unwrap();
    assert!(waiter.join().unwrap().require_token().unwrap() > before);
}

#[test]
fn loss_wakes_a_thread_waiting_for_it() {
    let store = MemoryBackend::new();
    let locker = locker(&store, "renew=100ms");
    let guard = locker.acquire(NAME).unwrap();
    assert_eq!(guard.lost_within(Duration::ZERO).unwrap(), None);
    store.lose(NAME);
    let lost = guard.lost_within(Duration::from_secs(60)).unwrap().expect("the store lost the lock");
    assert_eq!(lost.reason, LossReason::RecordGone);
    assert_eq!(guard.check(), Err(lost));
    assert!(guard.loss_signal().is_lost());
    assert_eq!(guard.release().unwrap(), Release::NotHeld(None));
}

#[test]
fn dropped_guard_is_released_by_the_renewal_thread() {
    let store = MemoryBackend::new();
    let (ours, theirs) = (over_a_network(&store), locker(&store, ""));
    drop(ours.acquire(NAME).unwrap());
    until("the release", || is_free(&theirs));
    assert!(ours.wait_idle(Duration::from_secs(60)).unwrap());
}

#[test]
fn guard_dropped_after_its_locker_is_released() {
    let store = MemoryBackend::new();
    let (ours, theirs) = (over_a_network(&store), locker(&store, ""));
    let guard = ours.acquire(NAME).unwrap();
    drop(ours);
    assert!(!is_free(&theirs), "a guard still holds the lock after its locker was dropped");
    drop(guard);
    until("the release", || is_free(&theirs));
}

#[test]
fn threads_run_their_work_one_at_a_time() {
    let store = MemoryBackend::new();
    let counter = std::sync::Mutex::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            let locker = locker(&store, "");
            let counter = &counter;
            scope.spawn(move || {
                for _ in 0..20 {
                    let guard = locker.acquire(NAME).unwrap();
                    *counter.try_lock().expect("one thread at a time") += 1;
                    guard.release().unwrap();
                }
            });
        }
    });
    assert_eq!(*counter.lock().unwrap(), 80);
}

#[test]
fn try_run_runs_skips_and_reports_a_loss() {
    let store = MemoryBackend::new();
    let (ours, theirs) = (locker(&store, ""), locker(&store, ""));
    assert_eq!(ours.try_run(NAME, |guard| guard.token().is_some()).unwrap(), TryRun::Ran(true));
    let guard = theirs.acquire(NAME).unwrap();
    let TryRun::Skipped(holder) = ours.try_run(NAME, Guard::token).unwrap() else { panic!("ran under a held lock") };
    assert_eq!(holder.token, guard.token());
    guard.release().unwrap();
    let error = ours
        .lock(NAME)
        .ttl(Duration::from_millis(300))
        .try_run(|guard| {
            store.lose(NAME);
            guard.lost_within(Duration::from_secs(60)).unwrap();
        })
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost);
}

#[test]
fn blocking_call_from_async_code_is_an_error() {
    let store = MemoryBackend::new();
    let locker = locker(&store, "");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let error = runtime.block_on(async { locker.try_acquire(NAME).unwrap_err() });
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("spawn_blocking"), "{error}");
}

#[test]
fn invalid_name_is_refused_with_the_reason() {
    let locker = locker(&MemoryBackend::new(), "");
    let error = locker.try_acquire("").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("must not be empty"), "{error}");
}
