//! Processes made by `fork` without exec.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use lock_core::{Locker, blocking};
use lock_dynamo::{DynamoBackend, DynamoConfig, Schema};
use test_support::{
    dynamodb::DynamoDbLocal,
    fork::{assert_a_child_leaves_the_lock, assert_a_locker_works_in_both, attempt, forked, wait_for_the_end_of_input},
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
    let other = locker(&table);
    assert_a_child_leaves_the_lock(locker(&table), || attempt(&other, "etl") == "etl acquired, Ok(Released)");
}

#[test]
// verifies: forked
fn a_locker_opened_before_a_fork_works_in_both() {
    assert_a_locker_works_in_both(locker(&table()));
}

/// The child has a copy of the guard, and the store open, but it must not renew the lock.
#[test]
// verifies: forked
fn a_living_child_does_not_keep_a_killed_parents_lock() {
    let (table, dir) = (table(), tempfile::tempdir().unwrap());
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "forks::child_holds_a_lock_and_forks", "--nocapture"])
        .envs([("ONELOCK_TEST_TABLE", table.as_ref()), ("ONELOCK_TEST_CHILD", dir.path().as_os_str())])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Not closed by the wait for the parent.
    let _input = parent.stdin.take();
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
        wait_for_the_end_of_input();
        "ended".to_owned()
    });
}
