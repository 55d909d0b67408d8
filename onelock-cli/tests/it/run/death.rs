//! Whichever process dies, no process that ran under the lock is alive once the lock is free.

use std::{
    fs,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{SIGKILL, SIGSTOP, kill},
    unistd::Pid,
};

use super::fixture::{Locks, Running, eventually, is_alive, parse_pid, read};

/// Proves that it runs alone. All its processes inherit a lock on the witness file, so the file can
/// be locked only once all processes of earlier runs are dead. Its descendants try to escape in
/// several ways.
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
fn two_commands_never_overlap_in_200_kills() {
    let locks = Locks::new();
    let (script, dir) = (locks.script("bash", WITNESS), locks.dir.path().to_str().unwrap().to_owned());
    let start = |i: usize| Running::start(&mut locks.run(["-v", "x", &script, &dir, &i.to_string()]));
    let mut holder = start(0);
    holder.expect_line("started");
    let mut took = Vec::new();
    for i in 1..=KILLS {
        // Three kills in four come when all descendants run, and one while they are started.
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
    eventually("the last processes are dead", || flock_is_free(&locks.dir.path().join("witness")));
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

/// A command with descendants, whose pids it prints. All ignore the signals that can be ignored.
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

#[test]
fn a_killed_onelock_leaves_no_process_under_a_free_lock() {
    let locks = Locks::new();
    let (running, pids) = family(&locks);
    running.signal(SIGKILL);
    locks.dead_before_free(&pids);
}

#[test]
fn a_killed_watchdog_ends_all_processes_with_71() {
    let locks = Locks::new();
    let (running, pids) = family(&locks);
    kill(running.watchdog(), SIGKILL).unwrap();
    locks.dead_before_free(&pids);
    let message = running.ends_with(71);
    assert!(message.starts_with("onelock: the watchdog process died"), "{message}");
}

#[test]
fn a_killed_process_group_ends_all_descendants() {
    let locks = Locks::new();
    let (running, pids) = family(&locks);
    kill(Pid::from_raw(-running.pid().as_raw()), SIGKILL).unwrap();
    locks.dead_before_free(&pids);
}

#[test]
fn a_stopped_and_killed_onelock_ends_all_descendants() {
    let locks = Locks::new();
    let (running, pids) = family(&locks);
    running.signal(SIGSTOP);
    running.signal(SIGKILL);
    locks.dead_before_free(&pids);
}

#[test]
fn a_killed_waiter_leaves_nothing_behind() {
    let locks = Locks::new();
    let mut holder = Running::start(&mut locks.run(["x", "-c", "echo held; sleep 1000"]));
    holder.expect_line("held");
    let mark = locks.dir.path().join("ran");
    let mut waiter = Running::start(&mut locks.run(["-v", "x", "touch", mark.to_str().unwrap()]));
    waiter.expect_waiting();
    let watchdog = super::fixture::children(waiter.pid());
    waiter.signal(SIGKILL);
    eventually("its watchdog has ended", || !watchdog.iter().any(|pid| is_alive(*pid)));
    drop(holder);
    eventually("the lock is free", || locks.is_free());
    assert!(fs::metadata(mark).is_err());
}
