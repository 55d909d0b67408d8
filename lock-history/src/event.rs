//! The events that workers record.

use std::{sync::Arc, time::Duration};

/// One event of one worker for one lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The time on the clock of this history.
    pub at: Duration,
    /// The worker. It does one thing at a time, and its number is never reused for another process.
    pub worker: u64,
    /// The name of the lock.
    pub name: Arc<str>,
    /// The kind of event.
    pub kind: EventKind,
}

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// By one holder.
    #[default]
    Exclusive,
    /// By any number of holders, and none of another mode.
    Shared,
    /// By at most this many holders, and none of another mode or number.
    Permit {
        /// The number of permits.
        of: u16,
    },
}

/// The kind of an [`Event`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// The worker began an attempt to acquire the lock.
    Attempt {
        /// The owner's name as other clients read it, if each attempt has its own.
        owner: Option<String>,
    },
    /// The store answered that another client holds the lock. The attempt continues.
    Refused {
        /// The holder, according to the store.
        owner: Option<String>,
    },
    /// The store keeps a place in its queue for the attempt.
    Queued {
        /// The number of the place, which no other place of this history has.
        place: u64,
        /// How the lock is to be held.
        mode: Mode,
        /// The end of the place if the attempt is not repeated. The place ends now if that has
        /// passed.
        until: Duration,
    },
    /// The attempt ended without the lock.
    GaveUp,
    /// The attempt ended with a guard that reports itself valid.
    Granted {
        /// The fencing token.
        token: Option<u64>,
        /// The end of the validity if it is not renewed; `None` if it has no end.
        until: Option<Duration>,
        /// How the lock is held.
        mode: Mode,
    },
    /// The guard still reported itself valid.
    Valid {
        /// As in [`EventKind::Granted`].
        until: Option<Duration>,
    },
    /// The guard reported itself lost.
    Lost {
        /// `true` if the store reported the loss, at some time since the guard last reported itself
        /// valid. `false` if the guard's own timer expired.
        told: bool,
    },
    /// The worker began to release the lock.
    Released,
    /// The worker was killed.
    Died,
    /// The worker was stopped, or was cut off from the store, so it does not count as a waiter.
    Stopped,
    /// The worker runs again and can reach the store.
    Resumed,
    /// The protected resource accepted a write.
    Accepted {
        /// The token of the write.
        token: u64,
    },
    /// The protected resource refused a write.
    Rejected {
        /// The token of the write.
        token: u64,
    },
}
