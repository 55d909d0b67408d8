//! Counts the calls that hang.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use metrics::{Gauge, gauge};

use crate::sync;

/// The progress of a call, for counting hung calls.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    state: Arc<Mutex<CallState>>,
    store: Arc<str>,
}

#[derive(Debug)]
enum CallState {
    Queued,
    Running(Instant),
    /// Still running, but its caller no longer waits.
    Hung(Instant),
    Done,
}

impl Progress {
    pub(super) fn new(store: &Arc<str>) -> Self {
        Self { state: Arc::new(Mutex::new(CallState::Queued)), store: Arc::clone(store) }
    }

    fn hung(&self) -> Gauge {
        gauge!("onelock_file_calls_hung", "store" => Arc::clone(&self.store))
    }

    fn state(&self) -> MutexGuard<'_, CallState> {
        sync::lock(&self.state)
    }

    pub(super) fn begin(&self) {
        *self.state() = CallState::Running(Instant::now());
    }

    pub(super) fn end(&self) {
        if let CallState::Hung(since) = std::mem::replace(&mut *self.state(), CallState::Done) {
            self.hung().decrement(1.0);
            tracing::info!(after = ?since.elapsed(), "hung file-system call returned");
        }
    }
}

/// Counts the call as hung if it still runs when its caller stops waiting.
pub(super) struct WhileWaiting(pub(super) Progress);

impl Drop for WhileWaiting {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if let CallState::Running(since) = *state {
            *state = CallState::Hung(since);
            self.0.hung().increment(1.0);
            tracing::warn!(
                since = ?since.elapsed(),
                "file-system call hangs; it continues on its own thread (is the NFS server reachable?)"
            );
        }
    }
}
