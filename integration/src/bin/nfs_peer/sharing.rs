//! Tasks that hand a lock over among themselves.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lock_core::{Guard, Locker};
use test_support::monotonic_nanos;

use crate::{Kept, keep, say};

/// How many tasks share a lock. More than one waits at each release.
const TASKS: usize = 8;
const HELD_FOR: Duration = Duration::from_millis(2);

#[derive(Debug, Clone, Default)]
pub(crate) struct Sharing {
    /// The largest token of this process.
    last: Arc<AtomicU64>,
    /// What the next task that gets the lock from another one keeps it for.
    kept: Arc<Mutex<Option<Kept>>>,
}

impl Sharing {
    pub(crate) fn start(&self, locker: &Locker, name: &str) {
        for _ in 0..TASKS {
            tokio::spawn(self.clone().acquire_and_release(locker.clone(), name.to_owned()));
        }
    }

    /// Lets the next task that gets the lock from another one keep it.
    pub(crate) fn keep_next(&self, kept: Kept) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
    }

    async fn acquire_and_release(self, locker: Locker, name: String) {
        loop {
            let guard = match locker.acquire(name.as_str()).await {
                Ok(guard) => guard,
                Err(error) => return say("error", &name, &[&error.to_string()]),
            };
            let token = guard.token().map_or(0, |token| token.get());
            // Grants of the store are more than a microsecond apart.
            let handed_over = self.last.swap(token, Ordering::Relaxed) + 1 == token;
            if let Some(kept) = self.kept_from(handed_over) {
                return keep(guard, &name, kept).await;
            }
            if let Some((from, to)) = work(&guard).await {
                say("cycle", &name, &[&token.to_string(), &from.to_string(), &to.to_string()]);
            }
            if let Err(error) = guard.release().await {
                return say("error", &name, &[&error.to_string()]);
            }
        }
    }

    fn kept_from(&self, handed_over: bool) -> Option<Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).take_if(|_| handed_over)
    }
}

/// Returns the first and the last moment at which the lock was surely held.
async fn work(guard: &Guard) -> Option<(i64, i64)> {
    // A check shows that the lock is held after the look at the clock.
    let held_at = || {
        let now = monotonic_nanos();
        guard.check().is_ok().then_some(now)
    };
    let from = held_at()?;
    tokio::time::sleep(HELD_FOR).await;
    Some((from, held_at().unwrap_or(from)))
}
