//! Many clients at once: reads before writes, and a table that throttles.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use lock_core::{
    Error, ErrorKind, Locker, Mode, TryAcquire,
    backend::{AcquireOutcome, Backend, Release},
};
use lock_dynamo::{DynamoBackend, Schema};
use test_support::wire::{Fault, Wire};

use crate::fixture::{Table, granted, outlive, refused, released, request};

const LONG: Duration = Duration::from_secs(60);

struct Wired {
    table: Table,
    wire: Wire,
    backend: DynamoBackend,
}

async fn reads_first(schema: Schema) -> Wired {
    let table = Table::new(schema).await;
    let wire = Wire::start(table.server.address());
    let backend = DynamoBackend::new(table.config_at(&wire.endpoint()).read_first(true));
    Wired { table, wire, backend }
}

#[tokio::test]
async fn a_refusal_by_a_read_writes_nothing_and_names_the_holder() {
    for &schema in Schema::ALL {
        let Wired { table, wire, backend } = reads_first(schema).await;
        let holder = DynamoBackend::new(table.config());
        assert!(matches!(holder.acquire(&request("held", LONG)).await.unwrap(), AcquireOutcome::Granted(_)));
        for waits in [false, true] {
            let request = request("held", LONG).with_waits(waits);
            let AcquireOutcome::Contended(holder) = backend.acquire(&request).await.unwrap() else {
                panic!("{schema}: it is held")
            };
            assert_eq!(holder.owner.as_deref(), Some("test"));
            assert!(holder.expires_in.is_some(), "{schema}: waiters need the expiry");
            assert_eq!(wire.take_seen(), ["GetItem"], "{schema}");
        }
    }
}

#[tokio::test]
async fn a_free_lock_costs_one_read_more() {
    for &schema in Schema::ALL {
        let Wired { wire, backend, table: _table } = reads_first(schema).await;
        for _ in 0..2 {
            let request = request("cycle", LONG);
            let AcquireOutcome::Granted(grant) = backend.acquire(&request).await.unwrap() else { panic!("it is free") };
            assert_eq!(wire.take_seen(), ["GetItem", "UpdateItem"], "{schema}");
            let again = backend.acquire(&request).await.unwrap();
            assert!(matches!(again, AcquireOutcome::Granted(grant) if grant.already_ours), "{schema}");
            let released = backend.release(&request.lease(grant.token), Duration::ZERO).await;
            assert_eq!(released.unwrap(), Release::Released);
            wire.take_seen();
        }
    }
}

#[tokio::test]
// verifies: P9
async fn a_dead_holders_lock_is_taken_over_after_a_read() {
    let Wired { table, backend, wire: _wire } = reads_first(Schema::Native).await;
    let short = Duration::from_millis(100);
    let dead = DynamoBackend::new(table.config());
    assert!(matches!(dead.acquire(&request("dead", short)).await.unwrap(), AcquireOutcome::Granted(_)));
    outlive(short).await;
    let AcquireOutcome::Granted(grant) = backend.acquire(&request("dead", LONG)).await.unwrap() else {
        panic!("its holder is dead")
    };
    assert!(grant.crashed.is_some());
}

#[tokio::test]
// verifies: P12
async fn readers_join_and_a_waiting_writer_marks_despite_the_read() {
    let Wired { table, wire, backend } = reads_first(Schema::Native).await;
    let shared = || request("joined", LONG).with_mode(Mode::Shared);
    let first = DynamoBackend::new(table.config());
    assert!(matches!(first.acquire(&shared()).await.unwrap(), AcquireOutcome::Granted(_)));
    assert!(matches!(backend.acquire(&shared()).await.unwrap(), AcquireOutcome::Granted(_)));
    wire.take_seen();
    let writer = request("joined", LONG);
    assert!(matches!(backend.acquire(&writer).await.unwrap(), AcquireOutcome::Contended(_)));
    assert_eq!(wire.take_seen(), ["GetItem"], "without a wait it leaves no mark");
    assert!(matches!(backend.acquire(&writer.with_waits(true)).await.unwrap(), AcquireOutcome::Contended(_)));
    assert!(wire.take_seen().contains(&"UpdateItem".to_owned()), "a mark");
    assert!(matches!(backend.acquire(&shared()).await.unwrap(), AcquireOutcome::Contended(_)), "the writer is next");
}

