//! Real PostgreSQL servers.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::{Daemon, free_port, wait_for};

/// A running server on the loopback interface with an empty database, which needs no password.
#[derive(Debug)]
pub struct PostgresServer {
    port: u16,
    dir: TempDir,
    programs: PathBuf,
    _daemon: Daemon,
}

impl PostgresServer {
    /// Creates a cluster in a temporary directory, starts a server, and waits until it answers.
    ///
    /// If the test runs as root, the user `postgres` does all this, because the server refuses
    /// root.
    ///
    /// # Panics
    /// If the server does not start.
    pub fn start() -> Self {
        let programs = programs();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = text(dir.path(), "data");
        if is_root() {
            run(&["chown".into(), "postgres".into(), text(dir.path(), "")]);
        }
        let initdb =
            ["-D", &data, "-U", "onelock", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"].map(Into::into);
        run(&as_user(&programs.join("initdb"), &initdb));
        for _ in 0..5 {
            let port = free_port();
            let mut args: Vec<String> =
                ["-D", &data, "-p", &port.to_string(), "-k", &text(dir.path(), "")].map(Into::into).into();
            args.extend(
                ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "log_min_messages=fatal"].map(Into::into),
            );
            let command = as_user(&programs.join("postgres"), &args);
            let daemon = Daemon::start(&command[0], "postgresql", &command[1..]);
            let ready = || {
                let mut asked = Command::new(programs.join("pg_isready"));
                asked
                    .args(["-q", "-h", "127.0.0.1", "-U", "onelock", "-p", &port.to_string()])
                    .status()
                    .is_ok_and(|status| status.success())
            };
            // Another test may have taken the port.
            if wait_for("the server to answer", || ready() || !daemon.runs()) && daemon.runs() {
                return Self { port, dir, programs, _daemon: daemon };
            }
        }
        panic!("PostgreSQL does not start; see its output above");
    }

    /// Returns the URL of the database.
    pub fn url(&self) -> String {
        format!("postgres://onelock@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // An orderly stop, because a killed server leaves its shared memory behind.
        let stop = ["stop", "-s", "-m", "immediate", "-D", &text(self.dir.path(), "data")].map(Into::into);
        let command = as_user(&self.programs.join("pg_ctl"), &stop);
        let _ = Command::new(&command[0]).args(&command[1..]).status();
    }
}

/// Returns the directory of the server's programs. Debian has one for each version, outside of the
/// `PATH`.
fn programs() -> PathBuf {
    let versions =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = versions.chain(std::env::split_paths(&on_path));
    all.find(|dir| dir.join("postgres").exists())
        .expect("PostgreSQL is not installed; this test needs it: apt-get install postgresql")
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Returns a command line that runs `program` as a user other than root.
fn as_user(program: &Path, args: &[String]) -> Vec<String> {
    let user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"].map(String::from);
    let mut command = if is_root() { user.to_vec() } else { Vec::new() };
    command.push(text(program, ""));
    command.extend_from_slice(args);
    command
}

fn text(dir: &Path, below: &str) -> String {
    let path = if below.is_empty() { dir.to_owned() } else { dir.join(below) };
    path.into_os_string().into_string().expect("temporary directories have plain names")
}

fn run(command: &[String]) {
    let output = Command::new(&command[0]).args(&command[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
