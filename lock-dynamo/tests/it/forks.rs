//! Processes made by `fork` without exec.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use lock_core::{Locker, LossReason, Release, blocking};
use lock_dynamo::{DynamoBackend, DynamoConfig, Schema};
use test_support::{
    dynamodb::DynamoDbLocal,
    fork::{attempt, dropped_in_a_child, forked},
};

use crate::fixture::{SKEW, Table};

/// Creates a table, on a runtime that has ended before any fork.
fn table() -> String {
    tokio::runtime::Runtime::new().unwrap().block_on(async { Table::new(Schema::Native).await.name })
}

fn locker(table: &str) -> blocking::Locker {
    let endpoint = DynamoDbLocal::shared().endpoint();
    let config = DynamoConfig::new(table).endpoint(endpoint).region("eu-central-1");
    let config = config.credentials("test", "test", None).skew_bound(SKEW);
    blocking::Locker::open_with(async { Locker::new(DynamoBackend::new(config)) }).unwrap()
}

#[test]
// verifies: forked
fn a_child_that_drops_or_releases_leaves_the_lock() {
    let table = table();
    let (locker, other) = (locker(&table), locker(&table));
    let guard = locker.acquire("etl").unwrap();
    let (guard, reason) = dropped_in_a_child(guard);
    assert_eq!(reason, format!("{:?}", LossReason::Forked { parent: std::process::id() }));
    assert_eq!(attempt(&other, "etl"), "etl contended", "the child dropped its copy of the guard");
    let (guard, released) = forked(guard, |guard| format!("{:?}", guard.release()));
    assert_eq!(released, "Ok(NotHeld(None))");
    assert_eq!(attempt(&other, "etl"), "etl contended", "the child released its copy of the guard");
    let (locker, dropped) = forked(locker, |locker| {
        drop(locker);
        "dropped".to_owned()
    });
    assert_eq!(dropped, "dropped");
    assert_eq!(attempt(&other, "etl"), "etl contended", "the child dropped its copy of the locker");
    assert!(guard.check().is_ok());
    assert_eq!(guard.release().unwrap(), Release::Released);
    assert_eq!(attempt(&other, "etl"), "etl acquired, Ok(Released)");
    drop(locker);
}

#[test]
// verifies: forked
fn a_locker_opened_before_a_fork_works_in_both() {
    let locker = locker(&table());
    let guard = locker.acquire("etl").unwrap();
    let both = |locker: &blocking::Locker| format!("{}; {}", attempt(locker, "etl"), attempt(locker, "other"));
    let (locker, said) = forked(locker, |locker| both(&locker));
    assert_eq!(said, "etl contended; other acquired, Ok(Released)");
    // A fork of a fork opens the store once more.
    let (locker, said) = forked(locker, |locker| {
        let first = attempt(&locker, "other");
        let (_, second) = forked(locker, |locker| both(&locker));
        format!("{first}; {second}")
    });
    assert_eq!(said, "other acquired, Ok(Released); etl contended; other acquired, Ok(Released)");
    assert_eq!(attempt(&locker, "other"), "other acquired, Ok(Released)");
    assert_eq!(guard.release().unwrap(), Release::Released);
}

/// The child has a copy of the guard, and the store open, but it must not renew the lock.
#[test]
// verifies: forked
fn a_living_child_does_not_keep_a_killed_parents_lock() {
    let (table, dir) = (table(), tempfile::tempdir().unwrap());
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "forks::child_holds_a_lock_and_forks", "--nocapture"])
        .envs([("ONELOCK_TEST_TABLE", table.as_ref()), ("ONELOCK_TEST_CHILD", dir.path().as_os_str())])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("CHILD FORKED")), "the parent did not fork");
    let locker = locker(&table);
    assert_eq!(attempt(&locker, "etl"), "etl contended");
    parent.kill().unwrap();
    parent.wait().unwrap();
    let guard = locker.acquire("etl").unwrap();
    assert_eq!(guard.crashed_holder().and_then(|holder| holder.owner.as_deref()), Some("parent"));
    guard.release().unwrap();
    let pid = std::fs::read_to_string(dir.path().join("pid")).unwrap();
    let killed = Command::new("kill").args(["-KILL", &pid]).status().unwrap();
    assert!(killed.success(), "the child had ended, so it proved nothing");
}

#[test]
fn child_holds_a_lock_and_forks() {
    let (Some(dir), Ok(table)) = (std::env::var_os("ONELOCK_TEST_CHILD"), std::env::var("ONELOCK_TEST_TABLE")) else {
        return;
    };
    let locker = locker(&table);
    let guard = locker.lock("etl").owner("parent").ttl(Duration::from_secs(2)).acquire().unwrap();
    let _held = forked((guard, locker), |(_guard, locker)| {
        assert_eq!(attempt(&locker, "other"), "other acquired, Ok(Released)");
        std::fs::write(PathBuf::from(dir).join("pid"), std::process::id().to_string()).unwrap();
        println!("CHILD FORKED");
        std::thread::sleep(Duration::from_secs(600));
        "ended".to_owned()
    });
}
