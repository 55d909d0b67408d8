//! What the item of a lock with several holders costs and keeps.

use std::{collections::HashMap, num::NonZeroU16, sync::Arc, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::join_all;
use lock_core::{
    ErrorKind, LockName, LossReason, Mode,
    backend::{AcquireOutcome, AcquireRequest, Admin, Backend, Break, Lease, LeaseId, Release, Renewal},
    clock::{Clock, ClockReading, SystemClock},
};
use lock_dynamo::{DynamoBackend, Schema};
use test_support::{
    until,
    wire::{Fault, Wire},
};

use crate::fixture::{Table, granted, outlive, refused, released, request};

pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) fn reader(name: &str) -> AcquireRequest {
    request(name, LONG).with_mode(Mode::Shared)
}

pub(crate) fn permit(name: &str, of: u16) -> AcquireRequest {
    request(name, LONG).with_mode(Mode::Permit { of: NonZeroU16::new(of).unwrap() })
}

pub(crate) async fn item(table: &Table, name: &str) -> HashMap<String, AttributeValue> {
    let get = table.client.get_item().table_name(&table.name).key("key", AttributeValue::S(name.into()));
    get.consistent_read(true).send().await.unwrap().item.expect("there is an item")
}

/// The number of parts in the item of a lock.
async fn parts(table: &Table, name: &str) -> usize {
    item(table, name).await["parts"].as_m().unwrap().len()
}

fn number(value: &AttributeValue) -> i64 {
    value.as_n().unwrap().parse().unwrap()
}

/// The end of the part of `lease`, in milliseconds.
async fn end(table: &Table, lease: &Lease) -> i64 {
    let item = item(table, lease.name.as_str()).await;
    number(&item["parts"].as_m().unwrap()[&lease.id.to_string()].as_m().unwrap()["expires_at"])
}

#[tokio::test]
// verifies: P12
async fn a_part_takes_one_request_for_each_operation() {
    let table = Table::new(Schema::Native).await;
    let wire = Wire::start(table.server.address());
    let backend = DynamoBackend::new(table.config_at(&wire.endpoint()));
    // The first holder of an unused name.
    let first = granted(&backend, &reader("readers")).await;
    assert_eq!(wire.take_seen(), ["UpdateItem"; 2]);
    let second = granted(&backend, &reader("readers")).await;
    assert_eq!(wire.take_seen(), ["UpdateItem"]);
    assert_eq!(backend.renew(&second).await.unwrap(), Renewal::Renewed);
    assert_eq!(wire.take_seen(), ["UpdateItem"]);
    // A writer that waits also leaves a mark.
    refused(&backend, &request("readers", LONG)).await;
    assert_eq!(wire.take_seen(), ["UpdateItem"]);
    let waiting = request("readers", LONG).with_waits(true);
    refused(&backend, &waiting).await;
    assert_eq!(wire.take_seen(), ["UpdateItem"; 2]);
    for lease in [&first, &second] {
        released(&backend, lease).await;
        assert_eq!(wire.take_seen(), ["UpdateItem"]);
    }
    // The last reader left the item to the next holder, who needs its record.
    let writing = granted(&backend, &waiting).await;
    assert_eq!(wire.take_seen(), ["UpdateItem"; 2]);
    released(&backend, &writing).await;
    assert_eq!(wire.take_seen(), ["UpdateItem"]);
}

#[tokio::test]
// verifies: P12
async fn a_part_costs_the_exclusive_locks_of_a_process_no_batch() {
    let table = Table::new(Schema::Native).await;
    let wire = Wire::start(table.server.address());
    let backend = DynamoBackend::new(table.config_at(&wire.endpoint()));
    let mut leases = Vec::new();
    for request in [request("one", LONG), reader("part"), request("two", LONG), request("three", LONG)] {
        leases.push(granted(&backend, &request).await);
    }
    released(&backend, &leases[2]).await;
    wire.take_seen();
    let renewals = backend.renew_many(&leases).await;
    for (lease, renewal) in leases.iter().zip(renewals) {
        let lost = lease.name.as_str() == "two";
        assert_eq!(matches!(renewal, Ok(Renewal::Lost(_))), lost, "{}: {renewal:?}", lease.name);
        assert_eq!(matches!(renewal, Ok(Renewal::Renewed)), !lost, "{}: {renewal:?}", lease.name);
    }
    let mut seen = wire.take_seen();
    seen.sort();
    // The server shows no item in a refused batch, so the lost lock is asked for once more.
    assert_eq!(seen, ["BatchExecuteStatement", "UpdateItem", "UpdateItem"]);
}

