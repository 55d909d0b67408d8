//! Directories: one that does not outlive the test, and the one where cargo builds.

use std::{
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use tempfile::TempDir;

/// A temporary directory, removed when this is dropped, and also when the test ends without that: a
/// server in a `static` is never dropped, nor is anything of a test that is killed.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
    remover: Child,
    /// The remover waits for the end of this pipe; the system closes it when our process ends in
    /// whatever way.
    lifeline: Option<ChildStdin>,
}

/// Once more, for a server that was just being killed may have written meanwhile.
const REMOVER: &str = r#"read -r _; rm -rf -- "$1" || { sleep 1; rm -rf -- "$1"; }"#;

impl Scratch {
    /// Makes one in the directory for temporary files.
    ///
    /// # Panics
    /// When that is not possible.
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

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Where it is, as text.
    ///
    /// # Panics
    /// When the directory for temporary files has a name that is no UTF-8.
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

/// Where cargo builds.
pub fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")), PathBuf::from)
}
