//! How a lock was lost.

use std::{fmt, time::Duration};

use crate::types::{FencingToken, Holder, LockName};

/// A guard's lock is no longer valid. The work that it protected must stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the lock \"{name}\" was lost: {reason}")]
#[non_exhaustive]
pub struct Lost {
    /// Which lock.
    pub name: LockName,
    /// The token of the acquisition that was lost.
    pub token: Option<FencingToken>,
    /// Why.
    pub reason: LossReason,
}

/// Why a lock was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LossReason {
    /// The lease ran out and nobody renewed it: manual renewal came too late, or not at all.
    Expired,
    /// Somebody else holds the lock now.
    TakenBy(Box<Holder>),
    /// The store's record of this acquisition is gone, and nobody holds the lock.
    RecordGone,
    /// An operator broke the lock.
    BrokenBy(String),
    /// The store did not confirm the lease in time, since this long before the loss.
    Unreachable {
        /// Time since the last confirmed renewal.
        since: Duration,
        /// What the last attempt to renew ended in.
        last_error: String,
    },
    /// The process did not run (stopped, suspended, thawed), or its clock jumped, for this long, past the end of the lease.
    FrozenFor(Duration),
    /// The file system lost the lock, or the lock file was replaced or removed.
    FileLock(String),
    /// Held for longer than [`max_hold`](crate::LockRequest::max_hold) allows.
    MaxHold,
    /// The [`deadline`](crate::LockRequest::deadline) has come.
    Deadline,
    /// The guard released the lock or was dropped. Only a [`LossSignal`](crate::LossSignal), which may
    /// outlive its guard, gives this reason.
    Released,
}

impl LossReason {
    /// Whether it was the store that said so. Otherwise the guard ended by this machine's clocks, when it was to.
    pub fn is_from_the_store(&self) -> bool {
        !matches!(
            self,
            Self::Expired
                | Self::Unreachable { .. }
                | Self::FrozenFor(_)
                | Self::MaxHold
                | Self::Deadline
                | Self::Released
        )
    }

    /// The reason as one lower-case word, for metrics and logs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::TakenBy(_) => "taken",
            Self::RecordGone => "record_gone",
            Self::BrokenBy(_) => "broken",
            Self::Unreachable { .. } => "unreachable",
            Self::FrozenFor(_) => "frozen",
            Self::FileLock(_) => "file_lock",
            Self::MaxHold => "max_hold",
            Self::Deadline => "deadline",
            Self::Released => "released",
        }
    }
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired => write!(f, "its lease ran out without a renewal"),
            Self::TakenBy(holder) => write!(f, "taken by {holder}"),
            Self::RecordGone => write!(f, "its record in the store is gone"),
            Self::BrokenBy(who) => write!(f, "broken by {}", who.escape_debug()),
            Self::Unreachable { since, last_error } => {
                write!(f, "no renewal was confirmed for {:.1} s ({last_error})", since.as_secs_f64())
            }
            Self::FrozenFor(gap) => write!(f, "the process did not run for {:.1} s", gap.as_secs_f64()),
            Self::FileLock(what) => write!(f, "{what}"),
            Self::MaxHold => write!(f, "held for as long as max_hold allows"),
            Self::Deadline => write!(f, "its deadline has come"),
            Self::Released => write!(f, "its guard released it"),
        }
    }
}
