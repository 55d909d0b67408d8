//! Requests and replies that are lost, late or cut off, on each kind of deployment. The right owner
//! keeps the lock, and no orphan is left.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lock_core::{
    Locker,
    backend::{AcquireOutcome, AcquireRequest, Admin, Backend, Break, Lease, Release, Renewal},
};
use lock_redis::RedisBackend;
use test_support::{
    Direction::{self, Replies, Requests},
    until,
};

use crate::fixture::{self, Fixture, JOB, LONG, granted, name, refused, request};

/// Defines a test for each case and each kind of deployment.
macro_rules! everywhere {
    ($($case:ident),* $(,)?) => {
        everywhere!(@ standalone $($case)*);
        everywhere!(@ tls $($case)*);
        everywhere!(@ sentinel $($case)*);
        everywhere!(@ cluster $($case)*);
        everywhere!(@ quorum $($case)*);
    };
    (@ $form:ident $($case:ident)*) => {
        mod $form {
            $(
                #[tokio::test]
                async fn $case() {
                    super::$case($crate::fixture::Fixture::$form().await).await;
                }
            )*
        }
    };
}

everywhere! {
    an_acquire_whose_reply_was_lost_is_found_to_be_ours,
    an_acquire_whose_request_was_lost_is_granted_when_repeated,
    an_acquire_that_arrives_after_its_own_release_leaves_no_lock,
    an_acquire_arriving_after_a_second_release_leaves_no_lock,
    a_late_release_keeps_a_late_acquire_refused,
    an_acquire_arriving_after_another_holder_leaves_no_lock,
    a_duplicate_acquire_after_its_release_leaves_no_lock,
    a_cancelled_unanswered_acquire_leaves_no_lock,
    an_acquire_arriving_after_a_break_leaves_no_lock,
    a_renewal_whose_reply_was_lost_has_renewed,
    a_release_with_a_lost_reply_spares_the_successor,
    a_release_whose_request_was_lost_is_repeated,
    a_release_sent_before_a_retried_acquire_spares_the_lock,
    delayed_requests_take_effect,
    cut_connections_leave_the_right_owner,
    one_of_many_contenders_wins_while_the_network_cuts,
}

/// Asserts that other clients see the lock as held by `request`.
async fn owned_by(fixture: &Fixture, request: &AcquireRequest) {
    let holder = fixture.direct.inspect(&request.name).await.unwrap().expect("it is held");
    assert_eq!(holder.version, Some(request.id.to_string()));
    refused(&fixture.direct, &fixture::request(JOB, LONG)).await;
}

async fn free(fixture: &Fixture) -> bool {
    fixture.direct.inspect(&name(JOB)).await.unwrap().is_none()
}

