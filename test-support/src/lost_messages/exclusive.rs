//! Cases for exclusive locks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use lock_core::{
    Error, Locker,
    backend::{AcquireOutcome, AcquireRequest, Admin as _, Backend, Break, Lease, Release, Renewal},
};

use super::{JOB, Network, locker};
use crate::{
    Direction::{self, Replies, Requests},
    requests::{self, LONG, again, granted, refused, request},
    until,
};

/// Asserts that other clients see the lock as held by `request`.
async fn owned_by(network: &impl Network, request: &AcquireRequest) {
    assert_eq!(network.holder_id().await, request.id.to_string());
    refused(network.direct(), &requests::request(JOB, LONG)).await;
}

async fn released(backend: &dyn Backend, lease: &Lease) {
    assert_eq!(again(async || backend.release(lease, Duration::ZERO).await).await, Release::Released);
}

// verifies: lost-reply
pub async fn an_acquire_whose_reply_was_lost_is_found_to_be_ours<N: Network>(network: N) {
    let request = request(JOB, LONG);
    network.lose(Replies);
    let error = network.through().acquire(&request).await.unwrap_err();
    assert!(error.is_ambiguous(), "{error:?}");
    let arrived = network.direct().inspect(&request.name).await.unwrap();
    network.heal();
    let AcquireOutcome::Granted(grant) = again(async || network.through().acquire(&request).await).await else {
        panic!("the client's own lock looks contended")
    };
    let holder = arrived.expect("the request arrived");
    if !network.is_quorum() {
        assert!(grant.already_ours, "{grant:?}");
        assert_eq!(grant.token, holder.token);
    }
    owned_by(&network, &request).await;
    released(network.through(), &request.lease(None)).await;
    assert!(network.is_free().await);
    let AcquireOutcome::Granted(next) = network.direct().acquire(&requests::request(JOB, LONG)).await.unwrap() else {
        panic!("it is free")
    };
    assert!(next.token > grant.token && grant.token.is_some(), "{grant:?}, and then {next:?}");
}

// verifies: lost-request
pub async fn an_acquire_whose_request_was_lost_is_granted_when_repeated(network: impl Network) {
    let request = request(JOB, LONG);
    network.lose(Requests);
    assert!(network.through().acquire(&request).await.unwrap_err().is_ambiguous());
    assert!(network.is_free().await);
    network.heal();
    let AcquireOutcome::Granted(grant) = again(async || network.through().acquire(&request).await).await else {
        panic!("it is free")
    };
    assert!(!grant.already_ours);
    owned_by(&network, &request).await;
}

// verifies: late-request
pub async fn an_acquire_that_arrives_after_its_own_release_leaves_no_lock(network: impl Network) {
    let late = request(JOB, LONG);
    network.hold(Requests);
    assert!(network.through().acquire(&late).await.unwrap_err().is_ambiguous());
    // The same process gives up, by another connection.
    assert_eq!(network.direct().release(&late.lease(None), Duration::ZERO).await.unwrap(), Release::NotHeld(None));
    network.let_arrive(1).await;
    assert!(network.is_free().await, "the late acquire was granted");
}

