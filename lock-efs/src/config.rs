//! What a file backend needs to know.

use std::path::PathBuf;

use lock_core::Error;

use crate::{backend::FileBackend, dir, medium::file_system::FileSystem, mode::Mode};

/// A directory of locks and how to treat it; [`build`](Self::build) opens it.
///
/// ```
/// # fn main() -> Result<(), lock_core::Error> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path().join("locks");
/// let backend = lock_efs::FileConfig::new(dir).mode(0o660).build()?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileConfig {
    directory: PathBuf,
    create: bool,
    mode: Option<u32>,
    require_nfs: bool,
}

impl FileConfig {
    /// The locks in `directory`, which is created when missing, private to this user.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), create: true, mode: None, require_nfs: false }
    }

    /// Whether to create a missing directory, and its parents. Say no for a mount point: what is
    /// missing then is the mount, and locks in the empty directory under it would exclude nobody.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// The permissions of the files, for a directory that several users share: `0o660` for a group,
    /// `0o666` for all. The umask does not take from it.
    ///
    /// A directory that is created gets the same, with search permission and the set-group-ID bit.
    /// Without this option files have `0o600` and directories `0o700`, less the umask. A directory
    /// for several users must not have the sticky bit, under which one user cannot replace
    /// another's record.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Refuses a directory that is not on NFS, for locks that several hosts share: a mount that is
    /// missing would leave each host with a directory of its own. Default no.
    #[must_use]
    pub fn require_nfs(mut self, require_nfs: bool) -> Self {
        self.require_nfs = require_nfs;
        self
    }

    /// Opens the directory. Blocks; on NFS for as long as the server does not answer.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](lock_core::ErrorKind::Config) for a mode without `0o600` or beyond
    /// `0o666`; [`ErrorKind::StoreNotReady`](lock_core::ErrorKind::StoreNotReady) for an NFS mount
    /// on which locks would not be safe, with the mount option to change; that,
    /// [`ErrorKind::PermissionDenied`](lock_core::ErrorKind::PermissionDenied) or
    /// [`ErrorKind::Full`](lock_core::ErrorKind::Full) when the directory is not there, or is not
    /// one that can be written to.
    pub fn build(self) -> Result<FileBackend, Error> {
        let mode = Mode::new(self.mode)?;
        if self.require_nfs {
            dir::must_be_nfs(&self.directory)?;
        }
        let directory = dir::prepare(&self.directory, self.create, mode)?;
        let file_system = FileSystem::of(&directory)?;
        if file_system == FileSystem::Unknown {
            tracing::warn!(
                directory = %directory.display(),
                "locks on this network file system can be lost without notice; use NFSv4 or a local directory"
            );
        }
        Ok(FileBackend::new(directory, mode, file_system))
    }
}

impl FileBackend {
    /// Opens `directory`, with its defaults: created when missing, private to this user.
    ///
    /// # Errors
    /// As [`FileConfig::build`].
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, Error> {
        FileConfig::new(directory).build()
    }
}
