//! The queue of fair requests: what each attempt writes, and what ends a place, to the microsecond.

use std::{sync::Arc, time::Duration};

use lock_core::{
    FencingToken,
    backend::{AcquireOutcome, AcquireRequest, Admin, Backend, Lease, Release},
};
use lock_dynamo::DynamoBackend;
use serde_json::json;

use super::by_hand::{Fate, HOUR, TTL, World, granted, request, take};

const MICRO: Duration = Duration::from_micros(1);
/// The most places of a queue.
const MOST: usize = 100;

fn waiter() -> AcquireRequest {
    request("a").with_waits(true).with_fair(true)
}

/// The owner whom a refusal names.
async fn refused(backend: &DynamoBackend, request: &AcquireRequest) -> String {
    match backend.acquire(request).await.unwrap() {
        AcquireOutcome::Contended(holder) => holder.owner.unwrap_or_default(),
        AcquireOutcome::Granted(_) => panic!("granted"),
    }
}

async fn acquired(backend: &DynamoBackend, request: &AcquireRequest) -> Lease {
    let token: Option<FencingToken> = granted(backend.acquire(request).await).token;
    request.lease(token)
}

async fn release(backend: &DynamoBackend, lease: &Lease) -> Release {
    backend.release(lease, Duration::ZERO).await.unwrap()
}

fn places(world: &World) -> Vec<String> {
    let item = world.item("a");
    let places = item["places"]["L"].as_array().cloned().unwrap_or_default();
    places.iter().map(|place| place["M"]["version"]["S"].as_str().unwrap_or_default().to_owned()).collect()
}

fn end_of_first_place(world: &World) -> Duration {
    let end = world.item("a")["places"]["L"][0]["M"]["expires_at"]["N"].as_str().unwrap().parse().unwrap();
    Duration::from_millis(end)
}

fn world_and_processes<const N: usize>() -> (Arc<World>, [DynamoBackend; N]) {
    let world = World::new();
    let processes = [(); N].map(|()| world.process(0));
    (world, processes)
}

#[tokio::test]
// verifies: P12
async fn a_waiter_writes_its_place_once_in_a_third_of_its_ttl() {
    let (world, [holder, waiting]) = world_and_processes();
    let held = take(&holder, "a").await;
    let waiter = waiter();
    world.take_seen();
    refused(&waiting, &waiter).await;
    assert_eq!(world.take_seen().len(), 2, "a refusal, and the place");
    let third = end_of_first_place(&world) - TTL / 3 * 2;
    world.set(third - MICRO);
    refused(&waiting, &waiter).await;
    assert_eq!(world.take_seen().len(), 1, "the place is fresh");
    world.set(third);
    refused(&waiting, &waiter).await;
    assert_eq!(world.take_seen().len(), 2);
    refused(&waiting, &waiter).await;
    assert_eq!(world.take_seen().len(), 1);
    assert!(end_of_first_place(&world) >= third + TTL);
    assert_eq!(places(&world), [waiter.id.to_string()]);
    release(&holder, &held).await;
    world.take_seen();
    let lease = acquired(&waiting, &waiter).await;
    assert_eq!(world.take_seen().len(), 1, "the first of the queue acquires a free lock as without a queue");
    release(&waiting, &lease).await;
    assert_eq!(world.take_seen().len(), 1);
    assert_eq!(places(&world), [""; 0]);
}

#[tokio::test]
// verifies: P12
async fn a_queue_costs_a_request_that_meets_none_nothing() {
    let (world, [process]) = world_and_processes();
    for request in [request("a"), waiter(), request("a").with_fair(true)] {
        // So that the clock makes the next token larger.
        world.pass(Duration::from_millis(1));
        world.take_seen();
        let lease = acquired(&process, &request).await;
        assert_eq!(release(&process, &lease).await, Release::Released);
        assert_eq!(world.take_seen(), ["UpdateItem"; 2]);
    }
    assert!(world.item("a")["places"].is_null());
}

#[tokio::test]
// verifies: P9, P12
async fn a_dead_place_ends_exactly_with_its_ttl() {
    let (world, [holder, dead, newcomer]) = world_and_processes();
    let held = take(&holder, "a").await;
    refused(&dead, &waiter().with_owner("dead")).await;
    let end = end_of_first_place(&world);
    assert!(end - world.now() - TTL <= Duration::from_millis(1), "a millisecond for rounding");
    release(&holder, &held).await;
    world.set(end - MICRO);
    let late = waiter();
    assert_eq!(refused(&newcomer, &late).await, "dead");
    assert_eq!(places(&world).len(), 2);
    world.set(end);
    world.take_seen();
    let lease = acquired(&newcomer, &late).await;
    assert_eq!(world.take_seen().len(), 2, "one to learn of the queue, and one to acquire");
    assert_eq!(places(&world), [""; 0], "the dead place is gone too");
    release(&newcomer, &lease).await;
}

