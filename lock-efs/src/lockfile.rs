//! Opens and locks a lock file, and compares it with its path.

use std::{
    fs::{self, File, Metadata, OpenOptions, Permissions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::Path,
};

use lock_core::Error;
use nix::{
    errno::Errno,
    fcntl::{FlockArg, OFlag},
};

use crate::{error, mode::Mode};

/// An open lock file. Closing it unlocks, unless a duplicate is open.
///
/// The file stays empty: Python's `filelock` truncates it, and other programs may write to it.
#[derive(Debug)]
pub(crate) struct LockFile {
    file: File,
    pub(crate) inode: Inode,
}

/// The identity of a file; unique as long as the file is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inode {
    pub(crate) device: u64,
    number: u64,
}

impl LockFile {
    /// Opens or creates the file, with the additional `flags` that its file system needs.
    pub(crate) fn open(path: &Path, mode: Mode, flags: OFlag) -> Result<Self, Error> {
        let fail = |e: io::Error| error::at("open the lock file", path, e);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(mode.file)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NOCTTY | flags).bits())
            .open(path)
            .map_err(fail)?;
        let found = file.metadata().map_err(fail)?;
        if !found.is_file() {
            return Err(fail(Errno::ENXIO.into()));
        }
        widen(&file, &found, mode, path);
        Ok(Self { file, inode: Inode::of(&found) })
    }

    /// Opens the file if it exists.
    pub(crate) fn open_existing(path: &Path) -> Result<Option<Self>, Error> {
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NOCTTY;
        match OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path) {
            Ok(file) => {
                let found = file.metadata().map_err(|e| error::at("inspect the lock file", path, e))?;
                Ok(Some(Self { file, inode: Inode::of(&found) }))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(error::at("open the lock file", path, e)),
        }
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Returns whether the lock was acquired. Locking a file that is already locked through this
    /// descriptor succeeds.
    pub(crate) fn try_lock(&self, path: &Path) -> Result<bool, Error> {
        try_flock(&self.file, FlockArg::LockExclusiveNonblock).map_err(|e| error::at("lock", path, e))
    }

    /// Frees the lock even while a duplicate of the descriptor is open, in a supervisor or in a
    /// child between fork and exec.
    pub(crate) fn unlock(&self, path: &Path) -> Result<(), Error> {
        flock(&self.file, FlockArg::Unlock).map_err(|e| error::at("unlock", path, e))
    }

    pub(crate) fn into_file(self) -> File {
        self.file
    }

    /// Returns a second descriptor of the same lock, closed on exec.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.file.try_clone().map(Into::into)
    }
}

impl Inode {
    fn of(found: &Metadata) -> Self {
        Self { device: found.dev(), number: found.ino() }
    }

    /// Returns whether `found` describes this file.
    pub(crate) fn is(self, found: &Metadata) -> bool {
        Self::of(found) == self
    }

    /// Returns whether `path` names this file, which must be open. If not, the file was removed or
    /// replaced, and its lock does not exclude other clients.
    pub(crate) fn is_at(self, path: &Path) -> Result<bool, Error> {
        match fs::symlink_metadata(path) {
            Ok(found) => Ok(Self::of(&found) == self),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
            Err(e) => Err(error::at("inspect the lock file", path, e)),
        }
    }
}

/// Restores the configured permissions that the umask removed. Only the owner of the file can.
pub(crate) fn widen(file: &File, found: &Metadata, mode: Mode, path: &Path) {
    let missing = mode.file & !found.mode();
    if mode.exact && missing != 0 {
        let wanted = Permissions::from_mode((found.mode() | missing) & 0o7777);
        if let Err(e) = file.set_permissions(wanted) {
            tracing::debug!(file = %path.display(), error = %e, "cannot set the configured mode on the file");
        }
    }
}

/// Returns whether `arg`, which must not block, succeeded; `false` if another client holds the
/// lock.
pub(crate) fn try_flock(file: &File, arg: FlockArg) -> Result<bool, Errno> {
    match flock(file, arg) {
        Ok(()) => Ok(true),
        // Some NFS servers answer EACCES for a lock that is held.
        Err(Errno::EWOULDBLOCK | Errno::EACCES) => Ok(false),
        Err(e) => Err(e),
    }
}

#[expect(deprecated, reason = "the successor, `Flock`, unlocks on drop, which would also unlock a duplicate")]
pub(crate) fn flock(file: &File, arg: FlockArg) -> Result<(), Errno> {
    loop {
        match nix::fcntl::flock(file.as_raw_fd(), arg) {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}
