//! What is different on NFS: what can be believed, and what a lost lock looks like.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::AsFd,
        unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    },
    path::Path,
};

use lock_core::Error;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    libc,
};

use crate::{error, lockfile::LockFile};

/// What a probe of a held lock found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Probe {
    /// The server honoured the lock at some moment within the call.
    StillHeld,
    /// It is gone for good, for this reason.
    Lost(String),
}

/// Asks the server whether the lock of `lock`, opened for direct reads, still stands: one READ request under the lock's own identity.
///
/// Nothing else asks. A lost lock stays invisible to `fstat`, cached reads, `F_GETLK` and `/proc/locks`, and locking again
/// succeeds even after somebody else has been in.
pub(crate) fn probe(lock: &LockFile, path: &Path) -> Result<Probe, Error> {
    match read_direct(lock.file()) {
        Ok(()) => {}
        Err(Errno::EIO) => {
            return Ok(Probe::Lost(
                "the NFS server gave the lock up: this host was out of its reach for longer than a lease, or the server lost its state".into(),
            ));
        }
        Err(Errno::ESTALE) => return Ok(Probe::Lost(removed(path))),
        Err(e) => return Err(error::at("read through the lock on", path, e)),
    }
    // From the cache, and so up to a minute late: but a lock file that is removed while it is locked is somebody's mistake, or
    // `filelock`'s way of giving its own lock back.
    Ok(match fs::symlink_metadata(path) {
        Ok(found) if lock.inode.is(&found) => Probe::StillHeld,
        Ok(found) if found.dev() != lock.inode.device => Probe::Lost(unmounted(path)),
        Ok(_) => Probe::Lost(removed(path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => match path.parent().and_then(|dir| fs::metadata(dir).ok()) {
            Some(dir) if dir.dev() == lock.inode.device => Probe::Lost(removed(path)),
            _ => Probe::Lost(unmounted(path)),
        },
        Err(e) if e.raw_os_error() == Some(libc::ESTALE) => Probe::Lost(removed(path)),
        Err(e) => return Err(error::at("look at the lock file", path, e)),
    })
}

fn read_direct(file: &File) -> Result<(), Errno> {
    loop {
        match file.read_at(&mut [0; 1], 0) {
            Ok(_) => return Ok(()),
            Err(e) => match e.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw) {
                Errno::EINTR => {}
                errno => return Err(errno),
            },
        }
    }
}

fn removed(path: &Path) -> String {
    format!("the lock file {} was removed or replaced while the lock was held", path.display())
}

fn unmounted(path: &Path) -> String {
    format!("the file system of {} was unmounted while the lock was held", path.display())
}

/// Whether somebody holds a lock on the file at `path`, without taking one for it: the server is asked, and says so of every client.
pub(crate) fn is_locked(path: &Path) -> Result<bool, Error> {
    let fail = |e: io::Error| error::at("look at the lock file", path, e);
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(fail(e)),
    };
    let mut conflict = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file.as_fd(), FcntlArg::F_GETLK(&mut conflict)).map_err(|e| fail(e.into()))?;
    Ok(i32::from(conflict.l_type) != libc::F_UNLCK)
}
