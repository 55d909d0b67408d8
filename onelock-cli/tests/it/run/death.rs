//! Whoever dies, in whatever way: nothing that ran under the lock is alive when the lock is free.

use std::{
    fs,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{SIGKILL, SIGSTOP, kill},
    unistd::Pid,
};

use super::fixture::{Locks, Running, eventually, is_alive, parse_pid, read};

/// Proves its own solitude: every process that it starts inherits a lock on the witness file, so
/// that the file can be locked only when the last process of all earlier ones is dead. The
/// offspring tries to get away in several ways.
const WITNESS: &str = r#"
dir=$1 id=$2
exec 9>>"$dir/witness"
if flock -n 9; then echo "alone $id" >>"$dir/log"; else echo "overlap $id"; exit 1; fi
echo started
setsid sh -c 'sleep 1000 & sleep 1000' &
( ( setsid sleep 1000 & ) & )
( trap '' TERM HUP INT QUIT; sleep 1000 ) &
echo ready
wait
"#;

const KILLS: usize = 200;

#[test]
fn killed_200_times_never_two_commands_at_once() {
    let locks = Locks::new();
    let (script, dir) = (locks.script("bash", WITNESS), locks.dir.path().to_str().unwrap().to_owned());
    let start = |i: usize| Running::start(&mut locks.run(["-v", "x", &script, &dir, &i.to_string()]));
    let mut holder = start(0);
    holder.expect_line("started");
    let mut took = Vec::new();
    for i in 1..=KILLS {
        // Mostly when all offspring is there, sometimes while it is being born.
        if i % 4 != 0 {
            holder.expect_line("ready");
        }
        let mut next = start(i);
        next.expect_waiting();
        let killed = Instant::now();
        holder.signal(SIGKILL);
        next.expect_line("started");
        took.push(killed.elapsed());
        holder = next;
    }
    let log = read(locks.dir.path().join("log"));
    let alone = log.lines().filter(|line| line.starts_with("alone")).count();
    assert_eq!(alone, KILLS + 1, "{log}");
    holder.signal(SIGKILL);
    eventually("the last ones are dead", || flock_is_free(&locks.dir.path().join("witness")));
    report(&mut took);
}

fn flock_is_free(file: &std::path::Path) -> bool {
    std::process::Command::new("flock").arg("-n").arg(file).arg("true").status().unwrap().success()
}

fn report(took: &mut [Duration]) {
    took.sort();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100];
    println!(
        "from SIGKILL of the holder to the first line of the next command, {} times: \
         min {:?}, median {:?}, 90 % {:?}, 99 % {:?}, max {:?}",
        took.len(),
        at(0),
        at(50),
        at(90),
        at(99),
        at(100)
    );
}

/// A command with offspring, whose pids it prints; all ignore what can be ignored.
const FAMILY: &str = r#"
trap '' TERM HUP INT
setsid sh -c 'echo $$; exec sleep 1000' &
( ( setsid sh -c 'echo $$; exec sleep 1000' & ) & )
sh -c 'echo $$; exec sleep 1000' &
echo $$
wait
"#;

fn family(locks: &Locks) -> (Running, Vec<Pid>) {
    let script = locks.script("bash", FAMILY);
    let mut running = Running::start(&mut locks.run(["x", &script]));
    let pids: Vec<_> = (0..4).map(|_| parse_pid(&running.line())).collect();
    assert!(pids.iter().all(|pid| is_alive(*pid)) && !locks.is_free());
    (running, pids)
}

/// The lock is tried again and again, and whenever it is free, all of `pids` must be dead.
fn dead_before_free(locks: &Locks, pids: &[Pid]) {
    eventually("the lock is free", || {
        let free = locks.is_free();
        let alive: Vec<_> = pids.iter().filter(|pid| is_alive(**pid)).collect();
        assert!(!free || alive.is_empty(), "the lock is free while {alive:?} live");
        free
    });
}

#[test]
fn when_we_are_killed_the_whole_family_dies_before_the_lock_is_free() {
    let locks = Locks::new();
    let (running, pids) = family(&locks);
    running.signal(SIGKILL);
    dead_before_free(&locks, &pids);
}

#[test]
fn when_the_watchdog_is_killed_the_family_dies_and_it_is_71() {
    let locks = Locks::new();
    let (running, pids) = family(&locks);
    kill(running.watchdog(), SIGKILL).unwrap();
    dead_before_free(&locks, &pids);
    let message = running.ends_with(71);
    assert!(message.starts_with("onelock: the watchdog process died"), "{message}");
}

#[test]
fn when_our_process_group_is_killed_the_family_dies() {
    let locks = Locks::new();
    let (running, pids) = family(&locks);
    kill(Pid::from_raw(-running.pid().as_raw()), SIGKILL).unwrap();
    dead_before_free(&locks, &pids);
}

#[test]
fn when_we_are_stopped_and_then_killed_the_family_dies() {
    let locks = Locks::new();
    let (running, pids) = family(&locks);
    running.signal(SIGSTOP);
    running.signal(SIGKILL);
    dead_before_free(&locks, &pids);
}

#[test]
fn killed_while_waiting_leaves_nothing_behind() {
    let locks = Locks::new();
    let mut holder = Running::start(&mut locks.run(["x", "-c", "echo held; sleep 1000"]));
    holder.expect_line("held");
    let mark = locks.dir.path().join("ran");
    let mut waiter = Running::start(&mut locks.run(["-v", "x", "touch", mark.to_str().unwrap()]));
    waiter.expect_waiting();
    let watchdog = super::fixture::children(waiter.pid());
    waiter.signal(SIGKILL);
    eventually("its watchdog is gone", || !watchdog.iter().any(|pid| is_alive(*pid)));
    drop(holder);
    eventually("the lock is free", || locks.is_free());
    assert!(fs::metadata(mark).is_err());
}
