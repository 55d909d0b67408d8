//! When DynamoDB may delete an item by its TTL attribute.

use std::time::Duration;

use lock_core::{
    FencingToken,
    backend::{AcquireOutcome, Admin, Backend, Break, Release, Renewal},
};

use lock_dynamo::Schema;
use serde_json::json;

use super::by_hand::{BOUND, HOUR, TTL, World, granted, request, take};

#[tokio::test]
// verifies: P1
async fn a_held_item_is_never_collected() {
    // The model checks the item after each write, and deletes it as early as DynamoDB may.
    for off in [-1_000, 0, 1_000, -3 * HOUR] {
        let world = World::new();
        let [process, other] = [off, 0].map(|off| world.configured(off, |config| config.collect_after(Duration::ZERO)));
        // Shows the machine the store's clock.
        let _ = process.acquire(&request("c")).await;
        let leases = [take(&process, "a").await, take(&process, "b").await];
        let at_its_end = |name| {
            let at = Duration::from_secs(world.number(name, "collect_at").try_into().unwrap());
            assert!(at >= world.now() + TTL + BOUND, "{off}: \"{name}\" at {at:?}, now {:?}", world.now());
        };
        at_its_end("a");
        world.pass(TTL / 3);
        assert_eq!(process.renew(&leases[0]).await.unwrap(), Renewal::Renewed);
        at_its_end("a");
        world.pass(TTL / 3);
        for renewal in process.renew_many(&leases).await {
            assert_eq!(renewal.unwrap(), Renewal::Renewed);
        }
        let raised = FencingToken::new(leases[0].token.unwrap().get() + 1).unwrap();
        assert!(process.advance_token(&leases[0], raised).await.unwrap());
        at_its_end("a");
        at_its_end("b");
        assert_eq!(process.release(&leases[0], TTL).await.unwrap(), Release::Released);
        at_its_end("a");
        // The end of a kept lock is judged by the clock alone.
        world.pass(TTL - BOUND);
        let held = other.acquire(&request("a")).await.unwrap();
        assert!(matches!(held, AcquireOutcome::Contended(_)), "{off}: kept by its min_hold: {held:?}");
        world.pass(2 * BOUND + Duration::from_secs(2));
        // From the dead holder of the item, which is still there.
        let grant = granted(other.acquire(&request("b")).await);
        assert!(grant.crashed.is_some(), "{off}: {grant:?}");
        at_its_end("b");
    }
}

#[tokio::test]
// verifies: foreign-client
async fn foreign_clients_inherit_no_time_of_deletion() {
    let world = World::new();
    for (schema, attribute) in [(Schema::Java, None), (Schema::Go, None), (Schema::Go, Some("theirs"))] {
        let process = world.configured(0, |config| {
            let config = config.schema(schema);
            if let Some(name) = attribute { config.ttl_attribute(name) } else { config }
        });
        let written = || {
            let item = world.item("a");
            let there = |name: &str| item.get(name).is_some();
            assert_eq!(there("theirs"), attribute.is_some(), "{schema}: {item}");
            assert!(!there("onelock_collect_at"), "{schema}: {item}");
        };
        let lease = take(&process, "a").await;
        written();
        assert_eq!(process.renew(&lease).await.unwrap(), Renewal::Renewed);
        written();
        assert_eq!(process.release(&lease, TTL).await.unwrap(), Release::Released);
        written();
        if attribute.is_some() {
            continue;
        }
        // In an item that was kept for a while, and in a released one.
        for _ in 0..2 {
            // Of an earlier version of onelock.
            world.put("a", "onelock_collect_at", json!({ "N": "9999999999" }));
            world.pass(3 * TTL);
            let lease = take(&process, "a").await;
            written();
            assert_eq!(process.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
        }
        world.delete("a");
    }
}

#[tokio::test]
async fn item_may_be_collected_after_lease_plus_idle_time() {
    let world = World::new();
    let idle = Duration::from_secs(90 * 24 * 3_600);
    let process = world.configured(0, |config| config.collect_after(idle));
    let seconds = |at: Duration| i64::try_from(at.as_secs()).unwrap();
    let lease = take(&process, "a").await;
    assert_eq!(world.number("a", "collect_at"), seconds(world.now() + idle + TTL));
    world.pass(Duration::from_secs(7));
    assert_eq!(process.renew(&lease).await.unwrap(), Renewal::Renewed);
    assert_eq!(world.number("a", "collect_at"), seconds(world.now() + idle + TTL));
    let version = lease.id.to_string();
    world.pass(Duration::from_secs(7));
    assert_eq!(process.break_lock(&lease.name, &version, "alice").await.unwrap(), Break::Broken);
    assert_eq!(world.number("a", "collect_at"), seconds(world.now() + idle));
}
