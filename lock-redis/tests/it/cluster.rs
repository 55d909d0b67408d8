//! A real cluster of three primaries.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use lock_core::{
    Error, ErrorKind, LockName, LossReason,
    backend::{AcquireOutcome, Admin, Backend, Break, Lease, Release, Renewal},
    testing::{Subject, Tampering},
};
use lock_redis::{Address, Compat, RedisBackend, RedisConfig, Topology};
use test_support::{
    Direction::Replies,
    redis::{RedisCluster, RedisServer},
    until,
};
use tokio::sync::Notify;

use crate::{
    fixture::{self, LONG, cluster_behind_proxies, granted, request},
    slot_moves::Move,
};

static CLUSTER: OnceLock<RedisCluster> = OnceLock::new();

pub(crate) fn client_of(cluster: &RedisCluster) -> RedisBackend {
    patient_client_of(cluster, Duration::from_secs(2))
}

fn patient_client_of(cluster: &RedisCluster, timeout: Duration) -> RedisBackend {
    // Any node is enough to find the others.
    let seed = Address::tcp("127.0.0.1", cluster.nodes()[1].port());
    RedisBackend::new(RedisConfig::new(Topology::Cluster(vec![seed])).timeout(timeout)).unwrap()
}

struct Cluster;

#[async_trait::async_trait]
impl Subject for Cluster {
    async fn client(&self) -> Arc<dyn Backend> {
        Arc::new(client_of(CLUSTER.get_or_init(RedisCluster::start)))
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn may_ask_again(&self) -> bool {
        true
    }

    async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
        fixture::tamper(CLUSTER.get_or_init(RedisCluster::start).nodes(), what, name)
    }
}

lock_core::conformance! {
    #[tokio::test]
    Cluster,
    except = [
        (an_open_descriptor_keeps_the_lock_held, "the lock does not live in a descriptor"),
    ]
}

/// Finds a name whose lock is on the given node, and its slot.
pub(crate) fn name_on(cluster: &RedisCluster, node: usize, what: &str) -> (String, u16) {
    (0..)
        .map(|n| format!("{what}-{n}"))
        .find_map(|name| {
            let slot = cluster.slot(&format!("onelock:{{{name}}}"));
            (RedisCluster::node_of(slot) == node).then_some((name, slot))
        })
        .unwrap()
}

pub(crate) fn ok(reply: &str) {
    assert_eq!(reply, "+OK\r\n");
}

#[tokio::test]
async fn an_unserved_slot_is_an_error_only_for_its_locks() {
    let cluster = RedisCluster::start();
    let backend = client_of(&cluster);
    let ((gone, slot), (other, _)) = (name_on(&cluster, 0, "gone"), name_on(&cluster, 1, "other"));
    for node in cluster.nodes() {
        ok(&node.command(&["CLUSTER", "DELSLOTS", &slot.to_string()]));
    }
    let error = backend.acquire(&request(&gone, LONG)).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains("CLUSTER INFO"), "{error}");
    granted(&backend, &request(&other, LONG)).await;
    ok(&cluster.nodes()[2].command(&["CLUSTER", "ADDSLOTS", &slot.to_string()]));
    until("the slot", async || matches!(backend.acquire(&request(&gone, LONG)).await, Ok(AcquireOutcome::Granted(_))))
        .await;
}

#[tokio::test]
async fn a_silent_node_is_reconnected_while_others_continue() {
    let (cluster, proxies, config) = cluster_behind_proxies().await;
    let backend = RedisBackend::new(config).unwrap();
    let mut leases = Vec::new();
    for node in 0..3 {
        leases.push(granted(&backend, &request(&name_on(&cluster, node, "silent").0, LONG)).await.0);
    }
    // Like a firewall that has dropped the state of one connection: packets vanish without an
    // error.
    proxies[2].hold(Replies);
    let before = proxies[2].connections();
    let stop = Arc::new(Notify::new());
    let others = tokio::spawn({
        let (backend, leases, stop) = (backend.clone(), leases.clone(), Arc::clone(&stop));
        async move {
            loop {
                for lease in &leases[..2] {
                    assert_eq!(backend.renew(lease).await.unwrap(), Renewal::Renewed);
                }
                let pause = tokio::time::sleep(Duration::from_millis(5));
                tokio::select! {
                    () = stop.notified() => return,
                    () = pause => {}
                }
            }
        }
    });
    let patience = Duration::from_millis(100);
    until("a new connection", async || {
        // Its callers give up before any timeout of a connection.
        let _ = tokio::time::timeout(patience, backend.renew(&leases[2])).await;
        proxies[2].connections() > before
    })
    .await;
    stop.notify_one();
    others.await.expect("the other nodes' locks were renewed meanwhile");
    proxies[2].heal();
    until("the silent node", async || matches!(backend.renew(&leases[2]).await, Ok(Renewal::Renewed))).await;
}

