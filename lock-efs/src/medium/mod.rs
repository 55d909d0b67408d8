//! The file systems that locks are on, and what each of them does in a way of its own.

use std::{fmt::Debug, fs::File, io, path::Path, time::Duration};

use lock_core::{Error, backend::LeaseId};
use nix::fcntl::OFlag;

use crate::{files::Files, lockfile::LockFile, mode::Mode};

pub(crate) mod file_system;
pub(crate) mod kernel_locks;
pub(crate) mod local;
pub(crate) mod mount;
pub(crate) mod nfs;
pub(crate) mod refusal;
pub(crate) mod temp_record;

use self::{
    kernel_locks::KernelLocks,
    refusal::{CachedHolder, LockAttempt},
    temp_record::TempRecord,
};

/// What the store leaves to the file system.
///
/// `Local` makes system calls of microseconds. Each call of `Nfs` is a request to a server that
/// many hosts share, and may hang with the network.
pub(crate) trait Medium: Debug + Send + Sync {
    /// Returns the flags of open(2) that a lock file needs beside the usual ones.
    fn open_flags(&self) -> OFlag;

    /// Tries for the lock once, or a few times if the refusal may be over in a moment.
    ///
    /// Returns the holder if the lock is refused. `cached` is what the last refusal on this
    /// descriptor returned.
    fn try_lock(&self, attempt: &LockAttempt<'_>, cached: Option<CachedHolder>) -> Result<Option<CachedHolder>, Error>;

    /// Checks whether a lock that is held here still excludes others.
    fn check(&self, lock: &LockFile, path: &Path) -> Result<Probe, Error>;

    /// Checks whether the lock file at `path` is there and locked by any process.
    fn is_locked(&self, path: &Path, known: &KernelLocks) -> Result<bool, Error>;

    /// Prepares the record of a lock that was just obtained, before the lock file is compared with
    /// its path.
    fn begin_record(&self, directory: &Path, id: LeaseId, mode: Mode) -> Result<Option<TempRecord>, Error>;

    /// Puts a record in the place of the one before, in one step for every reader; only under the
    /// lock. `begun` is what [`begin_record`](Self::begin_record) returned, if it was called.
    fn place_record(&self, record: &NewRecord<'_>, begun: Option<TempRecord>) -> Result<File, Error>;

    /// Marks the record in `file` as released, before the lock is.
    fn mark_released(&self, file: &File, now_us: u64, hold_for: Duration) -> io::Result<()>;

    /// Wakes the waiters of this machine after a release whose descriptor is open elsewhere too.
    fn wake_watches(&self, path: &Path);

    /// Makes the next looks into `directory` fresh, for as long as the answer lives.
    fn refresh_directory(&self, directory: &Path, mode: Mode) -> Result<Option<TempRecord>, Error>;

    /// Returns how long other hosts may still find a file that was removed.
    fn removal_delay(&self) -> Duration;

    /// Notes how many locks this process holds with the one just acquired.
    fn note_held(&self, held: usize);
}

/// What a probe of a held lock found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Probe {
    /// The lock excluded others at some moment within the call.
    StillHeld,
    /// The lock is gone for good, for this reason.
    Lost(String),
}

impl Probe {
    /// The lock is lost, because its file has another name or none.
    pub(crate) fn removed(path: &Path) -> Self {
        Self::Lost(format!("the lock file {} was removed or replaced while the lock was held", path.display()))
    }
}

/// A record to be put in its place.
pub(crate) struct NewRecord<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) files: &'a Files,
    pub(crate) id: LeaseId,
    pub(crate) bytes: &'a [u8],
    /// A record that can be read is in the place already.
    pub(crate) replaces: bool,
    pub(crate) mode: Mode,
}
