//! Chooses the store, and opens it.

use std::{
    env,
    ffi::OsString,
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
};

use nix::unistd::{User, geteuid};
use onelock::{ConfigString, Locker, Registry, files::FileConfig};

use crate::{
    args::StoreArgs,
    exit::{self, Failure},
    output::say,
    runtime::{on_thread, reserve_thread},
};

/// The place of the locks.
#[derive(Debug)]
pub(crate) enum StoreLocation {
    /// The store that a config string describes.
    Url(String),
    /// A private directory of this user. It is no config string, because its path may contain
    /// characters that have a meaning there.
    UserDirectory(PathBuf),
}

impl StoreLocation {
    /// Chooses the store from the options, else the environment, else the user's private directory.
    pub(crate) fn choose(args: &StoreArgs) -> Result<Self, Failure> {
        if let Some(url) = &args.url {
            warn_of_secrets(url);
            return Ok(Self::Url(url.clone()));
        }
        if let Some(path) = &args.url_file {
            return from_file("--url-file", path);
        }
        match (variable("ONELOCK_URL"), variable("ONELOCK_URL_FILE")) {
            (None, None) => user_directory().map(Self::UserDirectory),
            (None, Some(path)) => from_file("$ONELOCK_URL_FILE", Path::new(&path)),
            (Some(url), None) => match url.into_string() {
                Ok(url) => Ok(Self::Url(url)),
                Err(_) => Err(Failure::new(exit::CONFIG, "$ONELOCK_URL is not UTF-8")),
            },
            // Either choice would lock in the wrong store for a user who meant the other one.
            (Some(_), Some(_)) => Err(Failure::new(
                exit::CONFIG,
                "$ONELOCK_URL and $ONELOCK_URL_FILE are both set; unset one, or pass --url",
            )),
        }
    }

    /// Chooses like [`choose`](Self::choose). Looks at files on a thread of its own: the home, or
    /// the file that names the store, may be on a file system that hangs, and signals must still be
    /// handled.
    pub(crate) async fn choose_on_thread(args: StoreArgs) -> Result<Self, Failure> {
        if args.url.is_some() || (args.url_file.is_none() && variable("ONELOCK_URL").is_some()) {
            return Self::choose(&args);
        }
        let chosen = on_thread(move || Self::choose(&args)).await;
        chosen.map_err(|e| Failure::start("a thread that chooses the store", &e))?
    }

    pub(crate) async fn open(&self) -> Result<Locker, Failure> {
        self.open_with(&onelock::registry()).await
    }

    /// Opens the store with `registry`. Clients that share a registry share its `memory:` store.
    pub(crate) async fn open_with(&self, registry: &Registry) -> Result<Locker, Failure> {
        match self {
            Self::Url(url) => {
                if !is_directory(url) {
                    reserve_thread()?;
                }
                Ok(registry.open(url).await?)
            }
            Self::UserDirectory(directory) => open_user_directory(directory.clone(), true).await,
        }
    }

    /// Opens the store for a question: a missing directory is an error, and is not created.
    pub(crate) async fn open_to_ask(&self) -> Result<Locker, Failure> {
        match self {
            Self::Url(url) if is_directory(url) => {
                let config = ConfigString::parse(url)?;
                let config = match config.option("create") {
                    None => config.with_option("create", "false")?,
                    Some(_) => config,
                };
                Ok(onelock::registry().open(config).await?)
            }
            Self::UserDirectory(directory) => open_user_directory(directory.clone(), false).await,
            Self::Url(_) => self.open().await,
        }
    }

    /// Passes the store to a child in its environment, because `ps` shows arguments.
    pub(crate) fn pass_to(&self, command: &mut Command) {
        command.env_remove("ONELOCK_URL").env_remove("ONELOCK_URL_FILE");
        if let Self::Url(url) = self {
            command.env("ONELOCK_URL", url);
        }
    }
}

fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

