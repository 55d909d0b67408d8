//! Stores on file systems that hang.

use std::{
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use nix::{
    sys::signal::{Signal, Signal::*, kill},
    unistd::Pid,
};

use super::fixture::{Locks, Running, eventually, onelock, output};

/// Compiles a library in which each look at a path under `$HANGS` hangs after a message.
fn hanging(locks: &Locks) -> std::path::PathBuf {
    locks.library(
        r#"
        #include <stdlib.h>
        #include <string.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        int statx(int dir, const char *path, int flags, unsigned mask, void *found) {
            const char *hangs = getenv("HANGS");
            if (hangs && path && strncmp(path, hangs, strlen(hangs)) == 0) {
                write(2, "hangs\n", 6);
                for (;;) pause();
            }
            return syscall(SYS_statx, dir, path, flags, mask, found);
        }"#,
    )
}

/// Whether the process has blocked the signal.
fn blocks(pid: nix::unistd::Pid, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).unwrap();
    u64::from_str_radix(mask, 16).unwrap() & (1 << (signal as u64 - 1)) != 0
}

#[test]
// verifies: hanging-files
fn a_signal_ends_every_command_while_its_store_hangs() {
    let locks = Locks::new();
    let (url, library) = (locks.url(), hanging(&locks));
    std::fs::create_dir(locks.dir.path().join("locks")).unwrap();
    for arguments in [
        &["run", "--url", &url, "x", "true"][..],
        &["run", "--no-fork", "--url", &url, "x", "true"],
        &["run", "x", "true"],
        &["list", "--url", &url],
        &["status", "--url", &url, "x"],
        &["break", "--url", &url, "--if-version", "1", "x"],
        &["sweep", locks.dir.path().join("locks").to_str().unwrap()],
        &["doctor", "--url", &url],
        #[cfg(feature = "torture")]
        &["torture", "--url", &url],
    ] {
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let mut command = onelock([]);
            // The default store is on the same file system.
            command.args(arguments).env("LD_PRELOAD", &library);
            command.env("XDG_STATE_HOME", locks.dir.path()).env("HANGS", locks.dir.path());
            let mut running = Running::start(&mut command);
            let mut said = String::new();
            while said != "hangs\n" {
                said.clear();
                let read = std::io::BufRead::read_line(&mut running.err, &mut said).unwrap();
                assert!(read > 0, "{arguments:?} did not hang");
            }
            if arguments[0] != "run" {
                // A thread that starts another one blocks all signals for a moment.
                eventually("Ctrl-Z has an effect", || !blocks(running.pid(), SIGTSTP));
            }
            running.signal(signal);
            let (status, message) = running.wait();
            assert_eq!(status.signal(), Some(signal as i32), "{arguments:?}: {message}");
        }
    }
}

/// A file system of a program (FUSE), which can be stopped.
struct Fuse {
    program: Child,
    mount: PathBuf,
}

impl Fuse {
    fn start(directory: &Path) -> Self {
        let (source, mount) = (directory.join("source"), directory.join("mount"));
        for path in [&source, &mount] {
            std::fs::create_dir(path).unwrap();
        }
        let program = Command::new("bindfs").arg("-f").args([&source, &mount]).spawn().expect("bindfs is installed");
        let fuse = Self { program, mount };
        eventually("the file system is mounted", || {
            std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(fuse.mount.to_str().unwrap())
        });
        fuse
    }

    fn url(&self) -> String {
        format!("file://{}", self.mount.display())
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.program.id() as i32), signal).unwrap();
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.mount).status();
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// Whether a thread of the process waits for the answer of a file system of a program.
fn has_hanging_call(pid: Pid) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.flatten().any(|thread| {
        std::fs::read_to_string(thread.path().join("wchan")).is_ok_and(|place| place.contains("request_wait_answer"))
    })
}

#[test]
// verifies: hanging-files
fn a_wait_also_limits_the_opening_of_a_store() {
    let locks = Locks::new();
    let fuse = Fuse::start(locks.dir.path());
    fuse.signal(SIGSTOP);
    let refused = output(&mut onelock(["run", "--wait", "100ms", "--url", &fuse.url(), "x", "true"]));
    let message = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(69), "{message}");
    let message: String = message.split_inclusive('\n').filter(|line| !line.contains(" warning: ")).collect();
    assert_eq!(
        message,
        "onelock: the store was not open when the 100ms of --wait ended; \
         check that the store answers, or wait longer\n"
    );
}

#[test]
// verifies: hanging-files
fn a_wait_ends_with_69_when_a_file_system_hangs() {
    let locks = Locks::new();
    let fuse = Fuse::start(locks.dir.path());
    let mut holder = Running::start(&mut onelock(["run", "--url", &fuse.url(), "x", "-c", "echo held; sleep 1000"]));
    holder.expect_line("held");
    let mut waiter = Running::start(&mut onelock(["run", "-v", "--wait", "1s", "--url", &fuse.url(), "x", "true"]));
    waiter.expect_waiting();
    fuse.signal(SIGSTOP);
    let mut said = String::new();
    while !said.ends_with("the store did not answer within 5s") {
        let line = waiter.message();
        assert!(!line.is_empty(), "{said}");
        said += &line;
    }
    // Linux ends no process while a file system works on a request of it.
    fuse.signal(SIGCONT);
    let rest = waiter.ends_with(69);
    assert!(rest.is_empty(), "{rest}");
}

/// A close of the file waits for the file system, and signals would wait with it.
#[test]
// verifies: hanging-files
fn a_lent_lock_file_is_not_closed_by_the_thread_of_the_signals() {
    // Reports each close of a lock file by the main thread of the first process.
    const REPORTS_CLOSES: &str = r#"
        #define _GNU_SOURCE
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        static pid_t first;
        __attribute__((constructor)) static void started(void) { first = getpid(); }
        int close(int fd) {
            char link[64], path[4096];
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            ssize_t length = readlink(link, path, sizeof path - 1);
            if (length > 6 && !memcmp(path + length - 6, "x.lock", 6) && gettid() == first && getpid() == first)
                write(2, "closed\n", 7);
            return syscall(SYS_close, fd);
        }"#;
    let locks = Locks::new();
    let fuse = Fuse::start(locks.dir.path());
    let mut command = onelock(["run", "--url", &fuse.url(), "x", "true"]);
    let message = Running::start(command.env("LD_PRELOAD", locks.library(REPORTS_CLOSES))).ends_with(0);
    assert!(!message.contains("closed"), "{message}");
}

#[test]
// verifies: hanging-files
fn signals_reach_the_command_while_a_file_system_hangs() {
    let locks = Locks::new();
    let fuse = Fuse::start(locks.dir.path());
    let line = "trap 'echo terminated; exit 3' TERM; echo held; while :; do sleep 0.05; done";
    let mut holder = Running::start(&mut onelock(["run", "--url", &fuse.url(), "x", "-c", line]));
    holder.expect_line("held");
    fuse.signal(SIGSTOP);
    eventually("a call of onelock hangs", || has_hanging_call(holder.pid()));
    holder.signal(SIGTERM);
    holder.expect_line("terminated");
    fuse.signal(SIGCONT);
    holder.ends_with(3);
}
