//! Finds the directory of the locks, and creates it.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use lock_core::{Error, ErrorKind};

use crate::{error, files::existing, medium::file_system::FileSystem, mode::Mode, open};

/// The directory of the locks, as it was found when it was opened.
#[derive(Debug)]
pub(crate) struct LockDirectory {
    pub(crate) path: PathBuf,
    /// The file system that it is on, or will be on once it is created.
    pub(crate) file_system: FileSystem,
    /// Whether the first lock is to create it. Opening does not: a question about a mistyped path
    /// would get the answer that no lock is held there.
    pub(crate) is_missing: bool,
}

impl LockDirectory {
    /// Looks at `path`, and changes nothing. It may be missing if it is to be created.
    ///
    /// Symbolic links in the path are not resolved: if a link is changed to another directory,
    /// every process must follow it.
    pub(crate) fn find(path: &Path, create: bool) -> Result<Self, Error> {
        let absolute = std::path::absolute(path).map_err(|e| {
            let what = format!("\"{}\" is not a path; name a directory for the locks", path.display());
            Error::new(ErrorKind::Config, what).with_source(e)
        })?;
        // Without a slash at the end, which would be a second name of the same store.
        let path: PathBuf = absolute.components().collect();
        let is_missing = match fs::metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && create => true,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let what = format!("the directory {} does not exist; create it or mount it", path.display());
                return Err(Error::new(ErrorKind::StoreNotReady, what).with_source(e));
            }
            Err(e) => return Err(error::at("open the directory", &path, e)),
            Ok(_) => false,
        };
        if !is_missing {
            check(&path)?;
        }
        let file_system = FileSystem::of(existing(&path))?;
        // Says at once that this kernel cannot do it, and not only after the first acquisition.
        file_system.medium().refresh_directory(existing(&path))?;
        Ok(Self { path, file_system, is_missing })
    }
}

/// Creates the directory of the locks, which was missing when it was opened.
///
/// # Errors
/// If it cannot be created, or is not on the kind of file system that was found then.
pub(crate) fn create(directory: &Path, mode: Mode, is_nfs: bool) -> Result<(), Error> {
    create_all(directory, mode)?;
    check(directory)?;
    if FileSystem::of(directory)?.is_nfs() == is_nfs {
        return Ok(());
    }
    let what = format!("a file system was mounted on {} after it was opened; open it again", directory.display());
    Err(Error::new(ErrorKind::StoreNotReady, what).with_ambiguous(false))
}

/// Returns an error unless `directory` exists, for answers that no lock is held in it.
pub(crate) fn must_exist(directory: &Path) -> Result<(), Error> {
    match fs::metadata(directory) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let what = format!(
                "the directory {} does not exist; check the path (the first lock in it creates it)",
                directory.display()
            );
            Err(Error::new(ErrorKind::StoreNotReady, what).with_source(e).with_ambiguous(false))
        }
        Err(e) => Err(error::at("open the directory", directory, e)),
    }
}

/// Returns an error unless `path`, or its nearest existing parent, is on NFS.
pub(crate) fn must_be_nfs(path: &Path) -> Result<(), Error> {
    if FileSystem::of(existing(path))?.is_nfs() {
        return Ok(());
    }
    let what = format!(
        "{} is not on an NFS mount, so its locks would not exclude other hosts; mount the file system, or \
         accept a local directory with allow_local=true or with file: instead of efs:",
        path.display()
    );
    Err(Error::new(ErrorKind::StoreNotReady, what))
}

fn create_all(directory: &Path, mode: Mode) -> Result<(), Error> {
    let missing: Vec<_> = directory.ancestors().take_while(|d| !d.exists()).collect();
    let mut below = missing.iter().rev().skip(1).map(|directory| directory.file_name());
    for &directory in missing.iter().rev() {
        let next = below.next().flatten();
        match DirBuilder::new().mode(mode.directory).create(directory) {
            Ok(()) => share(directory, next, mode).map_err(|e| error::at("set the permissions of", directory, e))?,
            // Another process created it first. `check` verifies that it is a directory.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(error::at("create the directory", directory, e)),
        }
    }
    Ok(())
}

/// Gives a directory that was just created to the users of its parent, as [`Sharing`] says. If
/// another directory stands there by now, it stays as it is. `next` is the name of the directory
/// that is created in it.
///
/// [`Sharing`]: crate::mode::Sharing
fn share(directory: &Path, next: Option<&OsStr>, mode: Mode) -> io::Result<()> {
    let parent = fs::metadata(directory.parent().unwrap_or(directory))?;
    match open::created_directory(directory, next) {
        Ok(created) => mode.sharing_of_directory(&parent).apply(&created.file, &created.found, directory),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

fn check(directory: &Path) -> Result<(), Error> {
    let found = fs::metadata(directory).map_err(|e| error::at("open the directory", directory, e))?;
    if !found.is_dir() {
        let what = format!("{} is not a directory; name a directory for the locks", directory.display());
        return Err(Error::new(ErrorKind::StoreNotReady, what));
    }
    let shared_by_all = found.permissions().mode() & 0o1002 == 0o0002;
    if shared_by_all {
        tracing::warn!(
            directory = %directory.display(),
            "every user can remove the lock files of this directory and so break any lock; remove write access for \
             others (chmod o-w)"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_make_no_second_name_of_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().to_str().unwrap();
        for text in
            [name.to_owned(), format!("{name}/"), format!("{name}//"), format!("/{name}/."), format!("{name}/./")]
        {
            let found = LockDirectory::find(Path::new(&text), false).unwrap();
            // Paths that differ in slashes are equal, and their texts are not.
            assert_eq!(found.path.to_str(), Some(name), "{text}");
        }
    }
}
