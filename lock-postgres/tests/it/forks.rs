//! Processes made by `fork` without exec.

use lock_core::{Locker, blocking};
use lock_postgres::PostgresBackend;
use test_support::{
    fork::{assert_a_child_leaves_the_lock, assert_a_locker_works_in_both, attempt},
    postgres::PostgresServer,
};

use crate::fixture::{at, server};

fn locker(server: &PostgresServer) -> blocking::Locker {
    let config = at(server.addr());
    blocking::Locker::open_with(async { Locker::new(PostgresBackend::new(config)?) }).unwrap()
}

#[test]
// verifies: forked
fn a_child_that_drops_or_releases_leaves_the_lock() {
    let server = server();
    let other = locker(&server);
    assert_a_child_leaves_the_lock(locker(&server), || attempt(&other, "etl") == "etl acquired, Ok(Released)");
}

#[test]
// verifies: forked
fn a_locker_opened_before_a_fork_works_in_both() {
    let server = server();
    assert_a_locker_works_in_both(locker(&server));
}