#[tokio::test]
async fn a_lock_without_replica_confirmation_is_not_granted() {
    let cluster = RedisCluster::with_replicas();
    let seed = Address::tcp("127.0.0.1", cluster.nodes()[0].port());
    let config = RedisConfig::new(Topology::Cluster(vec![seed])).timeout(Duration::from_secs(1)).replicas(1);
    let backend = RedisBackend::new(config).unwrap();
    let ((name, slot), (other, _)) = (name_on(&cluster, 0, "confirmed"), name_on(&cluster, 1, "other"));
    // A replica that has just connected may not confirm yet.
    let granted_in_the_end = async |name: &str| {
        let mut lease = None;
        until("the replica to confirm", async || {
            let request = request(name, LONG);
            if let Ok(AcquireOutcome::Granted(grant)) = backend.acquire(&request).await {
                lease = Some(request.lease(grant.token));
            }
            lease.is_some()
        })
        .await;
        lease.unwrap()
    };
    let lease = granted_in_the_end(&name).await;
    let on =
        |server: &RedisServer, name: &str| server.command(&["KEYS", &format!("onelock:{{{name}}}")]).contains(name);
    assert!(on(&cluster.replicas()[0], &name), "the replica has what was granted");
    cluster.replicas()[0].daemon().freeze();
    let error = backend.renew(&lease).await.unwrap_err();
    assert!(error.to_string().contains("0 of 1 replicas"), "{error}");
    let (second, _) = name_on(&cluster, 0, "more");
    let error = backend.acquire(&request(&second, LONG)).await.unwrap_err();
    assert!(error.to_string().contains("0 of 1 replicas"), "{error}");
    assert!(!on(&cluster.nodes()[0], &second), "the attempt was undone");
    granted_in_the_end(&other).await;
    cluster.replicas()[0].daemon().thaw();
    until("the replica", async || matches!(backend.renew(&lease).await, Ok(Renewal::Renewed))).await;
    // After the move the replica of the new node confirms.
    let moving = Move::begin(&cluster, slot);
    moving.key(&format!("onelock:{{{name}}}"));
    moving.key(&format!("onelock:{{{name}}}:t"));
    moving.end();
    until("the renewal there", async || matches!(backend.renew(&lease).await, Ok(Renewal::Renewed))).await;
    assert!(on(&cluster.replicas()[2], &name));
    cluster.replicas()[2].daemon().freeze();
    assert!(backend.renew(&lease).await.unwrap_err().to_string().contains("0 of 1 replicas"));
}

/// Runs every operation, so that all keys of a lock are used.
async fn use_all(backend: &RedisBackend, name: &str) {
    let (first, rival) = (request(name, LONG), request(name, LONG));
    let (lease, _) = granted(backend, &first).await;
    let watch = backend.watch(&first.name).await.unwrap();
    fixture::refused(backend, &rival).await;
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed, "{name:?}");
    let version = backend.inspect(&first.name).await.unwrap().expect("it is held").version.unwrap();
    let listed: Vec<_> = backend.list(name).await.unwrap().locks.into_iter().map(|(name, _)| name).collect();
    assert_eq!(listed, std::slice::from_ref(&first.name));
    assert_eq!(backend.break_lock(&first.name, &version, "test").await.unwrap(), Break::Broken);
    let lost = Renewal::Lost(LossReason::BrokenBy("test".into()));
    assert_eq!(backend.renew(&lease).await.unwrap(), lost, "{name:?}");
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::NotHeld(None));
    drop(watch);
    let (next, _) = granted(backend, &rival).await;
    assert!(next.token > lease.token, "{name:?}");
    assert_eq!(backend.release(&next, Duration::ZERO).await.unwrap(), Release::Released);
    assert!(backend.purge(&first.name).await.unwrap());
}

