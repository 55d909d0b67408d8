//! Requests and replies that are lost, late, doubled or cut off. The right owner keeps the lock,
//! and no orphan is left.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use lock_core::{
    Error, Locker,
    backend::{AcquireOutcome, AcquireRequest, Admin, Backend, Break, Lease, Release, Renewal},
};
use lock_postgres::PostgresBackend;
use test_support::{
    Direction::{self, Replies, Requests},
    until,
};

use crate::fixture::{self, Fixture, JOB, LONG, granted, name, refused, request};

/// Defines a test for each case and each kind of connection.
macro_rules! everywhere {
    ($($case:ident),* $(,)?) => {
        everywhere!(@ plain $($case)*);
        everywhere!(@ named $($case)*);
        everywhere!(@ tls $($case)*);
        everywhere!(@ pooled $($case)*);
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
    a_duplicate_acquire_after_its_release_leaves_no_lock,
    an_acquire_arriving_after_a_break_leaves_no_lock,
    a_cancelled_unanswered_acquire_leaves_no_lock,
    a_renewal_whose_reply_was_lost_has_renewed,
    a_release_with_a_lost_reply_spares_the_successor,
    a_release_whose_request_was_lost_is_repeated,
    delayed_requests_take_effect,
    cut_connections_leave_the_right_owner,
    one_of_many_contenders_wins_while_the_network_cuts,
}

/// Asserts that other clients see the lock as held under `token`.
async fn owned_by(fixture: &Fixture, request: &AcquireRequest) {
    let id = fixture.server.sql("select replace(id::text, '-', '') from onelock where name = 'job'");
    assert_eq!(id, request.id.to_string());
    refused(&fixture.direct, &fixture::request(JOB, LONG)).await;
}

async fn free(fixture: &Fixture) -> bool {
    fixture.direct.inspect(&name(JOB)).await.unwrap().is_none()
}

/// Repeats `ask` until it succeeds, once the network works again.
pub(crate) async fn again<T>(mut ask: impl AsyncFnMut() -> Result<T, Error>) -> T {
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

async fn released(backend: &PostgresBackend, lease: &Lease) {
    assert_eq!(again(async || backend.release(lease, Duration::ZERO).await).await, Release::Released);
}

// verifies: lost-reply
async fn an_acquire_whose_reply_was_lost_is_found_to_be_ours(fixture: Fixture) {
    let request = request(JOB, LONG);
    fixture.proxy.lose(Replies);
    let error = fixture.through.acquire(&request).await.unwrap_err();
    assert!(error.is_ambiguous(), "{error:?}");
    let arrived = fixture.direct.inspect(&request.name).await.unwrap().expect("the request arrived");
    fixture.proxy.heal();
    let AcquireOutcome::Granted(grant) = again(async || fixture.through.acquire(&request).await).await else {
        panic!("the client's own lock looks contended")
    };
    assert!(grant.already_ours, "{grant:?}");
    assert_eq!(grant.token, arrived.token);
    owned_by(&fixture, &request).await;
    released(&fixture.through, &request.lease(None)).await;
    let (_, next) = granted(&fixture.direct, &self::request(JOB, LONG)).await;
    assert!(next.token > grant.token && grant.token.is_some(), "{grant:?}, and then {next:?}");
}

// verifies: lost-request
async fn an_acquire_whose_request_was_lost_is_granted_when_repeated(fixture: Fixture) {
    let request = request(JOB, LONG);
    fixture.proxy.lose(Requests);
    assert!(fixture.through.acquire(&request).await.unwrap_err().is_ambiguous());
    assert!(free(&fixture).await);
    fixture.proxy.heal();
    let AcquireOutcome::Granted(grant) = again(async || fixture.through.acquire(&request).await).await else {
        panic!("it is free")
    };
    assert!(!grant.already_ours);
    owned_by(&fixture, &request).await;
}

// verifies: late-request
async fn an_acquire_that_arrives_after_its_own_release_leaves_no_lock(fixture: Fixture) {
    let late = request(JOB, LONG);
    fixture.proxy.hold(Requests);
    assert!(fixture.through.acquire(&late).await.unwrap_err().is_ambiguous());
    // The same process gives up, by another connection.
    assert_eq!(fixture.direct.release(&late.lease(None), Duration::ZERO).await.unwrap(), Release::NotHeld(None));
    fixture.let_arrive(1).await;
    assert!(free(&fixture).await, "the late acquire was granted");
}

// verifies: late-request
async fn a_duplicate_acquire_after_its_release_leaves_no_lock(fixture: Fixture) {
    let request = request(JOB, LONG);
    fixture.proxy.hold(Requests);
    assert!(fixture.through.acquire(&request).await.unwrap_err().is_ambiguous());
    // The retry is faster, by another connection.
    let (lease, _) = granted(&fixture.direct, &request).await;
    assert_eq!(fixture.direct.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    fixture.let_arrive(1).await;
    assert!(free(&fixture).await, "the late acquire was granted");
}

async fn an_acquire_arriving_after_a_break_leaves_no_lock(fixture: Fixture) {
    let late = request(JOB, LONG);
    fixture.proxy.hold(Requests);
    assert!(fixture.through.acquire(&late).await.unwrap_err().is_ambiguous());
    granted(&fixture.direct, &late).await;
    let version = fixture.direct.inspect(&late.name).await.unwrap().unwrap().version.unwrap();
    let broken = fixture.direct.break_lock(&late.name, &version, "an operator").await.unwrap();
    assert_eq!(broken, Break::Broken);
    fixture.let_arrive(1).await;
    assert!(free(&fixture).await, "the late acquire was granted");
}

async fn a_cancelled_unanswered_acquire_leaves_no_lock(fixture: Fixture) {
    let locker = fixture::locker(fixture.through.clone(), LONG);
    fixture.proxy.lose(Replies);
    let before = fixture.statements();
    let waiting = tokio::spawn(async move { locker.lock(JOB).acquire().await });
    until("the request to arrive", async || fixture.statements() > before).await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    fixture.proxy.heal();
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
    fixture.proxy.lose(Replies);
    assert!(fixture.through.renew(&lease).await.unwrap_err().is_ambiguous());
    let left = fixture.direct.inspect(&request.name).await.unwrap().unwrap().expires_in.unwrap();
    assert!(left > LONG + LONG / 2, "{left:?}");
    fixture.proxy.heal();
    assert_eq!(again(async || fixture.through.renew(&lease).await).await, Renewal::Renewed);
    owned_by(&fixture, &request).await;
}

// verifies: lost-reply
async fn a_release_with_a_lost_reply_spares_the_successor(fixture: Fixture) {
    let (lease, _) = granted(&fixture.through, &request(JOB, LONG)).await;
    fixture.proxy.lose(Replies);
    assert!(fixture.through.release(&lease, Duration::ZERO).await.unwrap_err().is_ambiguous());
    let successor = request(JOB, LONG);
    let (next, _) = granted(&fixture.direct, &successor).await;
    assert!(next.token > lease.token);
    fixture.proxy.heal();
    let again = again(async || fixture.through.release(&lease, Duration::ZERO).await).await;
    assert!(matches!(again, Release::NotHeld(_)), "{again:?}");
    owned_by(&fixture, &successor).await;
}

// verifies: lost-request
async fn a_release_whose_request_was_lost_is_repeated(fixture: Fixture) {
    let request = request(JOB, LONG);
    let (lease, _) = granted(&fixture.through, &request).await;
    fixture.proxy.lose(Requests);
    assert!(fixture.through.release(&lease, Duration::ZERO).await.unwrap_err().is_ambiguous());
    owned_by(&fixture, &request).await;
    fixture.proxy.heal();
    released(&fixture.through, &lease).await;
    assert!(free(&fixture).await);
}

// verifies: late-request
async fn delayed_requests_take_effect(fixture: Fixture) {
    for direction in [Requests, Replies] {
        // Below the timeout.
        fixture.proxy.delay(direction, Duration::from_millis(50));
        let request = request(JOB, LONG);
        let lease = request.lease(None);
        assert!(matches!(again(async || fixture.through.acquire(&request).await).await, AcquireOutcome::Granted(_)));
        owned_by(&fixture, &request).await;
        assert_eq!(again(async || fixture.through.renew(&lease).await).await, Renewal::Renewed);
        released(&fixture.through, &lease).await;
        assert!(free(&fixture).await);
        fixture.proxy.heal();
    }
    // Above it.
    fixture.proxy.delay(Replies, Duration::from_millis(900));
    let request = request(JOB, LONG);
    assert!(fixture.through.acquire(&request).await.unwrap_err().is_ambiguous());
    fixture.proxy.heal();
    assert!(matches!(again(async || fixture.through.acquire(&request).await).await, AcquireOutcome::Granted(_)));
    owned_by(&fixture, &request).await;
}

/// Cuts all connections while a request is in flight. Returns the reply, or `None` if it was lost.
async fn cut_during<T>(
    fixture: &Fixture,
    direction: Direction,
    ask: impl Future<Output = Result<T, Error>>,
) -> Option<T> {
    fixture.proxy.hold(direction);
    let before = fixture.proxy.bytes(direction);
    let cut = async {
        until("the bytes to cut", async || fixture.proxy.bytes(direction) > before).await;
        fixture.proxy.cut();
        fixture.proxy.heal();
    };
    let (answer, ()) = tokio::join!(ask, cut);
    match answer {
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
        assert!(cut_during(&fixture, direction, fixture.through.acquire(&request)).await.is_none());
        fixture.settled().await;
        let granted = again(async || fixture.through.acquire(&request).await).await;
        let AcquireOutcome::Granted(grant) = granted else { panic!("{granted:?}") };
        assert_eq!(grant.already_ours, direction == Replies);
        owned_by(&fixture, &request).await;
        assert!(cut_during(&fixture, direction, fixture.through.renew(&lease)).await.is_none());
        assert_eq!(again(async || fixture.through.renew(&lease).await).await, Renewal::Renewed);
        owned_by(&fixture, &request).await;
        assert!(cut_during(&fixture, direction, fixture.through.release(&lease, Duration::ZERO)).await.is_none());
        let _ = again(async || fixture.through.release(&lease, Duration::ZERO).await).await;
        assert!(free(&fixture).await);
    }
}

// verifies: contention
async fn one_of_many_contenders_wins_while_the_network_cuts(fixture: Fixture) {
    let fixture = Arc::new(fixture);
    let held = Arc::new(AtomicU32::new(0));
    let contenders: Vec<_> = (0..4)
        .map(|_| {
            let locker = fixture::locker(fixture::backend(fixture.config.clone()), Duration::from_secs(10));
            let held = Arc::clone(&held);
            tokio::spawn(async move { contend(locker, &held).await })
        })
        .collect();
    // The pause between cuts is long enough for some requests to succeed.
    while !contenders.iter().all(tokio::task::JoinHandle::is_finished) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        fixture.proxy.cut();
    }
    for contender in contenders {
        contender.await.unwrap();
    }
    until("the last release", async || free(&fixture).await).await;
}

async fn contend(locker: Locker, held: &AtomicU32) {
    for _ in 0..5 {
        let guard = loop {
            match locker.lock(JOB).acquire().await {
                Ok(guard) => break guard,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        };
        assert_eq!(held.fetch_add(1, Ordering::SeqCst), 0, "two holders");
        // The work that the lock protects.
        tokio::time::sleep(Duration::from_millis(2)).await;
        held.fetch_sub(1, Ordering::SeqCst);
        let _ = guard.release().await;
    }
}
