//! A request that the program does not drive any more, and the requests of others.

use std::time::Duration;

use lock_core::backend::Backend as _;
use lock_redis::{Address, RedisBackend, RedisConfig, Topology};
use test_support::{
    redis::{RedisCluster, RedisServer},
    sentinel::{Sentinel, SentinelSetup},
    undriven::{self, driven, undriven},
};

use crate::fixture::{LONG, client, granted, name, released, renewed, request, with_timeouts};

async fn others_connect(topology: Topology) {
    let config = RedisConfig::new(topology).connect_timeout(Duration::from_millis(300));
    undriven::others_connect(&RedisBackend::new(with_timeouts(config)).unwrap()).await;
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
    let _stuck = undriven(backend.watch(&name));
    let mut watch = driven(backend.watch(&name)).await.unwrap().unwrap();
    renewed(&backend, &lease).await;
    released(&backend, &lease).await;
    driven(watch.changed()).await;
}
