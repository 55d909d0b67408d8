//! The directory of the locks: created, and checked once.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use lock_core::{Error, ErrorKind};
use nix::{
    fcntl::{AT_FDCWD, AtFlags},
    unistd::{AccessFlags, faccessat},
};

use crate::{error, mode::Mode, mount::Medium};

/// Makes sure of a writable directory at `path`, and returns it as an absolute path.
///
/// Symbolic links on the way are kept, not resolved: when one is turned to another directory, every process must follow.
pub(crate) fn prepare(path: &Path, create: bool, mode: Mode) -> Result<PathBuf, Error> {
    let directory = std::path::absolute(path).map_err(|e| {
        Error::new(ErrorKind::Config, format!("\"{}\" is no directory; name one for the locks", path.display()))
            .with_source(e)
    })?;
    match fs::metadata(&directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && create => create_private(&directory, mode)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let what = format!("the directory {} does not exist; create it or mount it", directory.display());
            return Err(Error::new(ErrorKind::StoreNotReady, what).with_source(e));
        }
        Err(e) => return Err(error::at("open the directory", &directory, e)),
        Ok(_) => {}
    }
    check(&directory)?;
    Ok(directory)
}

/// Makes sure that `path`, or where it would be created, is on NFS.
pub(crate) fn must_be_nfs(path: &Path) -> Result<(), Error> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path);
    if Medium::of(existing)?.is_nfs() {
        return Ok(());
    }
    let what = format!(
        "{} is not on an NFS mount, so its locks would exclude no other host; mount the file system, or say that this is \
         meant: allow_local=true, or file: in place of efs:",
        path.display()
    );
    Err(Error::new(ErrorKind::StoreNotReady, what))
}

/// Whether `directory` is on a network file system, or one that a program provides (FUSE), where a lock can be lost unseen and
/// no event tells of other machines.
#[cfg(target_os = "linux")]
pub(crate) fn is_remote(directory: &Path) -> bool {
    /// NFS, SMB1, SMB2, CIFS, Ceph, AFS, Coda, 9p, Lustre, GFS2, OCFS2, FUSE, as in statfs(2).
    const REMOTE: [i64; 12] = [
        0x6969,
        0x517B,
        0xFE53_4D42,
        0xFF53_4D42,
        0x00C3_6400,
        0x5346_414F,
        0x7375_7245,
        0x0102_1997,
        0x0BD0_0BD0,
        0x0116_1970,
        0x7461_636F,
        0x6573_5546,
    ];
    #[allow(clippy::unnecessary_cast, reason = "the number has another type on other architectures")]
    let magic = nix::sys::statfs::statfs(directory).map(|found| found.filesystem_type().0 as i64);
    magic.is_ok_and(|magic| REMOTE.contains(&magic))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn is_remote(_: &Path) -> bool {
    false
}

fn create_private(directory: &Path, mode: Mode) -> Result<(), Error> {
    let missing: Vec<_> = directory.ancestors().take_while(|d| !d.exists()).collect();
    for &directory in missing.iter().rev() {
        match DirBuilder::new().mode(mode.directory).create(directory) {
            Ok(()) if mode.exact => fs::set_permissions(directory, Permissions::from_mode(mode.directory))
                .map_err(|e| error::at("set the permissions of", directory, e))?,
            Ok(()) => {}
            // Somebody else was faster, which is as good; `check` sees what it is.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(error::at("create the directory", directory, e)),
        }
    }
    Ok(())
}

fn check(directory: &Path) -> Result<(), Error> {
    let found = fs::metadata(directory).map_err(|e| error::at("open the directory", directory, e))?;
    if !found.is_dir() {
        let what = format!("{} is not a directory; name a directory for the locks", directory.display());
        return Err(Error::new(ErrorKind::StoreNotReady, what));
    }
    let write_and_search = AccessFlags::W_OK | AccessFlags::X_OK;
    faccessat(AT_FDCWD, directory, write_and_search, AtFlags::AT_EACCESS)
        .map_err(|e| error::at("write to the directory", directory, e))?;
    let shared_by_all = found.permissions().mode() & 0o1002 == 0o0002;
    if shared_by_all {
        tracing::warn!(
            directory = %directory.display(),
            "every user may remove the lock files of this directory, and so break any lock; take write access from others"
        );
    }
    Ok(())
}
