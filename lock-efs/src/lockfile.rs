//! Opens and locks a lock file, and compares it with its path.

use std::{
    fs::{self, File, Metadata, Permissions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::Path,
};

use lock_core::{Error, backend::Process};
use nix::{
    errno::Errno,
    fcntl::{FlockArg, OFlag},
    sys::{stat::futimens, time::TimeSpec},
};

use crate::{
    byte_locks,
    clock::us_of,
    error,
    forks::{Listed, open_between_forks},
    mode::{Mode, Sharing},
    open::{self, Access, Opened},
    record,
};

/// An open lock file. Closing it unlocks, unless a duplicate is open.
///
/// Nothing is written to it: Python's `filelock` truncates it, and other programs may write to it.
#[derive(Debug)]
pub(crate) struct LockFile {
    file: File,
    /// As it was found when it was opened.
    found: Metadata,
    pub(crate) inode: Inode,
    /// Whether other programs name the file, so that it may have any content and permissions.
    plain: bool,
    process: Process,
    // Dropped after the file, which it lists.
    _listed: Listed,
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
        open_between_forks(|| Self::open_once(path, mode, flags))
    }

    fn open_once(path: &Path, mode: Mode, flags: OFlag) -> Result<Self, Error> {
        let fail = |e: io::Error| error::at("open the lock file", path, e);
        let mut opened = open::or_create(path, mode.file, flags).map_err(fail)?;
        if opened.created {
            let directory = path.parent().map(fs::metadata).transpose().map_err(fail)?;
            if let Some(directory) = directory {
                mode.sharing(&directory).apply(&opened.file, &opened.found, path);
                opened.found = opened.file.metadata().map_err(fail)?;
            }
        } else {
            widen(&opened, mode, path);
        }
        Ok(Self::of(opened))
    }

    /// Opens or creates a file that other programs name, as `flock(1)` does: with the permissions
    /// that the umask leaves, and with no more than `access`.
    ///
    /// A file that is open for writing cannot be executed, and a script may lock itself.
    pub(crate) fn open_plain(path: &Path, mode: Mode, access: Access, flags: OFlag) -> Result<Self, Error> {
        let fail = |e: io::Error| error::at("open the lock file", path, e);
        open_between_forks(|| {
            let opened = open::lockable(path, mode.plain_file(), access, flags).map_err(fail)?;
            if opened.created
                && mode.exact
                && let Some(directory) = path.parent().map(fs::metadata).transpose().map_err(fail)?
            {
                mode.sharing(&directory).apply(&opened.file, &opened.found, path);
            }
            Ok(Self { plain: true, ..Self::of(opened) })
        })
    }

    /// Like [`open`](Self::open), for a file with content of onelock. Also returns whether it has
    /// none yet.
    pub(crate) fn open_ours(path: &Path, mode: Mode, flags: OFlag) -> Result<(Self, bool), Error> {
        let file = Self::open(path, mode, flags)?;
        let start = open::read_start(&file.file, record::MAGIC.len()).map_err(|e| error::at("read", path, e))?;
        if !record::is_ours(&start) || file.found.nlink() > 1 {
            return Err(error::stranger(path));
        }
        Ok((file, start.is_empty()))
    }

    /// Opens the file if it exists.
    pub(crate) fn open_existing(path: &Path) -> Result<Option<Self>, Error> {
        match open_between_forks(|| open::existing(path, Access::ReadWrite, OFlag::empty()).map(Self::of)) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(error::at("open the lock file", path, e)),
        }
    }

    fn of(opened: Opened) -> Self {
        let listed = Listed::new(&opened.file, &opened.found);
        let inode = Inode::of(&opened.found);
        Self {
            file: opened.file,
            found: opened.found,
            inode,
            plain: false,
            process: Process::current(),
            _listed: listed,
        }
    }

    /// Returns the permissions of the files beside this one.
    pub(crate) fn sharing(&self, mode: Mode) -> Sharing {
        if self.plain { mode.sharing_of_plain(&self.found) } else { mode.sharing(&self.found) }
    }

    /// Returns the permissions to create other files of this lock with.
    pub(crate) fn mode_beside(&self, mode: Mode) -> Mode {
        if self.plain { Mode { file: self.sharing(mode).file, ..mode } } else { mode }
    }

    /// Returns whether the file was empty when it was opened. A file with content belongs to
    /// another program, even if its lock is shared.
    pub(crate) fn was_empty(&self) -> bool {
        self.found.len() == 0
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Sets the time of the file to the server's clock, and returns it in microseconds. This needs
    /// no room on the file system.
    pub(crate) fn server_us(&self) -> io::Result<u64> {
        futimens(&self.file, &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_NOW)?;
        Ok(us_of(self.file.metadata()?.modified()?))
    }

    /// Returns whether the lock was acquired. Locking a file that is already locked through this
    /// descriptor succeeds.
    pub(crate) fn try_lock(&self, path: &Path) -> Result<bool, Error> {
        try_flock(&self.file, FlockArg::LockExclusiveNonblock).map_err(|e| error::at("lock", path, e))
    }

    /// Like [`try_lock`](Self::try_lock), for a lock that others may share.
    pub(crate) fn try_lock_shared(&self, path: &Path) -> Result<bool, Error> {
        try_flock(&self.file, FlockArg::LockSharedNonblock).map_err(|e| error::at("lock", path, e))
    }

    /// Waits for the lock, in the kernel.
    pub(crate) fn lock_blocking(&self) -> Result<(), Errno> {
        flock(&self.file, FlockArg::LockExclusive)
    }

    /// Frees the lock even while a duplicate of the descriptor is open, in a supervisor or in a
    /// child between fork and exec.
    ///
    /// In a child made by fork it does nothing, because it would free the lock of the parent.
    pub(crate) fn unlock(&self, path: &Path) -> Result<(), Error> {
        if !self.process.is_current() {
            return Ok(());
        }
        flock(&self.file, FlockArg::Unlock).map_err(|e| error::at("unlock", path, e))
    }

    /// Returns whether the byte was locked for this descriptor.
    pub(crate) fn try_lock_byte(&self, byte: u64) -> Result<bool, Errno> {
        byte_locks::try_lock(&self.file, byte)
    }

    /// Frees the byte even while a duplicate of the descriptor is open. In a child made by fork it
    /// does nothing, as [`unlock`](Self::unlock).
    pub(crate) fn unlock_byte(&self, byte: u64) -> Result<(), Errno> {
        if self.process.is_current() { byte_locks::unlock(&self.file, byte) } else { Ok(()) }
    }

    /// Returns a second descriptor of the same lock, closed on exec.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.file.try_clone().map(Into::into)
    }
}

