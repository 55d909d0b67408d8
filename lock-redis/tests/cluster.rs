//! A real cluster of three primaries.

mod common;

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use common::{claim, granted, until};
use integration::redis::RedisCluster;
use lock_core::{
    Lease, LockName,
    backend::{Backend, Release, Renewal},
    testing::Subject,
};
use lock_redis::{Address, RedisBackend, RedisConfig, Topology};

static CLUSTER: OnceLock<RedisCluster> = OnceLock::new();

const LONG: Duration = Duration::from_secs(600);

fn client_of(cluster: &RedisCluster) -> RedisBackend {
    patient_client_of(cluster, Duration::from_secs(2))
}

fn patient_client_of(cluster: &RedisCluster, timeout: Duration) -> RedisBackend {
    // Any node will do to find the others.
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
}

lock_core::conformance! {
    #[tokio::test]
    Cluster,
    except = [(a_descriptor_keeps_the_lock_held, "the lock does not live in a descriptor")]
}

/// A name with its lock on the node of that number.
fn name_on(cluster: &RedisCluster, node: usize, what: &str) -> (String, u16) {
    (0..)
        .map(|n| format!("{what}-{n}"))
        .find_map(|name| {
            let reply = cluster.nodes()[0].command(&["CLUSTER", "KEYSLOT", &format!("dlock:{{{name}}}")]);
            let slot: u16 = reply.trim().trim_start_matches(':').parse().unwrap();
            (usize::from(slot / 5462) == node).then_some((name, slot))
        })
        .unwrap()
}

#[tokio::test]
async fn a_lock_whose_slot_moves_is_followed() {
    let cluster = RedisCluster::start();
    let backend = client_of(&cluster);
    let (name, slot) = name_on(&cluster, 0, "moving");
    let slot = slot.to_string();
    let (lease, _) = granted(&backend, &claim(&name, LONG)).await;
    let (from, to) = (&cluster.nodes()[0], &cluster.nodes()[2]);
    let ok = |reply: String| assert_eq!(reply, "+OK\r\n");
    ok(to.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &cluster.id(0)]));
    ok(from.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &cluster.id(2)]));
    let (lock, port) = (format!("dlock:{{{name}}}"), to.port().to_string());
    let keys = [lock.clone(), format!("{lock}:t")];
    let migrate = ["MIGRATE", "127.0.0.1", &port, "", "0", "1000", "KEYS", &keys[0], &keys[1]];
    ok(from.command(&migrate));
    // The old node redirects by ASK now. A script also names keys that do not exist, and Redis then asks to try again: an error
    // that says so, until the slot has moved.
    let error = backend.renew(&lease).await.err();
    assert!(error.as_ref().is_none_or(|error| error.is_retryable() && !error.is_ambiguous()), "{error:?}");
    for node in cluster.nodes() {
        ok(node.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &cluster.id(2)]));
    }
    until("the renewal", async || matches!(backend.renew(&lease).await, Ok(Renewal::Renewed))).await;
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
}

#[tokio::test]
async fn a_dead_node_holds_up_no_lock_of_another() {
    let cluster = RedisCluster::start();
    // Whoever waits for the dead node does so for a minute.
    let backend = patient_client_of(&cluster, Duration::from_secs(60));
    let leases: Vec<Lease> = futures_util::future::join_all([0, 1, 2].map(async |node| {
        let (name, _) = name_on(&cluster, node, "spread");
        granted(&backend, &claim(&name, LONG)).await.0
    }))
    .await;
    cluster.nodes()[2].daemon().freeze();
    for _ in 0..5 {
        let start = Instant::now();
        let two = tokio::join!(backend.renew(&leases[0]), backend.renew(&leases[1]), async {
            // Somebody hangs on the dead node all the while.
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
        leases.push(granted(&backend, &claim(&format!("listed/{n:02}"), LONG)).await.0);
    }
    let names: Vec<LockName> = backend.list("listed/").await.unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, leases.iter().map(|lease| lease.name.clone()).collect::<Vec<_>>());
    let used = cluster.nodes().iter().filter(|node| node.command(&["DBSIZE"]) != ":0\r\n").count();
    assert_eq!(used, 3, "the locks are spread over all nodes");
    for renewal in backend.renew_many(&leases).await {
        assert_eq!(renewal.unwrap(), Renewal::Renewed);
    }
}
