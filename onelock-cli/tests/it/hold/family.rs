//! The programs that a client has started end with it at a loss.

use super::fixture::{Process, client};
use crate::run::fixture::{Locks, eventually, is_alive, parse_pid};

/// Starts descendants that ignore every signal that can be ignored, and prints their pids.
const FAMILY: &str = r#"
coproc LOCK { exec onelock hold --grace 300ms x; }
read -r -u "${LOCK[0]}" held || exit 1
trap '' TERM HUP INT
setsid sh -c 'echo $$; exec sleep 1000' &
sh -c 'echo $$; sh -c "echo \$\$; sleep 1000" & wait' &
wait
"#;

fn dies_before_the_lock_is_free(locks: &Locks, loss: impl FnOnce(&mut Process)) {
    let script = locks.script("bash", FAMILY);
    let mut script = Process::start(client(&script, &[]).env("ONELOCK_URL", locks.url()));
    let mut family: Vec<_> = (0..3).map(|_| parse_pid(&script.line())).collect();
    family.push(script.pid());
    assert!(family.iter().all(|pid| is_alive(*pid)));
    loss(&mut script);
    eventually("the lock is free", || {
        let free = locks.is_free();
        let alive: Vec<_> = family.iter().filter(|pid| is_alive(**pid)).collect();
        assert!(!free || alive.is_empty(), "the lock is free while {alive:?} are alive");
        free
    });
}

#[test]
fn descendants_end_before_the_lock_of_a_killed_hold() {
    let locks = Locks::new();
    dies_before_the_lock_is_free(&locks, |script| {
        nix::sys::signal::kill(script.hold(), nix::sys::signal::SIGKILL).unwrap();
    });
}

#[test]
fn descendants_end_before_the_lock_of_a_terminated_hold() {
    let locks = Locks::new();
    dies_before_the_lock_is_free(&locks, |script| {
        nix::sys::signal::kill(script.hold(), nix::sys::signal::SIGTERM).unwrap();
    });
}
