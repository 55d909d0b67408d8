//! Processes made by `fork` without exec.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use lock_core::{Locker, LossReason, Release, blocking};
use lock_efs::FileBackend;
use test_support::fork::{attempt, dropped_in_a_child, forked};

use crate::fixture::{Process, in_child, myself};

fn locker(directory: &Path) -> blocking::Locker {
    blocking::Locker::open_with(async { Locker::new(FileBackend::open(directory)?) }).unwrap()
}

/// Whether the lock `etl` is free, according to `flock(1)`.
fn is_free(directory: &Path) -> bool {
    Command::new("flock").arg("-n").arg(directory.join("etl.lock")).arg("true").status().unwrap().success()
}

#[test]
// verifies: forked
fn a_child_that_drops_or_releases_leaves_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let locker = locker(dir.path());
    let guard = locker.acquire("etl").unwrap();
    let (guard, reason) = dropped_in_a_child(guard);
    assert_eq!(reason, format!("{:?}", LossReason::Forked { parent: std::process::id() }));
    assert!(guard.check().is_ok() && !is_free(dir.path()), "the child dropped its copy of the guard");

    let (guard, released) = forked(guard, |guard| format!("{:?}", guard.release()));
    assert_eq!(released, "Ok(NotHeld(None))");
    assert!(guard.check().is_ok() && !is_free(dir.path()), "the child released its copy of the guard");

    let (locker, dropped) = forked(locker, |locker| {
        drop(locker);
        "dropped".to_owned()
    });
    assert_eq!(dropped, "dropped");
    assert!(guard.check().is_ok() && !is_free(dir.path()), "the child dropped its copy of the locker");
    assert_eq!(guard.release().unwrap(), Release::Released);
    assert!(is_free(dir.path()));
    drop(locker);
}

#[test]
// verifies: forked
fn a_locker_opened_before_a_fork_works_in_both() {
    let dir = tempfile::tempdir().unwrap();
    let locker = locker(dir.path());
    let guard = locker.acquire("etl").unwrap();
    let (locker, said) = forked(locker, |locker| format!("{}; {}", attempt(&locker, "etl"), attempt(&locker, "other")));
    assert_eq!(said, "etl contended; other acquired, Ok(Released)");
    // A fork of a fork opens the store once more.
    let (locker, said) = forked(locker, |locker| {
        let first = attempt(&locker, "other");
        let (_, second) =
            forked(locker, |locker| format!("{}; {}", attempt(&locker, "etl"), attempt(&locker, "other")));
        format!("{first}; {second}")
    });
    assert_eq!(said, "other acquired, Ok(Released); etl contended; other acquired, Ok(Released)");
    assert_eq!(attempt(&locker, "other"), "other acquired, Ok(Released)");
    assert_eq!(guard.release().unwrap(), Release::Released);
}

#[test]
// verifies: forked
fn a_living_child_does_not_keep_a_killed_parents_lock() {
    let dir = tempfile::tempdir().unwrap();
    let command = myself("forks::child_holds_a_lock_and_forks", dir.path());
    let mut parent = Process::start(&command.iter().map(String::as_str).collect::<Vec<_>>());
    parent.wait_for("CHILD FORKED");
    assert!(!is_free(dir.path()));
    let pid = std::fs::read_to_string(dir.path().join("pid")).unwrap();
    parent.kill();
    let end = Instant::now() + Duration::from_secs(20);
    while !is_free(dir.path()) {
        assert!(Instant::now() < end, "the child keeps the lock of its parent");
    }
    let killed = Command::new("kill").args(["-KILL", &pid]).status().unwrap();
    assert!(killed.success(), "the child had ended, so it proved nothing");
}

#[test]
fn child_holds_a_lock_and_forks() {
    let Some(dir) = in_child() else { return };
    let locker = locker(&dir);
    let _guard = locker.acquire("etl").unwrap();
    forked((), |()| {
        std::fs::write(dir.join("pid"), std::process::id().to_string()).unwrap();
        println!("CHILD FORKED");
        std::thread::sleep(Duration::from_secs(600));
        "ended".to_owned()
    });
}