#[tokio::test]
// verifies: P12, not-ours
async fn many_readers_in_turn_leave_a_small_item() {
    let table = Table::new(Schema::Native).await;
    let backend = DynamoBackend::new(table.config());
    let staying = granted(&backend, &reader("turns")).await;
    for _ in 0..60 {
        let lease = granted(&backend, &reader("turns")).await;
        released(&backend, &lease).await;
        assert!(parts(&table, "turns").await <= 18);
    }
    assert_eq!(backend.renew(&staying).await.unwrap(), Renewal::Renewed);
}

#[tokio::test]
// verifies: late-request, P12
async fn a_late_acquire_takes_no_released_part() {
    let table = Table::new(Schema::Native).await;
    let backend = DynamoBackend::new(table.config());
    for request in [reader("late"), permit("late-permit", 3)] {
        let another = request.clone().with_id(LeaseId::random());
        let staying = granted(&backend, &another).await;
        let lease = granted(&backend, &request).await;
        released(&backend, &lease).await;
        // Another write, so that the version of the item names another client.
        assert_eq!(backend.renew(&staying).await.unwrap(), Renewal::Renewed);
        let error = backend.acquire(&request).await.unwrap_err();
        assert!(error.to_string().contains("was released while"), "{error}");
        // The release that repeats itself is told so.
        released(&backend, &lease).await;
    }
}

#[tokio::test]
// verifies: late-request, P12
async fn attempts_that_are_given_up_leave_a_small_item() {
    let table = Table::new(Schema::Native).await;
    let backend = DynamoBackend::new(table.config());
    let staying = granted(&backend, &reader("given-up")).await;
    for _ in 0..20 {
        let never_arrived = reader("given-up").lease(None);
        let answer = backend.release(&never_arrived, Duration::ZERO).await.unwrap();
        assert!(matches!(answer, Release::NotHeld(Some(_))), "{answer:?}");
    }
    assert_eq!(parts(&table, "given-up").await, 17, "one is held, and sixteen have ended");
    assert_eq!(backend.renew(&staying).await.unwrap(), Renewal::Renewed);
}

#[tokio::test]
// verifies: late-request, P12
async fn a_part_that_arrives_during_its_release_is_ended() {
    let table = Table::new(Schema::Native).await;
    let wire = Wire::start(table.server.address());
    let (releasing, backend) =
        (DynamoBackend::new(table.config_at(&wire.endpoint())), DynamoBackend::new(table.config()));
    for round in 0.. {
        let name = format!("during-{round}");
        let _staying = granted(&backend, &reader(&name)).await;
        let late = reader(&name);
        wire.next(None);
        wire.next(Fault::DelayRequest(Duration::from_secs(1)));
        wire.take_seen();
        let mut seen = 0;
        let arrives = async {
            until("the second request", async || {
                seen += wire.take_seen().len();
                seen == 2
            })
            .await;
            backend.acquire(&late).await
        };
        let lease = late.lease(None);
        let (released, arrived) = tokio::join!(releasing.release(&lease, Duration::ZERO), arrives);
        // On a busy machine the second request may be faster.
        if arrived.is_ok() {
            assert_eq!(released.unwrap(), Release::Released);
            assert!(matches!(backend.renew(&lease).await.unwrap(), Renewal::Lost(_)));
            return;
        }
    }
}

#[tokio::test]
// verifies: P3, P6, P12
async fn a_part_is_not_broken_as_a_single_holder() {
    let table = Table::new(Schema::Native).await;
    let backend = DynamoBackend::new(table.config());
    let lease = granted(&backend, &reader("broken")).await;
    let name = LockName::new("broken").unwrap();
    // The version that a single holder with this id would have.
    let answer = backend.break_lock(&name, &lease.id.to_string(), "an operator").await.unwrap();
    assert!(matches!(answer, Break::Changed(Some(_))), "{answer:?}");
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed);
    refused(&backend, &request("broken", LONG)).await;
}

