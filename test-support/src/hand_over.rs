//! Two processes whose tasks hand one lock over among themselves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use lock_core::Locker;

/// The tasks of each process.
const TASKS: u64 = 8;
/// How often each task acquires the lock.
const ROUNDS: u64 = 30;

/// Lets the tasks of two lockers with `hand_over` acquire one lock. The lockers share nothing but
/// their store.
///
/// # Panics
/// If two tasks hold the lock at once, if the tokens do not rise, or if few locks are handed over.
pub async fn assert_two_lockers_exclude_each_other(lockers: [Locker; 2]) {
    let [inside, last, handed_over] = [(); 3].map(|()| Arc::new(AtomicU64::new(0)));
    let mut tasks = Vec::new();
    for locker in lockers.iter().flat_map(|locker| (0..TASKS).map(|_| locker.clone())) {
        let [inside, last, handed_over] = [&inside, &last, &handed_over].map(Arc::clone);
        tasks.push(tokio::spawn(async move {
            for _ in 0..ROUNDS {
                let guard = locker.acquire("shared").await.unwrap();
                assert_eq!(inside.fetch_add(1, SeqCst), 0, "two tasks hold the lock");
                let token = guard.token().expect("a store that hands over has tokens").get();
                let before = last.swap(token, SeqCst);
                assert!(before < token, "{token} after {before}");
                // Grants of the store are more than a microsecond apart.
                handed_over.fetch_add(u64::from(before + 1 == token), SeqCst);
                tokio::time::sleep(Duration::from_millis(1)).await;
                inside.fetch_sub(1, SeqCst);
                guard.release().await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.expect("no task panics");
    }
    let handed_over = handed_over.load(SeqCst);
    assert!(handed_over > TASKS * ROUNDS / 2, "only {handed_over} were handed over");
}