#[tokio::test]
// verifies: P12
async fn a_fair_waiter_has_its_place_despite_the_read() {
    let Wired { table, wire, backend } = reads_first(Schema::Native).await;
    let holder = DynamoBackend::new(table.config());
    let held = granted(&holder, &request("queue", LONG)).await;
    let first = request("queue", LONG).with_waits(true).with_fair(true);
    refused(&backend, &first).await;
    let seen = wire.take_seen();
    assert!(!seen.contains(&"GetItem".to_owned()), "a fair attempt writes its place: {seen:?}");
    released(&holder, &held).await;
    // The read shows a lock that is free.
    refused(&backend, &request("queue", LONG)).await;
    assert_eq!(wire.take_seen()[0], "GetItem");
    let lease = granted(&backend, &first).await;
    released(&backend, &lease).await;
    granted(&backend, &request("queue", LONG)).await;
}

#[tokio::test]
// verifies: P4
async fn a_failed_read_is_an_error_and_leaves_nothing() {
    let Wired { wire, backend, table: _table } = reads_first(Schema::Native).await;
    for (code, kind) in [
        ("ProvisionedThroughputExceededException", ErrorKind::Throttled),
        ("AccessDeniedException", ErrorKind::PermissionDenied),
    ] {
        wire.next(Fault::Refuse(400, code));
        let error = backend.acquire(&request("a", LONG)).await.unwrap_err();
        assert_eq!((error.kind(), error.is_ambiguous()), (kind, false), "{error}");
        assert_eq!(wire.take_seen(), ["GetItem"]);
    }
}

/// How a crowd is answered: `acquired`, `contended`, or the kind of an error.
async fn crowd(lockers: &[Locker], name: &str) -> (BTreeMap<String, usize>, Vec<lock_core::Guard>) {
    let tries = lockers.iter().map(|locker| locker.try_acquire(name));
    let (mut counts, mut guards) = (BTreeMap::new(), Vec::new());
    for outcome in join_all(tries).await {
        let answer = match outcome {
            Ok(TryAcquire::Acquired(guard)) => {
                guards.push(guard);
                "acquired".to_owned()
            }
            Ok(TryAcquire::Contended(_)) => "contended".to_owned(),
            Err(error) => error.to_string(),
        };
        *counts.entry(answer).or_default() += 1;
    }
    (counts, guards)
}

/// So many processes on one table, which all use `wire`.
fn lockers(table: &Table, wire: &Wire, read_first: bool) -> Vec<Locker> {
    let backends = (0..4).map(|_| {
        let backend = DynamoBackend::new(table.config_at(&wire.endpoint()).read_first(read_first));
        Arc::new(backend) as Arc<dyn Backend>
    });
    let backends: Vec<_> = backends.collect();
    let locker = |i: usize| Locker::builder(Arc::clone(&backends[i % backends.len()])).build().unwrap();
    (0..CROWD).map(locker).collect()
}

/// More than the table takes in three seconds.
const CROWD: usize = 80;
const WRITES: u32 = 20;

#[tokio::test]
// verifies: throttled, P1, contention
async fn one_of_a_throttled_crowd_acquires_and_none_fails() -> Result<(), Error> {
    for read_first in [false, true] {
        let table = Table::new(Schema::Native).await;
        let wire = Wire::start(table.server.address());
        let lockers = lockers(&table, &wire, read_first);
        wire.provision(WRITES, 3 * WRITES);
        let (counts, guards) = crowd(&lockers, "crowd").await;
        assert_eq!(counts.get("acquired"), Some(&1), "{counts:?}");
        assert_eq!(counts.get("contended"), Some(&(CROWD - 1)), "{counts:?}");
        assert!(wire.units().throttled > 0, "the table had to throttle: {:?}", wire.units());
        guards[0].check()?;

        // The lock is held by now.
        wire.provision(1_000, 3_000);
        let (counts, _) = crowd(&lockers, "crowd").await;
        assert_eq!(counts.get("contended"), Some(&CROWD), "{counts:?}");
        let (units, all) = (wire.units(), u32::try_from(CROWD).expect("few"));
        assert_eq!((units.written, units.read), if read_first { (0, all) } else { (all, 0) });
    }
    Ok(())
}
