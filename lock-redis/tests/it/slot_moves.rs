//! Locks of a cluster while their slot moves to another node.

use std::time::Duration;

use lock_core::backend::{Backend, Lease, Release, Renewal};
use test_support::redis::RedisCluster;

use crate::{
    cluster::{client_of, name_on, ok},
    fixture::{self, LONG, granted, request},
};

/// A slot that moves from the first node to the third.
pub(crate) struct Move<'a> {
    cluster: &'a RedisCluster,
    slot: String,
}

impl Move<'_> {
    pub(crate) fn begin(cluster: &RedisCluster, slot: u16) -> Move<'_> {
        let slot = slot.to_string();
        ok(&cluster.nodes()[2].command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &cluster.id(0)]));
        ok(&cluster.nodes()[0].command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &cluster.id(2)]));
        Move { cluster, slot }
    }

    pub(crate) fn key(&self, key: &str) {
        let port = self.cluster.nodes()[2].port().to_string();
        ok(&self.cluster.nodes()[0].command(&["MIGRATE", "127.0.0.1", &port, key, "0", "1000"]));
    }

    pub(crate) fn end(self) {
        for node in self.cluster.nodes() {
            ok(&node.command(&["CLUSTER", "SETSLOT", &self.slot, "NODE", &self.cluster.id(2)]));
        }
    }
}

#[tokio::test]
// verifies: redis-topology
async fn a_lock_is_renewed_and_released_while_its_slot_moves() {
    let cluster = RedisCluster::start();
    let backend = client_of(&cluster);
    let renewed = async |lease: &Lease| assert_eq!(backend.renew(lease).await.unwrap(), Renewal::Renewed);
    let (name, slot) = name_on(&cluster, 0, "moving");
    let (lease, _) = granted(&backend, &request(&name, LONG)).await;
    let lock = format!("onelock:{{{name}}}");
    let moving = Move::begin(&cluster, slot);
    renewed(&lease).await;
    // The old node redirects by ASK from now on.
    moving.key(&lock);
    renewed(&lease).await;
    moving.key(&format!("{lock}:t"));
    renewed(&lease).await;
    // An acquire names missing keys, and only a node that owns the whole slot knows that they are
    // missing.
    let error = backend.acquire(&request(&name, LONG)).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("being moved"), "{error:?}");
    let waiting = tokio::spawn({
        let (locker, name) = (fixture::locker(client_of(&cluster), LONG), name.clone());
        async move { locker.lock(name).acquire().await.unwrap() }
    });
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    moving.end();
    let next = waiting.await.unwrap();
    assert!(next.token() > lease.token);
    assert_eq!(next.release().await.unwrap(), Release::Released);
}

#[tokio::test]
// verifies: redis-topology, P12
async fn parts_are_renewed_and_released_while_their_slot_moves() {
    let cluster = RedisCluster::start();
    let backend = client_of(&cluster);
    let (name, slot) = name_on(&cluster, 0, "moving");
    let (first, _) = granted(&backend, &fixture::reader(&name)).await;
    let (second, _) = granted(&backend, &fixture::reader(&name)).await;
    let lock = format!("onelock:{{{name}}}");
    let moving = Move::begin(&cluster, slot);
    for key in [&lock, &format!("{lock}:t"), &format!("{lock}:h")] {
        moving.key(key);
        assert_eq!(backend.renew(&first).await.unwrap(), Renewal::Renewed);
    }
    let error = backend.acquire(&fixture::reader(&name)).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("being moved"), "{error:?}");
    assert_eq!(backend.release(&first, Duration::ZERO).await.unwrap(), Release::Released);
    moving.end();
    assert_eq!(backend.renew(&second).await.unwrap(), Renewal::Renewed);
    fixture::refused(&backend, &request(&name, LONG)).await;
    assert_eq!(backend.release(&second, Duration::ZERO).await.unwrap(), Release::Released);
    let (next, grant) = granted(&backend, &request(&name, LONG)).await;
    assert!(next.token > second.token && grant.crashed.is_none());
}

#[tokio::test]
// verifies: redis-topology
async fn a_lock_is_followed_after_its_slot_moved() {
    let cluster = RedisCluster::start();
    let backend = client_of(&cluster);
    let (name, slot) = name_on(&cluster, 0, "moved");
    let (lease, _) = granted(&backend, &request(&name, LONG)).await;
    let moving = Move::begin(&cluster, slot);
    moving.key(&format!("onelock:{{{name}}}"));
    moving.key(&format!("onelock:{{{name}}}:t"));
    moving.end();
    // The old node answers MOVED.
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed);
    fixture::refused(&backend, &request(&name, LONG)).await;
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
}

/// The reason of the loss is in several keys, which cannot be read meanwhile.
#[tokio::test]
// verifies: redis-topology, P3
async fn a_loss_is_reported_while_the_slot_moves() {
    let cluster = RedisCluster::start();
    let backend = client_of(&cluster);
    let (name, slot) = name_on(&cluster, 0, "moving");
    let (lease, _) = granted(&backend, &request(&name, LONG)).await;
    cluster.nodes()[0].command(&["DEL", &format!("onelock:{{{name}}}")]);
    let moving = Move::begin(&cluster, slot);
    let renewal = backend.renew(&lease).await.unwrap();
    assert!(matches!(renewal, Renewal::Lost(_)), "{renewal:?}");
    moving.key(&format!("onelock:{{{name}}}:t"));
    moving.end();
}
