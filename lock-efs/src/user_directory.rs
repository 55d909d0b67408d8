//! The default store: a private directory of the user.

use std::{
    env, fs,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use lock_core::{Error, ErrorKind, LockName};
use nix::unistd::{User, geteuid};

use crate::{FileBackend, FileConfig};

/// The directory of locks for a user who has named no store; the command `onelock` and the Python
/// package use it.
///
/// It is `$XDG_STATE_HOME/onelock/locks`, else `$HOME/.local/state/onelock/locks`. Without a home
/// it is `/tmp/onelock-` and the number of the user.
///
/// Users must not share it: another user with write access could block this user's jobs, and jobs
/// of different users with the same name would wait for each other.
#[derive(Debug, Clone)]
pub struct UserDirectory {
    path: PathBuf,
    /// Where the check of the path begins: a directory of this user, such as the home.
    base: PathBuf,
    /// The permissions of other users with which the directory is refused.
    forbidden: u32,
    /// The directory that this user has without `XDG_STATE_HOME`, if that is another one.
    another: Option<PathBuf>,
}

impl UserDirectory {
    /// Chooses the directory from the environment and the user's home, and creates nothing.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::PermissionDenied`] if another user could replace the locks in it.
    pub fn choose() -> Result<Self, Error> {
        let variable = |name: &str| Candidate::of(env::var_os(name)?.into());
        // HOME may be missing (cron, systemd) or be another user's (sudo).
        let registered = || Candidate::of(User::from_uid(geteuid()).ok()??.dir);
        let home = variable("HOME").or_else(registered).map(|home| home.join(".local/state"));
        let chosen = match (variable("XDG_STATE_HOME"), home) {
            (Some(state), home) => {
                let another = home.map(|home| home.locks()).filter(|home| *home != state.locks());
                Self { path: state.locks(), base: state.base, forbidden: 0o022, another }
            }
            (None, Some(state)) => Self { path: state.locks(), base: state.base, forbidden: 0o022, another: None },
            (None, None) => {
                let path = PathBuf::from(format!("/tmp/onelock-{}", geteuid()));
                // In a user namespace /tmp may seem to belong to an unknown user.
                Self { base: path.clone(), path, forbidden: 0o077, another: None }
            }
        };
        chosen.check()?;
        Ok(chosen)
    }

    /// Returns the path. It need not exist.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the store, and creates the directory if it is missing and `create` is set.
    ///
    /// # Errors
    /// As [`choose`](Self::choose) and [`FileConfig::build`].
    pub fn open(&self, create: bool) -> Result<FileBackend, Error> {
        if create {
            // The first lock reports a failure.
            let _ = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path);
            // Another user may have created a part of the path since the last check.
            self.check()?;
        }
        FileConfig::new(&self.path).create(create).build()
    }

    /// Returns whether another environment of this user leads to another directory.
    pub fn has_another(&self) -> bool {
        self.another.is_some()
    }

    /// Returns a warning if the other directory has the lock file of `name`, or any lock file.
    pub fn warning(&self, name: Option<&LockName>) -> Option<String> {
        let another = self.another.as_ref()?;
        let found = identity(another)?;
        if identity(&self.path) == Some(found) {
            return None;
        }
        let what = match name {
            Some(name) => {
                let backend = FileConfig::new(another).create(false).build().ok()?;
                fs::symlink_metadata(backend.lock_path(name)).ok()?;
                format!("\"{name}\" was also locked in")
            }
            None => {
                let mut entries = fs::read_dir(another).ok()?.flatten();
                entries.find(|entry| entry.path().extension().is_some_and(|suffix| suffix == "lock"))?;
                "locks are also in".to_owned()
            }
        };
        Some(format!(
            "{what} {}, the default directory without XDG_STATE_HOME, but this is {}: jobs in different directories \
             do not exclude each other; give all jobs the same XDG_STATE_HOME or --url, and remove the directory that \
             is no longer used",
            another.display(),
            self.path.display()
        ))
    }

    /// Returns an error if another user could replace the locks in the directory. A missing part of
    /// its path is no error.
    fn check(&self) -> Result<(), Error> {
        let mut parts: Vec<_> = self.path.ancestors().take_while(|path| **path != *self.base).collect();
        parts.push(&self.base);
        let objection = parts.iter().rev().find_map(|path| self.objection(path));
        objection.map_or(Ok(()), |objection| {
            let path = self.path.display();
            let message = format!(
                "the default directory {path} is not safe: {objection}, or name a store (--url or ONELOCK_URL)"
            );
            Err(Error::new(ErrorKind::PermissionDenied, message))
        })
    }

    /// Returns why locks at or below `path` are not safe from other users, and what to do.
    fn objection(&self, path: &Path) -> Option<String> {
        let is_last = *path == *self.path;
        let me = geteuid().as_raw();
        let is_foreign = |owner: u32| owner != me && (is_last || owner != 0);
        // The owner of a link can change it.
        let link = fs::symlink_metadata(path).ok()?;
        let found = fs::metadata(path).ok();
        let owners = [Some(link.uid()), found.as_ref().map(MetadataExt::uid)];
        let shown = path.display();
        if let Some(owner) = owners.into_iter().flatten().find(|owner| is_foreign(*owner)) {
            return Some(format!(
                "{shown} belongs to user {owner}, who could replace the locks; set HOME to a directory that only this \
                 user may write to"
            ));
        }
        let mode = found?.mode();
        // Under the sticky bit other users can create entries, but cannot replace this user's.
        let is_open = match is_last {
            true => mode & self.forbidden != 0,
            false => mode & 0o1002 == 0o0002,
        };
        is_open.then(|| {
            let forbidden = if self.forbidden == 0o077 { "go-rwx" } else { "go-w" };
            format!("other users can access {shown} and its locks; run chmod {forbidden} {shown}")
        })
    }
}

/// A directory of this user in which the default directory may be.
struct Candidate {
    /// The directory itself, or its nearest existing ancestor.
    base: PathBuf,
    path: PathBuf,
}

impl Candidate {
    /// Returns the candidate if this user owns its base.
    fn of(path: PathBuf) -> Option<Self> {
        let (base, found) = path.ancestors().find_map(|path| Some((path, fs::metadata(path).ok()?)))?;
        let is_ours = path.is_absolute() && found.is_dir() && found.uid() == geteuid().as_raw();
        is_ours.then(|| Self { base: base.to_owned(), path: path.clone() })
    }

    fn join(self, state: &str) -> Self {
        Self { path: self.path.join(state), ..self }
    }

    fn locks(&self) -> PathBuf {
        self.path.join("onelock/locks")
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Another user may create a part of the path after the first check.
    #[test]
    fn a_directory_is_checked_again_when_it_is_created() {
        let home = tempfile::tempdir().expect("a directory for the test");
        let path = home.path().join(".local/locks");
        let directory = UserDirectory { path, base: home.path().into(), forbidden: 0o022, another: None };
        assert!(directory.check().is_ok() && directory.open(true).is_ok());
        let part = home.path().join(".local");
        fs::set_permissions(&part, fs::Permissions::from_mode(0o777)).expect("the test owns it");
        let refused = directory.open(true).expect_err("other users may write to it");
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
        assert!(refused.to_string().contains(&part.display().to_string()), "{refused}");
    }
}
