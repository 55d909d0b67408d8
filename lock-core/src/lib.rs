#![doc = include_str!("../README.md")]

pub mod backend;
mod backoff;
pub mod capabilities;
pub mod chain;
pub mod clock;
pub mod config;
pub mod doctor;
mod error;
pub mod faults;
pub mod fencing;
mod flight;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod guard;
pub mod history;
mod hold;
mod holder;
mod keeper;
mod leader;
mod lease;
mod locker;
mod lost;
pub mod memory;
mod metrics;
mod name;
mod options;
mod pulse;
mod queue;
pub mod registry;
mod request;
#[cfg(feature = "testing")]
pub mod testing;

pub use capabilities::{Capabilities, Capability};
pub use config::ConfigString;
pub use error::{Error, ErrorKind, Operation};
pub use guard::Guard;
pub use holder::Holder;
pub use leader::{LeaderElection, Leadership};
pub use lease::{FencingToken, InvalidLeaseId, Lease, LeaseId};
pub use locker::{Locker, LockerBuilder};
pub use lost::{LossReason, Lost};
pub use name::{InvalidName, LockName};
pub use options::{LockOptions, Renew, Timing};
pub use registry::Registry;
pub use request::{LockRequest, TryAcquire};
