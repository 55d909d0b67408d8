//! Runs `onelock` and observes processes. Every wait has a condition, and none relies on a sleep.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::signal::{Signal, kill},
    unistd::{Pid, pipe2},
};

/// How long to wait for a condition before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// The lock directory of one test.
pub(crate) struct Locks {
    pub(crate) dir: tempfile::TempDir,
}

impl Locks {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn url(&self) -> String {
        format!("file://{}/locks", self.dir.path().display())
    }

    /// Returns `onelock run` without a terminal, even if the tests run on one.
    pub(crate) fn run<const N: usize>(&self, args: [&str; N]) -> Command {
        let mut command = onelock(["run", "--url", &self.url()]);
        command.args(args);
        command
    }

    /// Returns the file that `flock(1)` locks for the name `x`.
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("locks/x.lock")
    }

    /// Whether the lock `x` is free, according to `flock(1)`.
    pub(crate) fn is_free(&self) -> bool {
        Command::new("flock").arg("-n").arg(self.file()).arg("true").status().unwrap().success()
    }

    /// Tries the lock `x` repeatedly until it is free, when all of `pids` must be dead.
    #[track_caller]
    pub(crate) fn dead_before_free(&self, pids: &[Pid]) {
        eventually("the lock is free", || {
            let free = self.is_free();
            let alive: Vec<_> = pids.iter().filter(|pid| is_alive(**pid)).collect();
            assert!(!free || alive.is_empty(), "the lock is free while {alive:?} are alive");
            free
        });
    }

    /// Copies `onelock` into a directory that every user can read.
    pub(crate) fn program_for_all(&self) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let copy = self.dir.path().join("onelock");
        // By another process: a child of a concurrent test would inherit the open copy, and an
        // executable that is open for writing cannot be started.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_onelock")).arg(&copy).status().unwrap();
        assert!(copied.success());
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        copy
    }

    /// Compiles a library whose functions replace those of the C library with `LD_PRELOAD`.
    pub(crate) fn library(&self, source: &str) -> PathBuf {
        self.compile(source, &["-shared", "-fPIC"])
    }

    /// Compiles a library with which a watchdog calls `then`, in C, once it has received a message.
    pub(crate) fn watchdog_library(&self, then: &str) -> PathBuf {
        let source = r#"
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <signal.h>
        #include <string.h>
        #include <sys/prctl.h>
        #include <sys/socket.h>
        #include <unistd.h>
        ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
            char name[16] = "";
            ssize_t got = ((ssize_t (*)(int, struct msghdr *, int)) dlsym(RTLD_NEXT, "recvmsg"))(fd, message, flags);
            prctl(PR_GET_NAME, name);
            if (got > 0 && strcmp(name, "lock-watchdog") == 0) {
                THEN
            }
            return got;
        }"#;
        self.library(&source.replace("THEN", then))
    }

    /// Compiles a C program.
    pub(crate) fn program(&self, source: &str) -> PathBuf {
        self.compile(source, &[])
    }

    fn compile(&self, source: &str, options: &[&str]) -> PathBuf {
        let (file, compiled) = (self.dir.path().join("source.c"), self.dir.path().join("compiled"));
        fs::write(&file, source).unwrap();
        let done = Command::new("gcc").args(options).arg("-o").arg(&compiled).arg(&file).status();
        assert!(done.expect("gcc is installed").success());
        compiled
    }

    /// Writes a script for `interpreter`.
    pub(crate) fn script(&self, interpreter: &str, text: &str) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = self.dir.path().join(format!("script-{}", text.len()));
        fs::write(&path, format!("#!/usr/bin/env {interpreter}\n{text}")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// Removes what the machine that runs the tests says of stores, colours and pagers. Continuous
/// integration sets `CI`, for which colours are shown on a dumb terminal too.
pub(crate) fn without_preferences(command: &mut Command) -> &mut Command {
    let variables =
        ["ONELOCK_URL", "ONELOCK_URL_FILE", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "CI", "PAGER", "LESS"];
    variables.iter().fold(command, |command, variable| command.env_remove(variable))
}

/// Returns `onelock` in its own session, which has no terminal. `setsid` becomes `onelock`, so the
/// child's pid is that of `onelock`.
pub(crate) fn onelock<const N: usize>(args: [&str; N]) -> Command {
    let mut command = Command::new("setsid");
    without_preferences(command.arg(env!("CARGO_BIN_EXE_onelock")).args(args));
    command
}

/// Runs the command with an empty standard input, and returns its output.
pub(crate) fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

pub(crate) fn code(command: &mut Command) -> i32 {
    let output = output(command);
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

pub(crate) fn stdout(command: &mut Command) -> String {
    let output = output(command);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A `onelock` in the background; killed when dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) out: BufReader<ChildStdout>,
    pub(crate) err: BufReader<ChildStderr>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let err = BufReader::new(child.stderr.take().unwrap());
        Self { child, out, err }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Reads the next line that the command prints.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub(crate) fn expect_line(&mut self, expected: &str) {
        let line = self.line();
        if line != expected {
            let status = self.child.try_wait();
            panic!("printed {line:?} instead of {expected:?}; {status:?}");
        }
    }

    /// Reads the next line on standard error.
    pub(crate) fn message(&mut self) -> String {
        let mut line = String::new();
        self.err.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Waits until `onelock -v` says that it waits.
    pub(crate) fn expect_waiting(&mut self) {
        let line = loop {
            let line = self.message();
            // On a busy machine the first answer may take a second.
            if !line.contains("has not answered yet") && !line.starts_with("onelock: warning: ") {
                break line;
            }
        };
        assert!(line.contains("waiting for"), "{line:?}");
    }

    /// Waits for the end with the exit code `code`, and returns the messages.
    #[track_caller]
    pub(crate) fn ends_with(self, code: i32) -> String {
        let (status, message) = self.wait();
        assert_eq!(status.code(), Some(code), "{message}");
        message
    }

    pub(crate) fn wait(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        let mut message = String::new();
        self.err.read_to_string(&mut message).unwrap();
        (status, message)
    }

    /// Returns the watchdog, once the command runs.
    pub(crate) fn watchdog(&self) -> Pid {
        let all = children(self.pid());
        let found = all.iter().find(|pid| comm(**pid).as_deref() == Some("lock-watchdog"));
        *found.unwrap_or_else(|| panic!("no watchdog among {all:?}"))
    }

    /// Returns the process of the command.
    pub(crate) fn command(&self) -> Pid {
        children(self.watchdog())[0]
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn children(pid: Pid) -> Vec<Pid> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().map(|p| Pid::from_raw(p.parse().unwrap())).collect()
}

fn comm(pid: Pid) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
}

/// Returns the state of a process, such as `R`, `S` or `T`; `None` if it has ended.
pub(crate) fn state(pid: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let state = stat[stat.rfind(')')? + 2..].chars().next()?;
    (state != 'Z' && state != 'X').then_some(state)
}

pub(crate) fn is_alive(pid: Pid) -> bool {
    state(pid).is_some()
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "timed out: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Returns the ends of a pipe that takes no more text: the reader, and a writer that would block.
pub(crate) fn full_pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap();
    while nix::unistd::write(&writer, &[b'x'; 4096]).is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    (reader, writer)
}

pub(crate) fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

pub(crate) fn parse_pid(text: &str) -> Pid {
    Pid::from_raw(text.trim().parse().unwrap_or_else(|_| panic!("no pid: {text:?}")))
}
