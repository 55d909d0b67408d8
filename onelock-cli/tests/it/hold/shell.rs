//! The form for shells: one lock, held until the standard input ends.

use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::{
    Signal::{self, SIGHUP, SIGINT, SIGKILL, SIGSTOP, SIGTERM},
    kill,
};
use serde_json::json;

use super::fixture::{Hold, Process, client, refuses_its_client};
use crate::run::fixture::{Locks, Running, code, eventually, is_alive, onelock, output};

fn hold(locks: &Locks, options: &[&str]) -> Process {
    Process::start(onelock(["hold", "--url", &locks.url()]).args(options).arg("x"))
}

/// Starts `onelock hold` that leaves this test alone at a loss.
fn telling(locks: &Locks) -> Process {
    let mut holder = hold(locks, &["--on-loss", "tell"]);
    holder.expect("held x token=");
    holder
}

/// A script that holds the lock `x`, prints what it reads on a line of its own, and prints its
/// signals.
const SCRIPT: &str = r#"
trap 'echo term' TERM
coproc LOCK { exec onelock hold "$@" x; }
read -r -u "${LOCK[0]}" held || exit 1
echo "$held"
while true; do read -r line || { [ $? -gt 128 ] || exit 0; continue; }; echo "read $line"; done
"#;

fn script(locks: &Locks, url: &str, options: &[&str]) -> Process {
    let script = locks.script("bash", SCRIPT);
    let mut script = Process::start(client(&script, options).env("ONELOCK_URL", url));
    script.expect("held x token=");
    script
}

#[test]
fn the_lock_is_held_until_the_input_ends() {
    let locks = Locks::new();
    let mut holder = telling(&locks);
    assert!(!locks.is_free());
    holder.write("input is not read as requests");
    holder.close_input();
    holder.ends_with(0);
    assert!(locks.is_free());
}

#[test]
fn a_contended_lock_prints_nothing_and_ends_as_run() {
    let locks = Locks::new();
    let holder = telling(&locks);
    for (options, expected) in [(&["-n"][..], 1), (&["-n", "-E", "9"], 9), (&["-w", "0.1"], 1)] {
        let mut refused = hold(&locks, &[options, &["--on-loss", "tell"]].concat());
        assert_eq!(refused.line(), "");
        refused.ends_with(expected);
    }
    drop(holder);
    Process::start(&mut onelock(["hold", "--url", "file:///proc/no/locks", "--on-loss", "tell", "x"])).ends_with(73);
}

/// So the same command line works on all stores.
#[test]
fn a_ttl_is_not_used_on_files() {
    let locks = Locks::new();
    assert_eq!(code(&mut locks.run(["--ttl", "20s", "x", "true"])), 0);
    let mut holder = hold(&locks, &["--on-loss", "tell", "--ttl", "20s"]);
    holder.expect("held x token=");
    holder.close_input();
    holder.ends_with(0);
    let mut session = Hold::start(&locks.url(), &["--ttl", "20s"]);
    assert_eq!(session.ask(json!({ "op": "acquire", "name": "x" }))["held"], json!(true));
    // A config string names its store.
    let url = format!("{}?ttl=20s", locks.url());
    assert_eq!(code(&mut onelock(["run", "--url", &url, "x", "true"])), 78);
}

#[test]
fn a_waiter_gets_the_lock_when_its_holder_releases() {
    let locks = Locks::new();
    let mut holder = telling(&locks);
    let mut waiter = Running::start(&mut locks.run(["-v", "x", "-c", "echo next"]));
    waiter.expect_waiting();
    holder.close_input();
    waiter.expect_line("next");
}

#[test]
fn signals_and_the_end_of_the_input_end_a_wait() {
    let locks = Locks::new();
    let _holder = telling(&locks);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let waiter = hold(&locks, &["--on-loss", "tell"]);
        eventually("signals are blocked", || blocks_signals(&waiter));
        waiter.signal(signal);
        assert_eq!(waiter.end().0.signal(), Some(signal as i32));
    }
    let mut waiter = hold(&locks, &["--on-loss", "tell"]);
    waiter.close_input();
    let message = waiter.ends_with(64);
    assert!(message.contains("the standard input ended before the lock \"x\" was acquired"), "{message}");
}

fn blocks_signals(process: &Process) -> bool {
    let status = crate::run::fixture::read(format!("/proc/{}/status", process.pid()));
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap_or_default();
    u64::from_str_radix(blocked.trim(), 16).is_ok_and(|mask| mask & (1 << (SIGTERM as i32 - 1)) != 0)
}

#[test]
fn an_input_without_a_client_is_refused() {
    let locks = Locks::new();
    let empty = output(&mut onelock(["hold", "--url", &locks.url(), "--on-loss", "tell", "x"]));
    assert_eq!((empty.status.code(), &*empty.stdout), (Some(64), &b""[..]), "{empty:?}");

    // Without `exec` the parent is a subshell of bash, which does not have the pipe.
    let text = "coproc LOCK { onelock hold x; }; wait $!";
    let refused = Process::start(client("bash", &["-c", text]).env("ONELOCK_URL", locks.url()));
    let message = refused.ends_with(64);
    assert!(message.contains("coproc LOCK { exec onelock hold ...; }"), "{message}");
}

#[test]
fn a_signal_releases_a_lock_whose_loss_is_told() {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let locks = Locks::new();
        let holder = telling(&locks);
        holder.signal(signal);
        assert_eq!(holder.end().0.signal(), Some(signal as i32));
        assert!(locks.is_free());
    }
}

