//! Locks that pass from task to task of one process.

use std::{fs, path::Path, sync::Arc, time::Duration};

use lock_core::{Error, Guard, Locker, LossReason, Release, TryAcquire};
use lock_efs::FileBackend;
use test_support::{fork::forked, hand_over::assert_two_lockers_exclude_each_other};

use crate::fixture::name;

fn locker(directory: &Path) -> Locker {
    Locker::builder(Arc::new(FileBackend::open(directory).unwrap())).hand_over(3).build().unwrap()
}

/// Lets `waiter` take its place.
async fn wait_behind(waiter: &mut (impl Future<Output = Result<Guard, Error>> + Unpin)) {
    tokio::select! {
        biased;
        _ = waiter => panic!("the lock is held"),
        () = std::future::ready(()) => {}
    }
}

/// Returns a guard that has the lock from another one, without a request.
async fn handed_over(locker: &Locker) -> Guard {
    let first = locker.acquire("etl").await.unwrap();
    let (mut second, mut third) = (Box::pin(locker.acquire("etl")), Box::pin(locker.acquire("etl")));
    wait_behind(&mut second).await;
    wait_behind(&mut third).await;
    first.release().await.unwrap();
    let second = second.await.unwrap();
    let before = second.token().unwrap().get();
    let (released, third) = tokio::join!(second.release(), third);
    assert_eq!(released.unwrap(), Release::Released);
    let third = third.unwrap();
    assert_eq!(third.token().unwrap().get(), before + 1, "the lock was handed over");
    third
}

#[tokio::test]
// verifies: P1, P7
async fn two_processes_that_hand_over_exclude_each_other() {
    let dir = tempfile::tempdir().unwrap();
    assert_two_lockers_exclude_each_other([locker(dir.path()), locker(dir.path())]).await;
}

#[tokio::test]
// verifies: P3
async fn the_guard_that_has_the_lock_now_is_told_of_its_loss() {
    let dir = tempfile::tempdir().unwrap();
    let locker = locker(dir.path());
    let guard = handed_over(&locker).await;
    fs::remove_file(FileBackend::open(dir.path()).unwrap().lock_path(&name("etl"))).unwrap();
    let lost = tokio::time::timeout(Duration::from_secs(60), guard.lost()).await.expect("the loss is told");
    assert!(matches!(lost.reason, LossReason::FileLock(_)), "{lost}");
    assert!(matches!(guard.release().await, Ok(Release::NotHeld(_))));
}

#[tokio::test]
// verifies: forked
async fn a_child_leaves_a_lock_that_was_handed_over() {
    let dir = tempfile::tempdir().unwrap();
    let locker = locker(dir.path());
    let guard = handed_over(&locker).await;
    let other = Locker::new(FileBackend::open(dir.path()).unwrap()).unwrap();
    let (guard, reason) = forked(guard, |guard| {
        let lost = guard.check().expect_err("the child does not hold the lock");
        drop(guard);
        format!("{:?}", lost.reason)
    });
    assert_eq!(reason, format!("{:?}", LossReason::Forked { parent: std::process::id() }));
    guard.check().unwrap();
    assert!(matches!(other.try_acquire("etl").await.unwrap(), TryAcquire::Contended(_)));
    assert_eq!(guard.release().await.unwrap(), Release::Released);
    assert!(matches!(other.try_acquire("etl").await.unwrap(), TryAcquire::Acquired(_)));
}
