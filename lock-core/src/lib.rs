//! core
#![cfg_attr(docsrs, feature(doc_cfg))]
pub mod backend;
pub mod capabilities;
pub mod clock;
mod error;
mod holder;
mod lease;
mod lost;
mod name;

pub use error::{Error, ErrorKind, Operation};
pub use holder::Holder;
pub use lease::{FencingToken, InvalidLeaseId, Lease, LeaseId};
pub use lost::{LossReason, Lost};
pub use name::{InvalidName, LockName};
