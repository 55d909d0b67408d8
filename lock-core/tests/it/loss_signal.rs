//! P3: a loss signal tells other tasks and threads when the guard is lost or ends.

use std::time::Duration;

use crate::fixture::*;
use lock_core::{ErrorKind, FencingToken, LossReason, Operation, faults::Fault};

#[tokio::test(start_paused = true)]
async fn signal_moves_to_another_task_and_fires_on_loss() {
    let fixture = Fixture::new();
    let guard = fixture.guard().await;
    let signal = guard.loss_signal();
    let task = tokio::spawn({
        let signal = signal.clone();
        async move { signal.lost().await }
    });
    fixture.store.lose(NAME);
    let lost = task.await.unwrap();
    assert_eq!(lost, guard.lost().await, "the signal and the guard report different losses");
    assert_eq!((lost.name.as_str(), lost.token), (NAME, guard.token()));
    assert_eq!(signal.check(), Err(lost.clone()));
    assert!(signal.is_lost());
    assert_eq!(signal.await, lost, "a signal can be awaited itself");
}

#[tokio::test(start_paused = true)]
async fn signal_fires_before_another_client_can_acquire() {
    let fixture = Fixture::new();
    let guard = fixture.guard().await;
    let signal = guard.loss_signal();
    fixture.network.always(Operation::Renew, Fault::Refuse(ErrorKind::Unavailable));
    let (fired, taken) = tokio::join!(
        async {
            signal.lost().await;
            tokio::time::Instant::now()
        },
        async {
            let _next = fixture.other().acquire(NAME).await.unwrap();
            tokio::time::Instant::now()
        }
    );
    assert!(fired < taken);
}

#[tokio::test(start_paused = true)]
async fn signal_of_a_released_or_dropped_guard_fires_with_released() {
    let fixture = Fixture::new();
    for drop_it in [false, true] {
        let guard = fixture.guard().await;
        let (signal, token) = (guard.loss_signal(), guard.token());
        assert_eq!(signal.check(), Ok(()));
        let waiting = tokio::spawn({
            let signal = signal.clone();
            async move { signal.lost().await }
        });
        // The waiter is asleep before the guard ends.
        tokio::task::yield_now().await;
        if drop_it {
            drop(guard);
        } else {
            release(guard).await;
        }
        let lost = waiting.await.unwrap();
        assert_eq!((lost.reason.clone(), lost.token), (LossReason::Released, token));
        assert_eq!(signal.check(), Err(lost));
        assert!(fixture.freed_after().await < secs(1), "a signal keeps no lock held");
    }
}

#[tokio::test(start_paused = true)]
async fn signal_keeps_the_reason_of_a_loss_before_the_release() {
    let fixture = Fixture::new();
    let guard = fixture.guard().await;
    let signal = guard.loss_signal();
    fixture.store.lose(NAME);
    let lost = guard.lost().await;
    drop(guard);
    assert_eq!(signal.lost().await, lost);
    assert_ne!(lost.reason, LossReason::Released);
    assert!(lost.token > FencingToken::new(0));
}

#[tokio::test(start_paused = true)]
async fn cancellation_token_is_cancelled_on_loss_and_on_release() {
    let fixture = Fixture::new();
    for lose in [true, false] {
        let guard = fixture.guard().await;
        let token = guard.loss_signal().cancellation_token();
        tokio::task::yield_now().await;
        assert!(!token.is_cancelled());
        if lose {
            fixture.store.lose(NAME);
        } else {
            release(guard).await;
        }
        token.cancelled().await;
    }
}

#[tokio::test(start_paused = true)]
// verifies: P3
async fn a_signal_asks_to_stop_before_the_loss_and_at_the_release() {
    let fixture = Fixture::new();
    let grace = Duration::from_secs(2);
    let guard = fixture.locker.lock(NAME).grace(grace).acquire().await.unwrap();
    let signal = guard.loss_signal();
    assert!(!signal.is_stopping() && signal.remaining() == guard.remaining());
    assert_eq!(signal.valid_until(), guard.valid_until());
    fixture.network.always(Operation::Renew, Fault::Refuse(ErrorKind::Unavailable));
    assert!(matches!(signal.stop_requested().await.reason, LossReason::Unreachable { .. }));
    assert!(signal.is_stopping() && !signal.is_lost(), "the lock is held for the grace time");
    assert!(signal.remaining() <= Some(grace));
    signal.lost().await;
    assert_eq!(signal.remaining(), Some(Duration::ZERO));

    let guard = fixture.other().lock(NAME).acquire().await.unwrap();
    let signal = guard.loss_signal();
    release(guard).await;
    assert_eq!(signal.stop_requested().await.reason, LossReason::Released);
    assert!(signal.is_stopping() && signal.remaining() == Some(Duration::ZERO));
}

/// Acquires the lock again, within the longest lease of the guard before.
async fn acquired_again(fixture: &Fixture) -> lock_core::Guard {
    let next = tokio::time::timeout(2 * TTL, fixture.locker.acquire(NAME)).await;
    next.expect("the lease has ended, and so has the turn").unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_signal_keeps_no_turn_after_a_release_that_failed() {
    for panics in [false, true] {
        let fixture = Fixture::new();
        let guard = fixture.guard().await;
        let signal = guard.loss_signal();
        if panics {
            fixture.network.next(Operation::Release, Fault::Panic);
            drop(guard);
        } else {
            fixture.network.next(Operation::Release, Fault::Refuse(ErrorKind::PermissionDenied));
            assert_eq!(guard.release().await.unwrap_err().kind(), ErrorKind::PermissionDenied);
        }
        release(acquired_again(&fixture).await).await;
        assert!(signal.is_lost());
    }
}

#[test]
fn a_signal_keeps_no_turn_after_the_end_of_a_runtime() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let first = runtime();
    let fixture = first.block_on(async { Fixture::new() });
    let signal = first.block_on(async {
        let guard = fixture.guard().await;
        let signal = guard.loss_signal();
        tokio::spawn(async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        });
        tokio::task::yield_now().await;
        signal
    });
    drop(first);
    runtime().block_on(async { release(acquired_again(&fixture).await).await });
    assert!(signal.is_lost());
}

#[cfg(feature = "tokio-util")]
#[test]
fn a_cancellation_token_is_cancelled_with_its_runtime() {
    for is_polled in [false, true] {
        let first = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (guard, token) = first.block_on(async {
            let guard = Fixture::new().guard().await;
            let token = guard.loss_signal().cancellation_token();
            if is_polled {
                tokio::task::yield_now().await;
            }
            (guard, token)
        });
        assert!(!token.is_cancelled());
        drop(first);
        assert!(token.is_cancelled(), "no task would tell of a loss; polled: {is_polled}");
        drop(guard);
    }
}
