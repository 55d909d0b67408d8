//! How the names of locks become the names of files.

use std::path::Path;

use lock_core::{ConfigString, Error, ErrorKind, LockName};

use crate::{encode, files::Files, medium::temp_record::TEMP_RECORD_PREFIX};

/// How the name of a lock becomes the name of its file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Names {
    /// The lock file is `DIR/ENCODED.lock`. Every name is allowed.
    #[default]
    Encoded,
    /// The lock file is `DIR/NAME` to the letter, for locks that `flock(1)` takes in other
    /// programs. The name must be that of a file. An existing file keeps its content and its
    /// permissions. On a local file system it can also be a directory.
    Plain,
}

/// The longest name of a file.
const MAX_BYTES: usize = 255;
/// No encoded name and no other file of onelock begins with this.
const BESIDE: &str = ".onelock.";
/// The suffixes of the files beside a lock file.
const SUFFIXES: [&str; 5] = [".info", ".prev", ".queue", ".parts", ".fair"];

impl Names {
    /// Returns the store as a config string, for messages, logs and metrics.
    pub(crate) fn describe(self, directory: &Path) -> String {
        let names = (self == Self::Plain).then_some("plain");
        ConfigString::of("file", [], directory.to_string_lossy()).with_setting("names", names).to_string()
    }

    /// Returns the files of the lock `name`, which was [checked](Self::check).
    pub(crate) fn files(self, directory: &Path, name: &LockName) -> Files {
        match self {
            Self::Encoded => Files::new(directory, &encode::encode(name)),
            Self::Plain => Files { lock: directory.join(name.as_str()), ..Files::new(directory, &stem_beside(name)) },
        }
    }

    /// Returns an error unless a lock can have this name.
    pub(crate) fn check(self, name: &LockName) -> Result<(), Error> {
        let objection = match self {
            Self::Encoded => None,
            Self::Plain => objection(name.as_str()),
        };
        objection.map_or(Ok(()), |objection| {
            let what =
                format!("with names=plain, a lock's name is the name of a file in the directory, and {objection}");
            Err(Error::new(ErrorKind::Config, what).with_name(name).with_ambiguous(false))
        })
    }
}

/// Returns why a file of this name cannot be a lock file, and what to do.
fn objection(name: &str) -> Option<&'static str> {
    let is_ours = name.starts_with(BESIDE) || name.starts_with(TEMP_RECORD_PREFIX);
    let is_beside = || SUFFIXES.iter().any(|suffix| name.strip_suffix(suffix).is_some_and(encode::is_encoded));
    match name {
        "." | ".." => Some("this is a directory entry of every directory; name the directory in its parent"),
        _ if name.contains(['/', '\0']) => Some("this one contains a slash or NUL; name its directory in the store"),
        _ if name.len() > MAX_BYTES => Some("this one has more than 255 bytes; use a shorter name"),
        _ if is_ours || is_beside() => Some("this is the name of a file that onelock itself writes; use another one"),
        _ => None,
    }
}

/// Returns the beginning of the names of the files beside the lock file `name`.
///
/// The file `x.lock` is also the lock file of the encoded name `x`. The two are one lock, so they
/// share the record, and with it the tokens.
fn stem_beside(name: &LockName) -> String {
    let stem = name.as_str().strip_suffix(".lock").filter(|stem| encode::is_encoded(stem));
    stem.map_or_else(|| [BESIDE, &encode::encode_in(name, encode::MAX_BYTES - BESIDE.len())].concat(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use lock_core::config::StoreConfig;

    use super::*;

    fn name(text: &str) -> LockName {
        LockName::new(text).expect("the test's names are valid")
    }

    #[test]
    fn a_plain_name_is_the_file_to_the_letter() {
        let directory = Path::new("/locks");
        for (plain, record) in [
            ("x.lock", "x.info"),
            ("X.lock", ".onelock.%58.lock.info"),
            (".lock", ".onelock.%2elock.info"),
            ("backup.pid", ".onelock.backup.pid.info"),
            (".myscript.exclusivelock", ".onelock.%2emyscript.exclusivelock.info"),
            ("été", ".onelock.%c3%a9t%c3%a9.info"),
        ] {
            let files = Names::Plain.files(directory, &name(plain));
            assert_eq!(files.lock, directory.join(plain));
            assert_eq!(files.record, directory.join(record), "{plain}");
            assert!(Names::Plain.check(&name(plain)).is_ok(), "{plain}");
        }
        let (plain, encoded) =
            (Names::Plain.files(directory, &name("x.lock")), Names::Encoded.files(directory, &name("x")));
        assert_eq!((plain.lock, plain.record, plain.parts), (encoded.lock, encoded.record, encoded.parts));
        // Also of a long name, whose file has a digest.
        let long = name(&"x".repeat(500));
        let encoded = Names::Encoded.files(directory, &long);
        let file = encoded.lock.file_name().and_then(|file| file.to_str()).expect("a name of ASCII");
        let plain = Names::Plain.files(directory, &name(file));
        assert_eq!((plain.lock, plain.record, plain.parts), (encoded.lock, encoded.record, encoded.parts));
    }

    #[test]
    fn names_that_are_no_lock_files_are_refused() {
        let long = "x".repeat(256);
        let refused = [
            ".",
            "..",
            "a/b",
            "/a",
            "a\0b",
            &long,
            ".onelock-floor",
            ".onelock.x.info",
            "x.info",
            "a%2fb.parts",
            "x.fair",
        ];
        let record = Names::Encoded.files(Path::new("/locks"), &name(&"x".repeat(500))).record;
        let record = record.file_name().and_then(|file| file.to_str()).expect("a name of ASCII");
        for plain in refused.into_iter().chain([record]) {
            let error = Names::Plain.check(&name(plain)).expect_err(plain);
            assert_eq!(error.kind(), ErrorKind::Config, "{plain}");
            assert!(Names::Encoded.check(&name(plain)).is_ok());
        }
        let longest = name(&"é".repeat(127));
        assert!(Names::Plain.check(&longest).is_ok());
        let queue = Names::Plain.files(Path::new("/locks"), &longest).queue;
        assert!(queue.file_name().is_some_and(|name| name.len() <= MAX_BYTES), "{}", queue.display());
    }

    #[test]
    fn the_printed_store_leads_to_the_same_files() {
        for directory in ["/var/lib/app/locks", "app/locks", "/a b/c?d#e%20f@g&h"] {
            for names in [Names::Encoded, Names::Plain] {
                let shown = names.describe(Path::new(directory));
                let mut config = StoreConfig::from(ConfigString::parse(&shown).expect("it is a config string"));
                assert_eq!(config.take_directory().expect("a directory"), Path::new(directory), "{shown}");
                assert_eq!(config.take_string("names").as_deref(), (names == Names::Plain).then_some("plain"));
                assert!(config.finish().is_ok(), "{shown}");
            }
        }
    }
}
