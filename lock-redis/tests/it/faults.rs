//! A real server that freezes, dies or loses data, and a network that loses packets and
//! connections.

use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use lock_core::{
    ErrorKind, LossReason,
    backend::{Admin, Backend, Release, Renewal},
};
use lock_redis::RedisBackend;
use test_support::{
    Direction::{Replies, Requests},
    Proxy,
    redis::RedisServer,
    until,
};

use crate::fixture::{self, LONG, at, client, granted, name, outlives_its_validity, queued, refused, request};

/// A server, its proxy, a connected client behind the proxy, and a client with a direct connection.
async fn behind_proxy() -> (RedisServer, Proxy, RedisBackend, RedisBackend) {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.addr()).await;
    let (through, direct) = (client(proxy.addr()), client(server.addr()));
    // Loads the scripts, so that a lost reply is never a NOSCRIPT.
    let (lease, _) = granted(&through, &request("warm", LONG)).await;
    assert_eq!(through.renew(&lease).await.unwrap(), Renewal::Renewed);
    assert_eq!(through.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    (server, proxy, through, direct)
}

#[tokio::test]
async fn a_cut_connection_is_replaced_by_the_next_request() {
    let (_server, proxy, through, _) = behind_proxy().await;
    let (lease, _) = granted(&through, &request("job", LONG)).await;
    for _ in 0..5 {
        let before = proxy.connections();
        proxy.cut();
        // The client may notice the cut only at its next request, whose reply is then lost.
        until("the renewal on a new connection", async || matches!(through.renew(&lease).await, Ok(Renewal::Renewed)))
            .await;
        assert_eq!(proxy.connections(), before + 1);
    }
}

#[tokio::test]
async fn a_silent_connection_is_replaced_despite_impatient_callers() {
    let (_server, proxy, through, _) = behind_proxy().await;
    let (lease, _) = granted(&through, &request("job", LONG)).await;
    let before = proxy.connections();
    // A cut without an error, as by a firewall that has dropped the state of the connection.
    proxy.hold(Requests);
    let patience = Duration::from_millis(50);
    let start = Instant::now();
    until("a second connection", async || {
        let _ = tokio::time::timeout(patience, through.renew(&lease)).await;
        proxy.connections() > before
    })
    .await;
    assert!(start.elapsed() >= Duration::from_millis(300), "the timeout had not passed");
    proxy.heal();
    until("the renewal", async || matches!(through.renew(&lease).await, Ok(Renewal::Renewed))).await;
}

#[tokio::test]
async fn a_busy_connection_that_answers_is_kept() {
    let (_server, proxy, _, direct) = behind_proxy().await;
    let (lease, _) = granted(&direct, &request("job", LONG)).await;
    let timeout = Duration::from_secs(3);
    let through = RedisBackend::new(at(proxy.addr()).timeout(timeout)).unwrap();
    assert_eq!(through.renew(&lease).await.unwrap(), Renewal::Renewed);
    proxy.delay(Requests, Duration::from_millis(50));
    let (before, sent) = (proxy.connections(), proxy.bytes(Requests));
    let mut under_way = FuturesUnordered::from_iter([through.renew(&lease)]);
    assert!(under_way.next().now_or_never().is_none());
    // From then on one request is in flight whenever another is answered.
    until("the first request to be sent alone", async || proxy.bytes(Requests) > sent).await;
    under_way.push(through.renew(&lease));
    let start = Instant::now();
    while start.elapsed() < timeout + timeout / 4 {
        assert_eq!(under_way.next().await.unwrap().unwrap(), Renewal::Renewed);
        under_way.push(through.renew(&lease));
    }
    assert_eq!(proxy.connections(), before);
}

#[tokio::test]
async fn an_unreachable_server_is_retried_once_for_all_callers() {
    let (_server, proxy, through, _) = behind_proxy().await;
    proxy.refuse();
    proxy.cut();
    let (before, probe) = (proxy.connections(), name("x"));
    let (start, mut attempts) = (Instant::now(), 0);
    // The number of attempts is only visible over a period.
    while start.elapsed() < Duration::from_millis(600) || attempts < 2 {
        let asked = (0..20).map(|_| through.inspect(&probe));
        futures_util::future::join_all(asked).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        attempts = proxy.connections() - before;
    }
    // The longest pause between two attempts is a second.
    let most = 8 + start.elapsed().as_secs();
    assert!(attempts <= most, "{attempts} connections for thousands of requests");
    proxy.heal();
    until("the server to be asked again", async || through.inspect(&name("x")).await.is_ok()).await;
}

