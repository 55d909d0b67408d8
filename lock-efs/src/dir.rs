//! Creates the directory of the locks and checks it once.

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

use crate::{error, medium::file_system::FileSystem, mode::Mode};

/// Ensures that `path` is a writable directory, and returns its absolute path.
///
/// Symbolic links in the path are not resolved: if a link is changed to another directory, every
/// process must follow it.
pub(crate) fn prepare(path: &Path, create: bool, mode: Mode) -> Result<PathBuf, Error> {
    let directory = std::path::absolute(path).map_err(|e| {
        Error::new(ErrorKind::Config, format!("\"{}\" is not a path; name a directory for the locks", path.display()))
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

/// Returns an error unless `path`, or its nearest existing parent, is on NFS.
pub(crate) fn must_be_nfs(path: &Path) -> Result<(), Error> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path);
    if FileSystem::of(existing)?.is_nfs() {
        return Ok(());
    }
    let what = format!(
        "{} is not on an NFS mount, so its locks would not exclude other hosts; mount the file system, or \
         accept a local directory with allow_local=true or with file: instead of efs:",
        path.display()
    );
    Err(Error::new(ErrorKind::StoreNotReady, what))
}

fn create_private(directory: &Path, mode: Mode) -> Result<(), Error> {
    let missing: Vec<_> = directory.ancestors().take_while(|d| !d.exists()).collect();
    for &directory in missing.iter().rev() {
        match DirBuilder::new().mode(mode.directory).create(directory) {
            Ok(()) if mode.exact => fs::set_permissions(directory, Permissions::from_mode(mode.directory))
                .map_err(|e| error::at("set the permissions of", directory, e))?,
            Ok(()) => {}
            // Another process created it first. `check` verifies that it is a directory.
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
            "every user can remove the lock files of this directory and so break any lock; remove write access for others (chmod o-w)"
        );
    }
    Ok(())
}