#[test]
fn a_told_loss_prints_its_reason_and_ends_with_75() {
    let locks = Locks::new();
    let mut holder = telling(&locks);
    std::fs::remove_file(locks.file()).unwrap();
    assert_eq!(holder.line(), "lost file_lock");
    let message = holder.ends_with(75);
    assert!(message.starts_with("onelock: the lock \"x\" was lost: "), "{message}");
}

#[test]
fn the_lock_ends_with_a_client_whose_pipe_lives_on() {
    let locks = Locks::new();
    let text = "exec 7> >(exec onelock hold --on-loss tell x >$1); until [ -s $1 ]; do sleep 0.01; done
        sleep 1000 & echo $!; wait";
    let told = locks.dir.path().join("told");
    let mut script =
        Process::start(client("bash", &["-c", text, "bash", told.to_str().unwrap()]).env("ONELOCK_URL", locks.url()));
    let grandchild = crate::run::fixture::parse_pid(&script.line());
    assert!(!locks.is_free() && std::fs::exists(format!("/proc/{grandchild}/fd/7")).unwrap());
    script.signal(SIGKILL);
    eventually("the lock is free", || locks.is_free());
    assert!(is_alive(grandchild));
    kill(grandchild, SIGKILL).unwrap();
}

/// Sends `signal` to `onelock hold`.
fn ends_the_client_before_the_lock(signal: Signal) {
    let locks = Locks::new();
    let mut script = script(&locks, &locks.url(), &["--grace", "300ms"]);
    let hold = script.hold();
    kill(hold, signal).unwrap();
    script.expect("term");
    locks.dead_before_free(&[script.pid()]);
}

#[test]
fn a_signal_ends_the_client_before_the_lock() {
    ends_the_client_before_the_lock(SIGTERM);
}

#[test]
fn a_loss_known_to_the_store_kills_the_client_at_once() {
    let locks = Locks::new();
    let mut script = script(&locks, &locks.url(), &[]);
    std::fs::remove_file(locks.file()).unwrap();
    assert_eq!(script.line(), "", "the script was told to stop first");
    assert_eq!(script.end().0.signal(), Some(SIGKILL as i32));
}

#[test]
fn a_lease_that_ends_stops_the_client_before() {
    let locks = Locks::new();
    let mut script = script(&locks, "memory:?max_hold=2s", &["--grace", "700ms"]);
    script.expect("term");
    assert_eq!(script.end().0.signal(), Some(SIGKILL as i32));
}

#[test]
fn a_loss_that_kills_sends_no_other_signal() {
    let locks = Locks::new();
    let mut script = script(&locks, "memory:?max_hold=1s", &["--on-loss", "kill"]);
    assert_eq!(script.line(), "");
    assert_eq!(script.end().0.signal(), Some(SIGKILL as i32));
}

#[test]
fn renewals_reach_the_watchdog_of_a_client() {
    let locks = Locks::new();
    let mut script = script(&locks, "memory:", &["--ttl", "3s"]);
    // Longer than the ttl.
    for _ in 0..50 {
        script.write("x");
        script.expect("read x");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    script.close_input();
    script.ends_with(0);
}

#[test]
fn a_killed_hold_ends_the_client_before_the_lock() {
    ends_the_client_before_the_lock(SIGKILL);
}

#[test]
fn a_killed_watchdog_ends_the_client_with_71() {
    let locks = Locks::new();
    let mut script = script(&locks, &locks.url(), &[]);
    let hold = script.hold();
    kill(crate::run::fixture::children(hold)[0], SIGKILL).unwrap();
    eventually("the lock is free", || locks.is_free());
    assert!(!is_alive(script.pid()));
    // It writes its message after the end of the client.
    eventually("onelock hold has ended", || !is_alive(hold));
    let (status, message) = script.end();
    assert_eq!(status.signal(), Some(SIGKILL as i32));
    assert!(message.contains("the watchdog process died, so the client was ended"), "{message}");
}

#[test]
fn a_stopped_client_is_continued_to_clean_up() {
    let locks = Locks::new();
    let mut script = script(&locks, "memory:?max_hold=2s", &["--grace", "1s"]);
    script.signal(SIGSTOP);
    script.expect("term");
    assert_eq!(script.end().0.signal(), Some(SIGKILL as i32));
}

/// The library refuses the watchdog a timer.
#[test]
fn a_watchdog_that_cannot_watch_gives_the_client_no_lock() {
    let locks = Locks::new();
    let no_timer = locks.library(
        r#"
        #define _GNU_SOURCE
        #include <errno.h>
        #include <string.h>
        #include <sys/prctl.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        int timerfd_create(int clock, int flags) {
            char name[16] = "";
            prctl(PR_GET_NAME, name);
            if (strcmp(name, "lock-watchdog") == 0) {
                errno = EMFILE;
                return -1;
            }
            return syscall(SYS_timerfd_create, clock, flags);
        }"#,
    );
    refuses_its_client(&locks, &locks.url(), &no_timer);
}

#[test]
fn a_script_that_gives_up_its_lock_at_sigterm_lives_on() {
    let locks = Locks::new();
    let script = locks.script("bash", &SCRIPT.replace("'echo term'", "'exec {LOCK[1]}>&-; echo gave up'"));
    let mut script = client(&script, &["--grace", "2s", "--max-hold", "4s"]);
    let mut script = Process::start(script.env("ONELOCK_URL", locks.url()));
    script.expect("held x token=");
    script.expect("gave up");
    eventually("the lock is free", || locks.is_free());
    script.write("alive");
    script.expect("read alive");
    script.close_input();
    script.ends_with(0);
}