#[tokio::test]
async fn requests_that_begin_together_share_one_connection() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.addr()).await;
    let (backend, probe) = (client(proxy.addr()), name("x"));
    let answers = futures_util::future::join_all((0..20).map(|_| backend.inspect(&probe))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(proxy.connections(), 1);
}

#[tokio::test]
async fn a_server_demoted_to_a_replica_is_reconnected() {
    let (server, proxy, through, _) = behind_proxy().await;
    let (lease, _) = granted(&through, &request("job", LONG)).await;
    // As if an operator swapped primary and replica and moved the name: the connection to the old
    // primary stays open.
    server.command(&["REPLICAOF", "127.0.0.1", "1"]);
    let before = proxy.connections();
    assert_eq!(through.renew(&lease).await.unwrap_err().kind(), ErrorKind::Full);
    assert!(through.renew(&lease).await.is_err());
    assert_eq!(proxy.connections(), before + 1, "the name may lead to the new primary now");
    server.command(&["REPLICAOF", "NO", "ONE"]);
    until("the renewal", async || matches!(through.renew(&lease).await, Ok(Renewal::Renewed))).await;
}

#[tokio::test]
async fn a_cancelled_connection_attempt_counts_as_failed() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.addr()).await;
    let patient = RedisBackend::new(at(proxy.addr()).connect_timeout(Duration::from_secs(600))).unwrap();
    // The proxy accepts connections but stays silent, so each caller would wait as long as the one
    // before.
    proxy.hold(Requests);
    let patience = Duration::from_millis(60);
    let told = async || matches!(tokio::time::timeout(patience, patient.inspect(&name("job"))).await, Ok(Err(_)));
    until("a caller to be told at once", told).await;
    proxy.heal();
    until("the server", async || patient.inspect(&name("job")).await.is_ok()).await;
}

#[tokio::test]
async fn a_failed_batch_renewal_reports_the_cause_for_each_lease() {
    let (_server, proxy, through, _) = behind_proxy().await;
    let mut leases = Vec::new();
    for name in ["a", "b"] {
        leases.push(granted(&through, &request(name, LONG)).await.0);
    }
    proxy.lose(Requests);
    let answers = through.renew_many(&leases).await;
    assert_eq!(answers.len(), 2);
    for (answer, lease) in answers.into_iter().zip(&leases) {
        let error = answer.unwrap_err();
        assert!(error.is_ambiguous() && error.name() == Some(&lease.name), "{error:?}");
        let cause = std::error::Error::source(&error).expect("the error of redis-rs").to_string();
        assert!(error.kind() == ErrorKind::Timeout && cause.contains("timed out"), "{error:?}");
    }
}

