//! Identifies an acquisition.

use lock_core::{LockName, backend::LeaseId};

/// An acquisition: its id and the name that it locks.
pub(crate) type Key = (LeaseId, LockName);
