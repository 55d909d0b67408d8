//! Directories: a temporary one that never outlives the test, and the target directory of cargo.

use std::{
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use tempfile::TempDir;

/// A temporary directory, which is removed when this is dropped.
///
/// It is also removed if the test ends without a drop: a `static` is never dropped, and a killed
/// test drops nothing.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
    remover: Child,
    /// The remover waits for the end of this pipe. The kernel closes the pipe when this process
    /// ends, however it ends.
    lifeline: Option<ChildStdin>,
}

/// Removes the directory. A second attempt follows if a server that was being killed still wrote.
const REMOVER: &str = r#"read -r _; rm -rf -- "$1" || { sleep 1; rm -rf -- "$1"; }"#;

impl Scratch {
    /// Creates one in the directory for temporary files.
    ///
    /// # Panics
    /// If it cannot be created.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("onelock-test-").tempdir().expect("a temporary directory");
        let mut remover = Command::new("sh")
            .args(["-c", REMOVER, "remover"])
            .arg(dir.path())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        let lifeline = remover.stdin.take();
        Self { dir, remover, lifeline }
    }

    /// Returns the path.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the path as text.
    ///
    /// # Panics
    /// If the path is not UTF-8.
    pub fn text(&self) -> &str {
        self.path().to_str().expect("temporary directories have plain names")
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        let _ = self.remover.wait();
    }
}

/// Returns the target directory of cargo.
pub fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")), PathBuf::from)
}
