//! Chooses the store, and opens it.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use lock_core::{LockName, config::StoreConfig};
use onelock::{
    ConfigString, Locker, Registry,
    files::{FileBackend, FileConfig, Names, UserDirectory},
};

use crate::{
    args::StoreArgs,
    exit::{self, Failure},
    output::warn,
    runtime::{on_thread, reserve_thread},
};

/// The place of the locks.
#[derive(Debug)]
pub(crate) enum StoreLocation {
    /// The store that a config string describes.
    Url(String),
    /// The lock file that the command names by its path, and others lock with `flock(1)`.
    LockFile(PathBuf),
    /// A private directory of this user. It is no config string, because its path may contain
    /// characters that have a meaning there.
    UserDirectory(UserDirectory),
}

impl StoreLocation {
    /// Chooses the store from the options, else the environment, else the user's private directory.
    pub(crate) fn choose(args: &StoreArgs) -> Result<Self, Failure> {
        if let Some(file) = &args.lock_file {
            return Ok(Self::LockFile(file.clone()));
        }
        if let Some(url) = &args.url {
            warn_of_secrets(url);
            return Ok(Self::Url(url.clone()));
        }
        if let Some(path) = &args.url_file {
            return from_file("--url-file", path);
        }
        match (variable("ONELOCK_URL"), variable("ONELOCK_URL_FILE")) {
            (None, None) => Ok(Self::UserDirectory(UserDirectory::choose()?)),
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

    /// Chooses like [`choose`](Self::choose), for locks whose names are made up: they are no files
    /// of other programs.
    pub(crate) fn choose_for_probes(args: &StoreArgs) -> Result<Self, Failure> {
        match Self::choose(args)? {
            Self::Url(url) if is_directory(&url) && url.contains("names=") => {
                let config = ConfigString::parse(&url)?;
                Ok(Self::Url(config.without_option("names").expose()))
            }
            chosen => Ok(chosen),
        }
    }

    /// Chooses like [`choose`](Self::choose). Looks at files on a thread of its own: the home, or
    /// the file that names the store, may be on a file system that hangs, and signals must still be
    /// handled.
    pub(crate) async fn choose_on_thread(args: StoreArgs) -> Result<Self, Failure> {
        let is_known = args.lock_file.is_some() || args.url.is_some();
        if is_known || (args.url_file.is_none() && variable("ONELOCK_URL").is_some()) {
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
            Self::LockFile(file) => open_lock_file(file.clone()).await,
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
            Self::Url(_) | Self::LockFile(_) => self.open().await,
        }
    }

    /// Warns if this user has used the lock `name`, or any lock, in another default directory.
    /// Looks at files on a thread of its own, as [`choose_on_thread`](Self::choose_on_thread).
    pub(crate) async fn warn_of_another_directory(&self, name: Option<&LockName>) -> Result<(), Failure> {
        let Self::UserDirectory(directory) = self else { return Ok(()) };
        if !directory.has_another() {
            return Ok(());
        }
        let (directory, name) = (directory.clone(), name.cloned());
        let warning = on_thread(move || directory.warning(name.as_ref())).await;
        let warning = warning.map_err(|e| Failure::start("a thread that looks for other locks", &e))?;
        if let Some(warning) = warning {
            warn(&warning.to_string());
        }
        Ok(())
    }

    /// Returns the store for messages, also if it cannot be opened.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Url(url) => ConfigString::parse(url)
                .map_or_else(|error| error.store().unwrap_or_default().to_owned(), |config| config.redacted()),
            Self::LockFile(file) => file.display().to_string(),
            Self::UserDirectory(directory) => format!("file://{}", directory.path().display()),
        }
    }

    /// Returns whether the user named no store.
    pub(crate) fn is_default(&self) -> bool {
        matches!(self, Self::UserDirectory(_))
    }

    /// Passes the store to a child in its environment, because `ps` shows arguments.
    pub(crate) fn pass_to(&self, command: &mut Command) {
        command.env_remove("ONELOCK_URL").env_remove("ONELOCK_URL_FILE");
        if let Self::Url(url) = self {
            command.env("ONELOCK_URL", url);
        }
    }
}

pub(crate) fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

async fn open_user_directory(directory: UserDirectory, create: bool) -> Result<Locker, Failure> {
    // The home may be on a file system that hangs, and signals must still be handled.
    let opened = on_thread(move || directory.open(create)).await;
    let opened = opened.map_err(|e| Failure::start("a thread that opens the directory of locks", &e))?;
    Ok(Locker::new(opened?)?)
}

async fn open_lock_file(file: PathBuf) -> Result<Locker, Failure> {
    // The file may be on a file system that hangs, and signals must still be handled.
    let opened = on_thread(move || open_directory_of(&file)).await;
    let opened = opened.map_err(|e| Failure::start("a thread that opens the directory of the lock file", &e))?;
    Ok(Locker::new(opened?)?)
}

fn open_directory_of(file: &Path) -> Result<FileBackend, Failure> {
    // flock(1) locks the file that the link names. Another user may change the link meanwhile.
    let directory = file.parent().unwrap_or(file);
    if let Ok(named) = fs::read_link(file) {
        // A relative link counts from its own directory.
        let (file, named) = (file.display(), directory.join(named));
        let named = named.display();
        let message = format!("{file} is a symbolic link, which is not followed; name the lock file itself: {named}");
        return Err(Failure::new(exit::CANNOT_CREATE, message));
    }
    Ok(FileConfig::new(directory).create(false).names(Names::Plain).build()?)
}

/// Whether the locks of `url` are in a directory, whose backend starts its own threads.
pub(crate) fn is_directory(url: &str) -> bool {
    ["file:", "efs:", "/"].iter().any(|scheme| url.starts_with(scheme))
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
        warn(
            "other users can read the secret in --url with ps; \
             use --url-file or $ONELOCK_URL, or write password_file=FILE or password_env=VARIABLE instead",
        );
    }
}

/// Removes the lock files whose names contain `id`, if the store is a directory. Every name that
/// `doctor` and `torture` make up contains the id of the run.
pub(crate) fn remove_lock_files(store: &str, id: &str) {
    let Ok(config) = ConfigString::parse(store) else { return };
    if !["file", "efs"].contains(&config.scheme()) {
        return;
    }
    let Ok(directory) = StoreConfig::from(config).take_directory() else { return };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().contains(id) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
