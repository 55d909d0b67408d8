//! Cases of [`Backend::release`].

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    backend::{AcquireOutcome, Backend, Break, Capability, Lease, Release},
    testing::harness::{Bench, acquire, admin, assert_not_held, granted, refused, release},
    types::FencingToken,
};

pub(super) async fn a_released_lock_can_be_acquired_again(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("released");
    for _ in 0..5 {
        for client in [&a, &b] {
            let (lease, _) = granted(&**client, &bench.request(&name)).await;
            release(&**client, &lease).await;
        }
    }
}

// verifies: hold-limits
pub(super) async fn min_hold_keeps_the_lock_after_release(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("kept");
    let (lease, _) = granted(&*a, &bench.request(&name)).await;
    let hold_for = bench.subject.ttl() / 2;
    let released = Instant::now();
    assert_eq!(a.release(&lease, hold_for).await.expect("the store answers"), Release::Released);
    loop {
        let attempt = acquire(&*b, &bench.request(&name)).await;
        // Stores round to milliseconds; the contract does not cover the fraction.
        let after = released.elapsed() + Duration::from_millis(2);
        match attempt {
            AcquireOutcome::Granted(_) => {
                assert!(after >= hold_for, "free {after:?} after a release that keeps the lock for {hold_for:?}");
                return;
            }
            AcquireOutcome::Contended(_) => {
                assert!(after < 100 * hold_for, "still held after {after:?}");
                bench.subject.pass(hold_for / 20).await;
            }
        }
    }
}

// verifies: P6, late-holder
pub(super) async fn a_late_release_leaves_the_successor_alone(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("successor");
    let (first, _) = granted(&*a, &bench.request(&name)).await;
    release(&*a, &first).await;
    let (second, _) = granted(&*b, &bench.request(&name)).await;
    for hold_for in [Duration::ZERO, bench.subject.ttl()] {
        assert_not_held(a.release(&first, hold_for).await);
        refused(&*a, &bench.request(&name)).await;
    }
    release(&*b, &second).await;
}

// verifies: P5
pub(super) async fn releasing_twice_is_never_an_error(bench: &Bench<'_>) {
    let client = bench.client().await;
    let name = bench.name("twice");
    let (lease, _) = granted(&*client, &bench.request(&name)).await;
    release(&*client, &lease).await;
    for _ in 0..2 {
        let _ = client.release(&lease, Duration::ZERO).await.expect("a value, not an error");
    }
    let (next, _) = granted(&*client, &bench.request(&name)).await;
    release(&*client, &next).await;
}

// verifies: P6
pub(super) async fn releasing_a_lease_never_granted_is_no_error(bench: &Bench<'_>) {
    let client = bench.client().await;
    let name = bench.name("never");
    let never = bench.request(&name).lease(None);
    assert_eq!(client.release(&never, Duration::ZERO).await.expect("a value, not an error"), Release::NotHeld(None));
    let (held, _) = granted(&*client, &bench.request(&name)).await;
    assert_not_held(client.release(&never, Duration::ZERO).await);
    refused(&*client, &bench.request(&name)).await;
    release(&*client, &held).await;
}

// verifies: P6
pub(super) async fn releasing_a_broken_lease_reports_not_held(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("broken");
    let (lease, _) = granted(&*a, &bench.request(&name)).await;
    let seen = refused(&*b, &bench.request(&name)).await.version.expect("a lock that can be broken has a version");
    assert_eq!(admin(&b).break_lock(&name, &seen, "suite").await.expect("the store answers"), Break::Broken);
    for _ in 0..2 {
        let answer = a.release(&lease, Duration::ZERO).await.expect("a value, not an error");
        assert_eq!(answer, Release::NotHeld(None), "an operator broke the lock");
    }
    let (next, grant) = granted(&*b, &bench.request(&name)).await;
    assert_eq!(grant.crashed, None, "a break is no crash");
    assert_not_held(a.release(&lease, Duration::ZERO).await);
    refused(&*a, &bench.request(&name)).await;
    release(&*b, &next).await;
}

fn release_now(client: &Arc<dyn Backend>, lease: &Lease) -> bool {
    client.process_bound().is_some_and(|bound| bound.release_now(lease, Duration::ZERO))
}

