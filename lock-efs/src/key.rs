//! Identifies an acquisition.

use lock_core::{LeaseId, LockName};

/// An acquisition: its id and what it locks.
pub(crate) type Key = (LeaseId, LockName);
