//! First come, first served: what the server keeps, and what requests cost that meet a queue.

use std::time::Duration;

use lock_core::{
    ErrorKind,
    backend::{AcquireRequest, Backend, Break, LeaseId, Release},
};
use lock_redis::RedisBackend;
use test_support::redis::RedisServer;

use crate::fixture::{LONG, calls, client, granted, locker, name, reader, refused, request, waiting_writer};

const LOCK: &str = "onelock:{job}";

/// A fair request that is repeated while it is refused.
fn fair() -> AcquireRequest {
    waiting_writer("job").with_fair(true)
}

/// Returns the letter in the key of the token.
fn letter(server: &RedisServer) -> char {
    let kept = server.command(&["GET", &format!("{LOCK}:t")]);
    kept.split(' ').nth(1).and_then(|state| state.chars().next()).expect("a letter follows the token")
}

fn keys(server: &RedisServer) -> Vec<String> {
    let keys = server.command(&["KEYS", "*"]);
    let mut keys: Vec<_> = keys.lines().filter(|line| line.starts_with("onelock:")).map(str::to_owned).collect();
    keys.sort();
    keys
}

#[tokio::test]
// verifies: P12
async fn the_queue_ends_with_its_last_place() {
    let server = RedisServer::start();
    let (a, b) = (client(server.addr()), client(server.addr()));
    let (held, _) = granted(&a, &request("job", LONG)).await;
    assert_eq!(letter(&server), 'H');
    let (first, second) = (fair(), fair());
    refused(&b, &first).await;
    refused(&b, &second).await;
    assert_eq!(letter(&server), 'F');
    assert_eq!(a.release(&held, Duration::ZERO).await.unwrap(), Release::Released);
    assert_eq!(letter(&server), 'Q');
    let (lease, _) = granted(&b, &first).await;
    assert_eq!(letter(&server), 'F');
    b.release(&second.lease(None), Duration::ZERO).await.unwrap();
    assert_eq!(letter(&server), 'H');
    assert_eq!(b.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    assert_eq!(letter(&server), 'R');
    let marks = [first, second].map(|request| format!("{LOCK}:g:{}", request.id));
    let left: Vec<_> = keys(&server).into_iter().filter(|key| !marks.contains(key)).collect();
    assert_eq!(left, [format!("{LOCK}:t")]);
}

/// Sends one request, and returns how many script calls that took.
async fn cost(server: &RedisServer, backend: &RedisBackend, request: &AcquireRequest) -> u64 {
    let before = calls(server, "eval");
    let _ = backend.acquire(request).await.unwrap();
    calls(server, "eval") - before
}

#[tokio::test]
// verifies: P12
async fn only_requests_that_meet_a_queue_on_a_free_lock_pay_for_it() {
    let server = RedisServer::start();
    let (a, b) = (client(server.addr()), client(server.addr()));
    // The server does not know a script before its first use.
    for request in [fair(), request("job", LONG)] {
        let (lease, _) = granted(&a, &request).await;
        a.release(&lease, Duration::ZERO).await.unwrap();
    }
    let (held, _) = granted(&a, &request("job", LONG)).await;
    let (first, newcomer) = (fair(), request("job", LONG));
    assert_eq!(cost(&server, &b, &first).await, 1, "a fair request that is refused");
    assert_eq!(cost(&server, &b, &newcomer).await, 1, "the lock is held");
    let before = calls(&server, "eval");
    a.release(&held, Duration::ZERO).await.unwrap();
    assert_eq!(calls(&server, "eval") - before, 1, "a release for which a fair request waits");
    assert_eq!(cost(&server, &b, &newcomer).await, 2, "the lock is free, and a place is ahead");
    assert_eq!(cost(&server, &b, &first).await, 1, "a fair request that is granted");
    let before = calls(&server, "eval");
    b.release(&first.lease(None), Duration::ZERO).await.unwrap();
    assert_eq!(calls(&server, "eval") - before, 1, "its release");
}

#[tokio::test]
// verifies: P12, late-request
async fn a_fair_request_after_the_release_of_its_id_takes_no_place() {
    let server = RedisServer::start();
    let (a, b) = (client(server.addr()), client(server.addr()));
    let (held, _) = granted(&a, &request("job", LONG)).await;
    let late = fair();
    refused(&b, &late).await;
    // As sent before the release: the mark of the release has a later stamp.
    b.release(&late.lease(None), Duration::ZERO).await.unwrap();
    let gone = format!("{LOCK}:g:{}", late.id);
    assert_eq!(server.command(&["SET", &gone, "9999999999999999"]), "+OK\r\n");
    assert!(b.acquire(&late).await.is_err(), "its id has been released");
    assert_eq!(a.release(&held, Duration::ZERO).await.unwrap(), Release::Released);
    granted(&a, &request("job", LONG)).await;
}

#[tokio::test]
// verifies: P3, P12
async fn a_break_wakes_the_first_of_the_queue() {
    let server = RedisServer::start();
    let (a, b) = (client(server.addr()), client(server.addr()));
    for shared in [false, true] {
        let job = if shared { reader("job") } else { request("job", LONG) };
        granted(&a, &job).await;
        let first = fair();
        refused(&b, &first).await;
        let mut watch = b.watch_place(&first).await.unwrap().unwrap();
        refused(&b, &first).await;
        let admin = a.admin().unwrap();
        let version = admin.inspect(&name("job")).await.unwrap().unwrap().version.unwrap();
        assert_eq!(admin.break_lock(&name("job"), &version, "an operator").await.unwrap(), Break::Broken);
        tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.expect("the break wakes it");
        refused(&a, &request("job", LONG)).await;
        let (lease, _) = granted(&b, &first).await;
        assert_eq!(b.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    }
}

#[tokio::test]
// verifies: P12, lost-reply
async fn a_waiter_that_leaves_its_turn_wakes_the_next() {
    let server = RedisServer::start();
    let (a, b, c) = (client(server.addr()), client(server.addr()), client(server.addr()));
    let (held, _) = granted(&a, &request("job", LONG)).await;
    let (first, second) = (fair(), fair());
    refused(&b, &first).await;
    refused(&c, &second).await;
    let mut watch = c.watch_place(&second).await.unwrap().unwrap();
    refused(&c, &second).await;
    // The first one does not listen. The server passes its wake-up on.
    assert_eq!(a.release(&held, Duration::ZERO).await.unwrap(), Release::Released);
    tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.expect("woken in place of the first");
    refused(&c, &second).await;
    b.release(&first.lease(None), Duration::ZERO).await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.expect("the first one leaves");
    granted(&c, &second).await;
}

/// A key that holds another type, as another client may write it.
#[tokio::test]
// verifies: odd-entries
async fn a_script_that_fails_after_the_grant_leaves_no_lock() {
    let server = RedisServer::start();
    let locker = locker(client(server.addr()), LONG);
    server.command(&["SET", &format!("{LOCK}:p"), "text"]);
    let error = locker.lock("job").fair(true).acquire().await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Corrupt, false));
    locker.wait_idle().await;
    assert_eq!(server.command(&["EXISTS", LOCK]), ":0\r\n", "{error}");
}

#[tokio::test]
// verifies: odd-entries
async fn a_place_of_another_client_keeps_no_request_out() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    let other = LeaseId::random().to_string();
    for place in ["nonsense", "9000000000000000", "9000000000000000 nonsense", "9000000000000000 channel y me"] {
        for next in [fair(), request("job", LONG), reader("job")] {
            server.command(&["ZADD", &format!("{LOCK}:q"), "1", &other]);
            server.command(&["HSET", &format!("{LOCK}:p"), &other, place]);
            server.command(&["SET", &format!("{LOCK}:t"), "1700000000000000 Q"]);
            let (lease, _) = granted(&backend, &next).await;
            assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released, "{place}");
        }
    }
}
