//! Processes made by `fork` without exec.

use lock_core::{Locker, blocking};
use lock_object::ObjectBackend;
use test_support::fork::{assert_a_child_leaves_the_lock, assert_a_locker_works_in_both, attempt};

use crate::fixture::{Bucket, Kind};

/// A test without a runtime, because a child has none of its threads.
fn bucket() -> Bucket {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(Bucket::new(Kind::Moto))
}

fn locker(bucket: &Bucket) -> blocking::Locker {
    let config = bucket.config();
    blocking::Locker::open_with(async { Locker::new(ObjectBackend::new(config)?) }).unwrap()
}

#[test]
// verifies: forked
fn a_child_that_drops_or_releases_leaves_the_lock() {
    let bucket = bucket();
    let other = locker(&bucket);
    assert_a_child_leaves_the_lock(locker(&bucket), || attempt(&other, "etl") == "etl acquired, Ok(Released)");
}

#[test]
// verifies: forked
fn a_locker_opened_before_a_fork_works_in_both() {
    assert_a_locker_works_in_both(locker(&bucket()));
}
