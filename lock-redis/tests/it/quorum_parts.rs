//! Shared locks on independent servers: votes, repairs, and what operators see.

use std::time::Duration;

use lock_core::{
    ErrorKind, LossReason, Mode,
    backend::{Admin, Backend, Break, Lease, Level, Release, Renewal},
};
use lock_redis::{Address, RedisBackend, RedisConfig, Topology};
use test_support::redis::RedisServer;

use crate::fixture::{LONG, client, granted, name, permit, reader, refused, request, waiting_writer};

const LOCK: &str = "onelock:{job}";

fn start() -> (Vec<RedisServer>, RedisBackend) {
    let servers: Vec<_> = (0..3).map(|_| RedisServer::start()).collect();
    let addresses = servers.iter().map(|server| Address::tcp("127.0.0.1", server.port())).collect();
    let config = RedisConfig::new(Topology::Quorum(addresses)).timeout(Duration::from_secs(10));
    (servers, RedisBackend::new(config).unwrap())
}

async fn renewed(backend: &RedisBackend, lease: &Lease) {
    assert_eq!(backend.renew(lease).await.unwrap(), Renewal::Renewed);
}

async fn count(backend: &RedisBackend) -> u64 {
    backend.inspect(&name("job")).await.unwrap().map_or(0, |holder| holder.count())
}

#[tokio::test]
// verifies: P11, P12
async fn a_quorum_refuses_permits_which_majorities_could_exceed() {
    let (servers, backend) = start();
    assert!(backend.capabilities().shared && !backend.capabilities().permits);
    let error = backend.acquire(&permit("job", 2)).await.unwrap_err();
    assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::Unsupported, false));
    // Three holders of two permits, each with a majority of the servers.
    for holder in 0..3 {
        let request = permit("job", 2);
        for server in [holder, (holder + 1) % 3] {
            granted(&client(servers[server].addr()), &request).await;
        }
    }
}

#[tokio::test]
// verifies: lost-on-servers, P12
async fn parts_are_set_again_on_a_server_that_lost_them() {
    let (servers, backend) = start();
    let (first, _) = granted(&backend, &reader("job").with_data(b"a + \0b".to_vec())).await;
    let (second, _) = granted(&backend, &reader("job")).await;
    let alone = client(servers[0].addr());
    let before = alone.inspect(&first.name).await.unwrap().unwrap();
    for server in &servers {
        server.command(&["FLUSHALL"]);
        renewed(&backend, &first).await;
        renewed(&backend, &second).await;
    }
    let after = alone.inspect(&first.name).await.unwrap().unwrap();
    assert_eq!((after.count(), after.mode, &after.data), (2, Mode::Shared, &before.data));
    assert_eq!((after.version, after.token), (before.version, first.token));
    refused(&backend, &request("job", LONG)).await;
    let (third, _) = granted(&backend, &reader("job")).await;
    assert!(third.token > second.token);
    for lease in [&first, &second, &third] {
        assert_eq!(backend.release(lease, Duration::ZERO).await.unwrap(), Release::Released);
    }
    assert_eq!(granted(&backend, &request("job", LONG)).await.1.crashed, None);
}

#[tokio::test]
// verifies: lost-on-servers, P12
async fn a_repair_revives_no_part_that_ended() {
    let (servers, backend) = start();
    let (released, _) = granted(&backend, &reader("job")).await;
    let (broken, _) = granted(&backend, &reader("job")).await;
    let (staying, _) = granted(&backend, &reader("job")).await;
    let one = client(servers[0].addr());
    // The release and the break reach one server only, and the two others still confirm.
    assert_eq!(one.release(&released, LONG).await.unwrap(), Release::Released);
    renewed(&backend, &released).await;
    assert_eq!(one.break_lock(&broken.name, &broken.id.to_string(), "alice").await.unwrap(), Break::Broken);
    assert_eq!(backend.renew(&broken).await.unwrap(), Renewal::Lost(LossReason::BrokenBy("alice".into())));
    renewed(&backend, &staying).await;
    for ended in [&released, &broken] {
        assert_eq!(servers[0].command(&["ZSCORE", LOCK, &ended.id.to_string()]), "$-1\r\n");
    }
}

#[tokio::test]
// verifies: P1, P12
async fn a_repair_replaces_no_holder_of_another_mode() {
    let (servers, backend) = start();
    let (lease, _) = granted(&backend, &reader("job")).await;
    let alone = client(servers[0].addr());
    for other in [request("job", LONG), permit("job", 2)] {
        servers[0].command(&["FLUSHALL"]);
        let (other, _) = granted(&alone, &other).await;
        renewed(&backend, &lease).await;
        renewed(&alone, &other).await;
        let holder = alone.inspect(&lease.name).await.unwrap().unwrap();
        assert_eq!((holder.count(), holder.mode), (1, other.mode));
    }
}