fn on_lost(client: &Arc<dyn Backend>, lease: &Lease) {
    if let Some(bound) = client.process_bound() {
        bound.on_lost(lease);
    }
}

// verifies: P5, P7
pub(super) async fn a_relay_passes_the_lock_to_the_next_request(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let Some(relay) = a.relay() else { return };
    let name = bench.name("relayed");
    let (mut lease, _) = granted(&*a, &bench.request(&name)).await;
    // Some requests reserve tokens: more than there are microseconds between two grants, because a
    // store may count these.
    let most = if a.capabilities().has(Capability::HandOver) { 100_000_000 } else { 0 };
    for reserved in [0, most, most, 0] {
        let request = bench.request(&name).with_reserved_tokens(reserved);
        let relayed = relay.relay(&lease, &request).await.expect("the store answers");
        assert_eq!(relayed.released, Release::Released);
        let Some(Ok(AcquireOutcome::Granted(grant))) = relayed.acquired else {
            panic!("the lock was free: {:?}", relayed.acquired)
        };
        assert!(!grant.already_ours && grant.crashed.is_none(), "{grant:?}");
        let first = grant.token.map(|last| last.get() - u64::from(reserved));
        assert!(first > lease.token.map(FencingToken::get) || first.is_none(), "{grant:?} after {lease:?}");
        refused(&*b, &bench.request(&name)).await;
        lease = request.lease(grant.token);
    }
    release(&*a, &lease).await;
    let (lease, _) = granted(&*b, &bench.request(&name)).await;
    release(&*b, &lease).await;
}

// verifies: P6, late-request
pub(super) async fn a_late_relay_leaves_the_successor_alone(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let Some(relay) = a.relay() else { return };
    let name = bench.name("relayed-late");
    let (lease, _) = granted(&*a, &bench.request(&name)).await;
    release(&*a, &lease).await;
    for is_held in [false, true] {
        let (next, late) = (bench.request(&name), bench.request(&name));
        if is_held {
            let _ = granted(&*b, &next).await;
        }
        let relayed = relay.relay(&lease, &late).await.expect("the store answers");
        assert!(matches!(relayed.released, Release::NotHeld(_)), "{relayed:?}");
        assert!(relayed.acquired.is_none(), "{relayed:?}");
        // The id of the late request has no lock.
        let released = a.release(&late.lease(None), Duration::ZERO).await.expect("the store answers");
        assert!(matches!(released, Release::NotHeld(_)), "{released:?}");
        if is_held {
            refused(&*a, &bench.request(&name)).await;
            release(&*b, &next.lease(None)).await;
        }
    }
}

// verifies: P10
pub(super) async fn release_now_frees_the_lock_or_returns_false(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("now");
    let (lease, _) = granted(&*a, &bench.request(&name)).await;
    if release_now(&a, &lease) {
        let (next, _) = granted(&*b, &bench.request(&name)).await;
        assert!(release_now(&a, &lease), "a successor does not change what the backend can do");
        refused(&*a, &bench.request(&name)).await;
        release(&*b, &next).await;
    } else {
        refused(&*b, &bench.request(&name)).await;
        release(&*a, &lease).await;
    }
}

// verifies: P10, late-holder
pub(super) async fn a_lease_reported_lost_frees_its_lock(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("ended");
    let (first, _) = granted(&*a, &bench.short_request(&name)).await;
    on_lost(&a, &first);
    let (second, _) = bench.granted_in_the_end(&*b, &bench.request(&name)).await;
    on_lost(&a, &first);
    assert_not_held(a.release(&first, Duration::ZERO).await);
    refused(&*a, &bench.request(&name)).await;
    release(&*b, &second).await;
}

pub(super) async fn an_open_descriptor_keeps_the_lock_held(bench: &Bench<'_>) {
    #[cfg(unix)]
    {
        let (a, b) = (bench.client().await, bench.client().await);
        let name = bench.name("descriptor");
        let (lease, _) = granted(&*a, &bench.request(&name)).await;
        let descriptors = a.process_bound().map(|bound| bound.descriptors(&lease).expect("a descriptor is left"));
        bench.subject.crash(a).await;
        refused(&*b, &bench.request(&name)).await;
        drop(descriptors);
        let (next, _) = granted(&*b, &bench.request(&name)).await;
        release(&*b, &next).await;
    }
    #[cfg(not(unix))]
    let _ = bench;
}