/// The replies show the time of the store to the second.
#[tokio::test]
// verifies: P8, P9, P12
async fn clocks_that_are_an_hour_off_move_no_place() {
    const ABOUT: Duration = Duration::from_secs(3);
    for off in [-HOUR, HOUR] {
        let world = World::new();
        let [holder, dead, newcomer] = [0, off, -off].map(|off| world.process(off));
        let held = take(&holder, "a").await;
        refused(&dead, &waiter().with_owner("dead")).await;
        let end = world.now() + TTL;
        release(&holder, &held).await;
        world.set(end - ABOUT);
        let late = waiter();
        assert_eq!(refused(&newcomer, &late).await, "dead", "off by {off} ms");
        world.set(end + ABOUT);
        acquired(&newcomer, &late).await;
    }
}

#[tokio::test]
// verifies: P12
async fn a_place_that_is_kept_meanwhile_is_not_skipped() {
    for has_place in [false, true] {
        let (world, [holder, slow, other]) = world_and_processes();
        let held = take(&holder, "a").await;
        let late = waiter();
        refused(&slow, &late).await;
        let next = if has_place { waiter().with_ttl(TTL * 2) } else { request("a") };
        if has_place {
            refused(&other, &next).await;
        }
        world.set(end_of_first_place(&world));
        release(&holder, &held).await;
        // It sees that the place is over, and the place is kept before its next request.
        world.next(None);
        world.next(Fate::AfterKept(world.now() + TTL));
        refused(&other, &next).await;
        assert_eq!(places(&world)[0], late.id.to_string());
        let _ = acquired(&slow, &late).await;
    }
}

#[tokio::test]
// verifies: P12
async fn a_refused_waiter_has_its_place() {
    let (world, [holder, waiting]) = world_and_processes();
    let held = take(&holder, "a").await;
    for fate in [Fate::Held, Fate::ReplyLost] {
        let waiter = waiter();
        world.next(None);
        world.next(fate);
        let error = waiting.acquire(&waiter).await.unwrap_err();
        assert!(error.is_retryable() && error.is_ambiguous(), "{error}");
        refused(&waiting, &waiter).await;
        assert_eq!(places(&world), [waiter.id.to_string()]);
        release(&waiting, &waiter.lease(None)).await;
    }
    release(&holder, &held).await;
}

#[tokio::test]
// verifies: P12
async fn a_full_queue_gives_no_place_until_one_ends() {
    let (world, [holder, waiting]) = world_and_processes();
    let held = take(&holder, "a").await;
    let waiters: Vec<_> = (0..MOST).map(|_| waiter()).collect();
    for waiter in &waiters {
        refused(&waiting, waiter).await;
    }
    let late = waiter();
    refused(&waiting, &late).await;
    assert_eq!(places(&world), waiters.iter().map(|waiter| waiter.id.to_string()).collect::<Vec<_>>());
    release(&holder, &held).await;
    refused(&waiting, &late).await;
    let lease = acquired(&waiting, &waiters[0]).await;
    refused(&waiting, &late).await;
    assert_eq!(places(&world)[MOST - 1], late.id.to_string());
    release(&waiting, &lease).await;
}

#[tokio::test]
// verifies: late-request, P12
async fn a_late_place_in_a_full_queue_ends_with_its_release() {
    let (world, [holder, waiting]) = world_and_processes();
    let held = take(&holder, "a").await;
    let (first, late) = (waiter(), waiter());
    refused(&waiting, &first).await;
    world.next(None);
    world.next(Fate::Held);
    let unconfirmed = waiting.acquire(&late).await;
    assert!(unconfirmed.unwrap_err().is_retryable());
    for _ in 1..MOST {
        refused(&waiting, &waiter()).await;
    }
    refused(&waiting, &late).await;
    assert!(!places(&world).contains(&late.id.to_string()), "the queue is full");
    release(&waiting, &first.lease(None)).await;
    world.arrive();
    assert!(places(&world).contains(&late.id.to_string()));
    release(&waiting, &late.lease(None)).await;
    assert!(!places(&world).contains(&late.id.to_string()));
    release(&holder, &held).await;
}

