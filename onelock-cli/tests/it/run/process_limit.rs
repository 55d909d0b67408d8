//! The limit of processes is reached: each step of the start fails once, with one line.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::unistd::geteuid;

use super::fixture::{Locks, output};

/// A user with no other process: RLIMIT_NPROC counts all processes of a user, and does not bind
/// root.
struct LonelyUser {
    uid: u32,
    locks: Locks,
    program: std::path::PathBuf,
}

impl LonelyUser {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let locks = Locks::new();
        let program = locks.program_for_all();
        fs::set_permissions(locks.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let uid = 100_000 + std::process::id() * 10 + NEXT.fetch_add(1, Ordering::Relaxed);
        Self { uid, locks, program }
    }

    /// Runs `onelock` as this user, with at most `limit` processes and threads.
    fn onelock(&self, limit: u32, args: &[&str]) -> Output {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &self.uid.to_string(), "--clear-groups", "setsid"]);
        command.args(["bash", "-c", &format!("ulimit -c 0; ulimit -u {limit}; exec \"$0\" \"$@\"")]);
        command.arg(&self.program).args(args);
        command.env("HOME", self.locks.dir.path().join("home")).env_remove("XDG_STATE_HOME");
        output(command.env_remove("ONELOCK_URL").env_remove("ONELOCK_URL_FILE"))
    }

    /// Raises the limit until the command runs. Each refusal is one line with code 69 or 71, and
    /// leaves no lock. Returns the messages.
    fn raise_limit_until_it_runs(&self, store: &[&str], command: &[&str]) -> Vec<String> {
        let _ = fs::create_dir(self.locks.dir.path().join("home"));
        std::os::unix::fs::chown(self.locks.dir.path().join("home"), Some(self.uid), None).unwrap();
        let mut messages = Vec::new();
        for limit in 1..20 {
            let ran = self.onelock(limit, &[&["run", "-n"], store, &["x", "--"], command].concat());
            let message = String::from_utf8(ran.stderr).unwrap();
            let free = self.onelock(1000, &[&["status"], store, &["x"]].concat());
            // 73: the directory was not even created.
            assert!(matches!(free.status.code(), Some(1 | 73)), "limit {limit}: {free:?}");
            if ran.status.code() == Some(0) {
                assert_eq!(message, "", "limit {limit}");
                return messages;
            }
            assert!(matches!(ran.status.code(), Some(69 | 71)), "limit {limit}: {:?}: {message}", ran.status);
            assert!(message.starts_with("onelock: ") && message.lines().count() == 1, "limit {limit}: {message}");
            assert!(message.contains("(ulimit -u"), "limit {limit}: {message}");
            messages.push(message);
        }
        panic!("the command never ran: {messages:?}");
    }
}

#[track_caller]
fn assert_each_step_failed(messages: &[String], steps: &[&str]) {
    for step in steps {
        assert!(messages.iter().any(|message| message.contains(step)), "no {step:?} in {messages:?}");
    }
}

#[test]
// verifies: no-thread
fn a_full_process_limit_is_one_line_on_files() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let user = LonelyUser::new();
    let url = user.locks.url();
    let messages = user.raise_limit_until_it_runs(&["--url", &url], &["true"]);
    let steps = ["cannot start the watchdog process", "a thread for a file-system call", "the command \"true\""];
    assert_each_step_failed(&messages, &steps);
}

#[test]
// verifies: no-thread
fn a_full_process_limit_is_one_line_in_the_default_store() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let user = LonelyUser::new();
    let messages = user.raise_limit_until_it_runs(&[], &["true"]);
    let thread = "a thread that chooses the store";
    assert_each_step_failed(&messages, &["cannot start the watchdog process", thread]);
}

#[cfg(feature = "redis")]
#[test]
// verifies: no-thread
fn a_full_process_limit_is_one_line_on_redis() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let (user, server) = (LonelyUser::new(), test_support::redis::RedisServer::start());
    // The name has to be resolved, in a thread of the runtime.
    let url = format!("redis://localhost:{}", server.port());
    let messages = user.raise_limit_until_it_runs(&["--url", &url], &["true"]);
    let thread = "a thread for the connection to the store";
    assert_each_step_failed(&messages, &["cannot start the watchdog process", thread, "the command \"true\""]);
}

#[test]
// verifies: no-thread
fn a_full_process_limit_is_one_line_for_other_commands() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let user = LonelyUser::new();
    fs::create_dir(user.locks.dir.path().join("locks")).unwrap();
    fs::set_permissions(user.locks.dir.path().join("locks"), fs::Permissions::from_mode(0o777)).unwrap();
    for url in [user.locks.url(), "memory:".to_owned()] {
        for args in [&["status", "--url", &url, "x"][..], &["list", "--url", &url], &["doctor", "--url", &url]] {
            let ran = user.onelock(1, args);
            let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
            assert!(matches!(ran.status.code(), Some(69 | 71)), "{args:?}: {:?}: {said}", ran.status);
            assert!(said.contains("(ulimit -u") && !said.contains("internal error"), "{args:?}: {said}");
        }
    }
}