#[tokio::test]
async fn servers_that_differ_in_order_name_the_same_holders() {
    let (servers, backend) = start();
    let mut leases = Vec::new();
    for _ in 0..3 {
        leases.push(granted(&backend, &reader("job")).await.0);
    }
    // Each server has another part that ends first.
    for (server, lease) in servers.iter().zip(&leases) {
        renewed(&client(server.addr()), &lease.clone().with_ttl(LONG / 2)).await;
    }
    assert_eq!(count(&backend).await, 3);
    let listed = backend.list("").await.unwrap().locks;
    assert_eq!(listed.iter().map(|(_, holder)| holder.count()).collect::<Vec<_>>(), [3]);
    // A part that only one server has holds nothing.
    let alone = client(servers[2].addr());
    let (minority, _) = granted(&alone, &reader("job").with_ttl(LONG / 4)).await;
    assert_eq!(refused(&backend, &request("job", LONG)).await.count(), 3);
    assert_eq!(count(&backend).await, 3);
    assert_eq!(alone.release(&minority, Duration::ZERO).await.unwrap(), Release::Released);
    for _ in 0..37 {
        granted(&backend, &reader("job")).await;
    }
    assert_eq!(count(&backend).await, 40);
}

#[tokio::test]
// verifies: lost-on-servers
async fn the_examination_counts_missing_parts() {
    let (servers, backend) = start();
    let (first, _) = granted(&backend, &reader("job")).await;
    granted(&backend, &reader("job")).await;
    let levels = async || {
        let findings = backend.diagnose().await;
        let about_locks = findings.into_iter().filter(|finding| finding.subject.ends_with(" locks"));
        about_locks.map(|finding| finding.level).collect::<Vec<_>>()
    };
    assert_eq!(levels().await, [Level::Good; 3]);
    servers[1].command(&["ZREM", LOCK, &first.id.to_string()]);
    assert_eq!(levels().await, [Level::Good, Level::Warning, Level::Good]);
    renewed(&backend, &first).await;
    assert_eq!(levels().await, [Level::Good; 3]);
}

#[tokio::test]
// verifies: P12
async fn a_waiting_writer_keeps_its_mark_between_attempts() {
    let (servers, backend) = start();
    let (reading, _) = granted(&backend, &reader("job")).await;
    let wait = waiting_writer("job");
    // Each attempt is rolled back, and the wait goes on.
    for _ in 0..2 {
        refused(&backend, &wait).await;
        let marked = servers.iter().filter(|server| server.command(&["EXISTS", "onelock:{job}:m"]) == ":1\r\n");
        assert_eq!(marked.count(), 3);
    }
    refused(&backend, &reader("job")).await;
    assert_eq!(backend.release(&reading, Duration::ZERO).await.unwrap(), Release::Released);
    refused(&backend, &reader("job")).await;
    let (writing, _) = granted(&backend, &wait).await;
    assert_eq!(backend.release(&writing, Duration::ZERO).await.unwrap(), Release::Released);
    granted(&backend, &reader("job")).await;
}

#[tokio::test]
// verifies: lost-on-servers, late-request, P12
async fn a_late_repair_sets_no_part_after_its_release() {
    let (servers, backend) = start();
    let (lease, _) = granted(&backend, &reader("job")).await;
    // The two marks that a release leaves, here by a clock that was ahead of the repair.
    let gone = [format!("{LOCK}:g:{}", lease.id), "9000000000000000".to_owned()];
    let released = [format!("{LOCK}:t"), format!("1 R{} 9000000000000000 ", lease.id)];
    for [key, value] in [gone, released] {
        servers[0].command(&["FLUSHALL"]);
        servers[0].command(&["SET", &key, &value]);
        renewed(&backend, &lease).await;
        assert_eq!(servers[0].command(&["ZSCORE", LOCK, &lease.id.to_string()]), "$-1\r\n", "{key}");
    }
}

#[tokio::test]
// verifies: lost-on-servers, P7, P12
async fn a_repair_keeps_the_larger_token_of_a_server() {
    let (servers, backend) = start();
    let (lease, _) = granted(&backend, &reader("job")).await;
    let token = format!("{LOCK}:t");
    servers[0].command(&["DEL", LOCK]);
    servers[0].command(&["SET", &token, "8000000000000000 R0123456789abcdef0123456789abcdef 1000000000000000 "]);
    renewed(&backend, &lease).await;
    let kept = servers[0].command(&["GET", &token]);
    assert!(kept.contains("8000000000000000 H"), "{kept}");
}
