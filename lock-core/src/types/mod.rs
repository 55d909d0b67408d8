//! The plain data types and the clock. All other modules import these; this module imports none.

/// Generates setters for the fields of a struct that may grow, so that other crates can fill it.
macro_rules! setters {
    ($type:ty { $($with:ident($field:ident: $argument:ty),)* }) => {
        impl $type {
            $(
                #[doc = concat!("Sets `", stringify!($field), "`.")]
                #[must_use]
                pub fn $with(mut self, $field: $argument) -> Self {
                    self.$field = $field.into();
                    self
                }
            )*
        }
    };
}
pub(crate) use setters;

pub mod clock;
mod error;
mod holder;
mod lease;
mod lost;
mod mode;
mod name;
mod options;
mod process;

pub(crate) use clock::{Clock, ClockReading, SystemClock};
pub(crate) use error::no_reply;
pub use error::{Error, ErrorKind, Operation};
pub use holder::Holder;
pub(crate) use lease::DEFAULT_TTL;
pub use lease::{FencingToken, InvalidLeaseId, Lease, LeaseId};
pub use lost::{LossReason, Lost};
pub use mode::Mode;
pub use name::{InvalidName, LockName};
pub(crate) use options::MAX_HAND_OVER;
pub use options::{LockOptions, Renew};
pub use process::Process;