async fn open_user_directory(directory: PathBuf, create: bool) -> Result<Locker, Failure> {
    // The home may be on a file system that hangs, and signals must still be handled.
    let opened = on_thread(move || FileConfig::new(directory).create(create).build()).await;
    let opened = opened.map_err(|e| Failure::start("a thread that opens the directory of locks", &e))?;
    Ok(opened.and_then(Locker::new)?)
}

/// Whether the locks of `url` are in a directory, whose backend starts its own threads.
fn is_directory(url: &str) -> bool {
    ["file:", "efs:"].iter().any(|scheme| url.starts_with(scheme))
}

/// Reads the store from the file that `what` names.
fn from_file(what: &str, path: &Path) -> Result<StoreLocation, Failure> {
    let text = fs::read_to_string(path).map_err(|error| {
        Failure::new(exit::CONFIG, format!("cannot read {}, the file named by {what}", path.display()))
            .with_source(error)
    })?;
    Ok(StoreLocation::Url(text.trim_end_matches(['\r', '\n']).to_owned()))
}

fn warn_of_secrets(url: &str) {
    if ConfigString::parse(url).is_ok_and(|config| config.has_secrets()) {
        say("onelock: warning: other users can read the secret in --url with ps; \
             use --url-file or $ONELOCK_URL, or write password_file=FILE or password_env=VARIABLE instead\n");
    }
}

/// Removes the lock files whose names contain `id`, if the store is a directory. Every name that
/// `doctor` and `torture` make up contains the id of the run.
pub(crate) fn remove_lock_files(store: &str, id: &str) {
    let Some(directory) = store.strip_prefix("file://").or_else(|| store.strip_prefix("efs://")) else { return };
    let path = directory.split_once('?').map_or(directory, |(path, _)| path);
    for entry in fs::read_dir(Path::new(path)).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().contains(id) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Returns the private directory of this user.
///
/// Users must not share the default directory: another user with write access could block this
/// user's jobs, and jobs of different users with the same name would wait for each other.
fn user_directory() -> Result<PathBuf, Failure> {
    let state = env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute() && is_ours(path));
    let home = || env::var_os("HOME").map(PathBuf::from).filter(|path| path.is_absolute() && is_ours(path));
    // HOME may be missing (cron, systemd) or be another user's (sudo).
    let registered = || User::from_uid(geteuid()).ok().flatten().map(|user| user.dir).filter(|path| is_ours(path));
    match state.or_else(|| home().or_else(registered).map(|home| home.join(".local/state"))) {
        Some(state) => Ok(state.join("onelock/locks")),
        None => temporary_directory(),
    }
}

/// Whether this user owns the directory, or its nearest existing ancestor if it does not exist
/// yet.
fn is_ours(path: &Path) -> bool {
    let existing = path.ancestors().find_map(|path| fs::metadata(path).ok());
    existing.is_some_and(|meta| meta.is_dir() && meta.uid() == geteuid().as_raw())
}

/// Returns the directory for a user without a home. Another user may have created it first, so it
/// is used only if this user owns it and no other user can access it.
fn temporary_directory() -> Result<PathBuf, Failure> {
    let path = PathBuf::from(format!("/tmp/onelock-{}", geteuid()));
    match fs::DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            let message = format!("cannot create the default directory {}; choose a store with --url", path.display());
            return Err(Failure::new(exit::CANNOT_CREATE, message).with_source(error));
        }
        _ => {}
    }
    // Not `metadata`, because a symbolic link in /tmp may lead anywhere.
    let safe = fs::symlink_metadata(&path)
        .is_ok_and(|meta| meta.is_dir() && meta.uid() == geteuid().as_raw() && meta.mode() & 0o077 == 0);
    if safe {
        return Ok(path);
    }
    let message = format!(
        "this user has no home, and {} is not a directory that only this user can access; choose a store with --url",
        path.display()
    );
    Err(Failure::new(exit::NO_PERMISSION, message))
}
