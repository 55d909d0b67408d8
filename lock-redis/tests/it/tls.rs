//! TLS with a private authority and a client certificate: the conformance cases, and failures.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use lock_core::{
    ErrorKind, LockName,
    backend::{Admin, Backend, Release, Renewal},
    testing::{Subject, Tampering},
};
use lock_redis::{Address, RedisBackend, RedisConfig, Topology};
use test_support::{
    redis::{RedisCluster, RedisServer},
    sentinel::SentinelSetup,
    tls::Certificates,
    until,
};
use tokio::sync::Notify;

use crate::fixture::{self, LONG, granted, request};

static SERVER: OnceLock<(RedisServer, Certificates)> = OnceLock::new();

fn server() -> &'static (RedisServer, Certificates) {
    SERVER.get_or_init(|| {
        let certificates = Certificates::make();
        (RedisServer::with_tls(&certificates, &[]), certificates)
    })
}

fn config(host: &str) -> RedisConfig {
    RedisConfig::standalone(Address::tcp(host, server().0.tls_port()))
}

fn with_certificates(host: &str) -> RedisConfig {
    trusting(config(host), &server().1)
}

fn trusting(config: RedisConfig, certificates: &Certificates) -> RedisConfig {
    let (cert, key) = certificates.client();
    // In a debug build a handshake may take seconds if many share two processors.
    config.ca_file(certificates.ca()).client_certificate(cert, key).connect_timeout(Duration::from_secs(20))
}

fn on_localhost(port: u16) -> Address {
    Address::tcp("localhost", port)
}

/// Runs each kind of request with several locks, so that several nodes of a cluster are used.
async fn use_it(config: RedisConfig) {
    let backend = RedisBackend::new(config).unwrap();
    let mut leases = Vec::new();
    for n in 0..6 {
        leases.push(granted(&backend, &request(&format!("tls-{n}"), LONG)).await.0);
    }
    for renewal in backend.renew_many(&leases).await {
        assert_eq!(renewal.unwrap(), Renewal::Renewed);
    }
    assert_eq!(backend.list("tls-").await.unwrap().locks.len(), 6);
    let held = Arc::new(Notify::new());
    let waiting = tokio::spawn({
        let (locker, held) = (fixture::locker(backend.clone(), LONG), Arc::clone(&held));
        async move { locker.lock("tls-0").on_contention(move |_| held.notify_one()).acquire().await.unwrap() }
    });
    held.notified().await;
    for lease in &leases {
        assert_eq!(backend.release(lease, Duration::ZERO).await.unwrap(), Release::Released);
    }
    assert_eq!(waiting.await.unwrap().release().await.unwrap(), Release::Released);
}

#[tokio::test]
async fn tls_works_with_sentinels_before_and_after_a_failover() {
    let certificates = Certificates::make();
    let setup = SentinelSetup::with_tls(&certificates);
    let sentinels = setup.sentinels.iter().map(|sentinel| on_localhost(sentinel.tls_port())).collect();
    let config = RedisConfig::new(Topology::Sentinel { sentinels, service: SentinelSetup::SERVICE.into() });
    let config = trusting(config, &certificates);
    use_it(config.clone()).await;
    let backend = RedisBackend::new(config).unwrap();
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    setup.sentinels[0].command(&["SENTINEL", "FAILOVER", SentinelSetup::SERVICE]);
    setup.wait_for_primary(setup.servers[1].tls_port());
    until("the renewal on the new primary", async || matches!(backend.renew(&lease).await, Ok(Renewal::Renewed))).await;
    assert!(!setup.servers[1].command(&["PTTL", "onelock:{job}"]).starts_with(":-"), "the lock is there");
}

#[tokio::test]
async fn tls_works_with_all_nodes_of_a_cluster() {
    let certificates = Certificates::make();
    let cluster = RedisCluster::with_tls(&certificates);
    let seeds = vec![on_localhost(cluster.nodes()[0].tls_port())];
    use_it(trusting(RedisConfig::new(Topology::Cluster(seeds)), &certificates)).await;
    let used = cluster.nodes().iter().filter(|node| node.command(&["DBSIZE"]) != ":0\r\n").count();
    assert!(used > 1, "the locks were on several nodes");
}

#[tokio::test]
async fn tls_works_with_a_quorum() {
    let certificates = Certificates::make();
    let servers: Vec<_> = (0..3).map(|_| RedisServer::with_tls(&certificates, &[])).collect();
    let nodes = servers.iter().map(|server| on_localhost(server.tls_port())).collect();
    use_it(trusting(RedisConfig::new(Topology::Quorum(nodes)), &certificates)).await;
}

async fn kind(config: RedisConfig) -> (ErrorKind, bool) {
    let error = RedisBackend::new(config).unwrap().list("").await.unwrap_err();
    println!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
    (error.kind(), error.is_ambiguous())
}

struct Tls;

#[async_trait::async_trait]
impl Subject for Tls {
    async fn client(&self) -> Arc<dyn Backend> {
        let backend = RedisBackend::new(with_certificates("localhost")).unwrap();
        // On a loaded machine a handshake takes longer than the ttl of the cases. Each attempt of a
        // request would give up, and begin another handshake.
        backend.inspect(&fixture::name("connect")).await.unwrap();
        Arc::new(backend)
    }

    fn may_ask_again(&self) -> bool {
        true
    }

    async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
        fixture::tamper(std::slice::from_ref(&server().0), what, name)
    }
}

lock_core::conformance! {
    #[tokio::test]
    Tls,
    except = [
        (an_open_descriptor_keeps_the_lock_held, "the lock does not live in a descriptor"),
    ]
}

#[tokio::test]
async fn an_untrusted_authority_is_refused() {
    let (cert, key) = server().1.client();
    assert_eq!(kind(config("localhost").client_certificate(cert, key)).await, (ErrorKind::Config, false));
}

#[tokio::test]
// verifies: certificates
async fn a_self_signed_certificate_works_unless_it_is_an_authority() {
    let certificates = Certificates::make();
    for authority in [false, true] {
        let (cert, key) = certificates.self_signed(authority);
        let [cert, key] = [cert, key].map(|path| path.to_str().unwrap().to_owned());
        let args = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-auth-clients", "no"];
        let server = RedisServer::with_tls(&certificates, &args);
        let config = RedisConfig::standalone(on_localhost(server.tls_port())).ca_file(&cert);
        let backend = RedisBackend::new(config.connect_timeout(Duration::from_secs(20))).unwrap();
        let answer = backend.inspect(&fixture::name("job")).await;
        if authority {
            let error = answer.unwrap_err();
            assert!(error.kind() == ErrorKind::Config && error.to_string().contains("CA:FALSE"), "{error:?}");
        } else {
            assert_eq!(answer.unwrap(), None);
        }
    }
}

#[tokio::test]
async fn a_missing_client_certificate_is_a_config_error() {
    assert_eq!(kind(config("localhost").ca_file(server().1.ca())).await, (ErrorKind::Config, false));
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused() {
    assert_eq!(kind(with_certificates("127.0.0.1")).await, (ErrorKind::Config, false));
}

#[tokio::test]
async fn speaking_plainly_to_a_tls_port_is_an_error() {
    let (kind, ambiguous) = kind(config("localhost")).await;
    assert!(!ambiguous && kind != ErrorKind::Timeout, "{kind:?}");
}

#[test]
fn an_unreadable_certificate_is_named() {
    let error = RedisBackend::new(config("localhost").ca_file("/nonexistent/ca.pem")).unwrap_err();
    assert!(error.kind() == ErrorKind::Config && error.to_string().contains("/nonexistent/ca.pem"), "{error}");
}