#[tokio::test]
// verifies: hung-renewal
async fn a_frozen_server_ends_the_guard_and_tokens_rise() {
    let server = RedisServer::start();
    let locker = fixture::locker(client(server.addr()), Duration::from_secs(2));
    let guard = locker.lock("job").acquire().await.unwrap();
    let token = guard.token().unwrap();
    server.daemon().freeze();
    // Checks continuously, because the violation could be brief.
    let watch = async {
        loop {
            assert!(!outlives_its_validity(&guard), "valid after the end of its validity");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let lost = tokio::select! {
        lost = guard.lost() => lost,
        () = watch => unreachable!("the watch never ends"),
    };
    assert!(matches!(lost.reason, LossReason::Unreachable { .. }), "{lost}");
    server.daemon().thaw();
    let other = fixture::locker(client(server.addr()), Duration::from_secs(2));
    let next = other.lock("job").acquire().await.unwrap();
    assert!(next.token().unwrap() > token);
    assert_eq!(next.release().await.unwrap(), Release::Released);
}

#[tokio::test]
// verifies: lost-record
async fn an_emptied_server_reports_the_loss_and_tokens_rise() {
    let mut server = RedisServer::start();
    let backend = client(server.addr());
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    server.kill();
    assert!(backend.renew(&lease).await.is_err());
    server.restart();
    until("the loss", async || match backend.renew(&lease).await {
        Ok(renewal) => {
            assert_eq!(renewal, Renewal::Lost(LossReason::RecordGone));
            true
        }
        Err(_) => false,
    })
    .await;
    let (next, _) = granted(&backend, &request("job", LONG)).await;
    assert!(next.token > lease.token);
    server.command(&["FLUSHALL"]);
    let (last, _) = granted(&backend, &request("job", LONG)).await;
    assert!(last.token > next.token);
}

#[tokio::test]
async fn an_expired_lease_differs_from_a_forgotten_one() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    let (lease, _) = granted(&backend, &request("job", Duration::from_millis(1))).await;
    until("the end of the lease", async || server.command(&["EXISTS", "onelock:{job}"]) == ":0\r\n").await;
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Lost(LossReason::Expired));
    server.command(&["FLUSHALL"]);
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Lost(LossReason::RecordGone));
    // A released lease has not expired, nor has one whose lock another client acquired and lost.
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Lost(LossReason::RecordGone));
    let (next, _) = granted(&backend, &request("job", LONG)).await;
    assert!(matches!(backend.renew(&lease).await.unwrap(), Renewal::Lost(LossReason::TakenBy(_))));
    server.command(&["DEL", "onelock:{job}"]);
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Lost(LossReason::RecordGone));
    assert_eq!(backend.renew(&next).await.unwrap(), Renewal::Lost(LossReason::Expired));
}

#[tokio::test]
// verifies: redis-topology
async fn scripts_missing_on_the_server_are_sent_again() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    server.command(&["SCRIPT", "FLUSH"]);
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed);
    server.command(&["SCRIPT", "FLUSH"]);
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
}