/// These names have no prefix, unlike the names in the conformance suite.
#[tokio::test]
async fn names_with_braces_keep_all_keys_in_one_slot() {
    let cluster = RedisCluster::start();
    let seed = || vec![Address::tcp("127.0.0.1", cluster.nodes()[1].port())];
    let config = || RedisConfig::new(Topology::Cluster(seed())).timeout(Duration::from_secs(2));
    let native = RedisBackend::new(config()).unwrap();
    let like_redis_py = RedisBackend::new(config().compat(Compat::RedisPy)).unwrap();
    for name in
        ["}", "}x", "{", "{}", "}{", "{x}", "{}{x}", "{{x}}", "x}y", "x{y", "x{y}z", "%", "%7Dx", "%25", "*", "\0"]
    {
        use_all(&native, name).await;
        use_all(&like_redis_py, name).await;
    }
    // Names that would have one key without the escape.
    granted(&native, &request("}x", LONG)).await;
    granted(&native, &request("%7Dx", LONG)).await;
}

#[tokio::test]
async fn a_replica_takes_over_the_locks_of_a_node_that_died() {
    let mut cluster = RedisCluster::with_replicas();
    let seed = Address::tcp("127.0.0.1", cluster.nodes()[1].port());
    let backend = RedisBackend::new(RedisConfig::new(Topology::Cluster(vec![seed]))).unwrap();
    let (kept, _) = name_on(&cluster, 0, "kept");
    let (lease, _) = granted(&backend, &request(&kept, LONG)).await;
    let replicated = async || cluster.replicas()[0].command(&["KEYS", "*"]).contains(&format!("{{{kept}}}:t"));
    until("the replica to have the lock", replicated).await;
    cluster.kill(0);
    until("the failover", async || matches!(backend.renew(&lease).await, Ok(Renewal::Renewed))).await;
    // The client may still try the dead node.
    let other = request(&kept, LONG);
    let refused = answered(async || backend.acquire(&other).await).await;
    assert!(matches!(refused, AcquireOutcome::Contended(_)), "{refused:?}");
    let released = answered(async || backend.release(&lease, Duration::ZERO).await).await;
    assert_eq!(released, Release::Released);
    let next = request(&kept, LONG);
    let AcquireOutcome::Granted(grant) = answered(async || backend.acquire(&next).await).await else {
        panic!("it was released")
    };
    assert!(grant.token > lease.token);
}

/// Repeats a request as long as its error asks for that.
async fn answered<T>(mut ask: impl AsyncFnMut() -> Result<T, Error>) -> T {
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_dead_node_delays_no_lock_on_other_nodes() {
    let cluster = RedisCluster::start();
    // A request to the dead node waits for a minute.
    let backend = patient_client_of(&cluster, Duration::from_secs(60));
    let leases: Vec<Lease> = futures_util::future::join_all([0, 1, 2].map(async |node| {
        let (name, _) = name_on(&cluster, node, "spread");
        granted(&backend, &request(&name, LONG)).await.0
    }))
    .await;
    cluster.nodes()[2].daemon().freeze();
    for _ in 0..5 {
        let start = Instant::now();
        let two = tokio::join!(backend.renew(&leases[0]), backend.renew(&leases[1]), async {
            // Another request waits for the dead node meanwhile.
            let _ = tokio::time::timeout(Duration::from_millis(100), backend.renew(&leases[2])).await;
        });
        assert_eq!((two.0.unwrap(), two.1.unwrap()), (Renewal::Renewed, Renewal::Renewed));
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }
    cluster.nodes()[2].daemon().thaw();
    until("the third node", async || matches!(backend.renew(&leases[2]).await, Ok(Renewal::Renewed))).await;
}

#[tokio::test]
async fn locks_of_all_nodes_are_listed_and_renewed_together() {
    let cluster = RedisCluster::start();
    let backend = client_of(&cluster);
    let mut leases = Vec::new();
    for n in 0..30 {
        leases.push(granted(&backend, &request(&format!("listed/{n:02}"), LONG)).await.0);
    }
    let names: Vec<LockName> = backend.list("listed/").await.unwrap().locks.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, leases.iter().map(|lease| lease.name.clone()).collect::<Vec<_>>());
    let used = cluster.nodes().iter().filter(|node| node.command(&["DBSIZE"]) != ":0\r\n").count();
    assert_eq!(used, 3, "the locks are spread over all nodes");
    for renewal in backend.renew_many(&leases).await {
        assert_eq!(renewal.unwrap(), Renewal::Renewed);
    }
}
