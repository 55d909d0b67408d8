//! A guest with a Linux NFSv4.1 server and two clients; see `integration/nfs-rig/README.md`.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// One run of the guest, which starts from a snapshot and is discarded at the end.
#[derive(Debug)]
#[must_use = "nothing runs before `run`"]
pub struct Guest {
    script: String,
    files: Vec<PathBuf>,
    limit: Duration,
}

impl Guest {
    /// Prepares a run of `script`, which begins with `#!`, on the server.
    pub fn new(script: impl Into<String>) -> Self {
        Self { script: script.into(), files: Vec::new(), limit: Duration::from_secs(300) }
    }

    /// Adds a program or a directory to the guest's PATH.
    pub fn with(mut self, file: impl AsRef<Path>) -> Self {
        self.files.push(file.as_ref().to_path_buf());
        self
    }

    /// Limits the time of the whole run, including the snapshot. The default is 300 s.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs the script, and returns its standard output.
    ///
    /// # Panics
    /// If the script fails or takes too long, or the guest cannot be started: a missing rig is a
    /// failure. The message contains all output of the guest.
    pub fn run(self) -> String {
        let script = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        std::fs::write(script.path(), &self.script).expect("a temporary file can be written");
        let mut words: Vec<OsString> = vec!["-t".into(), self.limit.as_secs().to_string().into(), script.path().into()];
        words.extend(self.files.into_iter().map(Into::into));
        let rig = Path::new(env!("CARGO_MANIFEST_DIR")).join("../integration/nfs-rig/run");
        let output = Command::new(&rig)
            .args(&words)
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|e| panic!("{} does not start: {e}", rig.display()));
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(
            output.status.success(),
            "the guest ended with {}\n--- its output\n{out}\n--- its errors\n{err}\n--- the script\n{}",
            output.status,
            self.script
        );
        out.into_owned()
    }
}
