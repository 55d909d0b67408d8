//! Exclusion between runs, and with `flock(1)` and `filelock`.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use super::fixture::{Locks, Running, code, eventually, is_alive, output, parse_pid, stdout};

#[test]
fn the_lock_is_free_once_onelock_has_exited() {
    let locks = Locks::new();
    for _ in 0..50 {
        assert_eq!(code(&mut locks.run(["x", "true"])), 0);
        assert!(locks.is_free());
    }
}

#[test]
fn onelock_leaves_no_process_behind() {
    // In a container whose first process does not reap, every run would leave a zombie.
    let locks = Locks::new();
    // The subreaper above adopts the remaining processes, and prints them.
    let script = "import ctypes, subprocess, sys, os
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(open('/proc/self/task/%d/children' % os.getpid()).read().split())";
    for words in [vec!["true"], vec!["-n", "true"], vec!["no-such-command"]] {
        let mut command = Command::new("python3");
        command.args(["-c", script, env!("CARGO_BIN_EXE_onelock"), "run", "--url", &locks.url(), "x"]).args(words);
        assert_eq!(stdout(&mut command), "[]\n");
    }
}

#[test]
fn flock_and_onelock_exclude_each_other() {
    let locks = Locks::new();
    let mut ours = Running::start(&mut locks.run(["x", "-c", "echo held; read line || sleep 1000"]));
    ours.expect_line("held");
    assert!(!locks.is_free());
    drop(ours);
    eventually("the lock is free", || locks.is_free());

    let mut theirs = Running::start(Command::new("flock").arg("-F").arg(locks.file()).args([
        "sh",
        "-c",
        "echo held; exec sleep 1000",
    ]));
    theirs.expect_line("held");
    assert_eq!(code(&mut locks.run(["-n", "x", "true"])), 1);
}

/// Tries Python's `filelock` on the lock file, prints the result, and holds the lock until its
/// input ends.
const FILELOCK: &str = "import sys, filelock
lock = filelock.FileLock(sys.argv[1])
try:
    lock.acquire(timeout=0)
except filelock.Timeout:
    print('held')
else:
    print('acquired', flush=True)
    sys.stdin.read()";

fn python() -> Command {
    Command::new(test_support::python::python())
}

#[test]
fn pythons_filelock_and_onelock_exclude_each_other() {
    let locks = Locks::new();
    let mut ours = Running::start(&mut locks.run(["x", "-c", "echo held; read line || sleep 1000"]));
    ours.expect_line("held");
    assert_eq!(stdout(python().args(["-c", FILELOCK]).arg(locks.file())), "held\n");
    drop(ours);
    eventually("the lock is free", || locks.is_free());

    let mut theirs =
        python().args(["-c", FILELOCK]).arg(locks.file()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(theirs.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "acquired\n");
    assert_eq!(code(&mut locks.run(["-n", "x", "true"])), 1);
    drop(theirs.stdin.take());
    assert!(theirs.wait().unwrap().success());
    assert_eq!(code(&mut locks.run(["-n", "x", "true"])), 0);
}

#[test]
fn waiters_run_one_after_the_other() {
    let locks = Locks::new();
    let log = locks.dir.path().join("log");
    let line = format!("echo begin >>{0}; echo end >>{0}", log.display());
    let all: Vec<_> = (0..12).map(|_| Running::start(&mut locks.run(["x", "-c", &line]))).collect();
    for one in all {
        assert!(one.wait().0.success());
    }
    assert_eq!(std::fs::read_to_string(log).unwrap(), "begin\nend\n".repeat(12));
}

#[test]
fn only_verbose_says_who_holds_the_lock() {
    let locks = Locks::new();
    let mut holder = Running::start(&mut locks.run(["--owner", "nightly job", "x", "-c", "echo held; sleep 1000"]));
    holder.expect_line("held");
    let failed = output(&mut locks.run(["-n", "-v", "x", "true"]));
    let message = String::from_utf8(failed.stderr).unwrap();
    assert!(message.starts_with("onelock: \"x\" is held by nightly job") && message.lines().count() == 1, "{message}");

    let mut waiter = Running::start(&mut locks.run(["-v", "x", "true"]));
    waiter.expect_waiting();
    drop(holder);
    assert!(waiter.wait().0.success());
    assert!(output(&mut locks.run(["x", "true"])).stderr.is_empty());
}

#[test]
fn a_daemon_of_the_command_does_not_keep_the_lock() {
    let locks = Locks::new();
    let pid = parse_pid(&stdout(&mut locks.run(["x", "-c", "setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!"])));
    assert!(locks.is_free());
    assert!(is_alive(pid), "a daemon that the command left running must not be killed");
    nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
}

#[test]
fn no_fork_keeps_the_lock_until_the_last_descendant_ends() {
    let locks = Locks::new();
    let mut command = locks.run(["--no-fork", "x", "-c", "sleep 1000 </dev/null >/dev/null 2>&1 & echo $! $$"]);
    let mut running = Running::start(&mut command);
    let (line, pid) = (running.line(), running.pid());
    let (descendant, shell) = line.split_once(' ').unwrap();
    assert_eq!(parse_pid(shell), pid, "onelock must become the command");
    assert!(running.wait().0.success());
    assert!(!locks.is_free(), "the descendant inherited the descriptor");
    nix::sys::signal::kill(parse_pid(descendant), nix::sys::signal::SIGKILL).unwrap();
    eventually("the lock is free", || locks.is_free());
}
