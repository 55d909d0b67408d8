//! The file systems that locks are on, and the operations that differ between them.

use std::{
    fmt::Debug,
    fs::File,
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use lock_core::Error;
use nix::fcntl::OFlag;

use crate::{files::Files, lockfile::LockFile, mode::Sharing, parts::GateWait, process::LockingProcess};

pub(crate) mod file_system;
pub(crate) mod fresh;
pub(crate) mod kernel_locks;
pub(crate) mod local;
pub(crate) mod mount;
pub(crate) mod nfs;
pub(crate) mod refusal;
pub(crate) mod temp_record;

use self::{
    fresh::LastRefresh,
    kernel_locks::KernelLocks,
    refusal::{CachedHolder, LockAttempt},
    temp_record::TempRecord,
};

/// The operations of the store that depend on the file system.
///
/// A system call of `Local` takes microseconds. A call of `Nfs` is a request to a server that many
/// hosts share, and hangs while the network is away.
pub(crate) trait Medium: Debug + Send + Sync {
    /// Returns the additional open(2) flags of a lock file, and of a file whose content must be the
    /// one that another client wrote last.
    fn open_flags(&self) -> OFlag;

    /// Tries to acquire the lock once, or a few times if the refusal may be momentary.
    ///
    /// Returns the holder if the lock is refused. `cached` is the answer of the last refusal on
    /// this descriptor.
    fn try_lock(&self, attempt: &LockAttempt<'_>, cached: Option<CachedHolder>) -> Result<Option<CachedHolder>, Error>;

    /// Returns whether no other process shares the lock, which this process shares. `None` if this
    /// process had no lock for a moment: all that it has read before may be old. The lock may be
    /// lost if another process shares it.
    fn is_alone(&self, lock: &LockFile, path: &Path) -> Result<Option<bool>, Error>;

    /// Returns how long a request waits while another process takes a part.
    fn gate_wait(&self) -> GateWait;

    /// Checks whether a lock that is held here still excludes others. `last` is of its directory.
    fn check(&self, lock: &LockFile, path: &Path, last: &LastRefresh) -> Result<Probe, Error>;

    /// Checks whether the lock file at `path` exists and is locked by any process.
    fn is_locked(&self, path: &Path, known: &KernelLocks) -> Result<bool, Error>;

    /// Returns the process that holds the locked file at `path`, if it is certain. `known` may be
    /// older than the lock.
    fn holding_process(&self, path: &Path, known: &KernelLocks) -> Option<LockingProcess>;

    /// Prepares the record of `lock`, which was just acquired, before the lock file is compared
    /// with its path.
    fn begin_record(&self, lock: &LockFile, directory: &Path, sharing: Sharing) -> Result<BegunRecord, Error>;

    /// Replaces the record atomically for every reader. The caller holds the lock. `begun` is the
    /// answer of [`begin_record`](Self::begin_record), if it was called.
    fn place_record(&self, record: &NewRecord<'_>, begun: BegunRecord) -> Result<File, Error>;

    /// Returns whether a lock may be held without a record if the file system is full and the token
    /// comes from the clock. `replaces` says whether a readable record exists.
    fn allows_no_record(&self, replaces: bool) -> bool;

    /// Marks the record in `file` as released, before the lock is released.
    fn mark_released(&self, file: &File, now_us: u64, hold_for: Duration) -> io::Result<()>;

    /// Wakes the waiters of this machine after a release whose descriptor has an open duplicate.
    fn wake_watches(&self, path: &Path);

    /// Makes the next look-up of a path in `directory` ask the server, where the path comes from a
    /// cache otherwise.
    fn refresh_directory(&self, directory: &Path) -> Result<(), Error>;

    /// Returns the time of the clock that records are written by. `None` if that is not this
    /// machine's clock: a server shows its clock only when a file is written.
    fn store_time(&self) -> Option<SystemTime>;

    /// Returns the time of the server's clock in microseconds. `None` if records are written by
    /// this machine's clock.
    fn server_us(&self, lock: &LockFile) -> io::Result<Option<u64>>;

    /// Returns whether this is NFS.
    fn is_nfs(&self) -> bool;

    /// Returns whether a lock is never lost while its process lives, so that the files of a locked
    /// name can be removed.
    fn keeps_locks(&self) -> bool;

    /// Returns how many locks of one process on one mount are near a limit.
    fn many_locks(&self) -> Option<usize>;
}

/// A record before it has its content.
#[derive(Debug)]
pub(crate) enum BegunRecord {
    /// Nothing was prepared.
    Nothing,
    /// The file that will replace the previous record.
    Temp(TempRecord),
    /// The file system has no room for the record. The server's clock was read in another way.
    Full { error: Error, server_us: u64 },
}

impl BegunRecord {
    /// Returns the time of the server's clock in microseconds, if it was read.
    pub(crate) fn server_us(&self) -> Result<Option<u64>, Error> {
        Ok(match self {
            Self::Nothing => None,
            Self::Temp(temp) => Some(temp.server_us()?),
            Self::Full { server_us, .. } => Some(*server_us),
        })
    }
}

/// The result of a probe of a held lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Probe {
    /// The lock excluded other clients at some moment within the call.
    StillHeld,
    /// The lock is lost for good, for this reason.
    Lost(String),
}

impl Probe {
    /// Returns the loss of a lock whose file no longer has its path.
    pub(crate) fn removed(path: &Path) -> Self {
        Self::Lost(format!("the lock file {} was removed or replaced while the lock was held", path.display()))
    }
}

/// A record to be written.
pub(crate) struct NewRecord<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) files: &'a Files,
    pub(crate) bytes: &'a [u8],
    /// Whether a readable record exists already.
    pub(crate) replaces: bool,
    pub(crate) sharing: Sharing,
}
