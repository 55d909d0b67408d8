//! What all other modules speak of: plain data and the clock. Imports none of them.

pub mod clock;
mod error;
mod holder;
mod lease;
mod lost;
mod name;
mod options;

pub(crate) use clock::{Clock, ClockReading, SystemClock};
pub(crate) use error::no_reply;
pub use error::{Error, ErrorKind, Operation};
pub use holder::Holder;
pub use lease::{FencingToken, InvalidLeaseId, Lease, LeaseId};
pub use lost::{LossReason, Lost};
pub use name::{InvalidName, LockName};
pub use options::{LockOptions, Renew};
