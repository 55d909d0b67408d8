//! Cases of requests that are granted in the order in which they came.

use std::{
    num::NonZeroU16,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinHandle, time::Instant};

use super::{
    chaos::{Load, run_under_faults},
    drops::{POLLS, polled},
    modes::joinable,
};
use crate::{
    Guard,
    backend::{AcquireRequest, Backend, Lease, Renewal},
    testing::{
        faults::Fault,
        harness::{Bench, Fixture, assert_not_held, free_soon, granted, granted_soon, refused, release},
    },
    types::{Error, ErrorKind, LockName, Mode, Operation},
};

/// How many waiters a case has.
const WAITERS: usize = 8;

/// A fair request that is repeated while it is refused.
fn waiter(bench: &Bench<'_>, name: &LockName) -> AcquireRequest {
    bench.request(name).with_waits(true).with_fair(true)
}

fn permit(of: u16) -> Mode {
    Mode::Permit { of: NonZeroU16::new(of).expect("not zero") }
}

/// Acquires a free lock.
async fn held(bench: &Bench<'_>, name: &LockName) -> (Arc<dyn Backend>, Lease) {
    let client = bench.client().await;
    let (lease, _) = granted(&*client, &bench.request(name)).await;
    (client, lease)
}

// verifies: P12, contention
pub(super) async fn fair_requests_are_granted_in_their_order(bench: &Bench<'_>) {
    let name = bench.name("order");
    let (holder, lease) = held(bench, &name).await;
    let mut waiters = Vec::new();
    for _ in 0..WAITERS {
        let (client, request) = (bench.client().await, waiter(bench, &name));
        refused(&*client, &request).await;
        waiters.push((client, request));
    }
    release(&*holder, &lease).await;
    while !waiters.is_empty() {
        // The last one asks first.
        for (client, request) in waiters[1..].iter().rev() {
            refused(&**client, request).await;
        }
        let (client, request) = waiters.remove(0);
        let (lease, grant) = granted(&*client, &request).await;
        assert!(!grant.already_ours && grant.crashed.is_none());
        release(&*client, &lease).await;
    }
    let _ = held(bench, &name).await;
}

// verifies: P12, contention
pub(super) async fn a_newcomer_does_not_overtake_a_fair_waiter(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("newcomer");
    let (holder, lease) = held(bench, &name).await;
    let first = waiter(bench, &name);
    refused(&*a, &first).await;
    release(&*holder, &lease).await;
    let newcomer = bench.request(&name);
    let mut newcomers = vec![newcomer.clone(), newcomer.clone().with_fair(true), newcomer.clone().with_waits(true)];
    for mode in [Mode::Shared, permit(2)] {
        if a.capabilities().has_mode(mode) {
            newcomers.push(newcomer.clone().with_mode(mode));
        }
    }
    for newcomer in newcomers {
        let holder = refused(&*b, &newcomer).await;
        if b.capabilities().holder {
            assert_eq!(holder.owner.as_deref(), Some("conformance"), "the refusal names the waiter");
        }
    }
    let (lease, _) = granted(&*a, &first).await;
    refused(&*b, &newcomer).await;
    release(&*a, &lease).await;
    let _ = granted(&*b, &newcomer).await;
}

// verifies: P12, lost-reply
pub(super) async fn a_repeated_fair_request_keeps_its_place(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("repeated");
    let (holder, lease) = held(bench, &name).await;
    let (first, second) = (waiter(bench, &name), waiter(bench, &name));
    refused(&*a, &first).await;
    refused(&*b, &second).await;
    refused(&*a, &first).await;
    release(&*holder, &lease).await;
    refused(&*b, &second).await;
    let (lease, _) = granted(&*a, &first).await;
    let (_, again) = granted(&*a, &first).await;
    assert!(again.already_ours, "a retry finds its own lock");
    release(&*a, &lease).await;
    // It has no second place.
    let (lease, _) = granted(&*b, &second).await;
    release(&*b, &lease).await;
}

