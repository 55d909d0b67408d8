//! Hands a lease over from a guard to the next waiter of this process, without a request to the
//! store: lock cohorting (Dice, Marathe and Shavit, "Lock cohorting", 2012).
//!
//! The releasing guard offers the lease together with its turn in the queue. It stays responsible
//! for the lease until a waiter has taken it, and releases a lease that no waiter takes.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

use crate::{
    backend::AcquireRequest,
    engine::timing::Timing,
    mutex::Mutex,
    types::{ClockReading, FencingToken, Lease},
};

/// The hand-overs that a grant of the store allows.
#[derive(Debug, Clone)]
pub(crate) struct HandOvers {
    /// The request that the store granted. The store shows its owner and its data.
    pub(crate) request: Arc<AcquireRequest>,
    pub(crate) left: u32,
    /// The earliest send that may have been granted.
    pub(crate) granted: ClockReading,
}

/// A lease between two guards.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) lease: Lease,
    /// The fencing token of the next guard.
    pub(crate) token: Option<FencingToken>,
    pub(crate) timing: Timing,
    /// The start of the validity, and its length.
    pub(crate) confirmed: ClockReading,
    pub(crate) valid_for: Option<Duration>,
    pub(crate) hand_overs: HandOvers,
}

impl Parcel {
    /// Returns `true` if the store shows of this lease what it would show of `request`, and keeps
    /// the lease as long.
    pub(crate) fn serves(&self, request: &AcquireRequest, timing: Timing) -> bool {
        let granted = &self.hand_overs.request;
        let shown = |r: &AcquireRequest| (r.mode, r.ttl);
        shown(granted) == shown(request)
            && granted.owner == request.owner
            && granted.data == request.data
            && self.timing == timing
    }
}

/// A lease that its guard offers to the next waiter.
#[derive(Debug)]
pub(crate) struct Offer {
    /// `None` once a waiter has taken it, or its guard has taken it back.
    parcel: Mutex<Option<Parcel>>,
    /// Notified when a waiter has taken the lease, and when one has left the queue.
    pub(crate) changed: Notify,
}

impl Offer {
    pub(crate) fn new(parcel: Parcel) -> Arc<Self> {
        Arc::new(Self { parcel: Mutex::new(Some(parcel)), changed: Notify::new() })
    }

    /// Takes the lease, for a waiter or back for its guard. Only the first caller gets it.
    pub(crate) fn take(&self) -> Option<Parcel> {
        let parcel = self.parcel.lock().take();
        self.changed.notify_one();
        parcel
    }

    pub(crate) fn is_taken(&self) -> bool {
        self.parcel.lock().is_none()
    }
}