pub async fn an_acquire_arriving_after_a_second_release_leaves_no_lock(network: impl Network) {
    let request = request(JOB, LONG);
    // Rolled back once, as after too few confirmations; then retried and abandoned.
    let (lease, _) = granted(network.direct(), &request).await;
    assert_eq!(network.direct().release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    network.hold(Requests);
    assert!(network.through().acquire(&request).await.unwrap_err().is_ambiguous());
    assert_eq!(network.direct().release(&lease, Duration::ZERO).await.unwrap(), Release::NotHeld(None));
    network.let_arrive(1).await;
    assert!(network.is_free().await, "the late acquire was granted");
}

pub async fn an_acquire_arriving_after_another_holder_leaves_no_lock(network: impl Network) {
    let late = request(JOB, LONG);
    let before = network.requests_run();
    // Long enough for all that follows, on any but a very slow machine.
    let (sent, delay) = (Instant::now(), Duration::from_secs(3));
    network.delay(Requests, delay);
    assert!(network.through().acquire(&late).await.unwrap_err().is_ambiguous());
    network.delay(Requests, Duration::ZERO);
    // The client retries by another connection and releases before the first request arrives.
    // Another holder also acquires and releases before that.
    assert!(matches!(again(async || network.through().acquire(&late).await).await, AcquireOutcome::Granted(_)));
    released(network.through(), &late.lease(None)).await;
    let (other, _) = granted(network.direct(), &request(JOB, LONG)).await;
    assert_eq!(network.direct().release(&other, Duration::ZERO).await.unwrap(), Release::Released);
    let arrived = async || {
        // The count alone is not enough, because several servers also agree on a token.
        sent.elapsed() > delay + delay / 8
            && network.requests_run().iter().zip(&before).all(|(now, before)| *now >= before + 5)
    };
    until("the late request to arrive", arrived).await;
    assert!(network.is_free().await, "the late acquire was granted");
}

pub async fn a_late_release_keeps_a_late_acquire_refused(network: impl Network) {
    let late = request(JOB, LONG);
    let lease = late.lease(None);
    network.hold(Requests);
    let (released, acquired) =
        tokio::join!(network.through().release(&lease, Duration::ZERO), network.through().acquire(&late));
    assert!(released.unwrap_err().is_ambiguous());
    assert!(acquired.unwrap_err().is_ambiguous());
    assert_eq!(network.direct().release(&lease, Duration::ZERO).await.unwrap(), Release::NotHeld(None));
    network.let_arrive(2).await;
    assert!(network.is_free().await, "the late acquire was granted");
}

pub async fn a_duplicate_acquire_after_its_release_leaves_no_lock(network: impl Network) {
    let request = request(JOB, LONG);
    network.hold(Requests);
    assert!(network.through().acquire(&request).await.unwrap_err().is_ambiguous());
    // The retry is faster, by another connection.
    let (lease, _) = granted(network.direct(), &request).await;
    assert_eq!(network.direct().release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    network.let_arrive(1).await;
    assert!(network.is_free().await, "the late acquire was granted");
}

pub async fn an_acquire_arriving_after_a_break_leaves_no_lock(network: impl Network) {
    let late = request(JOB, LONG);
    network.hold(Requests);
    assert!(network.through().acquire(&late).await.unwrap_err().is_ambiguous());
    // The same process retries by another connection and is granted. An operator breaks the lock.
    granted(network.direct(), &late).await;
    let version = network.direct().inspect(&late.name).await.unwrap().unwrap().version.unwrap();
    let broken = network.direct().break_lock(&late.name, &version, "an operator").await.unwrap();
    assert_eq!(broken, Break::Broken);
    network.let_arrive(1).await;
    assert!(network.is_free().await, "the late acquire was granted");
}

pub async fn a_cancelled_unanswered_acquire_leaves_no_lock(network: impl Network<Store: Clone>) {
    let locker = locker(network.through().clone(), LONG);
    network.lose(Replies);
    let before = network.requests_run();
    let waiting = tokio::spawn(async move { locker.lock(JOB).acquire().await });
    until("the request to arrive", async || network.requests_run() > before).await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    network.heal();
    until("the lock to be released", async || network.is_free().await).await;
    // It stays released: no request is still in flight.
    let (lease, _) = granted(network.direct(), &request(JOB, LONG)).await;
    assert_eq!(network.direct().renew(&lease).await.unwrap(), Renewal::Renewed);
}

// verifies: lost-reply
pub async fn a_renewal_whose_reply_was_lost_has_renewed(network: impl Network) {
    let request = request(JOB, LONG);
    let (mut lease, _) = granted(network.through(), &request).await;
    lease.ttl = LONG * 2;
    network.lose(Replies);
    assert!(network.through().renew(&lease).await.unwrap_err().is_ambiguous());
    let left = network.direct().inspect(&request.name).await.unwrap().unwrap().expires_in.unwrap();
    assert!(left > LONG + LONG / 2, "{left:?}");
    network.heal();
    assert_eq!(again(async || network.through().renew(&lease).await).await, Renewal::Renewed);
    owned_by(&network, &request).await;
}

// verifies: lost-reply
pub async fn a_release_with_a_lost_reply_spares_the_successor(network: impl Network) {
    let (lease, _) = granted(network.through(), &request(JOB, LONG)).await;
    network.lose(Replies);
    assert!(network.through().release(&lease, Duration::ZERO).await.unwrap_err().is_ambiguous());
    let successor = request(JOB, LONG);
    let (next, _) = granted(network.direct(), &successor).await;
    assert!(next.token > lease.token);
    network.heal();
    let again = again(async || network.through().release(&lease, Duration::ZERO).await).await;
    assert!(matches!(again, Release::NotHeld(_)), "{again:?}");
    owned_by(&network, &successor).await;
}

// verifies: lost-request
pub async fn a_release_whose_request_was_lost_is_repeated(network: impl Network) {
    let request = request(JOB, LONG);
    let (lease, _) = granted(network.through(), &request).await;
    network.lose(Requests);
    assert!(network.through().release(&lease, Duration::ZERO).await.unwrap_err().is_ambiguous());
    owned_by(&network, &request).await;
    network.heal();
    released(network.through(), &lease).await;
    assert!(network.is_free().await);
}

/// A failed attempt is rolled back, and its retry has the same id. A late rollback must not release
/// the retry.
pub async fn a_release_sent_before_a_retried_acquire_spares_the_lock(network: impl Network) {
    let request = request(JOB, LONG);
    let (lease, _) = granted(network.through(), &request).await;
    network.hold(Requests);
    assert!(network.through().release(&lease, Duration::ZERO).await.unwrap_err().is_ambiguous());
    let AcquireOutcome::Granted(grant) = network.direct().acquire(&request).await.unwrap() else {
        panic!("it is ours")
    };
    assert!(grant.already_ours);
    network.let_arrive(1).await;
    owned_by(&network, &request).await;
    released(network.direct(), &lease).await;
    assert!(network.is_free().await);
}

// verifies: late-request
pub async fn delayed_requests_take_effect<N: Network>(network: N) {
    for direction in [Requests, Replies] {
        // Below the timeout, and within what a client of several servers grants the slowest.
        network.delay(direction, Duration::from_millis(50));
        let request = request(JOB, LONG);
        let lease = request.lease(None);
        assert!(matches!(again(async || network.through().acquire(&request).await).await, AcquireOutcome::Granted(_)));
        owned_by(&network, &request).await;
        assert_eq!(again(async || network.through().renew(&lease).await).await, Renewal::Renewed);
        released(network.through(), &lease).await;
        assert!(network.is_free().await);
        network.heal();
    }
    // Above it.
    network.delay(Replies, N::TOO_LATE);
    let request = request(JOB, LONG);
    assert!(network.through().acquire(&request).await.unwrap_err().is_ambiguous());
    network.heal();
    assert!(matches!(again(async || network.through().acquire(&request).await).await, AcquireOutcome::Granted(_)));
    owned_by(&network, &request).await;
}

/// Cuts all connections while a request is in flight. Returns the reply, or `None` if it was lost.
async fn cut_during<T>(
    network: &impl Network,
    direction: Direction,
    ask: impl Future<Output = Result<T, Error>>,
) -> Option<T> {
    network.hold(direction);
    let before: Vec<_> = network.proxies().iter().map(|proxy| proxy.bytes(direction)).collect();
    let cut = async {
        let passed = || network.proxies().iter().zip(&before).any(|(proxy, before)| proxy.bytes(direction) > *before);
        until("the bytes to cut", async || passed()).await;
        network.cut();
        network.heal();
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

pub async fn cut_connections_leave_the_right_owner<N: Network>(network: N) {
    for direction in [Requests, Replies] {
        let request = request(JOB, LONG);
        let lease = request.lease(None);
        let reply = cut_during(&network, direction, network.through().acquire(&request)).await;
        assert!(network.survives_cuts() || reply.is_none(), "{reply:?}");
        network.settled().await;
        let granted = match reply {
            Some(reply) => reply,
            None => again(async || network.through().acquire(&request).await).await,
        };
        let AcquireOutcome::Granted(grant) = granted else { panic!("{granted:?}") };
        assert!(network.survives_cuts() || grant.already_ours == (direction == Replies), "{grant:?}");
        owned_by(&network, &request).await;
        let renewed = match cut_during(&network, direction, network.through().renew(&lease)).await {
            Some(reply) => reply,
            None => again(async || network.through().renew(&lease).await).await,
        };
        assert_eq!(renewed, Renewal::Renewed);
        owned_by(&network, &request).await;
        match cut_during(&network, direction, network.through().release(&lease, Duration::ZERO)).await {
            // The lock was held, so no other answer is true.
            Some(answer) => assert_eq!(answer, Release::Released),
            None => {
                let answer = again(async || network.through().release(&lease, Duration::ZERO).await).await;
                assert!(direction == Replies || answer == Release::Released, "it was the first: {answer:?}");
            }
        }
        assert!(network.is_free().await);
    }
}

// verifies: contention
pub async fn one_of_many_contenders_wins_while_the_network_cuts(network: impl Network) {
    let held = Arc::new(AtomicU32::new(0));
    let contenders: Vec<_> = (0..4)
        .map(|_| {
            let locker = locker(network.another(), Duration::from_secs(10));
            let held = Arc::clone(&held);
            tokio::spawn(async move { contend(locker, &held).await })
        })
        .collect();
    // The pause between cuts is long enough for some requests to succeed.
    while !contenders.iter().all(tokio::task::JoinHandle::is_finished) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        network.cut();
    }
    for contender in contenders {
        contender.await.unwrap();
    }
    until("the last release", async || network.is_free().await).await;
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