#[tokio::test]
// verifies: P12
async fn a_purge_removes_only_a_lock_without_holders() {
    let table = Table::new(Schema::Native).await;
    let backend = DynamoBackend::new(table.config());
    let name = LockName::new("purged").unwrap();
    let lease = granted(&backend, &reader("purged")).await;
    assert!(!backend.purge(&name).await.unwrap());
    released(&backend, &lease).await;
    assert!(backend.purge(&name).await.unwrap());
    let scan = table.client.scan().table_name(&table.name).send().await.unwrap();
    assert_eq!(scan.count(), 0);
}

#[tokio::test]
// verifies: late-request, P12
async fn a_delayed_correction_does_not_shorten_a_renewal() {
    let table = Table::new(Schema::Native).await;
    let wire = Wire::start(table.server.address());
    let backend = DynamoBackend::new(table.config_at(&wire.endpoint()));
    let request = reader("corrected");
    let lease = granted(&backend, &request).await;
    // The attempt is repeated, finds its own part, and writes it again. That write is held up.
    wire.next(None);
    wire.next(Fault::Hold);
    wire.take_seen();
    let mut seen = 0;
    tokio::select! {
        biased;
        answer = backend.acquire(&request) => panic!("the request is held, but the answer is {answer:?}"),
        () = until("the held request", async || { seen += wire.take_seen().len(); seen == 2 }) => {}
    }
    let before = wire.answered();
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed);
    let renewed = end(&table, &lease).await;
    wire.let_go();
    until("the held request to arrive", async || wire.answered() >= before + 2).await;
    assert_eq!(end(&table, &lease).await, renewed);
}

#[tokio::test]
// verifies: P12
async fn a_short_lease_does_not_let_dynamodb_delete_a_long_one() {
    let table = Table::new(Schema::Native).await;
    let backend = DynamoBackend::new(table.config().collect_after(Duration::from_secs(60)));
    let long = granted(&backend, &reader("collected").with_ttl(Duration::from_secs(86_400))).await;
    let short = granted(&backend, &reader("collected").with_ttl(Duration::from_secs(5))).await;
    assert_eq!(backend.renew(&short).await.unwrap(), Renewal::Renewed);
    let collected = number(&item(&table, "collected").await["collect_at"]);
    assert!(collected * 1_000 > end(&table, &long).await, "{collected}");
}

#[tokio::test]
// verifies: P12
async fn many_ended_permits_keep_no_newcomer_out() {
    let table = Table::new(Schema::Native).await;
    let backend = DynamoBackend::new(table.config());
    // A busy machine takes a minute for all of them.
    let staying = granted(&backend, &permit("many", 300).with_ttl(60 * LONG)).await;
    for _ in 0..305 {
        let lease = granted(&backend, &permit("many", 300)).await;
        released(&backend, &lease).await;
    }
    assert_eq!(backend.renew(&staying).await.unwrap(), Renewal::Renewed);
}

/// Repeats a request that a busy machine did not answer in time, as the core does.
async fn granted_in_the_end(backend: &DynamoBackend, request: &AcquireRequest) {
    loop {
        match backend.acquire(request).await {
            Err(error) if error.kind() == ErrorKind::Timeout => {}
            answer => return assert!(matches!(answer, Ok(AcquireOutcome::Granted(_))), "{answer:?}"),
        }
    }
}

#[tokio::test]
// verifies: P12, contention
async fn many_readers_join_at_once() {
    let table = Table::new(Schema::Native).await;
    let wire = Wire::start(table.server.address());
    let backend = DynamoBackend::new(table.config_at(&wire.endpoint()));
    let newcomer = || reader("crowd").with_ttl(60 * LONG);
    for _ in 0..20 {
        let _ = granted(&backend, &newcomer()).await;
    }
    wire.take_seen();
    let _ = granted(&backend, &newcomer()).await;
    assert_eq!(wire.take_seen(), ["UpdateItem"; 2], "the record tells how many there are");
    join_all((0..40).map(async |_| granted_in_the_end(&backend, &newcomer()).await)).await;
    assert_eq!(parts(&table, "crowd").await, 61);
}

