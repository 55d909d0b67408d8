//! Requests and replies that are lost, late or cut off, on Redis in all its forms: exactly the right owner is left, and no orphan.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use integration::{
    Direction::{self, Replies, Requests},
    until,
};
use lock_core::{
    Lease, Locker,
    backend::{Attempt, Backend, Break, Claim, Release, Renewal},
};
use lock_redis::RedisBackend;

use crate::fixture::{self, Fixture, JOB, LONG, claim, granted, name, refused};

/// Makes a test of each case for each form.
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
    an_acquire_that_arrives_after_a_second_release_of_its_id_leaves_no_lock,
    a_release_that_arrives_after_a_later_one_of_its_id_lets_no_late_acquire_in,
    an_acquire_that_arrives_after_others_had_the_lock_leaves_no_lock,
    an_acquire_that_arrives_again_after_the_release_of_its_lock_leaves_no_lock,
    an_acquire_that_was_given_up_unanswered_leaves_no_lock,
    an_acquire_that_arrives_after_its_lock_was_broken_leaves_no_lock,
    a_renewal_whose_reply_was_lost_has_renewed,
    a_release_whose_reply_was_lost_has_released_and_spares_the_successor,
    a_release_whose_request_was_lost_is_repeated,
    a_release_that_arrives_after_a_later_acquire_of_its_id_spares_the_lock,
    requests_that_are_late_do_what_they_say,
    connections_cut_in_the_middle_of_anything_leave_the_right_owner,
    one_of_many_contenders_wins_while_the_network_cuts,
}

/// The lock as others see it, owned by `claim`.
async fn owned_by(rig: &Fixture, claim: &Claim) {
    let holder = rig.direct.inspect(&claim.name).await.unwrap().expect("it is held");
    assert_eq!(holder.version, Some(claim.id.to_string()));
    refused(&rig.direct, &fixture::claim(JOB, LONG)).await;
}

async fn free(rig: &Fixture) -> bool {
    rig.direct.inspect(&name(JOB)).await.unwrap().is_none()
}

