//! A guest with a Linux NFSv4.1 server and two clients of it; see `integration/nfs-rig/README.md`.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// One run of the guest: started from a snapshot, gone at its end.
#[derive(Debug)]
#[must_use = "nothing runs before `run`"]
pub struct Guest {
    script: String,
    files: Vec<PathBuf>,
    limit: Duration,
}

impl Guest {
    /// Runs `script`, which begins with its `#!`, on the server.
    pub fn new(script: impl Into<String>) -> Self {
        Self { script: script.into(), files: Vec::new(), limit: Duration::from_secs(300) }
    }

    /// Puts a program, or a directory, on the guest's PATH.
    pub fn with(mut self, file: impl AsRef<Path>) -> Self {
        self.files.push(file.as_ref().to_path_buf());
        self
    }

    /// Gives the whole run this long, snapshot and all. Default 300 s.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it and returns what it printed on standard output.
    ///
    /// # Panics
    /// With all that the guest printed, when the script fails, takes too long, or the guest cannot
    /// be had: a missing rig is a failure.
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
