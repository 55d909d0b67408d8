//! First come, first served: what the server keeps, and what requests cost that meet a queue.

use std::time::{Duration, SystemTime};

use lock_core::{
    FencingToken, Mode,
    backend::{AcquireRequest, Backend, Break, LeaseId, Release},
};
use lock_redis::RedisBackend;
use test_support::redis::RedisServer;

use crate::fixture::{LONG, calls, client, granted, name, reader, refused, request, waiting_writer};

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

/// Returns the place of a request as the server keeps it: its end in microseconds, and the rest.
fn place(server: &RedisServer, request: &AcquireRequest) -> (u64, String) {
    let place = server.command(&["HGET", &format!("{LOCK}:p"), &request.id.to_string()]);
    let (end, rest) = place.lines().nth(1).and_then(|place| place.split_once(' ')).expect("it has a place");
    (end.parse().expect("a number"), rest.to_owned())
}

fn end_place_at(server: &RedisServer, request: &AcquireRequest, micros: u64) {
    let ended = format!("{micros:016} {}", place(server, request).1);
    assert_eq!(server.command(&["HSET", &format!("{LOCK}:p"), &request.id.to_string(), &ended]), ":0\r\n");
}

#[tokio::test]
// verifies: P12
async fn a_repeated_request_keeps_its_place_for_another_ttl() {
    let server = RedisServer::start();
    let (a, b) = (client(server.addr()), client(server.addr()));
    granted(&a, &request("job", LONG)).await;
    let first = fair();
    refused(&b, &first).await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let soon = u64::try_from((now + LONG / 2).as_micros()).unwrap();
    end_place_at(&server, &first, soon);
    refused(&b, &first).await;
    assert!(place(&server, &first).0 > soon);
}

#[tokio::test]
// verifies: P12, clock-set
async fn the_queue_keeps_its_order_when_the_servers_clock_goes_back() {
    let server = RedisServer::start();
    let (a, b) = (client(server.addr()), client(server.addr()));
    let (held, _) = granted(&a, &request("job", LONG)).await;
    let (first, second) = (fair(), fair());
    refused(&b, &first).await;
    // As taken by a clock that was far ahead.
    server.command(&["ZADD", &format!("{LOCK}:q"), "8000000000000000", &first.id.to_string()]);
    refused(&b, &second).await;
    a.release(&held, Duration::ZERO).await.unwrap();
    refused(&b, &second).await;
    granted(&b, &first).await;
}

#[tokio::test]
// verifies: P12
async fn a_fair_request_is_woken_before_those_that_are_not() {
    let server = RedisServer::start();
    let (a, b, c) = (client(server.addr()), client(server.addr()), client(server.addr()));
    granted(&a, &request("job", LONG)).await;
    let _sleeping = c.watch(&name("job")).await.unwrap().unwrap();
    let first = fair();
    refused(&b, &first).await;
    let next = server.command(&["ZRANGE", &format!("{LOCK}:w"), "0", "0"]);
    assert!(next.contains(&first.id.to_string()), "{next}");
}

#[tokio::test]
// verifies: P9, P12
async fn a_dead_place_between_readers_keeps_none_of_them_out() {
    let server = RedisServer::start();
    let (a, b) = (client(server.addr()), client(server.addr()));
    let (held, _) = granted(&a, &request("job", LONG)).await;
    let (first, dead, second) = (fair().with_mode(Mode::Shared), fair(), fair().with_mode(Mode::Shared));
    for request in [&first, &dead, &second] {
        refused(&b, request).await;
    }
    end_place_at(&server, &dead, 1);
    a.release(&held, Duration::ZERO).await.unwrap();
    granted(&b, &second).await;
    granted(&b, &first).await;
}

#[tokio::test]
// verifies: P12
async fn a_raised_token_does_not_hide_the_queue() {
    let server = RedisServer::start();
    let (a, b) = (client(server.addr()), client(server.addr()));
    for job in [request("job", LONG), reader("job")] {
        let (lease, _) = granted(&a, &job).await;
        let first = fair();
        refused(&b, &first).await;
        let raised = FencingToken::new(lease.token.unwrap().get() + 1_000_000).unwrap();
        assert!(a.advance_token(&lease, raised).await.unwrap());
        assert_eq!(letter(&server), 'F');
        a.release(&lease, Duration::ZERO).await.unwrap();
        let (lease, _) = granted(&b, &first).await;
        b.release(&lease, Duration::ZERO).await.unwrap();
    }
}

#[tokio::test]
// verifies: P9, P12
async fn a_crash_is_remembered_when_its_queue_has_ended() {
    let server = RedisServer::start();
    let (a, b) = (client(server.addr()), client(server.addr()));
    let (crashed, _) = granted(&a, &request("job", LONG)).await;
    refused(&b, &fair()).await;
    // As if all of them had expired.
    server.command(&["DEL", LOCK, &format!("{LOCK}:q"), &format!("{LOCK}:p")]);
    assert!(!a.admin().unwrap().purge(&name("job")).await.unwrap(), "the next holder must be told");
    let (_, grant) = granted(&b, &request("job", LONG)).await;
    assert_eq!(grant.crashed.and_then(|holder| holder.token), crashed.token);
}

#[tokio::test]
// verifies: P12
async fn a_newcomer_wakes_the_first_of_the_queue_of_a_free_lock() {
    let server = RedisServer::start();
    let (a, b) = (client(server.addr()), client(server.addr()));
    granted(&a, &request("job", LONG)).await;
    let first = fair();
    refused(&b, &first).await;
    let mut watch = b.watch_place(&first).await.unwrap().unwrap();
    refused(&b, &first).await;
    // As if the lease had expired, which wakes no client.
    server.command(&["DEL", LOCK]);
    refused(&a, &request("job", LONG)).await;
    tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.expect("the newcomer wakes it");
    granted(&b, &first).await;
}

#[tokio::test]
// verifies: P12
async fn a_queue_behind_the_lock_of_another_program_is_respected() {
    let server = RedisServer::start();
    let (a, b) = (client(server.addr()), client(server.addr()));
    server.command(&["SET", LOCK, "another program"]);
    let first = fair();
    refused(&b, &first).await;
    server.command(&["DEL", LOCK]);
    refused(&a, &request("job", LONG)).await;
    granted(&b, &first).await;
}

#[tokio::test]
// verifies: P12
async fn a_fair_writer_that_gives_up_wakes_the_reader_behind_it() {
    let server = RedisServer::start();
    let (a, b, c) = (client(server.addr()), client(server.addr()), client(server.addr()));
    granted(&a, &reader("job")).await;
    let (writer, behind) = (fair(), fair().with_mode(Mode::Shared));
    refused(&b, &writer).await;
    refused(&c, &behind).await;
    let mut watch = c.watch_place(&behind).await.unwrap().unwrap();
    refused(&c, &behind).await;
    b.release(&writer.lease(None), Duration::ZERO).await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.expect("the writer wakes it");
    granted(&c, &behind).await;
}
