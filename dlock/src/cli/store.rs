//! Which store to use, and opening it.

use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use dlock::{Locker, efs::FileBackend};
use nix::unistd::{User, geteuid};

use super::exit::{self, Failure};

/// Where the locks are.
#[derive(Debug)]
pub(super) enum Store {
    /// What a config string describes.
    Configured(String),
    /// A directory of this user's own, for which no config string is needed, whatever its path looks like.
    Own(PathBuf),
}

impl Store {
    /// As given, else from the environment, else a directory of this user's own.
    pub(super) fn choose(given: Option<String>) -> Result<Self, Failure> {
        if let Some(url) = given {
            return Ok(Self::Configured(url));
        }
        if let Some(url) = env::var_os("DLOCK_URL").filter(|url| !url.is_empty()) {
            let url = url.into_string().map_err(|_| Failure::new(exit::CONFIG, "$DLOCK_URL is not UTF-8"))?;
            return Ok(Self::Configured(url));
        }
        own_directory().map(Self::Own)
    }

    pub(super) async fn open(&self) -> Result<Locker, Failure> {
        let locker = match self {
            Self::Configured(url) => dlock::open(url).await,
            Self::Own(directory) => FileBackend::open(directory).and_then(Locker::new),
        };
        Ok(locker?)
    }
}

/// Lock files of one user must not be those of another: whoever can write there can hold up our jobs, and whoever
/// shares it by accident waits for jobs of strangers with the same name.
fn own_directory() -> Result<PathBuf, Failure> {
    let state = env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute() && is_ours(path));
    let home = || env::var_os("HOME").map(PathBuf::from).filter(|path| path.is_absolute() && is_ours(path));
    // Without HOME (cron, systemd), or with another user's (sudo).
    let registered = || User::from_uid(geteuid()).ok().flatten().map(|user| user.dir).filter(|path| is_ours(path));
    match state.or_else(|| home().or_else(registered).map(|home| home.join(".local/state"))) {
        Some(state) => Ok(state.join("dlock/locks")),
        None => temporary_directory(),
    }
}

/// Whether this user owns the directory; or the one that it would be made in, if it does not exist yet.
fn is_ours(path: &Path) -> bool {
    let existing = path.ancestors().find_map(|path| fs::metadata(path).ok());
    existing.is_some_and(|meta| meta.is_dir() && meta.uid() == geteuid().as_raw())
}

/// For a user without a home. Anybody can make a directory of that name first, so it counts only when it is ours alone.
fn temporary_directory() -> Result<PathBuf, Failure> {
    let path = PathBuf::from(format!("/tmp/dlock-{}", geteuid()));
    match fs::DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            let message = format!("cannot create {}; give a store with --url", path.display());
            return Err(Failure::new(exit::CANNOT_CREATE, message).with_source(error));
        }
        _ => {}
    }
    // Not `metadata`: a symbolic link in /tmp may lead anywhere.
    let safe = fs::symlink_metadata(&path)
        .is_ok_and(|meta| meta.is_dir() && meta.uid() == geteuid().as_raw() && meta.mode() & 0o077 == 0);
    if safe {
        return Ok(path);
    }
    let message = format!(
        "{} is not a directory that belongs to this user alone, and this user has no home; give a store with --url",
        path.display()
    );
    Err(Failure::new(exit::NO_PERMISSION, message))
}
