//! The answers of a store.

use crate::types::{FencingToken, Holder, LossReason, setters};

/// The answer to an attempt to acquire.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a granted lock stays held until it is released or expires"]
pub enum AcquireOutcome {
    /// The request's id holds the lock now.
    Granted(Grant),
    /// Another client holds the lock.
    Contended(Holder),
}

/// The details of a granted lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grant {
    /// The fencing token, where the backend mints them.
    pub token: Option<FencingToken>,
    /// The previous holder, if it crashed.
    pub crashed: Option<Holder>,
    /// The request's id already held the lock: an earlier attempt succeeded, and its reply was
    /// lost.
    pub already_ours: bool,
    /// The token of the previous grant, to any client. If that grant reserved tokens, the last of
    /// them. If a grant was rolled back since, it may be the larger token of that grant.
    ///
    /// `None` for a repeated request, and if the store does not show it. A store may show it only
    /// with grants that reserve tokens.
    ///
    /// A process that [hands the lock over](crate::LockRequest::hand_over) learns from it whether
    /// others use the lock, and lets them have it after each series of hand-overs. A store whose
    /// release wakes a waiter before the releasing process can ask again does not need it.
    pub previous_token: Option<FencingToken>,
}

setters!(Grant {
    with_token(token: impl Into<Option<FencingToken>>),
    with_crashed(crashed: impl Into<Option<Holder>>),
    with_already_ours(already_ours: bool),
    with_previous_token(previous_token: impl Into<Option<FencingToken>>),
});

/// The answer to a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a lease that was lost must not be used"]
pub enum Renewal {
    /// The lease lasts a whole ttl from the store's present time.
    Renewed,
    /// The lease is no longer held.
    Lost(LossReason),
}

/// The answer to a release. It may be ignored: this lease no longer holds the lock in either case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// The lock is free, or will be after `hold_for`. Or the next waiter of this process has it.
    Released,
    /// This lease did not hold the lock. Its holder, if there is one and the store reports it,
    /// still holds it.
    NotHeld(Option<Holder>),
}

/// The answer to a break.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "`Changed` means that nothing was broken"]
pub enum Break {
    /// The lock was taken from its holder and is free.
    Broken,
    /// The record is no longer the one that was seen. This is the holder now.
    Changed(Option<Holder>),
}
