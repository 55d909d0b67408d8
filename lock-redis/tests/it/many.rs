//! More clients than a server takes.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use futures_util::future::join_all;
use lock_core::{Error, ErrorKind, Locker, backend::Backend as _};
use lock_redis::{Address, RedisBackend, RedisConfig, Topology};
use test_support::{
    redis::{RedisCluster, RedisServer},
    sentinel::{Sentinel, SentinelSetup},
    until,
};

use crate::fixture::{LONG, at, request};

/// Takes all connections of a server.
fn fill(server: SocketAddr) -> Vec<TcpStream> {
    let connected = || {
        let mut stream = TcpStream::connect(server).ok()?;
        stream.set_read_timeout(Some(LONG)).ok()?;
        stream.write_all(b"PING\r\n").ok()?;
        let mut reply = [0; 7];
        stream.read_exact(&mut reply).ok()?;
        (&reply == b"+PONG\r\n").then_some(stream)
    };
    std::iter::from_fn(connected).collect()
}

/// Checks that a server without a free connection throttles, and that it is used once it has one.
async fn check(config: RedisConfig, servers: &[&RedisServer]) {
    for server in servers {
        server.command(&["CONFIG", "SET", "maxclients", "20"]);
    }
    let taken: Vec<_> = servers.iter().flat_map(|server| fill(server.addr())).collect();
    let error = RedisBackend::new(config.clone()).unwrap().acquire(&request("job", LONG)).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Throttled, true), "{config}: {error:?}");
    assert!(!error.is_ambiguous() && error.to_string().contains("raise maxclients"), "{config}: {error}");
    drop(taken);
    let backend = RedisBackend::new(config).unwrap();
    until("a free connection", async || backend.acquire(&request("job", LONG)).await.is_ok()).await;
}

#[tokio::test]
// verifies: throttled
async fn a_server_without_a_free_connection_throttles() {
    let server = RedisServer::start();
    check(at(server.addr()), &[&server]).await;
    // Another one, because the first may not have noticed yet which connections have ended.
    let server = RedisServer::start();
    check(RedisConfig::standalone(Address::Unix(server.socket())), &[&server]).await;
}

#[tokio::test]
// verifies: throttled
async fn a_primary_or_a_cluster_without_a_free_connection_throttles() {
    let server = RedisServer::start();
    let sentinel = Sentinel::naming(server.port());
    let sentinels = vec![Address::tcp("127.0.0.1", sentinel.port())];
    check(RedisConfig::new(Topology::Sentinel { sentinels, service: SentinelSetup::SERVICE.into() }), &[&server]).await;

    let cluster = RedisCluster::start();
    let nodes: Vec<_> = cluster.nodes().iter().collect();
    let seeds = nodes.iter().map(|node| Address::tcp("127.0.0.1", node.port())).collect();
    check(RedisConfig::new(Topology::Cluster(seeds)), &nodes).await;
}

#[tokio::test]
// verifies: throttled
async fn more_waiters_than_connections_each_get_their_turn() {
    let server = RedisServer::with_args(&["--maxclients", "4"]);
    let waiters = (0..12).map(|_| {
        let locker = Locker::new(RedisBackend::new(at(server.addr())).unwrap()).unwrap();
        // The connection ends with the locker.
        tokio::spawn(async move {
            let guard = locker.acquire("job").await?;
            let token = guard.require_token()?;
            guard.release().await?;
            Ok::<_, Error>(token)
        })
    });
    let mut tokens = Vec::new();
    for waiter in join_all(waiters.collect::<Vec<_>>()).await {
        tokens.push(waiter.unwrap().expect("a full server is no failure"));
    }
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 12);
}
