//! Releases and acquires in one request: the tasks of one process on one lock.

mod killed;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::{FutureExt as _, future::join_all};
use lock_core::{
    ErrorKind, Guard, Holder, Locker,
    backend::{AcquireOutcome, AcquireRequest, Admin as _, Backend as _, Lease, Relayed, Release},
};
use lock_redis::{Compat, RedisBackend};
use test_support::{
    Direction::{self, Replies, Requests},
    lost_messages::Network as _,
    redis::{RedisServer, command},
    until,
};

use crate::fixture::{Fixture, JOB, LONG, at, calls, client, granted, locker, refused, released, request};

const TTL: Duration = Duration::from_secs(60);
/// More than the first request of a connection, which loads the scripts, costs the mean.
const ABOUT_ONE: f64 = 1.1;

/// Lets tasks acquire one lock as often, and checks that one holds it at a time, with rising
/// tokens. Returns how often the tasks of each locker have had the lock when the first task ends.
async fn share(lockers: &[Locker], tasks: usize, rounds: u64, hand_over: u32) -> Vec<u64> {
    let [inside, last, done] = [(); 3].map(|()| Arc::new(AtomicU64::new(0)));
    let counts: Vec<_> = lockers.iter().map(|_| Arc::new(AtomicU64::new(0))).collect();
    let mut all = Vec::new();
    for (locker, count) in lockers.iter().zip(&counts).flat_map(|both| (0..tasks).map(move |_| both)) {
        let (locker, count) = (locker.clone(), Arc::clone(count));
        let [inside, last, done] = [&inside, &last, &done].map(Arc::clone);
        all.push(tokio::spawn(async move {
            for _ in 0..rounds {
                let guard = locker.lock(JOB).hand_over(hand_over).acquire().await.unwrap();
                assert_eq!(inside.fetch_add(1, SeqCst), 0, "two tasks hold the lock");
                let token = guard.token().unwrap().get();
                assert!(last.swap(token, SeqCst) < token, "the tokens rise");
                count.fetch_add(u64::from(done.load(SeqCst) == 0), SeqCst);
                inside.fetch_sub(1, SeqCst);
                assert_eq!(guard.release().await.unwrap(), Release::Released);
            }
            done.store(1, SeqCst);
        }));
    }
    for task in all {
        task.await.expect("no task panics");
    }
    counts.iter().map(|count| count.load(SeqCst)).collect()
}

#[tokio::test]
async fn tasks_of_one_process_take_one_request_each() {
    let server = RedisServer::start();
    let locker = locker(client(server.addr()), TTL);
    let before = calls(&server, "eval");
    assert_eq!(share(std::slice::from_ref(&locker), 64, 10, 0).await.len(), 1);
    let requests = calls(&server, "eval") - before;
    assert!(requests as f64 <= 640.0 * ABOUT_ONE, "{requests} requests for 640 acquisitions");
    assert_eq!(server.command(&["EXISTS", &format!("onelock:{{{JOB}}}")]), ":0\r\n");
}

