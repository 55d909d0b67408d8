//! Makes look-ups of a path on NFS ask the server.

use std::{
    io,
    path::Path,
    sync::Mutex,
    time::{Duration, Instant},
};

use lock_core::{Error, ErrorKind};
use nix::errno::Errno;

use crate::{error, sync};

/// Refreshes this host's cache of `directory` and of all directories above it.
///
/// A host looks names up in its cache for as long as the mount options allow: up to a minute by
/// default, and longer with `actimeo` or `acdirmax`. During that time the path of a lock file that
/// another host removed, or whose directory it moved, still leads to the old file. A directory that
/// this call finds changed is looked up again. It costs one GETATTR request for each directory.
///
/// # Errors
/// If a directory is gone or cannot be reached; see [`is_gone`].
pub(crate) fn refresh(directory: &Path) -> io::Result<()> {
    // A name is looked up in its directory, so that directory must be fresh first.
    refresh_all(directory)?;
    let real = directory.canonicalize()?;
    if real == directory { Ok(()) } else { refresh_all(&real) }
}

/// How long the probes of a process share one refresh of their directory. Each of 200 locks would
/// send these requests every second otherwise.
const SHARED_FOR: Duration = Duration::from_millis(500);

/// When the directory of a store was last refreshed for a probe.
#[derive(Debug)]
pub(crate) struct LastRefresh(Mutex<Option<Instant>>);

impl LastRefresh {
    pub(crate) const fn never() -> Self {
        Self(Mutex::new(None))
    }

    /// Refreshes the directory, unless that was begun a moment ago and succeeded.
    pub(crate) fn refresh(&self, directory: &Path) -> io::Result<()> {
        let now = Instant::now();
        if sync::lock(&self.0).is_some_and(|begun| now.duration_since(begun) < SHARED_FOR) {
            return Ok(());
        }
        refresh(directory)?;
        *sync::lock(&self.0) = Some(now);
        Ok(())
    }
}

fn refresh_all(directory: &Path) -> io::Result<()> {
    let above: Vec<&Path> = directory.ancestors().collect();
    above.into_iter().rev().try_for_each(synchronise)
}

/// Returns whether `error` says that the path no longer exists.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(Errno::ESTALE as i32)
}

/// Returns the error of [`refresh`].
pub(crate) fn failed(directory: &Path, source: io::Error) -> Error {
    if matches!(source.raw_os_error().map(Errno::from_raw), Some(Errno::ENOSYS | Errno::EPERM)) {
        let what = "the kernel refuses statx(2), without which a removed lock file on NFS is noticed late; allow it \
                    in the seccomp profile, or use Linux 4.11 or later";
        return Error::new(ErrorKind::Unsupported, what).with_source(source).with_ambiguous(false);
    }
    error::at("inspect the directory", directory, source)
}

/// Requests the attributes of `directory` from the server.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "nix has no wrapper of statx(2)")]
fn synchronise(directory: &Path) -> io::Result<()> {
    use std::{ffi::CString, mem::MaybeUninit, os::unix::ffi::OsStrExt};

    use nix::libc;

    let path = CString::new(directory.as_os_str().as_bytes())?;
    let mut found = MaybeUninit::<libc::statx>::uninit();
    // SAFETY: the path ends with a null byte, and the kernel writes at most one `statx`.
    let result = unsafe {
        libc::statx(libc::AT_FDCWD, path.as_ptr(), libc::AT_STATX_FORCE_SYNC, libc::STATX_MTIME, found.as_mut_ptr())
    };
    Errno::result(result).map(drop).map_err(Into::into)
}

#[cfg(not(target_os = "linux"))]
fn synchronise(directory: &Path) -> io::Result<()> {
    std::fs::metadata(directory).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_directory_is_gone_and_a_link_is_followed() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).expect("a link can be made");
        refresh(&link).expect("the directory exists");
        let missing = refresh(&link.join("a/b")).expect_err("the directory does not exist");
        assert!(is_gone(&missing), "{missing}");
        let denied = failed(dir.path(), Errno::EPERM.into());
        assert_eq!(denied.kind(), ErrorKind::Unsupported, "{denied}");
    }
}
