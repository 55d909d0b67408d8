//! Counts the requests of each operation, which the page of object stores and its prices state.

use std::{pin::pin, time::Duration};

use futures_util::future::{Either, select};
use lock_core::backend::{AcquireOutcome, Backend, Break};
use lock_object::ObjectBackend;
use test_support::{
    undriven::driven,
    until,
    wire::{Fault, Wire},
};

use crate::fixture::{Bucket, Kind, granted, name, request};

const TTL: Duration = Duration::from_secs(60);

/// The reads and the writes of a proxy since the last call.
fn counted(wire: &Wire) -> (usize, usize) {
    let seen = wire.take_seen();
    let count = |method: &str| seen.iter().filter(|one| *one == method).count();
    assert_eq!(count("GET") + count("PUT") + count("DELETE"), seen.len(), "{seen:?}");
    (count("GET"), count("PUT"))
}

#[tokio::test]
async fn requests_of_each_operation_are_those_of_the_page() {
    let bucket = Bucket::new(Kind::Moto).await;
    let wire = Wire::start(bucket.address);
    let new = || ObjectBackend::new(bucket.config_at(&wire.endpoint())).unwrap();
    let (first, second) = (new(), new());
    let lease = granted(&first, &request(&name("a"), TTL)).await;
    assert_eq!(counted(&wire), (2, 5), "the first lock in a bucket: a read, the probe, a write");
    let _ = first.release(&lease, Duration::ZERO).await.unwrap();
    assert_eq!(counted(&wire), (0, 1));

    let lease = granted(&second, &request(&name("a"), TTL)).await;
    assert_eq!(counted(&wire), (2, 4), "the first lock of a process");
    let answer = first.acquire(&request(&name("a"), TTL)).await.unwrap();
    assert!(matches!(answer, AcquireOutcome::Contended(_)));
    assert_eq!(counted(&wire), (1, 1), "it had released that lock itself");
    assert!(matches!(first.acquire(&request(&name("a"), TTL)).await.unwrap(), AcquireOutcome::Contended(_)));
    assert_eq!(counted(&wire), (1, 0));
    let _ = second.renew(&lease).await.unwrap();
    assert_eq!(counted(&wire), (0, 1));
    let _ = second.release(&lease, Duration::ZERO).await.unwrap();
    counted(&wire);

    let lease = granted(&second, &request(&name("a"), TTL)).await;
    assert_eq!(counted(&wire), (0, 1), "a lock that this process released last");
    let other = granted(&second, &request(&name("b"), TTL)).await;
    assert_eq!(counted(&wire), (1, 1), "another lock");
    let admin = second.admin().unwrap();
    assert!(admin.inspect(&name("a")).await.unwrap().is_some());
    assert_eq!(counted(&wire), (1, 0));
    assert_eq!(admin.list("").await.unwrap().locks.len(), 2);
    assert_eq!(counted(&wire), (3, 0), "a page of the list, and each lock");
    let broken = admin.break_lock(&name("a"), &lease.id.to_string(), "alice").await.unwrap();
    assert_eq!((broken, counted(&wire)), (Break::Broken, (1, 1)));
    let _ = second.release(&other, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_probe_that_is_not_driven_stops_no_other_request() {
    let bucket = Bucket::new(Kind::Moto).await;
    let wire = Wire::start(bucket.address);
    let backend = ObjectBackend::new(bucket.config_at(&wire.endpoint())).unwrap();
    // The probe follows the first read, and gets no answer.
    wire.next(None);
    wire.always(Fault::LoseRequest);
    let (first, second) = (request(&name("a"), TTL), request(&name("b"), TTL));
    let mut stuck = pin!(backend.acquire(&first));
    let probes = pin!(until("the probe", async || wire.take_seen().contains(&"PUT".to_owned())));
    assert!(matches!(select(stuck.as_mut(), probes).await, Either::Right(_)));
    wire.always(None);
    driven(granted(&backend, &second)).await;
}
