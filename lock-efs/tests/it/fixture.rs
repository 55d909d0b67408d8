//! Helpers of this crate's tests.

#[cfg(target_os = "linux")]
use std::fs::File;
use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use lock_core::{
    Error, FencingToken, Holder, LockName,
    backend::{AcquireOutcome, AcquireRequest, Backend, Grant, Lease, LeaseId},
};
use lock_efs::FileBackend;
#[cfg(target_os = "linux")]
use nix::{
    fcntl::{FcntlArg, fcntl},
    libc,
};
use tempfile::TempDir;

/// Creates a temporary directory and a backend on it.
pub(crate) fn open() -> (TempDir, FileBackend) {
    let dir = tempfile::tempdir().unwrap();
    let backend = FileBackend::open(dir.path()).unwrap();
    (dir, backend)
}

pub(crate) fn name(text: &str) -> LockName {
    LockName::new(text).unwrap()
}

pub(crate) fn request(text: &str) -> AcquireRequest {
    AcquireRequest::new(name(text), LeaseId::random(), "tester")
}

pub(crate) async fn grant(backend: &FileBackend, request: &AcquireRequest) -> (Grant, Lease) {
    match backend.acquire(request).await.unwrap() {
        AcquireOutcome::Granted(grant) => {
            let lease = request.lease(grant.token);
            (grant, lease)
        }
        AcquireOutcome::Contended(holder) => panic!("{} is held by {holder}", request.name),
    }
}

pub(crate) async fn refused(backend: &FileBackend, text: &str) -> Holder {
    match backend.acquire(&request(text)).await.unwrap() {
        AcquireOutcome::Contended(holder) => holder,
        AcquireOutcome::Granted(grant) => panic!("{text} was granted: {grant:?}"),
    }
}

pub(crate) async fn failed(backend: &FileBackend, text: &str) -> Error {
    backend.acquire(&request(text)).await.expect_err("the attempt must fail")
}

pub(crate) fn token(grant: &Grant) -> FencingToken {
    grant.token.expect("file locks have tokens")
}

/// Locks a byte of the file until the file is closed, as another client does.
#[cfg(target_os = "linux")]
pub(crate) fn lock_byte(file: &File, byte: libc::off_t) {
    let (l_type, l_whence) = (libc::F_WRLCK as libc::c_short, libc::SEEK_SET as libc::c_short);
    let lock = libc::flock { l_type, l_whence, l_start: byte, l_len: 1, l_pid: 0 };
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).expect("no other client has locked the byte");
}

/// Returns the command that runs only `test` (named with its module) of this test binary, with
/// `dir` in `ONELOCK_TEST_CHILD`.
pub(crate) fn myself(test: &str, dir: &Path) -> Vec<String> {
    let exe = std::env::current_exe().unwrap();
    ["env", &format!("ONELOCK_TEST_CHILD={}", dir.display()), exe.to_str().unwrap(), "--exact", test, "--nocapture"]
        .map(String::from)
        .to_vec()
}

/// Returns the directory if this process was started by [`myself`].
pub(crate) fn in_child() -> Option<PathBuf> {
    std::env::var_os("ONELOCK_TEST_CHILD").map(Into::into)
}

/// Runs [`myself`] under `wrapper`, and on failure panics with its output.
pub(crate) fn run_child(wrapper: &[&str], test: &str, dir: &Path) {
    let command: Vec<String> = wrapper.iter().map(|s| s.to_string()).chain(myself(test, dir)).collect();
    let output = Command::new(&command[0]).args(&command[1..]).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("CHILD RAN"), "{command:?} ended with {}:\n{text}", output.status);
}

pub(crate) fn is_root() -> bool {
    Command::new("id").arg("-u").output().unwrap().stdout == b"0\n"
}

/// Returns the wrapper of a process to which permission bits apply, even if root runs it. The test
/// binary stays readable.
pub(crate) fn without_capabilities() -> &'static [&'static str] {
    if is_root() { &["setpriv", "--inh-caps=-all", "--bounding-set=-all"] } else { &[] }
}

/// A process that is killed when the test ends.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn start(command: &[&str]) -> Self {
        let child = Command::new(command[0]).args(&command[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        Self(child.unwrap_or_else(|e| panic!("{command:?}: {e}")))
    }

    /// Waits for a line of output that contains `text`.
    pub(crate) fn wait_for(&mut self, text: &str) {
        let out = self.0.stdout.as_mut().expect("piped");
        let mut lines = BufReader::new(out).lines();
        let found = lines.any(|line| line.is_ok_and(|line| line.contains(text)));
        assert!(found, "the process ended without {text:?}");
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a process with its own mount table. Needs no root if user namespaces are allowed.
pub(crate) const OWN_MOUNTS: &[&str] = &["unshare", "--user", "--map-root-user", "--mount"];

/// Mounts a file system, in a process started by [`OWN_MOUNTS`].
pub(crate) fn mount(arguments: &[&str], on: &Path) {
    let status = Command::new("mount").args(arguments).arg(on).status().unwrap();
    assert!(status.success(), "mount {arguments:?} needs root or user namespaces: {status}");
}
