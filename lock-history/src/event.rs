//! What a worker notes.

use std::{sync::Arc, time::Duration};

/// One thing that one worker did with one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When, on the clock of this history.
    pub at: Duration,
    /// Who: does one thing at a time, and is never reused for another process.
    pub worker: u64,
    /// Which lock.
    pub name: Arc<str>,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// The worker began to ask for the lock, under this owner's name if each attempt has its own.
    Attempt {
        /// As others would read it.
        owner: Option<String>,
    },
    /// The store said that somebody else holds the lock; the attempt goes on.
    Refused {
        /// Who, as the store said.
        owner: Option<String>,
    },
    /// The attempt ended without the lock.
    GaveUp,
    /// The attempt ended with a guard that calls itself valid.
    Granted {
        /// The fencing token.
        token: Option<u64>,
        /// Until when it will call itself valid if nothing else happens; `None` until it ends.
        until: Option<Duration>,
    },
    /// The guard still called itself valid.
    Valid {
        /// As in [`EventKind::Granted`].
        until: Option<Duration>,
    },
    /// The guard called itself lost.
    Lost {
        /// The store had said so, at some time since the guard last called itself valid. Otherwise
        /// its own timer had run out, when it was to.
        told: bool,
    },
    /// The worker began to give the lock back.
    Released,
    /// The worker was killed.
    Died,
    /// The worker stopped to run, or was cut off from the store: it is not waited for.
    Stopped,
    /// The worker runs and reaches the store again.
    Resumed,
    /// The protected resource took a write.
    Accepted {
        /// Which came with this token.
        token: u64,
    },
    /// The protected resource refused a write.
    Rejected {
        /// Which came with this token.
        token: u64,
    },
}