#[tokio::test]
async fn a_waiter_with_a_cut_connection_notices_the_release() {
    let (_server, proxy, through, direct) = behind_proxy().await;
    let (lease, _) = granted(&direct, &request("job", LONG)).await;
    let mut watch = through.watch(&name("job")).await.unwrap().unwrap();
    proxy.cut();
    tokio::time::timeout(LONG, watch.changed()).await.expect("the cut makes the waiter check");
    refused(&through, &request("job", LONG)).await;
    // Dropping the old connection wakes the waiter once more. Later wake-ups use the new
    // connection.
    while watch.changed().now_or_never().is_some() {
        refused(&through, &request("job", LONG)).await;
    }
    assert_eq!(direct.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    tokio::time::timeout(Duration::from_secs(20), watch.changed()).await.expect("the new connection is subscribed");
}

#[tokio::test]
async fn a_process_with_a_lost_leave_passes_its_wake_up_on() {
    let (server, proxy, through, direct) = behind_proxy().await;
    let (lease, _) = granted(&direct, &request("job", LONG)).await;
    granted(&direct, &request("other", LONG)).await;
    let gives_up = through.watch(&name("job")).await.unwrap().unwrap();
    let mut stays = through.watch(&name("other")).await.unwrap().unwrap();
    proxy.lose(Requests);
    drop(gives_up);
    proxy.refuse();
    proxy.cut();
    tokio::time::timeout(Duration::from_secs(60), stays.changed()).await.expect("the end of the connection wakes");
    proxy.heal();
    until("a new connection", async || through.acquire(&request("other", LONG)).await.is_ok()).await;
    let third = client(server.addr());
    let mut next = third.watch(&name("job")).await.unwrap().unwrap();
    assert_eq!(queued(&server, "job"), 2, "the server does not know that one has gone");
    assert_eq!(direct.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    let other_waiter = async {
        loop {
            stays.changed().await;
        }
    };
    tokio::select! {
        () = next.changed() => {}
        () = other_waiter => {}
        () = tokio::time::sleep(Duration::from_secs(20)) => panic!("the wake-up was swallowed"),
    }
}

#[tokio::test]
async fn a_waiter_that_gave_up_offline_leaves_the_queue_later() {
    let (server, proxy, through, direct) = behind_proxy().await;
    let (lease, _) = granted(&direct, &request("job", LONG)).await;
    let (held, _) = granted(&through, &request("held", LONG)).await;
    let mut gives_up = through.watch(&name("job")).await.unwrap().unwrap();
    proxy.refuse();
    proxy.cut();
    tokio::time::timeout(Duration::from_secs(60), gives_up.changed()).await.expect("the end of the connection wakes");
    drop(gives_up);
    proxy.heal();
    until("a new connection", async || through.renew(&held).await.is_ok()).await;
    until("the process to leave", async || queued(&server, "job") == 0).await;
    assert_eq!(direct.renew(&lease).await.unwrap(), Renewal::Renewed);
}

#[tokio::test]
async fn a_waiter_with_a_lost_wake_up_retries_by_itself() {
    let (server, _proxy, through, direct) = behind_proxy().await;
    let ttl = Duration::from_secs(3);
    let (lease, _) = granted(&direct, &request("job", ttl)).await;
    let locker = fixture::locker(through, ttl);
    let waiting = tokio::spawn(async move { locker.lock("job").acquire().await.unwrap() });
    until("the waiter to queue", async || queued(&server, "job") == 1).await;
    // A release wakes no process if the queue is empty, as after a failover that lost the queue.
    assert_eq!(server.command(&["DEL", "onelock:{job}:w"]), ":1\r\n");
    assert_eq!(direct.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    let guard = tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("the waiter retries").unwrap();
    assert_eq!(guard.release().await.unwrap(), Release::Released);
}

#[tokio::test]
async fn a_lost_wake_up_is_recovered_when_its_connection_ends() {
    let (server, proxy, through, direct) = behind_proxy().await;
    let (lease, _) = granted(&direct, &request("job", LONG)).await;
    let mut watch = through.watch(&name("job")).await.unwrap().unwrap();
    assert_eq!(queued(&server, "job"), 1);
    let before = proxy.bytes(Replies);
    proxy.lose(Replies);
    assert_eq!(direct.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    until("the wake-up to be lost", async || proxy.bytes(Replies) > before).await;
    let heard = tokio::time::timeout(Duration::from_millis(50), watch.changed()).await;
    assert!(heard.is_err(), "the wake-up was lost");
    proxy.heal();
    tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.expect("the end of the connection wakes");
}

#[tokio::test]
async fn a_waiter_checks_when_its_silent_connection_is_dropped() {
    let (_server, proxy, through, direct) = behind_proxy().await;
    let (lease, _) = granted(&direct, &request("job", LONG)).await;
    let mut watch = through.watch(&name("job")).await.unwrap().unwrap();
    proxy.hold(Replies);
    assert_eq!(direct.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    assert!(through.inspect(&name("other")).await.is_err(), "no answer comes");
    tokio::time::timeout(Duration::from_secs(60), watch.changed())
        .await
        .expect("the end of the silent connection wakes the waiter");
}

#[tokio::test]
async fn a_dead_or_cancelled_waiter_does_not_swallow_a_wake_up() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    // The first waiter dies silently. The second gives up. The third is woken and then gives up.
    // The fourth must be woken.
    let proxy = Proxy::start(server.addr()).await;
    let dead = client(proxy.addr()).watch(&name("job")).await.unwrap().unwrap();
    proxy.refuse();
    proxy.cut();
    let second = client(server.addr());
    let gave_up = second.watch(&name("job")).await.unwrap().unwrap();
    let third = client(server.addr());
    let mut woken = third.watch(&name("job")).await.unwrap().unwrap();
    let fourth = client(server.addr());
    let mut last = fourth.watch(&name("job")).await.unwrap().unwrap();
    drop(gave_up);
    until("the second to leave", async || queued(&server, "job") == 3).await;
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    tokio::time::timeout(Duration::from_secs(20), woken.changed()).await.expect("the third is the first live waiter");
    let early = tokio::time::timeout(Duration::from_millis(100), last.changed()).await;
    assert!(early.is_err(), "one release wakes one process");
    drop(woken);
    tokio::time::timeout(Duration::from_secs(20), last.changed()).await.expect("the wake-up was passed on");
    drop(dead);
}