// verifies: P12
pub(super) async fn a_fair_request_that_does_not_wait_has_no_place(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("try");
    let (holder, lease) = held(bench, &name).await;
    refused(&*a, &bench.request(&name).with_fair(true)).await;
    release(&*holder, &lease).await;
    let _ = granted(&*b, &bench.request(&name)).await;
}

// verifies: P12, cancelled
pub(super) async fn a_fair_waiter_that_gives_up_is_skipped(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("given-up");
    let (holder, lease) = held(bench, &name).await;
    let (first, second, third) = (waiter(bench, &name), waiter(bench, &name), waiter(bench, &name));
    for request in [&first, &second, &third] {
        refused(&*a, request).await;
    }
    assert_not_held(a.release(&second.lease(None), Duration::ZERO).await);
    release(&*holder, &lease).await;
    // The first one gives up in its turn.
    assert_not_held(a.release(&first.lease(None), Duration::ZERO).await);
    let (lease, _) = granted(&*a, &third).await;
    release(&*a, &lease).await;
    let _ = granted(&*b, &bench.request(&name)).await;
}

// verifies: P12, cancelled
pub(super) async fn a_cancelled_fair_wait_is_skipped(bench: &Bench<'_>) {
    let name = bench.name("cancelled");
    let (holder, lease) = held(bench, &name).await;
    let fixture = Fixture::new(bench).await;
    let waiting = queued(&fixture, &name).await;
    let other = bench.client().await;
    let next = waiter(bench, &name);
    refused(&*other, &next).await;
    waiting.abort();
    release(&*holder, &lease).await;
    granted_soon(&other, &next).await;
}

/// A place that is left behind refuses newcomers for a minute.
// verifies: P12, cancelled
pub(super) async fn a_cancelled_fair_wait_of_any_mode_leaves_no_place(bench: &Bench<'_>) {
    let (fixture, other) = (Fixture::new(bench).await, bench.client().await);
    for mode in joinable(&*other).into_iter().chain([Mode::Exclusive]) {
        for times in 1..POLLS / 4 {
            let name = bench.name(&times.to_string());
            let (held, _) = granted(&*other, &bench.request(&name)).await;
            let waiting = fixture.locker.lock(name.as_str()).mode(mode).fair(true).acquire();
            assert!(!polled(times, waiting).await, "another client holds the lock");
            release(&*other, &held).await;
            free_soon(bench, &*other, &name).await;
        }
    }
}

// verifies: P9, P12
pub(super) async fn a_dead_fair_waiter_is_skipped_after_its_ttl(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("dead");
    let (holder, lease) = held(bench, &name).await;
    refused(&*a, &waiter(bench, &name).with_ttl(bench.ttl_of(1.0))).await;
    let next = waiter(bench, &name);
    refused(&*b, &next).await;
    bench.subject.crash(a).await;
    release(&*holder, &lease).await;
    let (lease, _) = bench.granted_in_the_end(&*b, &next).await;
    release(&*b, &lease).await;
}

// verifies: P12, late-request
pub(super) async fn a_late_fair_request_keeps_the_lock_for_a_ttl_at_most(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("late");
    let (holder, lease) = held(bench, &name).await;
    let late = waiter(bench, &name).with_ttl(bench.ttl_of(1.0));
    refused(&*a, &late).await;
    assert_not_held(a.release(&late.lease(None), Duration::ZERO).await);
    // A store that can tell refuses the duplicate with an error.
    let _ = a.acquire(&late).await;
    release(&*holder, &lease).await;
    let (lease, _) = bench.granted_in_the_end(&*b, &bench.request(&name)).await;
    release(&*b, &lease).await;
}

