//! The runtime of every command.

use tokio::runtime::{Builder, Runtime};

use crate::exit::Failure;

/// Builds a runtime of one thread, because the commands mostly wait.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    Builder::new_current_thread().enable_all().build().map_err(|e| Failure::os("starting a runtime", e))
}
