//! Renewals that set locks again on servers of a quorum that lost them.

use std::time::Duration;

use lock_core::{
    FencingToken, Locker, LossReason, TryAcquire,
    backend::{AcquireRequest, Admin, Backend, Break, Lease, Level, Release, Renewal},
};
use lock_redis::{Address, RedisBackend, RedisConfig, Topology};
use test_support::{redis::RedisServer, until};

use crate::fixture::{LONG, client, granted, locker, name, request};

const LOCK: &str = "onelock:{job}";
const TOKEN: &str = "onelock:{job}:t";

fn start() -> (Vec<RedisServer>, RedisBackend) {
    let servers: Vec<_> = (0..3).map(|_| RedisServer::start()).collect();
    let backend = client_of(&servers);
    (servers, backend)
}

fn client_of(servers: &[RedisServer]) -> RedisBackend {
    let addresses = servers.iter().map(|server| Address::tcp("127.0.0.1", server.port())).collect();
    // A server that has just started may answer late on a busy machine.
    RedisBackend::new(RedisConfig::new(Topology::Quorum(addresses)).timeout(Duration::from_secs(2))).unwrap()
}

fn has(server: &RedisServer, key: &str) -> bool {
    server.command(&["EXISTS", key]) == ":1\r\n"
}

/// The token in a value that the server has at `key`, in the given field.
fn token_at(server: &RedisServer, key: &str, field: usize) -> FencingToken {
    let reply = server.command(&["GET", key]);
    let value = reply.lines().nth(1).unwrap();
    FencingToken::new(value.split(' ').nth(field).unwrap().parse().unwrap()).unwrap()
}

async fn renewed(backend: &RedisBackend, lease: &Lease) {
    assert_eq!(backend.renew(lease).await.unwrap(), Renewal::Renewed);
}

#[tokio::test]
// verifies: lost-record, lost-on-servers
async fn a_held_lock_survives_a_rolling_restart() {
    let (mut servers, backend) = start();
    let holder: Locker = locker(backend, Duration::from_secs(6));
    let guard = holder.acquire("job").await.unwrap();
    let other = locker(client_of(&servers), Duration::from_secs(6));
    for server in &mut servers {
        server.kill();
        server.restart();
        until("the repair", async || has(server, LOCK)).await;
        assert!(matches!(other.try_acquire("job").await.unwrap(), TryAcquire::Contended(_)));
        guard.check().unwrap();
    }
    guard.release().await.unwrap();
    assert!(servers.iter().all(|server| !has(server, LOCK)));
}

#[tokio::test]
async fn the_repaired_lock_has_the_same_record_and_token() {
    let (servers, backend) = start();
    let job = AcquireRequest::new(name("job"), request("job", LONG).id, "etl 7:1").with_ttl(LONG);
    let job = job.with_data(b"a + \0b".to_vec());
    let (lease, _) = granted(&backend, &job).await;
    let before = client(servers[0].addr()).inspect(&lease.name).await.unwrap().unwrap();
    servers[0].command(&["FLUSHALL"]);
    renewed(&backend, &lease).await;
    let after = client(servers[0].addr()).inspect(&lease.name).await.unwrap().unwrap();
    assert_eq!((&after.owner, &after.data, &after.version), (&before.owner, &before.data, &before.version));
    assert_eq!((after.token, token_at(&servers[0], TOKEN, 0)), (lease.token, lease.token.unwrap()));
}

#[tokio::test]
async fn a_server_that_missed_the_acquire_is_repaired() {
    let (mut servers, backend) = start();
    servers[1].kill();
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    servers[1].restart();
    until("the repair", async || {
        renewed(&backend, &lease).await;
        has(&servers[1], LOCK)
    })
    .await;
}

#[tokio::test]
// verifies: lost-on-servers
async fn a_repair_never_replaces_another_holder() {
    let (servers, backend) = start();
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    for foreign in [["SET", LOCK, "someone"], ["LPUSH", LOCK, "a list"]] {
        servers[0].command(&["FLUSHALL"]);
        servers[0].command(&foreign);
        renewed(&backend, &lease).await;
        assert!(!servers[0].command(&["TYPE", LOCK]).contains("none"));
        assert!(client(servers[0].addr()).inspect(&lease.name).await.unwrap().unwrap().foreign.is_some());
    }
    servers[0].command(&["FLUSHALL"]);
    let (other, _) = granted(&client(servers[0].addr()), &request("job", LONG)).await;
    renewed(&backend, &lease).await;
    let alone = client(servers[0].addr());
    assert_eq!(alone.renew(&other).await.unwrap(), Renewal::Renewed);
    // Once that holder is gone, the repair happens, and its larger token stays known.
    assert_eq!(alone.release(&other, Duration::ZERO).await.unwrap(), Release::Released);
    renewed(&backend, &lease).await;
    assert_eq!(token_at(&servers[0], LOCK, 2), lease.token.unwrap());
    assert_eq!(token_at(&servers[0], TOKEN, 0), other.token.unwrap());
}

#[tokio::test]
// verifies: lost-on-servers
async fn the_examination_reports_a_server_without_held_locks() {
    let (servers, backend) = start();
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    let levels = async || {
        let findings = backend.diagnose().await;
        let about_locks = findings.into_iter().filter(|finding| finding.subject.ends_with(" locks"));
        about_locks.map(|finding| finding.level).collect::<Vec<_>>()
    };
    assert_eq!(levels().await, [Level::Good; 3]);
    servers[1].command(&["FLUSHALL"]);
    assert_eq!(levels().await, [Level::Good, Level::Warning, Level::Good]);
    renewed(&backend, &lease).await;
    assert_eq!(levels().await, [Level::Good; 3]);
}

#[tokio::test]
// verifies: lost-on-servers
async fn a_minority_that_confirms_repairs_nothing() {
    let (servers, backend) = start();
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    for server in &servers[..2] {
        server.command(&["FLUSHALL"]);
    }
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Lost(LossReason::RecordGone));
    assert!(!has(&servers[0], LOCK) && !has(&servers[1], LOCK));
}

#[tokio::test]
async fn a_break_on_one_server_ends_the_lock_and_its_repair() {
    let (mut servers, backend) = start();
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    servers[0].command(&["FLUSHALL"]);
    servers[2].kill();
    let broken = backend.break_lock(&lease.name, &lease.id.to_string(), "alice").await.unwrap();
    assert_eq!(broken, Break::Broken);
    let trace = format!("{LOCK}:b:{}", lease.id);
    assert!(has(&servers[0], &trace), "the server without the lock refuses to be repaired");
    servers[2].restart();
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Lost(LossReason::BrokenBy("alice".into())));
    assert!(servers.iter().all(|server| !has(server, LOCK)));
}

#[tokio::test]
async fn a_break_that_a_majority_missed_still_ends_the_lease() {
    let (servers, backend) = start();
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    let one = client(servers[1].addr());
    assert_eq!(one.break_lock(&lease.name, &lease.id.to_string(), "alice").await.unwrap(), Break::Broken);
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Lost(LossReason::BrokenBy("alice".into())));
    assert!(!has(&servers[1], LOCK));
}

#[tokio::test]
async fn a_released_lock_is_not_repaired() {
    let (servers, backend) = start();
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    // The release reached one server only, and the two others still confirm the lease.
    let one = client(servers[0].addr());
    assert_eq!(one.release(&lease, LONG).await.unwrap(), Release::Released);
    renewed(&backend, &lease).await;
    assert!(one.inspect(&lease.name).await.unwrap().is_none_or(|holder| holder.version.is_none()));
}
