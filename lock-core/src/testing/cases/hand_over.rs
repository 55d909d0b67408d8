//! Cases of locks that a process hands over between its own waiters.

use std::time::Duration;

use futures_util::{
    FutureExt,
    future::{BoxFuture, join},
    poll,
};

use super::chaos::{Load, run_under_faults};
use crate::{
    Error, Guard, Operation,
    backend::{AcquireRequest, Break, Capability, Grant, Release},
    testing::{
        faults::Fault,
        harness::{Bench, Fixture, admin, granted, granted_soon, refused, release},
    },
    types::{FencingToken, Lease, LockName, Mode},
};

type Waiter = BoxFuture<'static, Result<Guard, Error>>;

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
    if client.capabilities().holder {
        let crashed = grant.1.crashed.as_ref().expect("the holder did not release");
        assert_eq!(crashed.token.map(FencingToken::get), Some(last), "the last of its tokens is shown");
    }
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
    assert_eq!(grant.previous_token, None, "its own token is not that of another grant");
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

/// A reader is handed an exclusive lease of its process, which it cannot use. It releases the lease
/// before it asks for its own part, and also if it is dropped before that.
// verifies: P5, P12, cancelled
pub(super) async fn a_waiter_of_another_mode_releases_what_is_handed_over(bench: &Bench<'_>) {
    let (fixture, other) = (Fixture::new(bench).await, bench.client().await);
    let reads = |name: &LockName| bench.request(name).with_mode(Mode::Shared);
    let name = bench.name("handed");
    let (writer, reader) = handed_to_a_reader(&fixture, &name).await;
    let sent = || [Operation::Release, Operation::Acquire].map(|operation| fixture.network.sent(operation));
    let [releases, acquires] = sent();
    let (released, reading) = join(writer.release(), reader).await;
    assert_eq!(released.expect("handed over"), Release::Released);
    let reading = reading.expect("the reader asked anew");
    assert_eq!(sent(), [releases + 1, acquires + 1], "the lease is released before the first attempt");
    assert_eq!(reading.crashed_holder(), None);
    let (joined, _) = granted(&*other, &reads(&name)).await;
    release(&*other, &joined).await;
    reading.release().await.expect("the store answers");
    let (next, _) = granted(&*other, &bench.request(&name)).await;
    release(&*other, &next).await;

    let delay = Duration::from_millis(40);
    for fault in [Fault::DelayRequest(delay), Fault::DelayReply(delay)] {
        for polls in 0..6 {
            let name = bench.name("dropped");
            let (writer, mut reader) = handed_to_a_reader(&fixture, &name).await;
            let released = writer.release().await;
            assert_eq!(released.expect("handed over"), Release::Released);
            fixture.network.next(Operation::Release, fault);
            for _ in 0..polls {
                if poll!(reader.as_mut()).is_ready() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            drop(reader);
            granted_soon(&other, &bench.request(&name)).await;
        }
    }
}

/// Returns a guard with an exclusive lock, and a reader of the same process that waits behind it.
async fn handed_to_a_reader(fixture: &Fixture, name: &LockName) -> (Guard, Waiter) {
    let request = || fixture.locker.lock(name.as_str()).hand_over(9);
    let first = request().acquire().await.expect("free");
    let mut writer: Waiter = Box::pin(request().acquire());
    let mut reader: Waiter = Box::pin(request().mode(Mode::Shared).acquire());
    for waiter in [&mut writer, &mut reader] {
        assert!(waiter.now_or_never().is_none(), "the lock is held");
    }
    first.release().await.expect("the store answers");
    (writer.await.expect("released"), reader)
}

// verifies: P1, P7
pub(super) async fn random_faults_with_hand_overs_keep_the_guarantees(bench: &Bench<'_>) {
    run_under_faults(bench, &Load { modes: &[Mode::Exclusive], lockers: 2, hand_over: 4, fair: false }).await;
}