// verifies: P9, P12
pub(super) async fn fair_waiters_keep_their_order_after_a_crash(bench: &Bench<'_>) {
    let (crashing, a, b) = (bench.client().await, bench.client().await, bench.client().await);
    let name = bench.name("crash");
    let (lease, _) = granted(&*crashing, &bench.request(&name)).await;
    let (first, second) = (waiter(bench, &name), waiter(bench, &name));
    refused(&*a, &first).await;
    refused(&*b, &second).await;
    // The lease gets short only now, so that it does not end before the waiters have their places.
    let short = Lease { ttl: bench.ttl_of(1.0), ..lease };
    assert!(matches!(crashing.renew(&short).await, Ok(Renewal::Renewed)), "the lease is held");
    bench.subject.crash(crashing).await;
    let newcomer = bench.client().await;
    refused(&*newcomer, &bench.request(&name)).await;
    refused(&*b, &second).await;
    let (lease, grant) = bench.granted_in_the_end(&*a, &first).await;
    assert!(grant.crashed.is_some() || !a.capabilities().holder, "the crash is reported");
    release(&*a, &lease).await;
    refused(&*newcomer, &bench.request(&name)).await;
    let (lease, _) = granted(&*b, &second).await;
    release(&*b, &lease).await;
}

// verifies: P12
pub(super) async fn readers_wait_behind_a_fair_writer(bench: &Bench<'_>) {
    let (a, b, c) = (bench.client().await, bench.client().await, bench.client().await);
    let name = bench.name("writer");
    let shared = |request: AcquireRequest| request.with_mode(Mode::Shared);
    let (reading, _) = granted(&*a, &shared(bench.request(&name))).await;
    let (writer, first, second) = (waiter(bench, &name), shared(waiter(bench, &name)), shared(waiter(bench, &name)));
    refused(&*b, &writer).await;
    for reader in [&first, &second, &shared(bench.request(&name))] {
        refused(&*c, reader).await;
    }
    release(&*a, &reading).await;
    refused(&*c, &first).await;
    let (writing, _) = granted(&*b, &writer).await;
    release(&*b, &writing).await;
    // Readers that wait together are granted together.
    let (second, _) = granted(&*c, &second).await;
    refused(&*b, &waiter(bench, &name)).await;
    let (first, _) = granted(&*c, &first).await;
    release(&*c, &second).await;
    release(&*c, &first).await;
}

// verifies: P12
pub(super) async fn a_queue_and_a_waiting_writer_do_not_block_each_other(bench: &Bench<'_>) {
    let (a, b, c) = (bench.client().await, bench.client().await, bench.client().await);
    let writer = |name: &LockName| bench.request(name).with_waits(true);
    // The writer came first, and refuses readers.
    let name = bench.name("writer-first");
    let reader = bench.request(&name).with_mode(Mode::Shared);
    let (reading, _) = granted(&*a, &reader).await;
    let (first, second) = (writer(&name), waiter(bench, &name).with_mode(Mode::Shared));
    refused(&*b, &first).await;
    refused(&*c, &second).await;
    release(&*a, &reading).await;
    refused(&*c, &second).await;
    let (writing, _) = granted(&*b, &first).await;
    refused(&*c, &second).await;
    release(&*b, &writing).await;
    let _ = granted(&*c, &second).await;
    // The fair request came first.
    let name = bench.name("queue-first");
    let (reading, _) = granted(&*a, &bench.request(&name).with_mode(Mode::Shared)).await;
    let (first, second) = (waiter(bench, &name), writer(&name));
    refused(&*b, &first).await;
    refused(&*c, &second).await;
    release(&*a, &reading).await;
    refused(&*c, &second).await;
    let (writing, _) = granted(&*b, &first).await;
    release(&*b, &writing).await;
    let _ = granted(&*c, &second).await;
    // A place that was taken behind the writer counts once the writer has given up.
    let name = bench.name("gives-up");
    let (reading, _) = granted(&*a, &bench.request(&name).with_mode(Mode::Shared)).await;
    let (first, second) = (writer(&name), waiter(bench, &name).with_mode(Mode::Shared));
    refused(&*b, &first).await;
    refused(&*c, &second).await;
    assert_not_held(b.release(&first.lease(None), Duration::ZERO).await);
    release(&*a, &reading).await;
    refused(&*a, &bench.request(&name)).await;
    let _ = granted(&*c, &second).await;
    if !a.capabilities().has_mode(permit(1)) {
        return;
    }
    // A reader that waits behind the place of a permit does not keep that out.
    let name = bench.name("permit-first");
    let of = |request: AcquireRequest| request.with_mode(permit(1));
    let (held, _) = granted(&*a, &of(bench.request(&name))).await;
    let (first, second) = (of(waiter(bench, &name)), writer(&name).with_mode(Mode::Shared));
    refused(&*b, &first).await;
    refused(&*c, &second).await;
    release(&*a, &held).await;
    refused(&*c, &second).await;
    let (permitted, _) = granted(&*b, &first).await;
    release(&*b, &permitted).await;
    let _ = granted(&*c, &second).await;
}

