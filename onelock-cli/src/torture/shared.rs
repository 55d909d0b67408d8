//! The data that the parent and its children share.

use std::{path::PathBuf, time::Duration};

use lock_core::clock::{Clock, SystemClock};

/// How many tasks of a process contend at a time. Each task is a worker of the history.
pub(super) const TASKS: u64 = 4;

/// The parameters of one run, the same in all its processes.
#[derive(Debug, Clone)]
pub(super) struct TortureRun {
    pub(super) directory: PathBuf,
    /// The prefix of every name of this run, and of no other name.
    pub(super) prefix: String,
    pub(super) names: u32,
    pub(super) ttl: Duration,
}

impl TortureRun {
    pub(super) fn name(&self, index: u32) -> String {
        format!("{}{index}", self.prefix)
    }

    /// The path of the stop file: the children end once it exists.
    pub(super) fn stop_file(&self) -> PathBuf {
        self.directory.join("stop")
    }
}

/// Returns the time since boot, which all processes of a machine share.
pub(super) fn now() -> Duration {
    SystemClock.now().boot
}
