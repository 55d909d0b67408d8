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

pub use backend::{Capability, Release};
pub use config::{ConfigString, Registry};
pub use engine::Timing;
pub use locker::{
    Guard, LeaderElection, Leadership, LockAdmin, LockRequest, Locker, LockerBuilder, LossSignal, TryAcquire, TryRun,
};
#[cfg(feature = "testing")]
pub use testing::faults;
pub use types::{
    Error, ErrorKind, FencingToken, Holder, InvalidName, LockName, LockOptions, LossReason, Lost, Mode, Operation,
    Renew, clock,
};