// verifies: P12
pub(super) async fn permits_are_granted_in_their_order(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("permits");
    let of = |request: AcquireRequest| request.with_mode(permit(2));
    let (one, _) = granted(&*a, &of(bench.request(&name))).await;
    let (other, _) = granted(&*a, &of(bench.request(&name))).await;
    let (first, second) = (of(waiter(bench, &name)), of(waiter(bench, &name)));
    refused(&*b, &first).await;
    refused(&*b, &second).await;
    release(&*a, &one).await;
    refused(&*b, &second).await;
    refused(&*b, &of(bench.request(&name))).await;
    release(&*a, &other).await;
    // Two permits are free, for the two places.
    refused(&*b, &of(bench.request(&name))).await;
    let (second, _) = granted(&*b, &second).await;
    refused(&*b, &of(bench.request(&name))).await;
    let (first, _) = granted(&*b, &first).await;
    release(&*b, &first).await;
    // Each of the two has held one permit, also while it had its place.
    let (third, _) = granted(&*a, &of(bench.request(&name))).await;
    release(&*a, &third).await;
    release(&*b, &second).await;
}

/// Starts a fair wait, and returns once the store has refused it.
async fn queued(fixture: &Fixture, name: &LockName) -> JoinHandle<Result<Guard, Error>> {
    let asked = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&asked);
    let request = fixture.locker.lock(name.as_str()).fair(true);
    let request = request.on_contention(move |_| noted.store(true, Ordering::Relaxed));
    let waiting = tokio::spawn(request.acquire());
    let started = Instant::now();
    while !asked.load(Ordering::Relaxed) {
        assert!(started.elapsed() < Duration::from_secs(60), "the store does not answer");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    waiting
}

/// Waiters of several lockers, whose first reply is lost. Two of them share a locker.
// verifies: P12, contention, lost-reply
pub(super) async fn fair_waiters_of_many_lockers_are_served_in_order(bench: &Bench<'_>) {
    let name = bench.name("lockers");
    let (holder, lease) = held(bench, &name).await;
    let mut fixtures = Vec::new();
    for _ in 0..WAITERS / 2 {
        fixtures.push(Fixture::new(bench).await);
    }
    let mut waiters = Vec::new();
    for i in 0..WAITERS {
        let fixture = &fixtures[i % fixtures.len()];
        fixture.network.next(Operation::Acquire, Fault::FailAfter(ErrorKind::Unavailable));
        waiters.push(queued(fixture, &name).await);
    }
    release(&*holder, &lease).await;
    for (i, waiter) in waiters.into_iter().enumerate() {
        let guard = tokio::time::timeout(Duration::from_secs(120), waiter).await;
        let guard = guard.unwrap_or_else(|_| panic!("waiter {i} was overtaken"));
        let guard = guard.expect("no panic").expect("the store answers");
        // It does not overtake the waiters that are left.
        if i + 1 < WAITERS {
            refused(&*holder, &bench.request(&name)).await;
        }
        guard.release().await.expect("the store answers");
    }
}

// verifies: P1, P7, P12
pub(super) async fn random_faults_with_fair_waiters_keep_the_guarantees(bench: &Bench<'_>) {
    let mut modes = joinable(&*bench.client().await);
    modes.push(Mode::Exclusive);
    run_under_faults(bench, &Load { fair: true, ..Load::of(&modes) }).await;
}