impl Inode {
    pub(crate) fn of(found: &Metadata) -> Self {
        Self { device: found.dev(), number: found.ino() }
    }

    /// Returns whether `found` describes this file.
    pub(crate) fn is(self, found: &Metadata) -> bool {
        Self::of(found) == self
    }

    /// Returns whether `path` names this file, which must be open. If not, the file was removed or
    /// replaced, and its lock does not exclude other clients.
    pub(crate) fn is_at(self, path: &Path) -> Result<bool, Error> {
        self.found_at(path).map(|found| found.is_some())
    }

    /// Like [`is_at`](Self::is_at), and returns what was found.
    pub(crate) fn found_at(self, path: &Path) -> Result<Option<Metadata>, Error> {
        match fs::symlink_metadata(path) {
            Ok(found) => Ok(self.is(&found).then_some(found)),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(error::at("inspect the lock file", path, e)),
        }
    }
}

/// Restores the configured permissions that another process did not set. Only the owner of the
/// file can. A file with content or a second name belongs to another program.
fn widen(opened: &Opened, mode: Mode, path: &Path) {
    let found = &opened.found;
    let missing = mode.file & !found.mode();
    if mode.exact && missing != 0 && found.len() == 0 && found.nlink() == 1 {
        let wanted = Permissions::from_mode((found.mode() | missing) & 0o7777);
        if let Err(e) = opened.file.set_permissions(wanted) {
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
