//! The loss of a lock and its reason.

use std::{fmt, time::Duration};

use crate::types::{FencingToken, Holder, LockName};

/// The loss of a guard's lock: the work that it protected must stop.
///
/// ```
/// use std::time::Duration;
///
/// use lock_core::{Locker, LossReason, memory::MemoryBackend};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lock_core::Error> {
/// let locker = Locker::new(MemoryBackend::new())?;
/// let guard = locker.lock("nightly-etl").max_hold(Duration::from_millis(50)).acquire().await?;
/// let lost = guard.lost().await;
/// assert_eq!(lost.reason, LossReason::MaxHold);
/// assert_eq!(lost.token, guard.token());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the lock \"{name}\" was lost: {reason}")]
#[non_exhaustive]
pub struct Lost {
    /// The name of the lock.
    pub name: LockName,
    /// The fencing token of the acquisition that was lost.
    pub token: Option<FencingToken>,
    /// The reason of the loss.
    pub reason: LossReason,
}

/// The reason why a lock was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LossReason {
    /// The lease expired without a renewal: manual renewal came too late, or not at all.
    Expired,
    /// Another client holds the lock now.
    TakenBy(Box<Holder>),
    /// The store's record of this acquisition is gone, and the lock is free.
    RecordGone,
    /// An operator broke the lock.
    BrokenBy(String),
    /// The store did not confirm a renewal in time.
    Unreachable {
        /// The time from the last confirmed renewal to the loss.
        since: Duration,
        /// The error of the last attempt to renew.
        last_error: String,
    },
    /// The process did not run for this long, past the end of the lease. It was stopped or
    /// suspended, or its runtime was blocked.
    FrozenFor(Duration),
    /// The wall clock advanced by this much more than the time since boot. It was set forward, or a
    /// virtual machine was paused. The clocks cannot tell which, so the lease counts as over.
    ClockJumped(Duration),
    /// The file system lost the lock, or the lock file was replaced or removed.
    FileLock(String),
    /// The lock was held for as long as [`max_hold`](crate::LockRequest::max_hold) allows.
    MaxHold,
    /// The [`deadline`](crate::LockRequest::deadline) was reached.
    Deadline,
    /// The guard released the lock or was dropped. Only a [`LossSignal`](crate::LossSignal), which
    /// may outlive its guard, gives this reason.
    Released,
    /// This process was forked from the one that acquired the lock, which has this process id. The
    /// parent may still hold the lock; a child never does.
    Forked {
        /// The process id of the parent.
        parent: u32,
    },
}

impl LossReason {
    /// Returns `true` if the store reported the loss, `false` if the local deadline expired.
    pub fn is_from_the_store(&self) -> bool {
        !matches!(
            self,
            Self::Expired
                | Self::Unreachable { .. }
                | Self::FrozenFor(_)
                | Self::ClockJumped(_)
                | Self::MaxHold
                | Self::Deadline
                | Self::Released
                | Self::Forked { .. }
        )
    }

    /// Returns the reason as one lower-case word, for metrics and logs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::TakenBy(_) => "taken",
            Self::RecordGone => "record_gone",
            Self::BrokenBy(_) => "broken",
            Self::Unreachable { .. } => "unreachable",
            Self::FrozenFor(_) => "frozen",
            Self::ClockJumped(_) => "clock_jumped",
            Self::FileLock(_) => "file_lock",
            Self::MaxHold => "max_hold",
            Self::Deadline => "deadline",
            Self::Released => "released",
            Self::Forked { .. } => "forked",
        }
    }
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired => write!(f, "its lease expired without a renewal"),
            Self::TakenBy(holder) => write!(f, "taken by {holder}"),
            Self::RecordGone => write!(f, "its record in the store is gone"),
            Self::BrokenBy(who) => write!(f, "broken by {}", who.escape_debug()),
            Self::Unreachable { since, last_error } => {
                write!(f, "no renewal was confirmed for {:.1} s ({last_error})", since.as_secs_f64())
            }
            Self::FrozenFor(gap) => write!(f, "the process or its runtime did not run for {:.1} s", gap.as_secs_f64()),
            Self::ClockJumped(by) => write!(
                f,
                "the wall clock jumped forward by {:.1} s: it was set, or the virtual machine was paused",
                by.as_secs_f64()
            ),
            Self::FileLock(what) => write!(f, "{what}"),
            Self::MaxHold => write!(f, "max_hold was reached"),
            Self::Deadline => write!(f, "its deadline was reached, less the margin"),
            Self::Released => write!(f, "its guard released it"),
            Self::Forked { parent } => {
                write!(f, "it belongs to process {parent}, and this process was forked from that one")
            }
        }
    }
}