#[tokio::test]
// verifies: P3, P12
async fn a_break_is_told_after_a_takeover_in_another_mode() {
    let table = Table::new(Schema::Native).await;
    let backend = DynamoBackend::new(table.config());
    for (name, held, next) in [
        ("broken-reader", reader("broken-reader"), request("broken-reader", LONG)),
        ("broken-writer", request("broken-writer", LONG), reader("broken-writer")),
    ] {
        let lease = granted(&backend, &held).await;
        let name = LockName::new(name).unwrap();
        let version = backend.inspect(&name).await.unwrap().unwrap().version.unwrap();
        assert_eq!(backend.break_lock(&name, &version, "alice").await.unwrap(), Break::Broken);
        let _ = granted(&backend, &next).await;
        assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Lost(LossReason::BrokenBy("alice".into())));
    }
}

/// A clock that is an hour ahead.
#[derive(Debug)]
struct Ahead;

impl Clock for Ahead {
    fn now(&self) -> ClockReading {
        let ClockReading { boot, wall } = SystemClock.now();
        ClockReading { boot, wall: wall + Duration::from_secs(3_600) }
    }
}

fn without_date(head: &str) -> String {
    head.split_inclusive("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("date:")).collect()
}

#[tokio::test]
// verifies: P8, P12
async fn a_released_part_is_free_whatever_the_clock_says() {
    let table = Table::new(Schema::Native).await;
    // Without a date this client does not learn that its clock is wrong.
    let wire = Wire::start(table.server.address());
    wire.edit_replies(without_date);
    let ahead = DynamoBackend::with_clock(table.config_at(&wire.endpoint()), Arc::new(Ahead));
    let backend = DynamoBackend::new(table.config());
    let lease = granted(&ahead, &reader("released")).await;
    released(&ahead, &lease).await;
    let _ = granted(&backend, &request("released", LONG)).await;
}

#[tokio::test]
// verifies: lost-reply, P12
async fn a_refused_waiter_has_its_mark() {
    let table = Table::new(Schema::Native).await;
    let wire = Wire::start(table.server.address());
    let backend = DynamoBackend::new(table.config_at(&wire.endpoint()));
    let reading = granted(&backend, &reader("marked")).await;
    for fault in [Fault::LoseRequest, Fault::LoseReply] {
        let waiting = request("marked", LONG).with_waits(true);
        wire.next(None);
        wire.next(fault);
        let error = backend.acquire(&waiting).await.unwrap_err();
        assert!(error.is_retryable() && error.is_ambiguous(), "{error}");
        refused(&backend, &waiting).await;
        refused(&backend, &reader("marked")).await;
        // The wait is given up, and so is its mark.
        let _ = backend.release(&waiting.lease(None), Duration::ZERO).await.unwrap();
        let joined = granted(&backend, &reader("marked")).await;
        released(&backend, &joined).await;
    }
    released(&backend, &reading).await;
}

#[tokio::test]
// verifies: P9, P12
async fn a_crash_is_reported_once_to_those_who_join() {
    let table = Table::new(Schema::Native).await;
    let backend = DynamoBackend::new(table.config());
    let ttl = Duration::from_millis(500);
    let staying = granted(&backend, &reader("crashed")).await;
    let dying = reader("crashed").with_ttl(ttl).with_owner("dying");
    let _ = granted(&backend, &dying).await;
    outlive(ttl).await;
    let mut told = Vec::new();
    for _ in 0..2 {
        let AcquireOutcome::Granted(grant) = backend.acquire(&reader("crashed")).await.unwrap() else {
            panic!("readers share it")
        };
        told.push(grant.crashed.and_then(|holder| holder.owner));
    }
    assert_eq!(told, [Some("dying".into()), None]);
    assert_eq!(parts(&table, "crashed").await, 3);
    assert_eq!(backend.renew(&staying).await.unwrap(), Renewal::Renewed);
}
