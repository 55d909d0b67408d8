//! Keys of other applications in the places that onelock uses beside a lock.

use std::time::Duration;

use lock_core::{
    ErrorKind, Mode,
    backend::{AcquireRequest, Admin, Backend},
};
use lock_redis::{Compat, RedisBackend};
use test_support::redis::RedisServer;

use crate::fixture::{LONG, at, client, granted, locker, name, permit, reader, request, waiting_writer};

const LOCK: &str = "onelock:{job}";

/// Makes a key of each type that a lock may meet.
const TYPES: &[(&str, &[&str])] = &[
    ("string", &["SET", "text"]),
    ("hash", &["HSET", "field", "text"]),
    ("zset", &["ZADD", "7", "text"]),
    ("list", &["RPUSH", "text"]),
    ("set", &["SADD", "text"]),
    ("stream", &["XADD", "1-1", "field", "text"]),
];

/// The type that onelock itself uses at a key beside a lock.
const BESIDE: &[(&str, &str)] =
    &[("t", "string"), ("m", "string"), ("w", "zset"), ("q", "zset"), ("h", "hash"), ("p", "hash")];

#[tokio::test]
// verifies: not-ours
async fn a_key_of_another_type_beside_a_lock_is_never_changed() {
    let server = RedisServer::start();
    for (suffix, own) in BESIDE {
        for (kind, made) in TYPES.iter().filter(|(kind, _)| kind != own) {
            let key = format!("{LOCK}:{suffix}");
            for start in [None, Some(request("job", LONG)), Some(reader("job")), Some(permit("job", 1))] {
                server.command(&["FLUSHALL"]);
                let backend = client(server.addr());
                let mut held = Vec::new();
                let mut lease = None;
                if let Some(start) = &start {
                    lease = Some(granted(&backend, start).await.0);
                    held.push(start.clone());
                }
                server.command(&["DEL", &key]);
                let command: Vec<_> = [made[0], &*key].into_iter().chain(made[1..].iter().copied()).collect();
                server.command(&command);
                let before = server.command(&["DUMP", &key]);
                held.extend(use_all(&backend).await);
                // Only an exclusive lock is relayed.
                if let Some(lease) = lease.filter(|lease| !lease.mode.may_be_joined()) {
                    let next = request("job", LONG);
                    let _ = backend.relay().expect("a single server relays").relay(&lease, &next).await;
                    held.push(next);
                }
                for request in held {
                    let _ = backend.release(&request.lease(None), Duration::ZERO).await;
                }
                let _ = backend.purge(&name("job")).await;
                let context = format!("a {kind} at :{suffix}, held by {:?}", start.map(|start| start.mode));
                assert_eq!(server.command(&["DUMP", &key]), before, "{context}");
                assert_eq!(server.command(&["PTTL", &key]), ":-1\r\n", "{context}");
            }
        }
    }
}

/// Makes every kind of request, and returns the requests. The error of one names the key.
async fn use_all(backend: &RedisBackend) -> Vec<AcquireRequest> {
    let requests = [
        waiting_writer("job"),
        waiting_writer("job").with_fair(true),
        reader("job").with_waits(true),
        permit("job", 2).with_waits(true),
        request("job", LONG),
        reader("job"),
        reader("job").with_fair(true).with_waits(true),
        permit("job", 2),
    ];
    for request in &requests {
        if let Err(error) = backend.acquire(request).await {
            let text = error.to_string();
            let is_named = error.kind() == ErrorKind::Corrupt && text.contains("TYPE of all keys");
            assert!(is_named || error.kind() == ErrorKind::Config, "{text}");
        }
        let _ = backend.renew(&request.lease(None)).await;
        let _ = backend.release(&request.lease(None), Duration::ZERO).await;
    }
    requests.into()
}

#[tokio::test]
// verifies: not-ours
async fn a_grant_with_the_previous_token_overwrites_no_foreign_key() {
    let server = RedisServer::start();
    let backend = RedisBackend::new(at(server.addr()).compat(Compat::RedisPy)).unwrap();
    let key = "onelock-compat:{job}:t";
    server.command(&["RPUSH", key, "text"]);
    let before = server.command(&["DUMP", key]);
    let request = request("job", LONG).with_reserved_tokens(9);
    assert_eq!(backend.acquire(&request).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(server.command(&["DUMP", key]), before);
    assert_eq!(server.command(&["EXISTS", "job"]), ":0\r\n");
}

#[tokio::test]
// verifies: not-ours
async fn a_token_key_of_another_type_leaves_no_lock() {
    let server = RedisServer::start();
    let locker = locker(client(server.addr()), LONG);
    server.command(&["RPUSH", &format!("{LOCK}:t"), "text"]);
    for mode in [Mode::Exclusive, Mode::Shared] {
        let error = locker.lock("job").mode(mode).acquire().await.unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Corrupt, false), "{error}");
        locker.wait_idle().await;
        assert_eq!(server.command(&["EXISTS", LOCK]), ":0\r\n", "{error}");
    }
}
