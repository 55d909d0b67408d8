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
    let server = test_support::redis::RedisServer::start();
    // On a busy machine the lock may be taken away only after the start.
    let is_not_started = || {
        let locks = Locks::new();
        let _blocked = block_metrics(&locks);
        let (mut run, ran) = slow_to_start(&locks, &format!("redis://{}?renew=100ms", server.addr()));
        server.command(&["FLUSHALL"]);
        let run = Running::start(&mut run);
        eventually("the lock is held", || !server.command(&["KEYS", "*"]).starts_with("*0"));
        server.command(&["FLUSHALL"]);
        let message = run.ends_with(75);
        let told = message.contains("; the command was not started");
        assert!(!told || !ran.exists(), "{message}");
        told
    };
    assert!((0..5).any(|_| is_not_started()));
}

/// The library freezes the supervisor once it has told the watchdog of the lock, and the watchdog
/// until after the end of the lock.
#[test]
fn a_thawed_watchdog_starts_nothing_without_its_lock() {
    let locks = Locks::new();
    let freeze = locks.watchdog_library("kill(getppid(), SIGSTOP); sleep(6);");
    let ran = locks.dir.path().join("ran");
    let mut run = onelock(["run", "--url", "memory:?max_hold=5s", "x", "touch"]);
    let run = Running::start(run.arg(&ran).env("LD_PRELOAD", freeze));
    eventually("onelock is frozen", || state(run.pid()) == Some('T'));
    let watchdog = run.watchdog();
    eventually("the watchdog has ended", || !is_alive(watchdog));
    run.signal(SIGCONT);
    let message = run.ends_with(75);
    assert!(message.contains("; the command was not started"), "{message}");
    assert!(!ran.exists());
}

/// The library keeps the watchdog from its work until another message was sent to it: that the
/// lock was lost (tag 4), or the end of a later lease (tag 2).
const BUSY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
static int is_watchdog(void) {
    char name[16] = "";
    prctl(PR_GET_NAME, name);
    return strcmp(name, "lock-watchdog") == 0;
}
ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    ssize_t sent = ((ssize_t (*)(int, const struct msghdr *, int)) dlsym(RTLD_NEXT, "sendmsg"))(fd, message, flags);
    if (sent == 32 && !is_watchdog() && *(uint64_t *) message->msg_iov[0].iov_base == atoi(getenv("TAG"))) {
        close(open(getenv("SENT"), O_CREAT | O_WRONLY, 0600));
    }
    return sent;
}
ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
    static int received;
    ssize_t got = ((ssize_t (*)(int, struct msghdr *, int)) dlsym(RTLD_NEXT, "recvmsg"))(fd, message, flags);
    if (got == 32 && is_watchdog() && !received++) {
        struct timespec pause = {0, 1000000};
        uint64_t *deadline = (uint64_t *) message->msg_iov[0].iov_base + 2;
        for (struct timespec now = {0, 0}; access(getenv("SENT"), F_OK) != 0 || now.tv_sec <= *deadline / 1000000000;) {
            nanosleep(&pause, 0);
            clock_gettime(CLOCK_BOOTTIME, &now);
            if (atoi(getenv("TAG")) == 4) now.tv_sec = INT32_MAX;
        }
    }
    return got;
}"#;

/// The library takes the lock away while `run -v` waits a second until the message that names the
/// default store is read.
#[test]
fn no_process_becomes_the_command_without_its_lock() {
    let locks = Locks::new();
    let removes = locks.library(
        r#"
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <stdlib.h>
        #include <unistd.h>
        ssize_t write(int fd, const void *text, size_t size) {
            if (fd == 2) {
                unlink(getenv("LOCK"));
                sleep(2);
            }
            return ((ssize_t (*)(int, const void *, size_t)) dlsym(RTLD_NEXT, "write"))(fd, text, size);
        }"#,
    );
    let [state, ran] = ["state", "ran"].map(|file| locks.dir.path().join(file));
    let mut run = onelock(["run", "-F", "-v", "x", "touch"]);
    run.arg(&ran).env("LD_PRELOAD", removes).env("LOCK", state.join("onelock/locks/x.lock"));
    let late = output(run.env("XDG_STATE_HOME", state));
    assert_eq!(late.status.code(), Some(75), "{late:?}");
    assert!(!ran.exists());
}

/// Returns a run whose watchdog is kept from its work, and the file that the command creates.
fn with_busy_watchdog(locks: &Locks, url: &str, tag: &str) -> (Command, PathBuf) {
    let [sent, ran] = ["sent", "ran"].map(|file| locks.dir.path().join(file));
    let mut run = onelock(["run", "--url", url, "x", "touch"]);
    run.arg(&ran).env("LD_PRELOAD", locks.library(BUSY)).env("TAG", tag).env("SENT", sent);
    (run, ran)
}

#[cfg(feature = "redis")]
#[test]
fn a_busy_watchdog_starts_nothing_after_a_loss() {
    let (locks, server) = (Locks::new(), test_support::redis::RedisServer::start());
    let (mut run, ran) = with_busy_watchdog(&locks, &format!("redis://{}?renew=100ms", server.addr()), "4");
    let run = Running::start(&mut run);
    eventually("the lock is held", || !server.command(&["KEYS", "*"]).starts_with("*0"));
    server.command(&["FLUSHALL"]);
    let message = run.ends_with(75);
    assert!(message.contains("; the command was not started"), "{message}");
    assert!(!ran.exists());
}

#[test]
fn a_busy_watchdog_knows_of_renewals() {
    let locks = Locks::new();
    let (mut run, ran) = with_busy_watchdog(&locks, "memory:?ttl=5s", "2");
    let ran_late = output(&mut run);
    assert_eq!(ran_late.status.code(), Some(0), "{ran_late:?}");
    assert!(ran.exists());
}
