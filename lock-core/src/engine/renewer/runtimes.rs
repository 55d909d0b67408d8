//! The runtimes on which holds were acquired.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::runtime::{Handle, Id};

/// At this number of runtimes, the ended ones are looked for first.
const MANY: usize = 8;

/// The runtimes on which holds were acquired. When one ends, and the renewal task with it, the task
/// starts on another one.
#[derive(Debug, Default)]
pub(super) struct Runtimes {
    known: Vec<Handle>,
    /// How many were left when the ended ones were removed.
    left: usize,
}

impl Runtimes {
    pub(super) fn note(&mut self, runtime: &Handle) {
        if self.known.iter().any(|known| known.id() == runtime.id()) {
            return;
        }
        // The handle of an ended runtime keeps its descriptors open. A program may hold one lock
        // for days, and acquire others on a new runtime each time.
        if self.known.len() >= MANY.max(2 * self.left) {
            self.known.retain(|known| !has_ended(known));
            self.left = self.known.len();
        }
        self.known.push(runtime.clone());
    }

    pub(super) fn last(&self) -> Option<&Handle> {
        self.known.last()
    }

    pub(super) fn remove(&mut self, runtime: Id) {
        self.known.retain(|known| known.id() != runtime);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// A runtime that has ended drops a new task at once, without a poll.
fn has_ended(runtime: &Handle) -> bool {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    let (polled, dropped) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (runs, ends) = (Arc::clone(&polled), Dropped(Arc::clone(&dropped)));
    runtime.spawn(async move {
        runs.store(true, Ordering::Release);
        drop(ends);
    });
    dropped.load(Ordering::Acquire) && !polled.load(Ordering::Acquire)
}

#[cfg(test)]
mod tests {
    use tokio::runtime::{Builder, Runtime};

    use super::*;

    fn current_thread() -> Runtime {
        Builder::new_current_thread().build().unwrap()
    }

    fn multi_thread() -> Runtime {
        Builder::new_multi_thread().worker_threads(1).build().unwrap()
    }

    #[test]
    fn ended_runtimes_are_forgotten_and_others_are_kept() {
        for new in [current_thread, multi_thread] {
            let mut runtimes = Runtimes::default();
            let living: Vec<_> = (0..2 * MANY).map(|_| new()).collect();
            for runtime in &living {
                runtimes.note(runtime.handle());
            }
            for _ in 0..10 * MANY {
                let ended = new();
                runtimes.note(ended.handle());
                assert_eq!(runtimes.last().unwrap().id(), ended.handle().id());
            }
            assert!(runtimes.known.len() <= 4 * MANY, "{} runtimes", runtimes.known.len());
            let is_known = |runtime: &Runtime| runtimes.known.iter().any(|known| known.id() == runtime.handle().id());
            assert!(living.iter().all(is_known));
        }
    }
}
