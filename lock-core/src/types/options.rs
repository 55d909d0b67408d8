//! The options of a lock.

use std::time::Duration;

use crate::types::Mode;

/// The most hand-overs in a row. More tokens in reserve would let the tokens of a busy name outrun
/// the store's clock, which keeps tokens rising after the store has lost its data.
pub(crate) const MAX_HAND_OVER: u32 = 1_000;

/// When a guard's lease is renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Renew {
    /// In the background, after every third of the ttl. On a store without a ttl, at the store's
    /// probe interval.
    #[default]
    Auto,
    /// In the background, at this interval.
    Every(Duration),
    /// Only by [`Guard::renew_if_below`](crate::Guard::renew_if_below): no renewal runs in the
    /// background. For a process that may be frozen between two pieces of work, such as a Lambda
    /// function.
    Manual,
}

/// The options of a [`Locker`](crate::Locker), which each [`LockRequest`](crate::LockRequest) can
/// override.
///
/// `None` stands for the default that the field's method on [`LockRequest`](crate::LockRequest)
/// documents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LockOptions {
    /// See [`LockRequest::mode`](crate::LockRequest::mode).
    pub mode: Mode,
    /// See [`LockRequest::ttl`](crate::LockRequest::ttl).
    pub ttl: Option<Duration>,
    /// See [`LockRequest::margin`](crate::LockRequest::margin).
    pub margin: Option<Duration>,
    /// See [`LockRequest::renew`](crate::LockRequest::renew).
    pub renew: Renew,
    /// See [`LockRequest::grace`](crate::LockRequest::grace).
    pub grace: Duration,
    /// See [`LockRequest::owner`](crate::LockRequest::owner).
    pub owner: Option<String>,
    /// See [`LockRequest::data`](crate::LockRequest::data).
    pub data: Option<Vec<u8>>,
    /// See [`LockRequest::min_hold`](crate::LockRequest::min_hold).
    pub min_hold: Duration,
    /// See [`LockRequest::max_hold`](crate::LockRequest::max_hold).
    pub max_hold: Option<Duration>,
    /// See [`LockRequest::deadline`](crate::LockRequest::deadline).
    pub deadline: Option<Duration>,
    /// See [`LockRequest::hand_over`](crate::LockRequest::hand_over).
    pub hand_over: u32,
    /// See [`LockRequest::fair`](crate::LockRequest::fair).
    pub fair: bool,
    /// See [`LockRequest::spread`](crate::LockRequest::spread).
    pub spread: Duration,
}
