//! The conditions of single writes, in the orders of events that networks and operators make.

use std::time::Duration;

use lock_core::{
    ErrorKind, FencingToken, LossReason,
    backend::{Admin, Backend, Break, Release, Renewal},
};
use lock_dynamo::Schema;
use serde_json::json;

use super::by_hand::{Fate, HOUR, TTL, World, granted, request, take};

#[tokio::test]
async fn token_grows_within_a_microsecond_and_with_slow_clocks() {
    let world = World::new();
    let process = world.process(0);
    let mut last = None;
    for _ in 0..3 {
        let lease = take(&process, "a").await;
        assert!(lease.token > last, "{:?} after {last:?}", lease.token);
        assert_eq!(world.number("a", "fence"), i64::try_from(lease.token.unwrap().get()).unwrap());
        last = lease.token;
        assert_eq!(process.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    }
    for off in [-HOUR, 0, -2 * HOUR] {
        let process = world.process(off);
        let lease = take(&process, "a").await;
        assert!(lease.token > last, "{off}: {:?} after {last:?}", lease.token);
        last = lease.token;
        assert_eq!(process.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    }
}

#[tokio::test]
// verifies: P7
async fn reserved_tokens_begin_behind_the_last_token() {
    let world = World::new();
    let process = world.process(0);
    let lease = take(&process, "a").await;
    assert_eq!(process.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    // In the same microsecond, so that the clock does not make the tokens larger.
    let grant = granted(process.acquire(&request("a").with_reserved_tokens(9)).await);
    assert_eq!(grant.token.unwrap().get(), lease.token.unwrap().get() + 10);
    assert_eq!(world.number("a", "fence"), i64::try_from(grant.token.unwrap().get()).unwrap());
}

#[tokio::test]
async fn token_grows_after_its_record_was_deleted() {
    let world = World::new();
    let mut last = None;
    for off in [0, -HOUR, 0, -24 * HOUR, 0] {
        let process = world.process(off);
        let lease = take(&process, "a").await;
        assert!(lease.token > last, "{off}: {:?} after {last:?}", lease.token);
        assert_eq!(world.number("a", "fence"), i64::try_from(lease.token.unwrap().get()).unwrap());
        // Nor is the time of the acquisition that clock's.
        let since = Duration::from_millis(world.number("a", "acquired_at").try_into().unwrap());
        assert!(since.abs_diff(world.now()) <= Duration::from_secs(1), "{off}: since {since:?}");
        last = lease.token;
        world.delete("a");
        // A date has a resolution of one second.
        world.pass(Duration::from_secs(2));
    }
}

#[tokio::test]
async fn a_raised_token_is_never_lowered() {
    let world = World::new();
    let process = world.process(0);
    let lease = take(&process, "a").await;
    let token = lease.token.unwrap().get();
    let raised = FencingToken::new(token + 1_000_000).unwrap();
    assert!(process.advance_token(&lease, raised).await.unwrap());
    for lower in [token, token + 999_999] {
        assert!(process.advance_token(&lease, FencingToken::new(lower).unwrap()).await.unwrap(), "it is that large");
    }
    assert_eq!(world.number("a", "fence"), i64::try_from(raised.get()).unwrap());
    assert_eq!(process.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    assert_eq!(take(&world.process(0), "a").await.token.unwrap().get(), raised.get() + 1);
}

#[tokio::test]
async fn duplicate_requests_take_effect_once() {
    let world = World::new();
    let process = world.process(0);
    world.next(Fate::Twice);
    let lease = take(&process, "a").await;
    assert_eq!(world.take_seen(), ["UpdateItem"], "no second look was needed");
    world.next(Fate::Twice);
    assert_eq!(process.renew(&lease).await.unwrap(), Renewal::Renewed);
    world.next(Fate::Twice);
    assert_eq!(process.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    let dead = take(&process, "b").await;
    world.pass(3 * TTL);
    let cold = world.process(0);
    world.take_seen();
    // Of a takeover the first request is refused, and the second delivered twice.
    world.next(None);
    world.next(Fate::Twice);
    let grant = granted(cold.acquire(&request("b")).await);
    assert_eq!(grant.crashed.unwrap().token, dead.token);
    assert_eq!(world.take_seen(), ["UpdateItem"; 2]);
}

#[tokio::test]
async fn lost_batch_reply_is_resolved_for_each_lease() {
    let world = World::new();
    let process = world.process(0);
    let mut leases = Vec::new();
    for name in ["a", "b", "c"] {
        leases.push(take(&process, name).await);
    }
    let other = world.process(0);
    assert_eq!(other.break_lock(&leases[1].name, &leases[1].id.to_string(), "alice").await.unwrap(), Break::Broken);
    world.pass(Duration::from_secs(10));
    world.next(Fate::ReplyLost);
    for answer in process.renew_many(&leases).await {
        let error = answer.unwrap_err();
        assert!(error.kind() == ErrorKind::Unavailable && error.is_ambiguous() && error.is_retryable(), "{error}");
    }
    let renewed = world.number("a", "expires_at");
    assert_eq!(u128::try_from(renewed).unwrap(), (world.now() + TTL).as_millis() + 1, "it had arrived");
    let broken = || Renewal::Lost(LossReason::BrokenBy("alice".into()));
    let answers: Vec<_> = process.renew_many(&leases).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers, [Renewal::Renewed, broken(), Renewal::Renewed]);
}

#[tokio::test]
async fn partly_answered_batch_is_an_error_for_each_lease() {
    let world = World::new();
    let process = world.process(0);
    let leases = [take(&process, "a").await, take(&process, "b").await];
    world.next(Fate::CutShort);
    for answer in process.renew_many(&leases).await {
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    for answer in process.renew_many(&leases).await {
        assert_eq!(answer.unwrap(), Renewal::Renewed);
    }
}

#[tokio::test]
async fn two_leases_of_one_name_are_both_renewed() {
    let world = World::new();
    let process = world.process(0);
    let (first, other) = (take(&process, "a").await, take(&process, "b").await);
    assert_eq!(process.break_lock(&first.name, &first.id.to_string(), "alice").await.unwrap(), Break::Broken);
    let second = take(&process, "a").await;
    let answers = process.renew_many(&[first, other, second]).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert!(matches!(answers[..], [Renewal::Lost(_), Renewal::Renewed, Renewal::Renewed]), "{answers:?}");
}

#[tokio::test]
async fn batched_renewal_has_the_conditions_of_a_single_one() {
    let world = World::new();
    let process = world.process(0);
    let mut leases = Vec::new();
    for name in ["held", "parked", "released", "taken", "gone", "later"] {
        leases.push(take(&process, name).await);
    }
    assert_eq!(process.release(&leases[1], TTL).await.unwrap(), Release::Released);
    assert_eq!(process.release(&leases[2], Duration::ZERO).await.unwrap(), Release::Released);
    assert_eq!(process.release(&leases[3], Duration::ZERO).await.unwrap(), Release::Released);
    take(&world.process(0), "taken").await;
    world.delete("gone");
    // As a renewal with a longer lease would have left it.
    let mut long = leases[5].clone();
    long.ttl = 2 * TTL;
    assert_eq!(process.renew(&long).await.unwrap(), Renewal::Renewed);
    let untouched = ["parked", "released", "taken"].map(|name| (name, world.item(name)));
    world.take_seen();
    let answers = process.renew_many(&leases).await;
    assert_eq!(world.take_seen()[0], "BatchExecuteStatement");
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.unwrap() == Renewal::Renewed).collect();
    assert_eq!(answers, [true, false, false, false, false, true]);
    for (name, before) in untouched {
        assert_eq!(world.item(name), before, "{name}");
    }
    assert_eq!(world.item("gone"), serde_json::Value::Null, "a renewal creates no item");
}

#[tokio::test]
async fn clock_that_went_back_still_sends_heartbeats() {
    let world = World::new();
    let (process, clock) = world.machine();
    let lease = take(&process, "a").await;
    // Within what dates can show, so that nothing contradicts it.
    clock.set_off(-200);
    world.pass(Duration::from_millis(100));
    let before = world.item("a")["version"].clone();
    assert_eq!(process.renew(&lease).await.unwrap(), Renewal::Renewed);
    assert_ne!(world.item("a")["version"], before, "observers must see a heartbeat");
}

#[tokio::test]
async fn renewal_corrects_an_expiry_after_an_unnoticed_pause() {
    for batch in [false, true] {
        let world = World::new();
        let (process, clock) = world.machine();
        let leases = [take(&process, "a").await, take(&process, "b").await];
        clock.miss(2 * TTL);
        if batch {
            for answer in process.renew_many(&leases).await {
                assert_eq!(answer.unwrap(), Renewal::Renewed);
            }
        } else {
            assert_eq!(process.renew(&leases[0]).await.unwrap(), Renewal::Renewed);
        }
        let ends = Duration::from_millis(world.number("a", "expires_at").try_into().unwrap());
        assert!(ends + Duration::from_secs(1) >= world.now() + TTL, "batch: {batch}: {ends:?}");
    }
}

#[tokio::test]
async fn late_request_of_a_released_acquisition_is_refused() {
    // Where there are tokens, a late request is kept out by its old one too.
    for schema in [Schema::Native, Schema::Java, Schema::Go] {
        for hold_for in [TTL, Duration::ZERO] {
            let world = World::new();
            let process = world.configured(0, |config| config.schema(schema));
            let late = request("a");
            let lease = late.lease(granted(process.acquire(&late).await).token);
            world.pass(Duration::from_millis(1));
            assert_eq!(process.release(&lease, hold_for).await.unwrap(), Release::Released);
            let released = world.item("a");
            world.pass(Duration::from_millis(1));
            let error = process.acquire(&late).await.unwrap_err();
            assert!(!error.is_retryable(), "{schema}: {error}");
            assert!(matches!(process.renew(&lease).await.unwrap(), Renewal::Lost(_)), "{schema}");
            assert_eq!(process.release(&lease, Duration::ZERO).await.unwrap(), Release::Released, "as it was");
            assert_eq!(world.item("a"), released, "{schema}");
            world.pass(2 * TTL);
            take(&process, "a").await;
        }
    }
}

#[tokio::test]
async fn break_affects_only_the_lease_seen() {
    let world = World::new();
    let process = world.process(0);
    let first = take(&process, "a").await;
    assert_eq!(process.release(&first, Duration::ZERO).await.unwrap(), Release::Released);
    let seen = first.id.to_string();
    assert_eq!(process.break_lock(&first.name, &seen, "alice").await.unwrap(), Break::Changed(None), "it is free");
    let second = take(&process, "a").await;
    let broken = process.break_lock(&first.name, &seen, "alice").await.unwrap();
    assert!(matches!(broken, Break::Changed(Some(_))), "{broken:?}");
    assert_eq!(process.renew(&second).await.unwrap(), Renewal::Renewed);
    // Another application's item, by its version.
    world.put("b", "version", json!({ "S": "v1" }));
    world.put("b", "released", json!({ "S": "1" }));
    let Break::Changed(Some(holder)) = process.break_lock(&request("b").name, "v1", "alice").await.unwrap() else {
        panic!("it is not ours")
    };
    assert!(holder.foreign.is_some() && holder.version.is_none(), "{holder:?}");
    assert_eq!(world.item("b")["version"]["S"], "v1");
}

#[tokio::test]
async fn release_of_a_broken_lease_is_not_held() {
    let world = World::new();
    let process = world.process(0);
    let lease = take(&process, "a").await;
    let seen = lease.id.to_string();
    assert_eq!(process.break_lock(&lease.name, &seen, "alice").await.unwrap(), Break::Broken);
    assert_eq!(process.release(&lease, Duration::ZERO).await.unwrap(), Release::NotHeld(None));
    take(&process, "a").await;
    assert!(matches!(process.release(&lease, Duration::ZERO).await.unwrap(), Release::NotHeld(Some(_))));
}

#[tokio::test]
async fn purge_deletes_only_released_locks() {
    let world = World::new();
    let process = world.process(0);
    let name = request("a").name;
    assert!(process.purge(&name).await.unwrap(), "the item does not exist");
    // Another application's data, which is not a lock.
    world.put("a", "team", json!({ "S": "etl" }));
    assert!(!process.purge(&name).await.unwrap());
    assert_eq!(world.item("a")["team"]["S"], "etl");
    world.delete("a");
    for hold_for in [TTL, Duration::ZERO] {
        let lease = take(&process, "a").await;
        assert!(!process.purge(&name).await.unwrap(), "it is held");
        let _ = process.release(&lease, hold_for).await.unwrap();
        assert_eq!(process.purge(&name).await.unwrap(), hold_for.is_zero(), "kept for {hold_for:?}");
        world.pass(2 * TTL);
    }
    assert_eq!(world.item("a"), serde_json::Value::Null);
    // The holder is dead.
    take(&process, "a").await;
    world.pass(10 * TTL);
    assert!(!process.purge(&name).await.unwrap(), "it was not released");
}
