//! `dlock torture`: many processes contend on the user's own store, some are killed, frozen and cut off, and the recorded history is checked.
//!
//! The parent ([`parent`]) never takes a lock; its children ([`worker`]) are this same program. They meet in a directory of the run's
//! own: a journal for each task of a child ([`journal`]), and the protected resource of each name ([`resource`]). Each child has a way of its own to the
//! store ([`link`]).

mod journal;
mod link;
mod parent;
mod report;
mod resource;
mod worker;

use std::{path::PathBuf, time::Duration};

use lock_core::clock::{Clock, SystemClock};

pub(super) use parent::torture;
pub(super) use worker::work;

/// How many locks a process asks for at a time. Each task is a worker of the history.
const TASKS: u64 = 4;

/// What all processes of one run agree on.
#[derive(Debug, Clone)]
struct Run {
    directory: PathBuf,
    /// Before every name of this run, and in no name of anybody else.
    prefix: String,
    names: u32,
    ttl: Duration,
}

impl Run {
    fn name(&self, index: u32) -> String {
        format!("{}{index}", self.prefix)
    }

    /// The children end when it exists.
    fn stop_file(&self) -> PathBuf {
        self.directory.join("stop")
    }
}

/// Time since boot, which all processes of a machine share.
fn now() -> Duration {
    SystemClock.now().boot
}
