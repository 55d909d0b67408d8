//! What the parent and its children agree on.

use std::{path::PathBuf, time::Duration};

use lock_core::clock::{Clock, SystemClock};

/// How many locks a process asks for at a time. Each task is a worker of the history.
pub(super) const TASKS: u64 = 4;

/// What all processes of one run agree on.
#[derive(Debug, Clone)]
pub(super) struct TortureRun {
    pub(super) directory: PathBuf,
    /// Before every name of this run, and in no name of anybody else.
    pub(super) prefix: String,
    pub(super) names: u32,
    pub(super) ttl: Duration,
}

impl TortureRun {
    pub(super) fn name(&self, index: u32) -> String {
        format!("{}{index}", self.prefix)
    }

    /// The children end when it exists.
    pub(super) fn stop_file(&self) -> PathBuf {
        self.directory.join("stop")
    }
}

/// Time since boot, which all processes of a machine share.
pub(super) fn now() -> Duration {
    SystemClock.now().boot
}
