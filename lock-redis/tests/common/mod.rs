//! What several test files need.
#![allow(dead_code, reason = "every test file uses a part of it")]

pub(crate) mod rig;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use integration::redis::RedisServer;
use lock_core::{
    Guard, Holder, Lease, LeaseId, LockName, Locker,
    backend::{Attempt, Backend, Claim, Grant},
    testing::Vandalism,
};
use lock_redis::{Address, RedisBackend, RedisConfig};

/// A single server at `addr`, with timeouts for tests.
pub(crate) fn at(addr: SocketAddr) -> RedisConfig {
    with_timeouts(RedisConfig::standalone(Address::tcp(addr.ip().to_string(), addr.port())))
}

pub(crate) fn with_timeouts(config: RedisConfig) -> RedisConfig {
    config.timeout(Duration::from_millis(300))
}

pub(crate) fn client(addr: SocketAddr) -> RedisBackend {
    RedisBackend::new(at(addr)).unwrap()
}

pub(crate) fn locker(backend: RedisBackend, ttl: Duration) -> Locker {
    Locker::builder(Arc::new(backend)).ttl(ttl).build().unwrap()
}

pub(crate) fn name(text: &str) -> LockName {
    LockName::new(text).unwrap()
}

pub(crate) fn claim(text: &str, ttl: Duration) -> Claim {
    Claim { name: name(text), id: LeaseId::random(), owner: "test".into(), ttl: Some(ttl), data: None }
}

/// Acquires a lock that is free.
pub(crate) async fn granted(backend: &RedisBackend, claim: &Claim) -> (Lease, Grant) {
    match backend.acquire(claim).await.unwrap() {
        Attempt::Granted(grant) => (claim.lease(grant.token), grant),
        Attempt::Held(holder) => panic!("{} is held by {holder}", claim.name),
    }
}

/// Tries a lock that is held.
pub(crate) async fn refused(backend: &RedisBackend, claim: &Claim) -> Holder {
    match backend.acquire(claim).await.unwrap() {
        Attempt::Granted(_) => panic!("{} was free", claim.name),
        Attempt::Held(holder) => holder,
    }
}

/// How often the server has run `command`, as sent by clients or from scripts; all commands for "".
pub(crate) fn calls(server: &RedisServer, command: &str) -> u64 {
    calls_in(&server.command(&["INFO", "commandstats"]), command)
}

pub(crate) fn calls_in(stats: &str, command: &str) -> u64 {
    let prefix = format!("cmdstat_{command}");
    let lines = stats.lines().filter_map(|line| line.strip_prefix(&prefix)?.split_once("calls=")?.1.split_once(','));
    lines.map(|(calls, _)| calls.parse::<u64>().unwrap()).sum()
}

/// How many processes wait for the lock `name`, which has no braces.
pub(crate) fn queued(server: &RedisServer, name: &str) -> u32 {
    let reply = server.command(&["ZCARD", &format!("onelock:{{{name}}}:w")]);
    reply.trim().trim_start_matches(':').parse().unwrap()
}

/// Whether `guard` says that it is valid after the end that it has named itself.
pub(crate) fn outlives_its_validity(guard: &Guard) -> bool {
    let now = SystemTime::now();
    // In this order: a renewal may move the end, but only forward.
    guard.check().is_ok() && now > guard.expires_at().expect("it has a ttl")
}

/// Does to the keys of `name`, which has no braces, what a third party may do. Replicas and nodes with other slots say no.
pub(crate) fn vandalise(servers: &[RedisServer], what: Vandalism, name: &LockName) -> bool {
    let lock = format!("onelock:{{{}}}", name.as_str());
    let token = format!("{lock}:t");
    let command: &[&str] = match what {
        Vandalism::DeleteRecord => &["DEL", &lock],
        Vandalism::ReplaceRecord => &["SET", &lock, "0123456789abcdef0123456789abcdef", "PX", "600000"],
        Vandalism::DeleteToken => &["DEL", &token],
        _ => return false,
    };
    let done = servers.iter().filter(|server| !server.command(command).starts_with('-'));
    done.count() > 0
}
