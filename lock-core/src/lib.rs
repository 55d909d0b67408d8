#![doc = include_str!("../README.md")]

pub mod backend;
pub mod blocking;
pub mod config;
mod engine;
pub mod fencing;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod locker;
pub mod memory;
mod mutex;
#[cfg(feature = "testing")]
pub mod testing;
mod types;

pub use backend::{Capabilities, Capability};
pub use config::{ConfigString, Registry};
pub use engine::Timing;
pub use locker::{
    Guard, LeaderElection, Leadership, LockAdmin, LockRequest, Locker, LockerBuilder, LossSignal, TryAcquire, TryRun,
};
#[cfg(feature = "testing")]
pub use testing::faults;
pub use types::{
    Error, ErrorKind, FencingToken, Holder, InvalidLeaseId, InvalidName, Lease, LeaseId, LockName, LockOptions,
    LossReason, Lost, Operation, Renew, clock,
};

/// What stores can do: see [`backend`].
pub mod capabilities {
    pub use crate::backend::{Capabilities, Capability, Pace, UnknownCapability};
}

/// What an examination of a store finds: see [`backend`].
pub mod doctor {
    pub use crate::backend::{Finding, Level};
}

/// From a config string to a [`Locker`]: see [`config`].
pub mod registry {
    pub use crate::config::{BackendFactory, Registry};
}