/// Asks until the network is back, and whatever it had lost has ended.
async fn again<T>(mut ask: impl AsyncFnMut() -> Result<T, lock_core::Error>) -> T {
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

/// Heals the network, and waits until every server that has the lock has run as many requests that were held back.
async fn let_arrive(rig: &Fixture, requests: u64) {
    let before = rig.scripts_run();
    rig.heal();
    let arrived = async || rig.scripts_run().iter().zip(&before).all(|(now, before)| *now >= before + requests);
    until("what was late to arrive", arrived).await;
}

async fn released(backend: &RedisBackend, lease: &Lease) {
    assert_eq!(again(async || backend.release(lease, Duration::ZERO).await).await, Release::Released);
}

async fn an_acquire_whose_reply_was_lost_is_found_to_be_ours(rig: Fixture) {
    let claim = claim(JOB, LONG);
    rig.lose(Replies);
    let error = rig.through.acquire(&claim).await.unwrap_err();
    assert!(error.is_ambiguous(), "{error:?}");
    let arrived = rig.direct.inspect(&claim.name).await.unwrap();
    rig.heal();
    let Attempt::Granted(grant) = again(async || rig.through.acquire(&claim).await).await else {
        panic!("our own lock looks like somebody else's")
    };
    let holder = arrived.expect("the request had arrived");
    assert!(grant.already_ours, "{grant:?}");
    // The servers of a quorum agree on a token only when their replies come.
    let agreed = rig.ports.len() == 1;
    assert!(grant.token == holder.token || !agreed && grant.token > holder.token, "{grant:?}, but it was {holder:?}");
    owned_by(&rig, &claim).await;
    released(&rig.through, &claim.lease(None)).await;
    assert!(free(&rig).await);
}

async fn an_acquire_whose_request_was_lost_is_granted_when_repeated(rig: Fixture) {
    let claim = claim(JOB, LONG);
    rig.lose(Requests);
    assert!(rig.through.acquire(&claim).await.unwrap_err().is_ambiguous());
    assert!(free(&rig).await);
    rig.heal();
    let Attempt::Granted(grant) = again(async || rig.through.acquire(&claim).await).await else { panic!("it is free") };
    assert!(!grant.already_ours);
    owned_by(&rig, &claim).await;
}

async fn an_acquire_that_arrives_after_its_own_release_leaves_no_lock(rig: Fixture) {
    let late = claim(JOB, LONG);
    rig.hold(Requests);
    assert!(rig.through.acquire(&late).await.unwrap_err().is_ambiguous());
    // The same process gives up, over another way.
    assert_eq!(rig.direct.release(&late.lease(None), Duration::ZERO).await.unwrap(), Release::NotHeld(None));
    let_arrive(&rig, 1).await;
    assert!(free(&rig).await, "the late acquire was refused");
}

async fn an_acquire_that_arrives_after_a_second_release_of_its_id_leaves_no_lock(rig: Fixture) {
    let claim = claim(JOB, LONG);
    // Undone once, as an attempt is that too few replicas confirmed; then repeated, and given up.
    let (lease, _) = granted(&rig.direct, &claim).await;
    assert_eq!(rig.direct.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    rig.hold(Requests);
    assert!(rig.through.acquire(&claim).await.unwrap_err().is_ambiguous());
    assert_eq!(rig.direct.release(&lease, Duration::ZERO).await.unwrap(), Release::NotHeld(None));
    let_arrive(&rig, 1).await;
    assert!(free(&rig).await, "the late acquire was refused");
}

async fn an_acquire_that_arrives_after_others_had_the_lock_leaves_no_lock(rig: Fixture) {
    let late = claim(JOB, LONG);
    let before = rig.scripts_run();
    // Long enough for all that follows, on any but a very slow machine.
    let (sent, delay) = (Instant::now(), Duration::from_secs(3));
    rig.delay(Requests, delay);
    assert!(rig.through.acquire(&late).await.unwrap_err().is_ambiguous());
    rig.delay(Requests, Duration::ZERO);
    // It asks again over another connection, and is done before the first request arrives; and so is another holder.
    assert!(matches!(again(async || rig.through.acquire(&late).await).await, Attempt::Granted(_)));
    released(&rig.through, &late.lease(None)).await;
    let (other, _) = granted(&rig.direct, &claim(JOB, LONG)).await;
    assert_eq!(rig.direct.release(&other, Duration::ZERO).await.unwrap(), Release::Released);
    let arrived = async || {
        // A quorum makes its servers agree on tokens, so the number alone does not tell there.
        sent.elapsed() > delay + delay / 8
            && rig.scripts_run().iter().zip(&before).all(|(now, before)| *now >= before + 5)
    };
    until("the late request to arrive", arrived).await;
    assert!(free(&rig).await, "the late acquire was refused");
}

async fn a_release_that_arrives_after_a_later_one_of_its_id_lets_no_late_acquire_in(rig: Fixture) {
    let late = claim(JOB, LONG);
    let lease = late.lease(None);
    rig.hold(Requests);
    let (released, acquired) = tokio::join!(rig.through.release(&lease, Duration::ZERO), rig.through.acquire(&late));
    assert!(released.unwrap_err().is_ambiguous());
    assert!(acquired.unwrap_err().is_ambiguous());
    assert_eq!(rig.direct.release(&lease, Duration::ZERO).await.unwrap(), Release::NotHeld(None));
    let_arrive(&rig, 2).await;
    assert!(free(&rig).await, "the late acquire was refused");
}

async fn an_acquire_that_arrives_again_after_the_release_of_its_lock_leaves_no_lock(rig: Fixture) {
    let claim = claim(JOB, LONG);
    rig.hold(Requests);
    assert!(rig.through.acquire(&claim).await.unwrap_err().is_ambiguous());
    // Its repetition is faster, over another way.
    let (lease, _) = granted(&rig.direct, &claim).await;
    assert_eq!(rig.direct.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    let_arrive(&rig, 1).await;
    assert!(free(&rig).await, "the late acquire was refused");
}

async fn an_acquire_that_arrives_after_its_lock_was_broken_leaves_no_lock(rig: Fixture) {
    let late = claim(JOB, LONG);
    rig.hold(Requests);
    assert!(rig.through.acquire(&late).await.unwrap_err().is_ambiguous());
    // The same process asks again, over another way, and is granted; an operator breaks that.
    granted(&rig.direct, &late).await;
    let broken = rig.direct.break_lock(&late.name, &late.id.to_string(), "an operator").await.unwrap();
    assert_eq!(broken, Break::Broken);
    let_arrive(&rig, 1).await;
    assert!(free(&rig).await, "the late acquire was refused");
}

async fn an_acquire_that_was_given_up_unanswered_leaves_no_lock(rig: Fixture) {
    let locker = fixture::locker(rig.through.clone(), LONG);
    rig.lose(Replies);
    let before = rig.scripts_run();
    let waiting = tokio::spawn(async move { locker.lock(JOB).acquire().await });
    until("the request to arrive", async || rig.scripts_run() > before).await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    rig.heal();
    until("the lock to be given back", async || free(&rig).await).await;
    // And it stays so: nothing of it is still on its way.
    let (lease, _) = granted(&rig.direct, &claim(JOB, LONG)).await;
    assert_eq!(rig.direct.renew(&lease).await.unwrap(), Renewal::Renewed);
}

async fn a_renewal_whose_reply_was_lost_has_renewed(rig: Fixture) {
    let claim = claim(JOB, LONG);
    let (mut lease, _) = granted(&rig.through, &claim).await;
    lease.ttl = Some(LONG * 2);
    rig.lose(Replies);
    assert!(rig.through.renew(&lease).await.unwrap_err().is_ambiguous());
    let left = rig.direct.inspect(&claim.name).await.unwrap().unwrap().expires_in.unwrap();
    assert!(left > LONG + LONG / 2, "{left:?}");
    rig.heal();
    assert_eq!(again(async || rig.through.renew(&lease).await).await, Renewal::Renewed);
    owned_by(&rig, &claim).await;
}

async fn a_release_whose_reply_was_lost_has_released_and_spares_the_successor(rig: Fixture) {
    let (lease, _) = granted(&rig.through, &claim(JOB, LONG)).await;
    rig.lose(Replies);
    assert!(rig.through.release(&lease, Duration::ZERO).await.unwrap_err().is_ambiguous());
    let successor = claim(JOB, LONG);
    let (next, _) = granted(&rig.direct, &successor).await;
    assert!(next.token > lease.token);
    rig.heal();
    let again = again(async || rig.through.release(&lease, Duration::ZERO).await).await;
    assert!(matches!(again, Release::NotHeld(_)), "{again:?}");
    owned_by(&rig, &successor).await;
}

async fn a_release_whose_request_was_lost_is_repeated(rig: Fixture) {
    let claim = claim(JOB, LONG);
    let (lease, _) = granted(&rig.through, &claim).await;
    rig.lose(Requests);
    assert!(rig.through.release(&lease, Duration::ZERO).await.unwrap_err().is_ambiguous());
    owned_by(&rig, &claim).await;
    rig.heal();
    released(&rig.through, &lease).await;
    assert!(free(&rig).await);
}

/// An attempt that failed is undone, and the next has the same id: an undo that comes after that must not undo it too.
async fn a_release_that_arrives_after_a_later_acquire_of_its_id_spares_the_lock(rig: Fixture) {
    let claim = claim(JOB, LONG);
    let (lease, _) = granted(&rig.through, &claim).await;
    rig.hold(Requests);
    assert!(rig.through.release(&lease, Duration::ZERO).await.unwrap_err().is_ambiguous());
    let Attempt::Granted(grant) = rig.direct.acquire(&claim).await.unwrap() else { panic!("it is ours") };
    assert!(grant.already_ours);
    let_arrive(&rig, 1).await;
    owned_by(&rig, &claim).await;
    released(&rig.direct, &lease).await;
    assert!(free(&rig).await);
}

async fn requests_that_are_late_do_what_they_say(rig: Fixture) {
    for direction in [Requests, Replies] {
        // Below the timeout, and within what a quorum grants its slowest server.
        rig.delay(direction, Duration::from_millis(50));
        let claim = claim(JOB, LONG);
        let lease = claim.lease(None);
        assert!(matches!(again(async || rig.through.acquire(&claim).await).await, Attempt::Granted(_)));
        owned_by(&rig, &claim).await;
        assert_eq!(again(async || rig.through.renew(&lease).await).await, Renewal::Renewed);
        released(&rig.through, &lease).await;
        assert!(free(&rig).await);
        rig.heal();
    }
    // Above it.
    rig.delay(Replies, Duration::from_millis(500));
    let claim = claim(JOB, LONG);
    assert!(rig.through.acquire(&claim).await.unwrap_err().is_ambiguous());
    rig.heal();
    assert!(matches!(again(async || rig.through.acquire(&claim).await).await, Attempt::Granted(_)));
    owned_by(&rig, &claim).await;
}

/// Cuts all connections while the answer to `ask` is on its way. Says whether the answer was lost.
async fn cut_during<T>(
    rig: &Fixture,
    direction: Direction,
    ask: impl Future<Output = Result<T, lock_core::Error>>,
) -> Option<T> {
    rig.hold(direction);
    let before: Vec<_> = rig.proxies.iter().map(|proxy| proxy.bytes(direction)).collect();
    let cut = async {
        let passed = || rig.proxies.iter().zip(&before).any(|(proxy, before)| proxy.bytes(direction) > *before);
        until("the bytes to cut", async || passed()).await;
        rig.cut();
        rig.heal();
    };
    let (answer, ()) = tokio::join!(ask, cut);
    match answer {
        // A cluster's client repeats by itself, and a quorum may have its majority.
        Ok(answer) => Some(answer),
        Err(error) => {
            assert!(error.is_ambiguous() && error.is_retryable(), "{error:?}");
            None
        }
    }
}

async fn connections_cut_in_the_middle_of_anything_leave_the_right_owner(rig: Fixture) {
    for direction in [Requests, Replies] {
        let claim = claim(JOB, LONG);
        let lease = claim.lease(None);
        let granted = match cut_during(&rig, direction, rig.through.acquire(&claim)).await {
            Some(answer) => answer,
            None => again(async || rig.through.acquire(&claim).await).await,
        };
        assert!(matches!(granted, Attempt::Granted(_)), "{granted:?}");
        owned_by(&rig, &claim).await;
        let renewed = match cut_during(&rig, direction, rig.through.renew(&lease)).await {
            Some(answer) => answer,
            None => again(async || rig.through.renew(&lease).await).await,
        };
        assert_eq!(renewed, Renewal::Renewed);
        owned_by(&rig, &claim).await;
        if cut_during(&rig, direction, rig.through.release(&lease, Duration::ZERO)).await.is_none() {
            let _ = again(async || rig.through.release(&lease, Duration::ZERO).await).await;
        }
        assert!(free(&rig).await);
    }
}

async fn one_of_many_contenders_wins_while_the_network_cuts(rig: Fixture) {
    let rig = Arc::new(rig);
    let held = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let contenders: Vec<_> = (0..4)
        .map(|_| {
            let locker = fixture::locker(RedisBackend::new(rig.config.clone()).unwrap(), Duration::from_secs(10));
            let held = Arc::clone(&held);
            tokio::spawn(async move { contend(locker, &held).await })
        })
        .collect();
    // The rhythm of the cuts: long enough for some requests to get through.
    while !contenders.iter().all(tokio::task::JoinHandle::is_finished) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        rig.cut();
    }
    for contender in contenders {
        contender.await.unwrap();
    }
    until("the last release", async || free(&rig).await).await;
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
