//! Which store to use, and opening it.

use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use lock_core::{Locker, backend::Backend};
use nix::unistd::{User, geteuid};

use super::exit::{self, Failure};

/// The store's address: as given, else from the environment, else a directory of this user's own.
pub(super) fn url(given: Option<String>) -> Result<String, Failure> {
    if let Some(url) = given {
        return Ok(url);
    }
    if let Some(url) = env::var_os("DLOCK_URL").filter(|url| !url.is_empty()) {
        return url.into_string().map_err(|_| Failure::new(exit::CONFIG, "$DLOCK_URL is not UTF-8"));
    }
    let directory = own_directory()?;
    let text = directory.to_str().ok_or_else(|| {
        Failure::new(exit::CONFIG, format!("the path {} is not UTF-8; give the store with --url", directory.display()))
    })?;
    Ok(format!("file://{text}"))
}

/// Opens the store at `url`.
pub(super) async fn open(url: &str) -> Result<Locker, Failure> {
    let backend: Arc<dyn Backend> = match url.split_once(':') {
        Some(("file", rest)) => Arc::new(lock_efs::FileBackend::open(rest.trim_start_matches("//"))?),
        Some(("memory", _)) => Arc::new(lock_core::memory::MemoryBackend::new()),
        _ => return Err(Failure::new(exit::CONFIG, format!("unknown store {url:?}; known are file: and memory:"))),
    };
    Ok(Locker::builder(backend).build()?)
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
