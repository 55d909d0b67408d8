//! The request to acquire a lock.

use std::time::Duration;

use super::unsupported_mode;
use crate::types::{DEFAULT_TTL, Error, ErrorKind, FencingToken, Lease, LeaseId, LockName, Mode, Operation, setters};

/// The request of [`Backend::acquire`](super::Backend::acquire). It may grow, so make one with
/// [`new`](Self::new) and setters.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AcquireRequest {
    /// What to lock.
    pub name: LockName,
    /// The id of this acquisition, the same in every attempt of it.
    pub id: LeaseId,
    /// How the lock is to be held.
    pub mode: Mode,
    /// The name that the holder gives itself.
    pub owner: String,
    /// How long the store keeps the lock without a renewal. A store without the capability `ttl`
    /// ignores it.
    pub ttl: Duration,
    /// Data that other clients may read while the lock is held.
    pub data: Option<Vec<u8>>,
    /// The request is repeated while it is refused. If holders of another mode refuse it, the store
    /// keeps newcomers from joining them. That ends with a release of its id, and at the latest
    /// `ttl` after the last such request.
    pub waits: bool,
    /// How many further tokens the grant reserves, for guards to which this process hands the lock
    /// over. Zero without the capability `hand-over`. The same in every attempt of one id.
    pub reserved_tokens: u32,
    /// The request is granted in its turn. If it [waits](Self::waits) and is refused, it has a
    /// place in the queue of the name, for `ttl` after its last attempt. `false` without the
    /// capability `fair`.
    pub fair: bool,
}

impl AcquireRequest {
    /// A request for an exclusive lock with the default ttl, 30 s, without data, and without a
    /// wait.
    pub fn new(name: LockName, id: LeaseId, owner: impl Into<String>) -> Self {
        let (mode, ttl) = (Mode::Exclusive, DEFAULT_TTL);
        Self { name, id, mode, owner: owner.into(), ttl, data: None, waits: false, reserved_tokens: 0, fair: false }
    }

    /// Checks that the request is for an exclusive lock, in a store that knows no other mode.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Unsupported`] for another mode.
    pub fn require_exclusive(&self) -> Result<(), Error> {
        match self.mode {
            Mode::Exclusive => Ok(()),
            mode => Err(unsupported_mode(mode).with_name(&self.name)),
        }
    }

    /// Checks that the request agrees with the present holders on the number of permits.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`], with both numbers, if both modes are permits and the numbers
    /// differ.
    pub fn require_same_permits(&self, present: Mode) -> Result<(), Error> {
        let (Mode::Permit { of }, Mode::Permit { of: wanted }) = (present, self.mode) else { return Ok(()) };
        if of == wanted {
            return Ok(());
        }
        let message = format!(
            "the lock has {of} permits for its present holders, but this request is for one of {wanted}; give all \
             contenders the same number"
        );
        let error = Error::new(ErrorKind::Config, message).with_ambiguous(false);
        Err(error.with_operation(Operation::Acquire).with_name(&self.name))
    }

    /// The lease that this request becomes when it is granted with `token`.
    pub fn lease(&self, token: Option<FencingToken>) -> Lease {
        Lease { name: self.name.clone(), id: self.id, mode: self.mode, token, ttl: self.ttl }
    }
}

setters!(AcquireRequest {
    with_name(name: LockName),
    with_id(id: LeaseId),
    with_mode(mode: Mode),
    with_owner(owner: impl Into<String>),
    with_ttl(ttl: Duration),
    with_data(data: impl Into<Option<Vec<u8>>>),
    with_waits(waits: bool),
    with_reserved_tokens(reserved_tokens: u32),
    with_fair(fair: bool),
});
