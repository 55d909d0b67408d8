//! Settings of a file backend.

use std::path::PathBuf;

use lock_core::Error;

use crate::{
    backend::FileBackend,
    dir::{self, LockDirectory},
    forks,
    medium::file_system::FileSystem,
    mode::Mode,
    names::Names,
};

/// Settings of a directory of locks. [`build`](Self::build) opens it.
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
    names: Names,
    mode: Option<u32>,
    require_nfs: bool,
}

impl FileConfig {
    /// Uses the locks in `directory`. If it is missing, the first lock creates it, private to this
    /// user.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), create: true, names: Names::default(), mode: None, require_nfs: false }
    }

    /// Sets whether the first lock creates a missing directory and its parents. Default `true`.
    /// Opening, inspecting and listing create nothing.
    ///
    /// Use `false` for a directory on a mount: if the mount is missing, locks in the empty
    /// directory under it would not exclude other hosts.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Sets how the name of a lock becomes the name of its file. Default [`Names::Encoded`].
    #[must_use]
    pub fn names(mut self, names: Names) -> Self {
        self.names = names;
        self
    }

    /// Sets the permissions of the files, whatever the umask, for a directory that several users
    /// share: `0o660` for a group, `0o666` for all.
    ///
    /// A directory that is created gets the same permissions, plus search permission and the
    /// set-group-ID bit. Without this option files have `0o600` and directories `0o700`. Several
    /// users need a directory without the sticky bit, which keeps one user from replacing another's
    /// record.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Sets whether to refuse a directory that is not on NFS. Default `false`.
    ///
    /// Use `true` for locks that several hosts share: without it, a missing mount leaves each host
    /// with its own directory.
    #[must_use]
    pub fn require_nfs(mut self, require_nfs: bool) -> Self {
        self.require_nfs = require_nfs;
        self
    }

    /// Opens the directory, and changes nothing. Blocks, on NFS until the server answers.
    ///
    /// A user who may read the directory can inspect and list its locks. Only the first acquisition
    /// shows whether this user may write to it.
    ///
    /// # Errors
    /// - [`ErrorKind::Config`](lock_core::ErrorKind::Config) for a mode without `0o600` or beyond
    ///   `0o666`.
    /// - [`ErrorKind::StoreNotReady`](lock_core::ErrorKind::StoreNotReady) if the directory is
    ///   missing or not on the required NFS, or if locks on its NFS mount would not be safe. The
    ///   error names the mount option to change.
    /// - [`ErrorKind::PermissionDenied`](lock_core::ErrorKind::PermissionDenied) if the directory
    ///   cannot be searched.
    pub fn build(self) -> Result<FileBackend, Error> {
        let mode = Mode::new(self.mode)?;
        forks::handle_forks()?;
        if self.require_nfs {
            dir::must_be_nfs(&self.directory)?;
        }
        let directory = LockDirectory::find(&self.directory, self.create)?;
        if directory.file_system == FileSystem::Unknown {
            tracing::warn!(
                directory = %directory.path.display(),
                "locks on this network file system can be lost without notice; use NFSv4 or a local directory"
            );
        }
        Ok(FileBackend::new(directory, mode, self.names))
    }

    /// Returns the store as a config string, for messages and metrics before it is open.
    pub(crate) fn describe(&self) -> String {
        self.names.describe(&self.directory)
    }
}

impl FileBackend {
    /// Opens `directory` with the default settings: created by the first lock if it is missing,
    /// private to this user.
    ///
    /// # Errors
    /// As [`FileConfig::build`].
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, Error> {
        FileConfig::new(directory).build()
    }
}
