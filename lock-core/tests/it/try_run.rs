//! `run` and `try_run`: the work runs, is skipped, or stops on loss.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::fixture::*;
use lock_core::{ErrorKind, Operation, TryRun, faults::Fault};

#[tokio::test(start_paused = true)]
async fn work_runs_under_the_lock_and_releases_it() {
    let fixture = Fixture::new();
    let ran = fixture
        .locker
        .try_run(NAME, async |guard| {
            assert!(!fixture.is_free().await);
            guard.token()
        })
        .await
        .unwrap();
    assert!(matches!(ran, TryRun::Ran(Some(_))), "{ran:?}");
    assert!(fixture.is_free().await);
}

#[tokio::test(start_paused = true)]
async fn contended_work_is_skipped_with_the_holder() {
    let fixture = Fixture::new();
    let held = acquired(fixture.other().try_acquire(NAME).await);
    let started = AtomicBool::new(false);
    let ran = fixture.locker.try_run(NAME, async |_| started.store(true, Ordering::Relaxed)).await.unwrap();
    let TryRun::Skipped(holder) = ran else { panic!("{ran:?}") };
    assert_eq!(holder.token, held.token());
    assert!(!started.load(Ordering::Relaxed));
    release(held).await;
}

#[tokio::test(start_paused = true)]
async fn work_is_dropped_when_the_lock_is_lost() {
    let fixture = Fixture::new();
    let work = fixture.locker.try_run(NAME, async |_| {
        fixture.store.lose(NAME);
        std::future::pending::<()>().await;
    });
    let error = work.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost);
    assert!(error.lost().is_some());
}

#[tokio::test(start_paused = true)]
async fn result_of_the_work_survives_a_failed_release() {
    let fixture = Fixture::new();
    let ran = fixture
        .locker
        .lock(NAME)
        .try_run(async |_| {
            for _ in 0..3 {
                fixture.network.next(Operation::Release, Fault::LoseRequest);
            }
            7
        })
        .await
        .unwrap();
    assert_eq!(ran, TryRun::Ran(7));
    assert!(fixture.freed_after().await <= TTL);
}

#[tokio::test(start_paused = true)]
async fn waiting_run_starts_after_the_release() {
    let fixture = Fixture::new();
    let held = acquired(fixture.other().try_acquire(NAME).await);
    let order = Arc::new(AtomicBool::new(false));
    let (ran, ()) = tokio::join!(fixture.locker.lock(NAME).run(async |_| order.load(Ordering::Relaxed)), async {
        tokio::time::sleep(secs(1)).await;
        order.store(true, Ordering::Relaxed);
        release(held).await;
    });
    assert!(ran.unwrap(), "the work saw what happened before the release");
}

#[tokio::test]
async fn future_can_move_to_another_thread() {
    let fixture = Fixture::new();
    let locker = fixture.locker.clone();
    let task = tokio::spawn(async move { locker.try_run(NAME, async |guard| guard.token()).await });
    assert!(matches!(task.await.unwrap().unwrap(), TryRun::Ran(Some(_))));
}