#[tokio::test]
// verifies: P9, P12
async fn a_full_queue_of_dead_places_ends_in_one_request() {
    let (world, [holder, dead, newcomer]) = world_and_processes();
    let held = take(&holder, "a").await;
    for _ in 0..MOST {
        refused(&dead, &waiter()).await;
    }
    release(&holder, &held).await;
    world.pass(TTL + Duration::from_millis(1));
    world.take_seen();
    let _ = acquired(&newcomer, &waiter()).await;
    assert_eq!(world.take_seen().len(), 2);
    assert_eq!(places(&world), [""; 0]);
}

#[tokio::test]
// verifies: P12, late-request
async fn a_place_that_arrived_twice_ends_with_the_grant() {
    let (world, [holder, waiting]) = world_and_processes();
    let held = take(&holder, "a").await;
    let (twice, next) = (waiter(), waiter());
    world.next(None);
    world.next(Fate::Twice);
    refused(&waiting, &twice).await;
    refused(&waiting, &next).await;
    assert_eq!(places(&world), [&twice, &twice, &next].map(|waiter| waiter.id.to_string()));
    release(&holder, &held).await;
    let lease = acquired(&waiting, &twice).await;
    release(&waiting, &lease).await;
    // The second place ends with its ttl at the latest.
    world.pass(TTL + Duration::from_millis(1));
    let _ = acquired(&waiting, &next).await;
    assert_eq!(places(&world), [""; 0]);
}

#[tokio::test]
// verifies: P12, cancelled
async fn a_waiter_that_gives_up_leaves_from_anywhere_in_the_queue() {
    let (world, [holder, waiting]) = world_and_processes();
    let held = take(&holder, "a").await;
    let waiters: Vec<_> = (0..4).map(|_| waiter()).collect();
    for waiter in &waiters {
        refused(&waiting, waiter).await;
    }
    for (gone, requests) in [(2, 3), (0, 2), (3, 3), (1, 2)] {
        world.take_seen();
        assert!(matches!(release(&waiting, &waiters[gone].lease(None)).await, Release::NotHeld(_)));
        assert_eq!(world.take_seen().len(), requests);
        assert!(!places(&world).contains(&waiters[gone].id.to_string()));
    }
    assert_eq!(places(&world), [""; 0]);
    release(&holder, &held).await;
    world.pass(Duration::from_millis(1));
    world.take_seen();
    let _ = take(&waiting, "a").await;
    assert_eq!(world.take_seen().len(), 1);
}

#[tokio::test]
// verifies: P12
async fn places_that_cannot_be_read_keep_no_request_out() {
    for places in [json!({ "L": [{ "S": "x" }, { "M": { "version": { "S": "y" } } }] }), json!({ "S": "x" })] {
        let (world, [process]) = world_and_processes();
        let lease = take(&process, "a").await;
        world.put("a", "places", places);
        release(&process, &lease).await;
        let lease = take(&process, "a").await;
        release(&process, &lease).await;
    }
}

#[tokio::test]
// verifies: P12
async fn a_waiter_whose_item_was_deleted_needs_no_read() {
    let (world, [holder, waiting]) = world_and_processes();
    take(&holder, "a").await;
    let waiter = waiter();
    refused(&waiting, &waiter).await;
    world.delete("a");
    world.take_seen();
    let _ = acquired(&waiting, &waiter).await;
    assert_eq!(world.take_seen(), ["UpdateItem"; 2]);
}

#[tokio::test]
async fn a_purge_spares_a_lock_with_waiters() {
    let (world, [holder, waiting]) = world_and_processes();
    let held = take(&holder, "a").await;
    refused(&waiting, &waiter()).await;
    release(&holder, &held).await;
    assert!(!holder.purge(&held.name).await.unwrap());
    world.pass(TTL + Duration::from_millis(1));
    assert!(holder.purge(&held.name).await.unwrap());
    assert!(world.item("a").is_null());
}

#[tokio::test]
// verifies: P9, P12
async fn a_crashed_holder_is_replaced_by_the_first_of_the_queue() {
    let (world, [holder, waiting]) = world_and_processes();
    let _ = take(&holder, "a").await;
    let waiters = [(); 2].map(|()| waiter().with_ttl(TTL * 10));
    for waiter in &waiters {
        refused(&waiting, waiter).await;
    }
    world.pass(TTL * 2);
    refused(&waiting, &waiters[1]).await;
    let crashed = granted(waiting.acquire(&waiters[0]).await).crashed;
    assert_eq!(crashed.and_then(|holder| holder.owner).as_deref(), Some("test"));
    assert_eq!(places(&world), [waiters[1].id.to_string()]);
}
