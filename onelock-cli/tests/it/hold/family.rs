//! The programs that a client has started end with it at a loss.

use nix::sys::signal::{SIGCONT, SIGKILL, SIGSTOP, SIGTERM, kill};

use super::fixture::{Process, client};
use crate::run::fixture::{Locks, children, eventually, is_alive, parse_pid};

/// Starts descendants that ignore every signal that can be ignored, and prints their pids.
const FAMILY: &str = r#"
coproc LOCK { exec onelock hold $OPTIONS x; }
read -r -u "${LOCK[0]}" held || exit 1
trap '' TERM HUP INT
setsid sh -c 'echo $$; exec sleep 1000' &
sh -c 'echo $$; sh -c "echo \$\$; sleep 1000" & wait' &
wait
"#;

/// Starts a child in the foreground that ignores SIGTERM, and prints its pid. The script itself
/// dies of SIGTERM at once.
const CHILD: &str = r#"
coproc LOCK { exec onelock hold $OPTIONS x; }
read -r -u "${LOCK[0]}" held || exit 1
sh -c 'trap "" TERM; echo $$; exec sleep 1000'
true
"#;

/// A client that adopts orphans, also those of `onelock hold`. Prints its own pid.
const SUBREAPER: &str = r#"
import ctypes, os, subprocess, sys
PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
hold = subprocess.Popen(["onelock", "hold", "--grace", "300ms", "x"], stdin=-1, stdout=-1)
assert hold.stdout.readline()
print(os.getpid(), flush=True)
sys.stdin.readline()
"#;

fn start(locks: &Locks, interpreter: &str, text: &str, options: &str) -> Process {
    let script = locks.script(interpreter, text);
    Process::start(client(&script, &[]).envs([("ONELOCK_URL", locks.url().as_str()), ("OPTIONS", options)]))
}

/// Reads so many pids, and checks that their processes end before the lock does.
fn dies_before_the_lock_is_free(locks: &Locks, mut script: Process, pids: usize, loss: impl FnOnce(&mut Process)) {
    let mut family: Vec<_> = (0..pids).map(|_| parse_pid(&script.line())).collect();
    family.push(script.pid());
    assert!(family.iter().all(|pid| is_alive(*pid)));
    loss(&mut script);
    locks.dead_before_free(&family);
}

#[test]
fn descendants_end_before_the_lock_of_a_signalled_hold() {
    for signal in [SIGKILL, SIGTERM] {
        let locks = Locks::new();
        let script = start(&locks, "bash", FAMILY, "--grace 300ms");
        dies_before_the_lock_is_free(&locks, script, 3, |script| kill(script.hold(), signal).unwrap());
    }
}

#[test]
fn a_child_that_outlives_its_script_ends_before_the_lock() {
    for signal in [SIGKILL, SIGTERM] {
        let locks = Locks::new();
        let script = start(&locks, "bash", CHILD, "--grace 300ms");
        dies_before_the_lock_is_free(&locks, script, 1, |script| kill(script.hold(), signal).unwrap());
    }
}

#[test]
fn a_child_outlives_no_lock_that_runs_out() {
    let locks = Locks::new();
    let script = start(&locks, "bash", CHILD, "--grace 300ms --max-hold 10s");
    dies_before_the_lock_is_free(&locks, script, 1, |_| {});
}

#[test]
fn a_client_that_adopts_the_watchdog_ends_before_the_lock() {
    let locks = Locks::new();
    let script = start(&locks, "python3", SUBREAPER, "");
    dies_before_the_lock_is_free(&locks, script, 1, |script| kill(script.hold(), SIGKILL).unwrap());
}

/// Longer than a test waits, although the lock begins to end after 5 s.
const STOPS_EARLY: &str = "--max-hold 305s --grace 300s";

#[test]
fn a_known_loss_leaves_no_time_to_the_child_of_a_dead_script() {
    let locks = Locks::new();
    let mut script = start(&locks, "bash", CHILD, STOPS_EARLY);
    let child = parse_pid(&script.line());
    eventually("the script has ended", || !is_alive(script.pid()));
    assert!(is_alive(child) && !locks.is_free());
    std::fs::remove_file(locks.file()).unwrap();
    eventually("the child has ended", || !is_alive(child));
}

/// A release changes the record, which may be that of the next holder once the lock is free.
#[test]
fn a_lock_is_not_free_before_its_hold_releases_it() {
    for (options, is_signalled) in [("--grace 300s", true), (STOPS_EARLY, false)] {
        let locks = Locks::new();
        let mut script = start(&locks, "bash", CHILD, options);
        let (child, hold) = (parse_pid(&script.line()), script.hold());
        let watchdog = children(hold)[0];
        if is_signalled {
            kill(hold, SIGTERM).unwrap();
        }
        eventually("the script has ended", || !is_alive(script.pid()));
        kill(hold, SIGSTOP).unwrap();
        kill(child, SIGKILL).unwrap();
        eventually("the watchdog has ended", || !is_alive(watchdog));
        assert!(!locks.is_free(), "{options}");
        kill(hold, SIGCONT).unwrap();
        eventually("the lock is free", || locks.is_free());
    }
}
