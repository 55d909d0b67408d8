//! Cases of locks that a process hands over between its own waiters.

use futures_util::{FutureExt, future::join};

use super::chaos::{Load, run_under_faults};
use crate::{
    Operation,
    backend::{AcquireRequest, Break, Capability, Grant, Release},
    testing::harness::{Bench, Fixture, admin, granted, refused, release},
    types::{Lease, LockName, Mode},
};

/// How many tokens a request reserves.
const RESERVED: u32 = 5_000;

fn reserving(bench: &Bench<'_>, name: &LockName) -> AcquireRequest {
    bench.request(name).with_reserved_tokens(RESERVED)
}

fn token(lease: &Lease) -> u64 {
    lease.token.expect("a store that hands over issues tokens").get()
}

// verifies: P7
pub(super) async fn reserved_tokens_lie_between_earlier_and_later_grants(bench: &Bench<'_>) {
    let client = bench.client().await;
    let name = bench.name("reserved");
    let mut last = 0;
    let check = |last: &mut u64, (lease, grant): &(Lease, Grant), reserved: u32| {
        assert!(grant.previous_token.is_none_or(|shown| shown.get() == *last), "{grant:?} after {last}");
        let first = token(lease) - u64::from(reserved);
        assert!(first > *last, "{first} to {} after {last}", token(lease));
        *last = token(lease);
    };
    for reserved in [0, RESERVED, 1, 0, RESERVED] {
        let grant = granted(&*client, &bench.request(&name).with_reserved_tokens(reserved)).await;
        check(&mut last, &grant, reserved);
        release(&*client, &grant.0).await;
    }
    if client.capabilities().has(Capability::Break) {
        let grant = granted(&*client, &reserving(bench, &name)).await;
        check(&mut last, &grant, RESERVED);
        let version = admin(&client).inspect(&name).await.expect("the store answers").and_then(|holder| holder.version);
        let broken = admin(&client).break_lock(&name, &version.expect("held"), "the suite").await;
        assert_eq!(broken.expect("the store answers"), Break::Broken);
    }
    let crashing = bench.client().await;
    let request = AcquireRequest { ttl: bench.short_request(&name).ttl, ..reserving(bench, &name) };
    let grant = granted(&*crashing, &request).await;
    check(&mut last, &grant, RESERVED);
    bench.subject.crash(crashing).await;
    let grant = bench.granted_in_the_end(&*client, &bench.request(&name)).await;
    check(&mut last, &grant, 0);
    release(&*client, &grant.0).await;
}

// verifies: P5, P7
pub(super) async fn a_retry_finds_its_reserved_tokens(bench: &Bench<'_>) {
    let client = bench.client().await;
    let name = bench.name("retry");
    let request = reserving(bench, &name);
    let (lease, _) = granted(&*client, &request).await;
    let (again, grant) = granted(&*client, &request).await;
    assert!(grant.already_ours && again.token == lease.token, "{:?} after {:?}", again.token, lease.token);
    release(&*client, &again).await;
    let (next, _) = granted(&*client, &bench.request(&name)).await;
    assert!(token(&next) > token(&lease));
    release(&*client, &next).await;
}

/// Three waiters of one process hold a lock in turn. The last two of them share a grant.
// verifies: P1, P7
pub(super) async fn a_lock_that_is_handed_over_stays_held(bench: &Bench<'_>) {
    let (fixture, other) = (Fixture::new(bench).await, bench.client().await);
    let name = bench.name("handed");
    let request = || fixture.locker.lock(name.as_str()).hand_over(9);
    let first = request().acquire().await.expect("free");
    let (mut second, mut third) = (Box::pin(request().acquire()), Box::pin(request().acquire()));
    for waiter in [&mut second, &mut third] {
        assert!(waiter.now_or_never().is_none(), "the lock is held");
    }
    first.release().await.expect("the store answers");
    let second = second.await.expect("released");
    let (grants, before) = (fixture.network.sent(Operation::Acquire), second.token());
    let (released, third) = join(second.release(), third).await;
    assert_eq!(released.expect("handed over"), Release::Released);
    let third = third.expect("handed over");
    assert_eq!(fixture.network.sent(Operation::Acquire), grants, "a hand-over makes no request");
    assert!(third.token() > before, "{:?} after {before:?}", third.token());
    refused(&*other, &bench.request(&name)).await;

    fixture.age();
    third.renew_if_below(fixture.rest()).await.expect("the third guard has the lease");
    let last = third.token();
    third.release().await.expect("the store answers");
    let (next, _) = granted(&*other, &bench.request(&name)).await;
    assert!(next.token > last, "{:?} after {last:?}", next.token);
    release(&*other, &next).await;
}

// verifies: P1, P7
pub(super) async fn random_faults_with_hand_overs_keep_the_guarantees(bench: &Bench<'_>) {
    run_under_faults(bench, &Load { modes: &[Mode::Exclusive], lockers: 2, hand_over: 4, fair: false }).await;
}