#[tokio::test]
async fn a_lock_without_waiters_takes_the_usual_requests() {
    let server = RedisServer::start();
    let locker = locker(client(server.addr()), TTL);
    share(std::slice::from_ref(&locker), 1, 1, 0).await;
    let before = calls(&server, "evalsha");
    share(std::slice::from_ref(&locker), 1, 10, 0).await;
    assert_eq!(calls(&server, "evalsha") - before, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
// verifies: contention
async fn tasks_of_two_processes_both_get_the_lock() {
    for (rounds, hand_over) in [(40, 0), (200, 10)] {
        let server = RedisServer::start();
        let lockers = [(); 2].map(|()| locker(client(server.addr()), TTL));
        let counts = share(&lockers, 16, rounds, hand_over).await;
        let all: u64 = counts.iter().sum();
        println!("shares with {hand_over} hand-overs: {counts:?}");
        assert!(counts.iter().all(|count| 5 * count >= 2 * all), "one process gets less than 40 %: {counts:?}");
    }
}

/// A guard of `locker`, and a task of the same process that waits for its lock.
async fn held_and_awaited(locker: &Locker) -> (Guard, tokio::task::JoinHandle<(Guard, u64)>) {
    let guard = locker.acquire(JOB).await.unwrap();
    let seen = Arc::new(AtomicU64::new(0));
    let contended = Arc::clone(&seen);
    let count = move |_: &Holder| {
        contended.fetch_add(1, SeqCst);
    };
    let mut waiter = Box::pin(locker.lock(JOB).on_contention(count).acquire());
    assert!((&mut waiter).now_or_never().is_none(), "the lock is held");
    // The first refusal is that of the queue.
    (guard, tokio::spawn(async move { (waiter.await.unwrap(), seen.load(SeqCst) - 1) }))
}

/// How a fault ends.
#[derive(Clone, Copy)]
enum End {
    /// Later than the timeout of the request.
    Late,
    /// By a cut, once something is on its way in this direction.
    Cut(Direction),
    /// Before the request is sent.
    Early,
}

/// Releases a lock for the next waiter while `fault` is on, and checks that the waiter alone gets
/// it.
async fn passes_on(fixture: Fixture, fault: impl Fn(&Fixture), end: End) {
    load(&fixture).await;
    let locker = locker(fixture.through.clone(), TTL);
    let (guard, waiter) = held_and_awaited(&locker).await;
    let passed = |direction| fixture.proxies[0].bytes(direction);
    let before = [Requests, Replies].map(passed);
    fault(&fixture);
    let release = tokio::spawn(guard.release());
    match end {
        End::Early => {}
        End::Late => {
            until("the request to be sent", async || passed(Requests) > before[0]).await;
            tokio::time::sleep(Fixture::TOO_LATE).await;
        }
        End::Cut(way) => {
            until("something to be on its way", async || passed(way) > before[way as usize]).await;
            fixture.cut();
        }
    }
    fixture.heal();
    let (next, refusals) = waiter.await.unwrap();
    match release.await.unwrap() {
        Ok(answer) => assert_eq!(answer, Release::Released),
        // Then it goes on in the background, and the waiter waits for that.
        Err(error) => assert!(error.is_retryable(), "{error}"),
    }
    assert_eq!(refusals, 0, "its own process looked like another holder");
    let holder = fixture.direct.inspect(next.name()).await.unwrap().expect("held");
    assert_eq!(holder.token, next.token());
    next.check().unwrap();
    refused(&fixture.direct, &request(JOB, LONG)).await;
    assert_eq!(next.release().await.unwrap(), Release::Released);
    assert!(fixture.is_free().await);
}

macro_rules! on_each_server {
    ($($case:ident = $fault:expr, $end:expr;)*) => {
        on_each_server!(@ [standalone sentinel] { $($case = $fault, $end;)* });
    };
    (@ [$($server:ident)*] $cases:tt) => { $(on_each_server!(@@ $server $cases);)* };
    (@@ $server:ident { $($case:ident = $fault:expr, $end:expr;)* }) => {
        mod $server {
            use super::*;
            $(
                #[tokio::test]
                async fn $case() {
                    passes_on(Fixture::$server().await, $fault, $end).await;
                }
            )*
        }
    };
}

on_each_server! {
    a_lost_reply_leaves_the_lock_to_the_waiter = |fixture| fixture.lose(Replies), End::Late;
    a_lost_request_is_followed_by_both_halves = |fixture| fixture.lose(Requests), End::Late;
    a_request_held_back_takes_effect_once = |fixture| fixture.hold(Requests), End::Late;
    a_reply_held_back_leaves_the_lock_to_the_waiter = |fixture| fixture.hold(Replies), End::Late;
    a_cut_connection_leaves_the_lock_to_the_waiter = |fixture| fixture.cut(), End::Early;
    a_cut_before_the_request_arrives_is_survived = |fixture| fixture.hold(Requests), End::Cut(Requests);
    a_cut_before_the_reply_arrives_is_survived = |fixture| fixture.hold(Replies), End::Cut(Replies);
}

/// Lets the server load the script. It answers a late request for a script that it lacks by an
/// error, and does nothing.
async fn load(fixture: &Fixture) {
    let [first, next] = [request(JOB, LONG), request(JOB, LONG)];
    let (lease, _) = granted(&fixture.through, &first).await;
    let relayed = relay(&fixture.through, &lease, &next).await.unwrap();
    assert_eq!(relayed.released, Release::Released);
    released(&fixture.direct, &next.lease(None)).await;
}

async fn relay(client: &RedisBackend, lease: &Lease, request: &AcquireRequest) -> Result<Relayed, lock_core::Error> {
    client.relay().expect("one server").relay(lease, request).await
}

/// Returns the lease that a request releases which is still on its way, and the request that it
/// makes.
async fn with_a_late_relay() -> (Fixture, Lease, AcquireRequest) {
    let fixture = Fixture::standalone().await;
    load(&fixture).await;
    let [first, late] = [request(JOB, LONG), request(JOB, LONG)];
    let (lease, _) = granted(&fixture.through, &first).await;
    fixture.hold(Requests);
    assert!(relay(&fixture.through, &lease, &late).await.unwrap_err().is_ambiguous());
    (fixture, lease, late)
}

#[tokio::test]
// verifies: late-request
async fn a_late_request_revives_no_ended_lock() {
    let (fixture, lease, late) = with_a_late_relay().await;
    // The guard releases by itself, and the waiter gives up, by other connections.
    released(&fixture.direct, &lease).await;
    assert_eq!(fixture.direct.release(&late.lease(None), Duration::ZERO).await.unwrap(), Release::NotHeld(None));
    fixture.let_arrive(1).await;
    assert!(fixture.is_free().await, "the late request acquired");
}

#[tokio::test]
// verifies: late-request
async fn a_late_request_acquires_for_no_waiter_that_gave_up() {
    let (fixture, _, late) = with_a_late_relay().await;
    // The guard still has the lock, so that the late request can release it.
    let given_up = fixture.direct.release(&late.lease(None), Duration::ZERO).await.unwrap();
    assert!(matches!(given_up, Release::NotHeld(Some(_))), "{given_up:?}");
    fixture.let_arrive(1).await;
    assert!(fixture.is_free().await, "the late request acquired");
}

#[tokio::test]
// verifies: P6, late-request
async fn a_late_request_leaves_the_successor_alone() {
    let fixture = Fixture::standalone().await;
    load(&fixture).await;
    let [first, late, other] = [(); 3].map(|()| request(JOB, LONG));
    let (lease, _) = granted(&fixture.through, &first).await;
    fixture.hold(Requests);
    assert!(relay(&fixture.through, &lease, &late).await.unwrap_err().is_ambiguous());
    released(&fixture.direct, &lease).await;
    let (other_lease, _) = granted(&fixture.direct, &other).await;
    fixture.let_arrive(1).await;
    assert_eq!(fixture.holder_id().await, other.id.to_string());
    released(&fixture.direct, &other_lease).await;
}

#[tokio::test]
// verifies: late-request
async fn a_request_delivered_twice_has_one_effect() {
    let server = RedisServer::start();
    let client = client(server.addr());
    let [first, next] = [request(JOB, LONG), request(JOB, LONG)];
    let (lease, _) = granted(&client, &first).await;
    let Relayed { released: answer, acquired: Some(Ok(AcquireOutcome::Granted(grant))) } =
        relay(&client, &lease, &next).await.unwrap()
    else {
        panic!("the lock was free")
    };
    assert_eq!(answer, Release::Released);
    assert!(grant.token > lease.token && !grant.already_ours && grant.crashed.is_none());
    let again = relay(&client, &lease, &next).await.unwrap();
    assert!(matches!(again, Relayed { released: Release::NotHeld(_), acquired: None }), "{again:?}");
    released(&client, &next.lease(grant.token)).await;
    let again = relay(&client, &lease, &next).await.unwrap();
    assert!(matches!(again, Relayed { released: Release::NotHeld(None), acquired: None }), "{again:?}");
    assert_eq!(client.inspect(&first.name).await.unwrap(), None);
}

#[tokio::test]
async fn an_error_of_the_acquire_does_not_hide_the_release() {
    let server = RedisServer::start();
    let direct = client(server.addr());
    let (lease, _) = granted(&direct, &request(JOB, LONG)).await;
    // It may release, which takes no clock.
    server.command(&["ACL", "SETUSER", "timeless", "on", ">secret", "~*", "&*", "+@all", "-time"]);
    let timeless = RedisBackend::new(at(server.addr()).login("timeless", "secret")).unwrap();
    let next = request(JOB, LONG);
    let relayed = relay(&timeless, &lease, &next).await.unwrap();
    assert_eq!(relayed.released, Release::Released);
    let error = relayed.acquired.expect("tried").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert_eq!(direct.inspect(&lease.name).await.unwrap(), None);
}

#[tokio::test]
// verifies: P12
async fn a_fair_waiter_of_another_process_comes_first() {
    let server = RedisServer::start();
    let (direct, other) = (client(server.addr()), client(server.addr()));
    for awake in [false, true] {
        let (lease, _) = granted(&direct, &request(JOB, LONG)).await;
        let fair = request(JOB, LONG).with_fair(true).with_waits(true);
        refused(&other, &fair).await;
        if awake {
            // As after a wake-up whose attempt is on its way.
            server.command(&["DEL", &format!("onelock:{{{JOB}}}:w")]);
        }
        let next = request(JOB, LONG);
        let relayed = relay(&direct, &lease, &next).await.unwrap();
        assert!(matches!(relayed, Relayed { released: Release::Released, acquired: None }), "{relayed:?}");
        refused(&direct, &next).await;
        let (fair_lease, _) = granted(&other, &fair).await;
        released(&other, &fair_lease).await;
    }
}

#[tokio::test]
// verifies: late-request, P5
async fn a_lease_whose_acquire_got_no_reply_is_released_alone() {
    let fixture = Fixture::standalone().await;
    load(&fixture).await;
    let [first, next] = [request(JOB, LONG), request(JOB, LONG)];
    fixture.lose(Replies);
    assert!(fixture.through.acquire(&first).await.unwrap_err().is_ambiguous());
    fixture.heal();
    let again = async || fixture.through.acquire(&first).await.is_ok();
    until("the connection to be made again", again).await;
    let relayed = relay(&fixture.through, &first.lease(None), &next).await.unwrap();
    assert!(matches!(relayed, Relayed { released: Release::Released, acquired: None }), "{relayed:?}");
    // The next holder overwrites what the key of the token says of this release.
    let mark = format!("onelock:{{{JOB}}}:g:{}", first.id);
    assert_eq!(command(fixture.ports[0], &["EXISTS", &mark]).unwrap(), ":1\r\n");
}

#[tokio::test]
async fn deployments_that_need_more_relay_nothing() {
    let cluster = Fixture::cluster().await;
    assert!(cluster.through.relay().is_none());
    let quorum = Fixture::quorum().await;
    assert!(quorum.through.relay().is_none());
    let server = RedisServer::start();
    for compat in [Compat::RedisPy, Compat::PythonRedisLock] {
        assert!(RedisBackend::new(at(server.addr()).compat(compat)).unwrap().relay().is_none());
    }
    assert!(RedisBackend::new(at(server.addr()).replicas(1)).unwrap().relay().is_none());
    assert!(RedisBackend::new(at(server.addr())).unwrap().relay().is_some());
    // Their waiters take two requests, as ever.
    let locker = locker(cluster.through.clone(), TTL);
    join_all((0..4).map(|_| async { locker.acquire(JOB).await.unwrap().release().await.unwrap() })).await;
    assert!(cluster.is_free().await);
}

#[tokio::test]
async fn grants_show_the_token_before_where_nothing_is_relayed() {
    let (server, cluster, quorum) = (RedisServer::start(), Fixture::cluster().await, Fixture::quorum().await);
    let compat = |compat| RedisBackend::new(at(server.addr()).compat(compat)).unwrap();
    let those =
        [cluster.through.clone(), quorum.through.clone(), compat(Compat::RedisPy), compat(Compat::PythonRedisLock)];
    for (backend, shows) in those.iter().map(|backend| (backend, true)).chain([(&client(server.addr()), false)]) {
        let store = backend.describe();
        assert_eq!(backend.relay().is_none(), shows, "{store}");
        let (first, grant) = granted(backend, &request(JOB, LONG)).await;
        assert_eq!(grant.previous_token, None, "a plain grant costs what it did: {store}");
        released(backend, &first).await;
        let (second, grant) = granted(backend, &request(JOB, LONG).with_reserved_tokens(9)).await;
        assert_eq!((grant.previous_token, grant.crashed), (first.token.filter(|_| shows), None), "{store}");
        released(backend, &second).await;
    }
}

#[tokio::test]
async fn a_grant_that_shows_the_token_before_names_a_crashed_holder() {
    let server = RedisServer::start();
    let backend = RedisBackend::new(at(server.addr()).compat(Compat::RedisPy)).unwrap();
    let (crashed, _) = granted(&backend, &request(JOB, LONG)).await;
    assert_eq!(server.command(&["DEL", JOB]), ":1\r\n");
    let (_, grant) = granted(&backend, &request(JOB, LONG).with_reserved_tokens(9)).await;
    assert_eq!(grant.previous_token, crashed.token);
    assert_eq!(grant.crashed.map(|holder| holder.token), Some(crashed.token));
}
