//! A request that the program does not drive any more, and the requests of others.

use std::{pin::pin, time::Duration};

use futures_util::FutureExt as _;
use lock_core::backend::{Backend as _, Renewal};
use lock_redis::{Address, RedisBackend, RedisConfig, Topology};
use test_support::{
    redis::{RedisCluster, RedisServer},
    sentinel::{Sentinel, SentinelSetup},
    until,
};

use crate::fixture::{LONG, client, granted, name, renewed, request};

/// Leaves the request that connects without polls. The others wait less than it takes to connect,
/// as they do in a quorum or with a short ttl.
async fn others_connect(topology: Topology) {
    let config = RedisConfig::new(topology).connect_timeout(Duration::from_millis(300));
    let backend = RedisBackend::new(config.timeout(Duration::from_millis(300))).unwrap();
    let (first, second) = (request("first", LONG), request("second", LONG));
    let mut stuck = pin!(backend.acquire(&first));
    assert!(stuck.as_mut().now_or_never().is_none(), "it is not connected yet");
    let lease = second.lease(None);
    until("another request to connect", async || {
        let patience = Duration::from_millis(100);
        tokio::time::timeout(patience, backend.renew(&lease)).await.is_ok_and(|renewed| renewed.is_ok())
    })
    .await;
    let (lease, _) = granted(&backend, &second).await;
    renewed(&backend, &lease).await;
    let _ = stuck.await;
    renewed(&backend, &lease).await;
}

fn address(port: u16) -> Address {
    Address::tcp("127.0.0.1", port)
}

#[tokio::test]
async fn a_connecting_request_that_is_not_driven_stops_no_other() {
    let server = RedisServer::start();
    others_connect(Topology::Standalone(address(server.port()))).await;
}

#[tokio::test]
async fn a_request_of_a_quorum_that_is_not_driven_stops_no_other() {
    let servers = [(); 3].map(|()| RedisServer::start());
    others_connect(Topology::Quorum(servers.iter().map(|server| address(server.port())).collect())).await;
}

#[tokio::test]
async fn a_request_to_a_sentinel_that_is_not_driven_stops_no_other() {
    let server = RedisServer::start();
    let sentinel = Sentinel::naming(server.port());
    let sentinels = vec![address(sentinel.port())];
    others_connect(Topology::Sentinel { sentinels, service: SentinelSetup::SERVICE.into() }).await;
}

#[tokio::test]
async fn a_request_to_a_cluster_that_is_not_driven_stops_no_other() {
    let cluster = RedisCluster::start();
    others_connect(Topology::Cluster(cluster.nodes().iter().map(|node| address(node.port())).collect())).await;
}

#[tokio::test]
async fn a_subscribing_request_that_is_not_driven_stops_no_other() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    let name = name("job");
    let mut stuck = pin!(backend.watch(&name));
    assert!(stuck.as_mut().now_or_never().is_none(), "the server has not answered yet");
    let other = tokio::time::timeout(Duration::from_secs(60), backend.watch(&name)).await;
    let mut watch = other.expect("it does not wait for the first request").unwrap().unwrap();
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed);
    backend.release(&lease, Duration::ZERO).await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.expect("it is woken");
}
