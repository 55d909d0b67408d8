//! A lock that ends before the command could be started: the command does not run.

use std::{fs::File, path::PathBuf, process::Command};

use nix::sys::signal::SIGCONT;

use super::fixture::{Locks, Running, eventually, is_alive, onelock, output, state};

/// Returns a run that takes 2 s to write its metrics before it starts the command, which creates
/// the file.
fn slow_to_start(locks: &Locks, url: &str) -> (Command, PathBuf) {
    let (metrics, ran) = (locks.dir.path().join("x.prom"), locks.dir.path().join("ran"));
    let mut run = onelock(["run", "--url", url, "--metrics-file"]);
    run.arg(metrics).args(["x", "touch"]).arg(&ran);
    (run, ran)
}

/// Keeps all runs from writing their metrics.
fn block_metrics(locks: &Locks) -> File {
    let directory = File::open(locks.dir.path()).unwrap();
    directory.lock().unwrap();
    directory
}

#[test]
fn a_command_does_not_start_after_the_end_of_its_lock() {
    let locks = Locks::new();
    let _blocked = block_metrics(&locks);
    let (mut run, ran) = slow_to_start(&locks, "memory:?max_hold=1s");
    let late = output(&mut run);
    assert_eq!(late.status.code(), Some(75), "{late:?}");
    assert!(String::from_utf8_lossy(&late.stderr).contains("; the command was not started"), "{late:?}");
    assert!(!ran.exists());
}

#[cfg(feature = "redis")]
#[test]
fn a_command_does_not_start_after_its_lock_was_taken_away() {
    let (locks, server) = (Locks::new(), test_support::redis::RedisServer::start());
    let _blocked = block_metrics(&locks);
    let (mut run, ran) = slow_to_start(&locks, &format!("redis://{}?renew=100ms", server.addr()));
    let run = Running::start(&mut run);
    eventually("the lock is held", || !server.command(&["KEYS", "*"]).starts_with("*0"));
    server.command(&["FLUSHALL"]);
    let message = run.ends_with(75);
    assert!(message.contains("; the command was not started"), "{message}");
    assert!(!ran.exists());
}

/// The library freezes the supervisor once it has told the watchdog of the lock, and the watchdog
/// until after the end of the lock.
#[test]
fn a_thawed_watchdog_starts_nothing_without_its_lock() {
    let locks = Locks::new();
    let freeze = locks.library(
        r#"
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
                kill(getppid(), SIGSTOP);
                sleep(3);
            }
            return got;
        }"#,
    );
    let ran = locks.dir.path().join("ran");
    let mut run = onelock(["run", "--url", "memory:?max_hold=2s", "x", "touch"]);
    let run = Running::start(run.arg(&ran).env("LD_PRELOAD", freeze));
    eventually("onelock is frozen", || state(run.pid()) == Some('T'));
    let watchdog = run.watchdog();
    eventually("the watchdog has ended", || !is_alive(watchdog));
    run.signal(SIGCONT);
    let message = run.ends_with(75);
    assert!(message.contains("; the command was not started"), "{message}");
    assert!(!ran.exists());
}