/// Repeats `ask` until it succeeds, once the network works again.
pub(crate) async fn again<T>(mut ask: impl AsyncFnMut() -> Result<T, lock_core::Error>) -> T {
    let mut answer = None;
    until("the answer", async || {
        match ask().await {
            Ok(value) => answer = Some(value),
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
        answer.is_some()
    })
    .await;
    answer.unwrap()
}

/// Heals the network, and waits until every server that has the lock has run as many requests that
/// were held back.
pub(crate) async fn let_arrive(fixture: &Fixture, requests: u64) {
    let before = fixture.scripts_run();
    fixture.heal();
    let arrived = async || fixture.scripts_run().iter().zip(&before).all(|(now, before)| *now >= before + requests);
    until("the delayed requests to arrive", arrived).await;
}

async fn released(backend: &RedisBackend, lease: &Lease) {
    assert_eq!(again(async || backend.release(lease, Duration::ZERO).await).await, Release::Released);
}

// verifies: lost-reply
async fn an_acquire_whose_reply_was_lost_is_found_to_be_ours(fixture: Fixture) {
    let request = request(JOB, LONG);
    fixture.lose(Replies);
    let error = fixture.through.acquire(&request).await.unwrap_err();
    assert!(error.is_ambiguous(), "{error:?}");
    let arrived = fixture.direct.inspect(&request.name).await.unwrap();
    fixture.heal();
    let AcquireOutcome::Granted(grant) = again(async || fixture.through.acquire(&request).await).await else {
        panic!("the client's own lock looks contended")
    };
    let holder = arrived.expect("the request arrived");
    // On a quorum an attempt that reaches too few servers is rolled back, also a repeated one. And
    // the servers minted different tokens, of which no majority had agreed on the largest.
    if fixture.ports.len() == 1 {
        assert!(grant.already_ours, "{grant:?}");
        assert_eq!(grant.token, holder.token);
    }
    owned_by(&fixture, &request).await;
    released(&fixture.through, &request.lease(None)).await;
    assert!(free(&fixture).await);
    let AcquireOutcome::Granted(next) = fixture.direct.acquire(&self::request(JOB, LONG)).await.unwrap() else {
        panic!("it is free")
    };
    assert!(next.token > grant.token && grant.token.is_some(), "{grant:?}, and then {next:?}");
}

// verifies: lost-request
async fn an_acquire_whose_request_was_lost_is_granted_when_repeated(fixture: Fixture) {
    let request = request(JOB, LONG);
    fixture.lose(Requests);
    assert!(fixture.through.acquire(&request).await.unwrap_err().is_ambiguous());
    assert!(free(&fixture).await);
    fixture.heal();
    let AcquireOutcome::Granted(grant) = again(async || fixture.through.acquire(&request).await).await else {
        panic!("it is free")
    };
    assert!(!grant.already_ours);
    owned_by(&fixture, &request).await;
}

// verifies: late-request
async fn an_acquire_that_arrives_after_its_own_release_leaves_no_lock(fixture: Fixture) {
    let late = request(JOB, LONG);
    fixture.hold(Requests);
    assert!(fixture.through.acquire(&late).await.unwrap_err().is_ambiguous());
    // The same process gives up, by another connection.
    assert_eq!(fixture.direct.release(&late.lease(None), Duration::ZERO).await.unwrap(), Release::NotHeld(None));
    let_arrive(&fixture, 1).await;
    assert!(free(&fixture).await, "the late acquire was refused");
}

async fn an_acquire_arriving_after_a_second_release_leaves_no_lock(fixture: Fixture) {
    let request = request(JOB, LONG);
    // Rolled back once, as after too few confirmations; then retried and abandoned.
    let (lease, _) = granted(&fixture.direct, &request).await;
    assert_eq!(fixture.direct.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    fixture.hold(Requests);
    assert!(fixture.through.acquire(&request).await.unwrap_err().is_ambiguous());
    assert_eq!(fixture.direct.release(&lease, Duration::ZERO).await.unwrap(), Release::NotHeld(None));
    let_arrive(&fixture, 1).await;
    assert!(free(&fixture).await, "the late acquire was refused");
}

async fn an_acquire_arriving_after_another_holder_leaves_no_lock(fixture: Fixture) {
    let late = request(JOB, LONG);
    let before = fixture.scripts_run();
    // Long enough for all that follows, on any but a very slow machine.
    let (sent, delay) = (Instant::now(), Duration::from_secs(3));
    fixture.delay(Requests, delay);
    assert!(fixture.through.acquire(&late).await.unwrap_err().is_ambiguous());
    fixture.delay(Requests, Duration::ZERO);
    // The client retries by another connection and releases before the first request arrives.
    // Another holder also acquires and releases before that.
    assert!(matches!(again(async || fixture.through.acquire(&late).await).await, AcquireOutcome::Granted(_)));
    released(&fixture.through, &late.lease(None)).await;
    let (other, _) = granted(&fixture.direct, &request(JOB, LONG)).await;
    assert_eq!(fixture.direct.release(&other, Duration::ZERO).await.unwrap(), Release::Released);
    let arrived = async || {
        // The count alone is not enough on a quorum, because its servers also run advance_token.
        sent.elapsed() > delay + delay / 8
            && fixture.scripts_run().iter().zip(&before).all(|(now, before)| *now >= before + 5)
    };
    until("the late request to arrive", arrived).await;
    assert!(free(&fixture).await, "the late acquire was refused");
}

async fn a_late_release_keeps_a_late_acquire_refused(fixture: Fixture) {
    let late = request(JOB, LONG);
    let lease = late.lease(None);
    fixture.hold(Requests);
    let (released, acquired) =
        tokio::join!(fixture.through.release(&lease, Duration::ZERO), fixture.through.acquire(&late));
    assert!(released.unwrap_err().is_ambiguous());
    assert!(acquired.unwrap_err().is_ambiguous());
    assert_eq!(fixture.direct.release(&lease, Duration::ZERO).await.unwrap(), Release::NotHeld(None));
    let_arrive(&fixture, 2).await;
    assert!(free(&fixture).await, "the late acquire was refused");
}

async fn a_duplicate_acquire_after_its_release_leaves_no_lock(fixture: Fixture) {
    let request = request(JOB, LONG);
    fixture.hold(Requests);
    assert!(fixture.through.acquire(&request).await.unwrap_err().is_ambiguous());
    // The retry is faster, by another connection.
    let (lease, _) = granted(&fixture.direct, &request).await;
    assert_eq!(fixture.direct.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    let_arrive(&fixture, 1).await;
    assert!(free(&fixture).await, "the late acquire was refused");
}

async fn an_acquire_arriving_after_a_break_leaves_no_lock(fixture: Fixture) {
    let late = request(JOB, LONG);
    fixture.hold(Requests);
    assert!(fixture.through.acquire(&late).await.unwrap_err().is_ambiguous());
    // The same process retries by another connection and is granted. An operator breaks the lock.
    granted(&fixture.direct, &late).await;
    let broken = fixture.direct.break_lock(&late.name, &late.id.to_string(), "an operator").await.unwrap();
    assert_eq!(broken, Break::Broken);
    let_arrive(&fixture, 1).await;
    assert!(free(&fixture).await, "the late acquire was refused");
}

async fn a_cancelled_unanswered_acquire_leaves_no_lock(fixture: Fixture) {
    let locker = fixture::locker(fixture.through.clone(), LONG);
    fixture.lose(Replies);
    let before = fixture.scripts_run();
    let waiting = tokio::spawn(async move { locker.lock(JOB).acquire().await });
    until("the request to arrive", async || fixture.scripts_run() > before).await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    fixture.heal();
    until("the lock to be released", async || free(&fixture).await).await;
    // It stays released: no request is still in flight.
    let (lease, _) = granted(&fixture.direct, &request(JOB, LONG)).await;
    assert_eq!(fixture.direct.renew(&lease).await.unwrap(), Renewal::Renewed);
}

// verifies: lost-reply
async fn a_renewal_whose_reply_was_lost_has_renewed(fixture: Fixture) {
    let request = request(JOB, LONG);
    let (mut lease, _) = granted(&fixture.through, &request).await;
    lease.ttl = LONG * 2;
    fixture.lose(Replies);
    assert!(fixture.through.renew(&lease).await.unwrap_err().is_ambiguous());
    let left = fixture.direct.inspect(&request.name).await.unwrap().unwrap().expires_in.unwrap();
    assert!(left > LONG + LONG / 2, "{left:?}");
    fixture.heal();
    assert_eq!(again(async || fixture.through.renew(&lease).await).await, Renewal::Renewed);
    owned_by(&fixture, &request).await;
}

// verifies: lost-reply
async fn a_release_with_a_lost_reply_spares_the_successor(fixture: Fixture) {
    let (lease, _) = granted(&fixture.through, &request(JOB, LONG)).await;
    fixture.lose(Replies);
    assert!(fixture.through.release(&lease, Duration::ZERO).await.unwrap_err().is_ambiguous());
    let successor = request(JOB, LONG);
    let (next, _) = granted(&fixture.direct, &successor).await;
    assert!(next.token > lease.token);
    fixture.heal();
    let again = again(async || fixture.through.release(&lease, Duration::ZERO).await).await;
    assert!(matches!(again, Release::NotHeld(_)), "{again:?}");
    owned_by(&fixture, &successor).await;
}

// verifies: lost-request
async fn a_release_whose_request_was_lost_is_repeated(fixture: Fixture) {
    let request = request(JOB, LONG);
    let (lease, _) = granted(&fixture.through, &request).await;
    fixture.lose(Requests);
    assert!(fixture.through.release(&lease, Duration::ZERO).await.unwrap_err().is_ambiguous());
    owned_by(&fixture, &request).await;
    fixture.heal();
    released(&fixture.through, &lease).await;
    assert!(free(&fixture).await);
}

/// A failed attempt is rolled back, and its retry has the same id. A late rollback must not release
/// the retry.
async fn a_release_sent_before_a_retried_acquire_spares_the_lock(fixture: Fixture) {
    let request = request(JOB, LONG);
    let (lease, _) = granted(&fixture.through, &request).await;
    fixture.hold(Requests);
    assert!(fixture.through.release(&lease, Duration::ZERO).await.unwrap_err().is_ambiguous());
    let AcquireOutcome::Granted(grant) = fixture.direct.acquire(&request).await.unwrap() else { panic!("it is ours") };
    assert!(grant.already_ours);
    let_arrive(&fixture, 1).await;
    owned_by(&fixture, &request).await;
    released(&fixture.direct, &lease).await;
    assert!(free(&fixture).await);
}

// verifies: late-request
async fn delayed_requests_take_effect(fixture: Fixture) {
    for direction in [Requests, Replies] {
        // Below the timeout, and within what a quorum grants its slowest server.
        fixture.delay(direction, Duration::from_millis(50));
        let request = request(JOB, LONG);
        let lease = request.lease(None);
        assert!(matches!(again(async || fixture.through.acquire(&request).await).await, AcquireOutcome::Granted(_)));
        owned_by(&fixture, &request).await;
        assert_eq!(again(async || fixture.through.renew(&lease).await).await, Renewal::Renewed);
        released(&fixture.through, &lease).await;
        assert!(free(&fixture).await);
        fixture.heal();
    }
    // Above it.
    fixture.delay(Replies, Duration::from_millis(500));
    let request = request(JOB, LONG);
    assert!(fixture.through.acquire(&request).await.unwrap_err().is_ambiguous());
    fixture.heal();
    assert!(matches!(again(async || fixture.through.acquire(&request).await).await, AcquireOutcome::Granted(_)));
    owned_by(&fixture, &request).await;
}

/// Cuts all connections while a request is in flight. Returns the reply, or `None` if it was lost.
async fn cut_during<T>(
    fixture: &Fixture,
    direction: Direction,
    ask: impl Future<Output = Result<T, lock_core::Error>>,
) -> Option<T> {
    fixture.hold(direction);
    let before: Vec<_> = fixture.proxies.iter().map(|proxy| proxy.bytes(direction)).collect();
    let cut = async {
        let passed = || fixture.proxies.iter().zip(&before).any(|(proxy, before)| proxy.bytes(direction) > *before);
        until("the bytes to cut", async || passed()).await;
        fixture.cut();
        fixture.heal();
    };
    let (answer, ()) = tokio::join!(ask, cut);
    match answer {
        // A cluster client retries by itself, and a quorum may still have a majority.
        Ok(answer) => Some(answer),
        Err(error) => {
            assert!(error.is_ambiguous() && error.is_retryable(), "{error:?}");
            None
        }
    }
}

async fn cut_connections_leave_the_right_owner(fixture: Fixture) {
    for direction in [Requests, Replies] {
        let request = request(JOB, LONG);
        let lease = request.lease(None);
        let granted = match cut_during(&fixture, direction, fixture.through.acquire(&request)).await {
            Some(answer) => answer,
            None => again(async || fixture.through.acquire(&request).await).await,
        };
        assert!(matches!(granted, AcquireOutcome::Granted(_)), "{granted:?}");
        owned_by(&fixture, &request).await;
        let renewed = match cut_during(&fixture, direction, fixture.through.renew(&lease)).await {
            Some(answer) => answer,
            None => again(async || fixture.through.renew(&lease).await).await,
        };
        assert_eq!(renewed, Renewal::Renewed);
        owned_by(&fixture, &request).await;
        if cut_during(&fixture, direction, fixture.through.release(&lease, Duration::ZERO)).await.is_none() {
            let _ = again(async || fixture.through.release(&lease, Duration::ZERO).await).await;
        }
        assert!(free(&fixture).await);
    }
}

// verifies: contention
async fn one_of_many_contenders_wins_while_the_network_cuts(fixture: Fixture) {
    let fixture = Arc::new(fixture);
    let held = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let contenders: Vec<_> = (0..4)
        .map(|_| {
            let locker = fixture::locker(RedisBackend::new(fixture.config.clone()).unwrap(), Duration::from_secs(10));
            let held = Arc::clone(&held);
            tokio::spawn(async move { contend(locker, &held).await })
        })
        .collect();
    // The pause between cuts is long enough for some requests to succeed.
    while !contenders.iter().all(tokio::task::JoinHandle::is_finished) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        fixture.cut();
    }
    for contender in contenders {
        contender.await.unwrap();
    }
    until("the last release", async || free(&fixture).await).await;
}

async fn contend(locker: Locker, held: &std::sync::atomic::AtomicU32) {
    for _ in 0..5 {
        let guard = loop {
            match locker.lock(JOB).acquire().await {
                Ok(guard) => break guard,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        };
        assert_eq!(held.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0, "two holders");
        // The work that the lock protects.
        tokio::time::sleep(Duration::from_millis(2)).await;
        held.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
        let _ = guard.release().await;
    }
}
