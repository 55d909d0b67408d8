//! Redis in all its forms, behind networks with faults.

use std::{any::Any, time::Duration};

use integration::{
    Direction, Proxy,
    redis::{RedisCluster, RedisServer, command},
    sentinel::{Sentinel, SentinelSetup},
    tls::Certificates,
};
use lock_core::backend::{Backend, Release, Renewal};
use lock_redis::{Address, RedisBackend, RedisConfig, Topology};

use super::{claim, granted, with_timeouts};

/// The lock that all cases are about.
pub(crate) const JOB: &str = "job";
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// A client that reaches its servers through proxies, already connected, and an observer of the lock [`JOB`] that does not.
pub(crate) struct Rig {
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) through: RedisBackend,
    pub(crate) direct: RedisBackend,
    /// Another client like `through`.
    pub(crate) config: RedisConfig,
    /// The plain ports of the servers that have the lock.
    pub(crate) ports: Vec<u16>,
    _servers: Box<dyn Any + Send + Sync>,
}

fn tcp(port: u16) -> Address {
    Address::tcp("127.0.0.1", port)
}

/// An observer that asks one server, whatever it belongs to.
fn observer(server: &RedisServer) -> RedisBackend {
    super::client(server.addr())
}

/// A cluster, the proxies before its nodes, and how a client reaches it through them.
pub(crate) async fn cluster_behind_proxies() -> (RedisCluster, Vec<Proxy>, RedisConfig) {
    let cluster = RedisCluster::start();
    let proxies = cluster.behind_proxies().await;
    let seeds = vec![tcp(proxies[0].addr().port())];
    (cluster, proxies, with_timeouts(RedisConfig::new(Topology::Cluster(seeds))))
}

impl Rig {
    pub(crate) async fn standalone() -> Self {
        let server = RedisServer::start();
        let proxy = Proxy::start(server.addr()).await;
        let config = RedisConfig::standalone(tcp(proxy.addr().port()));
        Self::new(vec![proxy], config, observer(&server), vec![server.port()], Box::new(server)).await
    }

    pub(crate) async fn tls() -> Self {
        let certificates = Certificates::make();
        let server = RedisServer::with_tls(&certificates, &[]);
        let proxy = Proxy::start(([127, 0, 0, 1], server.tls_port()).into()).await;
        let (cert, key) = certificates.client();
        let config = RedisConfig::standalone(Address::tcp("localhost", proxy.addr().port()));
        let config = config.ca_file(certificates.ca()).client_certificate(cert, key);
        let ports = vec![server.port()];
        Self::new(vec![proxy], config, observer(&server), ports, Box::new((server, certificates))).await
    }

    pub(crate) async fn sentinel() -> Self {
        let server = RedisServer::start();
        let proxy = Proxy::start(server.addr()).await;
        let sentinel = Sentinel::naming(proxy.addr().port());
        let sentinels = vec![tcp(sentinel.port())];
        let config = RedisConfig::new(Topology::Sentinel { sentinels, service: SentinelSetup::SERVICE.into() });
        let ports = vec![server.port()];
        Self::new(vec![proxy], config, observer(&server), ports, Box::new((server, sentinel))).await
    }

    pub(crate) async fn cluster() -> Self {
        let (cluster, proxies, config) = cluster_behind_proxies().await;
        let owner = &cluster.nodes()[RedisCluster::node_of(cluster.slot(&format!("onelock:{{{JOB}}}")))];
        let (direct, ports) = (observer(owner), vec![owner.port()]);
        Self::new(proxies, config, direct, ports, Box::new(cluster)).await
    }

    pub(crate) async fn quorum() -> Self {
        let servers: Vec<_> = (0..3).map(|_| RedisServer::start()).collect();
        let ports: Vec<_> = servers.iter().map(RedisServer::port).collect();
        let mut proxies = Vec::new();
        for server in &servers {
            proxies.push(Proxy::start(server.addr()).await);
        }
        let all = |ports: Vec<u16>| RedisConfig::new(Topology::Quorum(ports.into_iter().map(tcp).collect()));
        let config = all(proxies.iter().map(|proxy| proxy.addr().port()).collect());
        let direct = RedisBackend::new(with_timeouts(all(ports.clone()))).unwrap();
        Self::new(proxies, config, direct, ports, Box::new(servers)).await
    }

    async fn new(
        proxies: Vec<Proxy>,
        config: RedisConfig,
        direct: RedisBackend,
        ports: Vec<u16>,
        servers: Box<dyn Any + Send + Sync>,
    ) -> Self {
        let config = with_timeouts(config);
        let through = RedisBackend::new(config.clone()).unwrap();
        let rig = Self { proxies, through, direct, config, ports, _servers: servers };
        // The servers know the scripts, else a lost reply would be one that asks for the text.
        let (lease, _) = granted(&rig.through, &claim(JOB, LONG)).await;
        assert_eq!(rig.through.renew(&lease).await.unwrap(), Renewal::Renewed);
        assert_eq!(rig.through.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
        rig
    }

    pub(crate) fn lose(&self, direction: Direction) {
        self.proxies.iter().for_each(|proxy| proxy.lose(direction));
    }

    pub(crate) fn hold(&self, direction: Direction) {
        self.proxies.iter().for_each(|proxy| proxy.hold(direction));
    }

    pub(crate) fn delay(&self, direction: Direction, delay: Duration) {
        self.proxies.iter().for_each(|proxy| proxy.delay(direction, delay));
    }

    pub(crate) fn cut(&self) {
        self.proxies.iter().for_each(Proxy::cut);
    }

    pub(crate) fn heal(&self) {
        self.proxies.iter().for_each(Proxy::heal);
    }

    /// How many scripts each server that has the lock has run.
    pub(crate) fn scripts_run(&self) -> Vec<u64> {
        let run = |&port: &u16| super::calls_in(&command(port, &["INFO", "commandstats"]).unwrap(), "eval");
        self.ports.iter().map(run).collect()
    }
}
