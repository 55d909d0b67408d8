//! Processes made by `fork` without exec.

use lock_core::{Locker, LossReason, Release, blocking};
use lock_redis::RedisBackend;
use test_support::{
    fork::{attempt, dropped_in_a_child, forked},
    redis::RedisServer,
};

use crate::fixture::at;

#[test]
// verifies: forked
fn a_fork_leaves_the_parents_lock_and_opens_its_own_connection() {
    let server = RedisServer::start();
    let config = at(server.addr());
    let locker = blocking::Locker::open_with(async { Locker::new(RedisBackend::new(config)?) }).unwrap();
    let guard = locker.acquire("etl").unwrap();
    let (guard, reason) = dropped_in_a_child(guard);
    assert_eq!(reason, format!("{:?}", LossReason::Forked { parent: std::process::id() }));
    let (guard, released) = forked(guard, |guard| format!("{:?}", guard.release()));
    assert_eq!(released, "Ok(NotHeld(None))");
    let (locker, said) = forked(locker, |locker| format!("{}; {}", attempt(&locker, "etl"), attempt(&locker, "other")));
    assert_eq!(said, "etl contended; other acquired, Ok(Released)");
    assert_eq!(attempt(&locker, "other"), "other acquired, Ok(Released)");
    assert_eq!(guard.release().unwrap(), Release::Released);
    drop(locker);
}
