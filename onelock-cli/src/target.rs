//! Tells the name of a lock from the path of a lock file, as `flock(1)` takes it.

use std::path;

use lock_core::LockName;

use crate::{
    args::StoreArgs,
    exit::{self, Failure},
    store::{is_directory, variable},
};

/// The lock that a command is about.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Its name in the store.
    pub(crate) name: LockName,
    /// Its name in messages and for the command under the lock: the path, if the lock is a file.
    pub(crate) shown: LockName,
    pub(crate) store: StoreArgs,
}

impl Target {
    /// Returns the lock that `name` stands for. Looks at no file.
    ///
    /// A name with a slash is the path of a lock file, unless a store is chosen. Then a slash is a
    /// part of the name, and a name that begins as a path does is refused where it may be meant as
    /// one: a lock that no `flock` of that file sees would exclude no other program.
    pub(crate) fn new(name: LockName, mut store: StoreArgs) -> Result<Self, Failure> {
        if !name.as_str().contains('/') {
            return Ok(Self { shown: name.clone(), name, store });
        }
        if let Some(chosen) = Chosen::of(&store) {
            return match begins_as_a_path(name.as_str()) && !chosen.has_no_files {
                true => Err(chosen.refuse(&name)),
                false => Ok(Self { shown: name.clone(), name, store }),
            };
        }
        let cannot =
            |why: String| Failure::new(exit::USAGE, format!("\"{name}\" is not the path of a lock file: {why}"));
        let file = path::absolute(name.as_str()).map_err(|error| cannot(error.to_string()))?;
        let last = file.file_name().and_then(|last| last.to_str());
        let last = last.ok_or_else(|| cannot("it does not end with the name of a file or directory".to_owned()))?;
        let name_in_store = LockName::new(last).map_err(|error| cannot(error.to_string()))?;
        let shown = LockName::new(file.to_string_lossy()).map_err(|error| cannot(error.to_string()))?;
        store.lock_file = Some(file);
        Ok(Self { name: name_in_store, shown, store })
    }
}

/// Which names a program may use that speaks of locks by their names only.
#[derive(Debug)]
pub(crate) struct Names(Option<Chosen>);

impl Names {
    pub(crate) fn in_store(store: &StoreArgs) -> Self {
        Self(Chosen::of(store))
    }

    /// Refuses a name that [`Target::new`] would take for a path, or refuse.
    pub(crate) fn check(&self, name: &LockName) -> Result<(), String> {
        if !name.as_str().contains('/') {
            return Ok(());
        }
        match &self.0 {
            Some(chosen) if begins_as_a_path(name.as_str()) && !chosen.has_no_files => {
                Err(chosen.refuse(name).to_string())
            }
            Some(_) => Ok(()),
            None => Err(format!(
                "\"{name}\" is the path of a lock file where no store is chosen, and requests name no files; choose a \
                 store with --url, or use `onelock hold` without --json"
            )),
        }
    }
}

fn begins_as_a_path(name: &str) -> bool {
    ["/", "./", "../"].iter().any(|start| name.starts_with(start))
}

/// The choice of a store.
#[derive(Debug)]
struct Chosen {
    by: &'static str,
    /// Whether the locks of this store are certainly no files, and the choice is on the same line.
    has_no_files: bool,
}

impl Chosen {
    fn of(store: &StoreArgs) -> Option<Self> {
        let by = if store.url.is_some() {
            "--url"
        } else if store.url_file.is_some() {
            "--url-file"
        } else if variable("ONELOCK_URL").is_some() {
            "$ONELOCK_URL"
        } else if variable("ONELOCK_URL_FILE").is_some() {
            "$ONELOCK_URL_FILE"
        } else {
            return None;
        };
        Some(Self { by, has_no_files: store.url.as_ref().is_some_and(|url| !is_directory(url)) })
    }

    fn refuse(&self, name: &LockName) -> Failure {
        let by = self.by;
        let message = format!(
            "\"{name}\" looks like a path, but {by} chooses a store, where it would be a name and lock no file; to \
             lock that file, leave out {by}; for a name, do not begin with \"/\", \"./\" or \"../\""
        );
        Failure::new(exit::USAGE, message)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn target(name: &str, url: Option<&str>) -> Result<Target, Failure> {
        let store = StoreArgs { url: url.map(Into::into), ..StoreArgs::default() };
        Target::new(LockName::new(name).expect("a valid name"), store)
    }

    #[test]
    fn a_name_with_a_slash_is_a_file() {
        let here = std::env::current_dir().expect("a working directory");
        for (typed, directory, name) in [
            ("/var/lock/x.lock", PathBuf::from("/var/lock"), "x.lock"),
            ("./.x", here.clone(), ".x"),
            ("etl/a", here.join("etl"), "a"),
            ("/tmp", PathBuf::from("/"), "tmp"),
            ("/tmp/", PathBuf::from("/"), "tmp"),
        ] {
            let target = target(typed, None).expect(typed);
            assert_eq!(target.name.as_str(), name);
            assert_eq!(target.shown.as_str().trim_end_matches('/'), directory.join(name).to_str().expect("text"));
            assert!(target.store.lock_file.is_some_and(|file| file.parent() == Some(&directory)), "{typed}");
        }
        for typed in ["/", "..", "x/.."] {
            let is_path = typed.contains('/');
            assert_eq!(target(typed, None).is_err(), is_path, "{typed}");
        }
    }

    #[test]
    fn with_a_store_a_slash_is_part_of_the_name() {
        for url in ["redis://h", "file:///locks", "/locks"] {
            let named = target("etl/a", Some(url)).expect(url);
            assert_eq!((named.name.as_str(), named.store.lock_file), ("etl/a", None));
        }
        assert!(target("/etl/a", Some("redis://h")).is_ok());
        for typed in ["/etl/a", "./a", "../a"] {
            let refused = target(typed, Some("file:///locks")).expect_err(typed);
            assert_eq!(refused.code, exit::USAGE);
            assert!(refused.to_string().contains("leave out --url"), "{refused}");
        }
    }
}
