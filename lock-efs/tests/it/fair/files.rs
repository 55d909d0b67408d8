//! The file of the queue.

use std::{fs, time::Duration};

use lock_efs::{FileBackend, Sweep};

use super::{is_refused, release, waiter};
use crate::fixture::{grant, name, open, request};

#[tokio::test]
// verifies: file-system
async fn a_removed_queue_is_made_anew() {
    let (dir, backend) = open();
    let (_, held) = grant(&backend, &request("etl")).await;
    let first = waiter();
    assert!(is_refused(&backend, &first).await);
    fs::remove_file(dir.path().join("etl.fair")).unwrap();
    assert!(is_refused(&backend, &first).await);
    release(&backend, &held).await;
    let other = FileBackend::open(dir.path()).unwrap();
    assert!(is_refused(&other, &request("etl")).await, "the place is in the new queue");
    grant(&backend, &first).await;
}

#[tokio::test]
// verifies: P12
async fn a_sweep_keeps_a_queue_with_places_and_removes_others() {
    let (dir, backend) = open();
    let file = dir.path().join("etl.fair");
    let (_, held) = grant(&backend, &request("etl")).await;
    assert!(!file.exists(), "only fair requests need it");
    let first = waiter();
    assert!(is_refused(&backend, &first).await);
    release(&backend, &held).await;
    assert_eq!(backend.sweep(Sweep::new(Duration::ZERO)).unwrap().removed.len(), 0);
    assert!(!lock_core::backend::Admin::purge(&backend, &name("etl")).await.unwrap());
    let (_, held) = grant(&backend, &first).await;
    release(&backend, &held).await;
    assert_eq!(backend.sweep(Sweep::new(Duration::ZERO)).unwrap().removed.len(), 1);
    assert!(!file.exists());
    let (_, held) = grant(&backend, &request("etl")).await;
    assert!(is_refused(&backend, &waiter()).await);
    release(&backend, &held).await;
}

/// More than there are records that name the waiters.
#[tokio::test]
// verifies: P12, contention
async fn hundreds_of_places_are_served_in_order() {
    let (dir, backend) = open();
    let (_, mut held) = grant(&backend, &request("etl")).await;
    let waiters: Vec<_> = (0..300).map(|_| waiter()).collect();
    for waiter in &waiters {
        assert!(is_refused(&backend, waiter).await);
    }
    let size = fs::metadata(dir.path().join("etl.fair")).unwrap().len();
    assert!(size <= 1024 * 257, "{size}");
    for (i, waiter) in waiters.iter().enumerate() {
        release(&backend, &held).await;
        if let Some(later) = waiters.get(i + 1) {
            assert!(is_refused(&backend, later).await);
        }
        (_, held) = grant(&backend, waiter).await;
    }
    release(&backend, &held).await;
}
