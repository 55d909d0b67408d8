//! Examinations of real servers, fit and unfit.

use lock_core::backend::{Backend, Finding, Level};
use lock_redis::{Address, RedisBackend, RedisConfig, Topology};
use test_support::{
    redis::{RedisCluster, RedisServer},
    sentinel::SentinelSetup,
};

use crate::fixture::{at, client};

fn level(findings: &[Finding], subject: &str) -> Level {
    let found = findings.iter().find(|finding| finding.subject == subject);
    found.unwrap_or_else(|| panic!("nothing on {subject} in {findings:#?}")).level
}

fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().expect("there are findings")
}

#[tokio::test]
async fn a_plain_server_is_fit_with_a_note_on_persistence() {
    let server = RedisServer::start();
    let findings = client(server.addr()).diagnose().await;
    assert_eq!(worst(&findings), Level::Note, "{findings:#?}");
    for (subject, expected) in [
        ("server version", Level::Good),
        ("maxmemory-policy", Level::Good),
        ("persistence", Level::Note),
        ("replicas", Level::Note),
        ("clock", Level::Good),
        ("user", Level::Note),
    ] {
        assert_eq!(level(&findings, subject), expected, "{subject}");
    }
    server.command(&["CONFIG", "SET", "appendonly", "yes"]);
    assert_eq!(level(&client(server.addr()).diagnose().await, "persistence"), Level::Good);
}

#[tokio::test]
async fn a_server_that_may_evict_locks_is_unfit() {
    let server = RedisServer::with_args(&["--maxmemory-policy", "allkeys-lru"]);
    assert_eq!(level(&client(server.addr()).diagnose().await, "maxmemory-policy"), Level::Warning, "without a limit");
    server.command(&["CONFIG", "SET", "maxmemory", "100mb"]);
    let findings = client(server.addr()).diagnose().await;
    assert_eq!(level(&findings, "maxmemory-policy"), Level::Unfit);
    let advice = findings.iter().find_map(|finding| finding.advice.as_deref().filter(|a| a.contains("noeviction")));
    assert_eq!(advice, Some("set maxmemory-policy to noeviction"));
}

#[tokio::test]
async fn missing_examination_rights_do_not_make_a_store_unfit() {
    let server = RedisServer::start();
    server.command(&["ACL", "SETUSER", "locks", "on", ">s3cret", "~onelock:*", "+eval", "+evalsha", "+ping", "+time"]);
    let login = || at(server.addr()).login("locks", "s3cret");
    let findings = RedisBackend::new(login()).unwrap().diagnose().await;
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!((level(&findings, "server"), findings[0].advice.is_some()), (Level::Note, true));
    server.command(&["ACL", "SETUSER", "locks", "+info", "+acl|whoami"]);
    let findings = RedisBackend::new(login()).unwrap().diagnose().await;
    assert_eq!(level(&findings, "user"), Level::Good);
    assert!(!format!("{findings:?}").contains("s3cret"), "{findings:?}");
}

#[tokio::test]
async fn a_replica_is_unfit_and_a_missing_server_a_warning() {
    let mut server = RedisServer::start();
    server.command(&["REPLICAOF", "127.0.0.1", "1"]);
    assert_eq!(level(&client(server.addr()).diagnose().await, "replicas"), Level::Unfit);
    server.kill();
    let findings = client(server.addr()).diagnose().await;
    assert_eq!((findings.len(), worst(&findings)), (1, Level::Warning), "{findings:#?}");
}

#[tokio::test]
async fn sentinels_report_when_a_failover_starts() {
    let setup = SentinelSetup::start();
    let mut sentinels: Vec<_> = setup.ports().into_iter().map(|port| Address::tcp("127.0.0.1", port)).collect();
    let unreachable = Address::tcp("127.0.0.1", test_support::free_port());
    sentinels.push(unreachable.clone());
    let topology = Topology::Sentinel { sentinels, service: SentinelSetup::SERVICE.into() };
    let findings = RedisBackend::new(RedisConfig::new(topology)).unwrap().diagnose().await;
    assert_eq!(level(&findings, "down-after-milliseconds"), Level::Note);
    assert!(findings.iter().any(|finding| finding.text.contains("starts 500ms after")), "{findings:#?}");
    assert_eq!(level(&findings, "sentinels"), Level::Good);
    assert_eq!(level(&findings, &format!("sentinel {unreachable}")), Level::Warning);
    assert_eq!(level(&findings, "replicas"), Level::Warning, "a failover may lose locks");
}

#[tokio::test]
async fn every_server_of_a_cluster_is_examined_and_one_alone_is_unfit() {
    let cluster = RedisCluster::start();
    let seeds = cluster.nodes().iter().map(|node| Address::tcp("127.0.0.1", node.port())).collect();
    cluster.nodes()[1].command(&["CONFIG", "SET", "maxmemory-policy", "volatile-lru"]);
    cluster.nodes()[1].command(&["CONFIG", "SET", "maxmemory", "100mb"]);
    let findings = RedisBackend::new(RedisConfig::new(Topology::Cluster(seeds))).unwrap().diagnose().await;
    assert_eq!(level(&findings, "cluster"), Level::Good);
    for (node, expected) in cluster.nodes().iter().zip([Level::Good, Level::Unfit, Level::Good]) {
        assert_eq!(level(&findings, &format!("127.0.0.1:{} maxmemory-policy", node.port())), expected);
    }
    assert_eq!(level(&client(cluster.nodes()[0].addr()).diagnose().await, "cluster"), Level::Unfit);
}

#[tokio::test]
async fn every_server_of_a_quorum_is_examined_and_a_silent_one_named() {
    let mut servers: Vec<_> = (0..3).map(|_| RedisServer::start()).collect();
    servers[2].kill();
    let addresses: Vec<_> = servers.iter().map(|server| Address::tcp("127.0.0.1", server.port())).collect();
    let config = RedisConfig::new(Topology::Quorum(addresses.clone()));
    let findings = RedisBackend::new(config).unwrap().diagnose().await;
    assert_eq!(level(&findings, &format!("{} server version", addresses[0])), Level::Good);
    assert_eq!(level(&findings, &format!("{} server", addresses[2])), Level::Warning);
    assert_eq!(worst(&findings), Level::Warning, "{findings:#?}");
}
