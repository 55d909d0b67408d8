//! Paths: those of a lock's files, and the existing part of a path.

use std::path::{Path, PathBuf};

/// The files of one lock.
pub(crate) struct Files {
    pub(crate) lock: PathBuf,
    pub(crate) record: PathBuf,
    pub(crate) spare: PathBuf,
    pub(crate) queue: PathBuf,
    pub(crate) parts: PathBuf,
    pub(crate) fair: PathBuf,
}

impl Files {
    /// Returns the paths of the files in `directory` whose names begin with `stem`.
    pub(crate) fn new(directory: &Path, stem: &str) -> Self {
        let file = |suffix: &str| directory.join([stem, suffix].concat());
        Self {
            lock: file(".lock"),
            record: file(".info"),
            spare: file(".prev"),
            queue: file(".queue"),
            parts: file(".parts"),
            fair: file(".fair"),
        }
    }
}

/// Returns the nearest existing ancestor of `path`, or `path` itself.
pub(crate) fn existing(path: &Path) -> &Path {
    path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path)
}
