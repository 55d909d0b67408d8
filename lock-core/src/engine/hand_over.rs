//! Hands a lease over from a guard to the next waiter of this process, without a request to the
//! store: lock cohorting (Dice, Marathe and Shavit, "Lock cohorting", 2012).
//!
//! The releasing guard leaves the lease in the queue, together with its turn, and does not wait.
//! A lease in the queue is released if no waiter takes it: if the last waiter leaves, or the next
//! one is not polled.

use std::{sync::Arc, time::Duration};

use crate::{
    backend::AcquireRequest,
    engine::{
        hold::{LeaseState, Next},
        queue::Turn,
        renewer::Renewer,
        shared::Shared,
    },
    types::ClockReading,
};

/// The longest time until the next waiter of this process takes a lock that is handed over, or its
/// release. A waiter whose future is not polled must not keep the lock from other processes. Long
/// against the time that a busy runtime needs to poll it.
pub(crate) const TAKEN_WITHIN: Duration = Duration::from_millis(100);

/// The hand-overs that a grant of the store allows.
#[derive(Debug, Clone)]
pub(crate) struct HandOvers {
    /// The request that the store granted. The store shows its owner and its data.
    pub(crate) request: Arc<AcquireRequest>,
    pub(crate) left: u32,
    /// The earliest send that may have been granted.
    pub(crate) granted: ClockReading,
}

impl HandOvers {
    /// Returns `true` if the store shows of this lease what it would show of `next`.
    pub(crate) fn serve(&self, next: &Next<'_>) -> bool {
        let request = &self.request;
        request.mode == next.mode && request.owner == next.owner && request.data.as_deref() == next.data
    }
}

/// A lease in the queue, between two guards. Its drop releases the lease in the background.
#[derive(Debug)]
pub(crate) struct QueuedLease {
    /// `None` once a waiter has taken it.
    hold: Option<Arc<LeaseState>>,
    shared: Arc<Shared>,
    /// The time at which the previous guard left it.
    left: ClockReading,
}

impl QueuedLease {
    pub(crate) fn new(hold: &Arc<LeaseState>, shared: &Arc<Shared>, left: ClockReading) -> Self {
        Self { hold: Some(Arc::clone(hold)), shared: Arc::clone(shared), left }
    }

    pub(crate) fn hold(&self) -> Option<&Arc<LeaseState>> {
        self.hold.as_ref()
    }

    /// Takes the lease. The caller is responsible for it from now on.
    pub(crate) fn take(mut self) -> Option<Arc<LeaseState>> {
        self.hold.take()
    }

    pub(crate) fn renewer(&self) -> Arc<Renewer> {
        Arc::clone(&self.shared.renewer)
    }

    /// Returns the rest of the time in which a waiter has to take the lease.
    pub(crate) fn time_left(&self) -> Duration {
        TAKEN_WITHIN.saturating_sub(self.shared.clock.now().since(self.left))
    }

    /// Releases the lease in the background, together with its turn if no waiter has that turn.
    pub(crate) fn give_back(mut self, turn: Option<Turn>) {
        self.release(turn);
    }

    fn release(&mut self, turn: Option<Turn>) {
        let Some(hold) = self.hold.take() else { return };
        if !self.shared.process.is_current() {
            // The lease is the parent's, and so are the task and the connection that would end it.
            return std::mem::forget((hold, turn, Arc::clone(&self.shared)));
        }
        tracing::debug!(name = %hold.lease.name, "no waiter has taken the lock; releasing it");
        hold.keep_turn(turn);
        // No guard was dropped, so none is counted.
        self.shared.release_in_background(&hold, self.left, true, |_, _| ());
    }
}

impl Drop for QueuedLease {
    fn drop(&mut self) {
        self.release(None);
    }
}
