//! The last holder of a free lock.

use std::time::SystemTime;

use crate::types::Holder;

/// The last holder of a lock that is free, as far as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PastHolder {
    /// The holder, as its record says.
    pub holder: Holder,
    /// The way in which it ended.
    pub end: End,
    /// When it ended, by the store's clock. `None` where the store does not know.
    pub ended_at: Option<SystemTime>,
}

/// The way in which an acquisition ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// The holder released the lock.
    Released,
    /// The holder died, or lost the lock, without a release.
    Crashed,
    /// An operator of this name broke the lock.
    BrokenBy(String),
}

impl PastHolder {
    /// Creates the answer, without a time.
    pub fn new(holder: Holder, end: End) -> Self {
        Self { holder, end, ended_at: None }
    }

    /// Sets when the acquisition ended.
    #[must_use]
    pub fn with_ended_at(self, ended_at: impl Into<Option<SystemTime>>) -> Self {
        Self { ended_at: ended_at.into(), ..self }
    }
}
