//! Locks in memory in a process made by `fork`.

mod relay;
mod waiting;

use lock_core::{Locker, LossReason, blocking, memory::MemoryBackend};
use test_support::fork::{dropped_in_a_child, forked};

#[test]
// verifies: forked
fn memory_is_refused_in_a_child() {
    let locker = blocking::Locker::open_with(async { Locker::new(MemoryBackend::new()) }).unwrap();
    let guard = locker.acquire("etl").unwrap();
    let (guard, reason) = dropped_in_a_child(guard);
    assert_eq!(reason, format!("{:?}", LossReason::Forked { parent: std::process::id() }));
    let (locker, error) = forked(locker, |locker| locker.acquire("other").unwrap_err().to_string());
    assert!(error.contains("this process was forked from the one that opened the store"), "{error}");
    assert!(guard.check().is_ok());
    guard.release().unwrap();
    locker.acquire("other").unwrap().release().unwrap();
}
