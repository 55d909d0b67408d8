//! Locks that replicas have confirmed.

use std::{sync::Arc, sync::OnceLock, time::Duration};

use lock_core::{
    ErrorKind, FencingToken, LockName, LossReason,
    backend::{Admin, Backend, Break, Renewal},
    testing::{Subject, Tampering},
};
use lock_redis::RedisBackend;
use test_support::{redis::RedisServer, until};

use crate::fixture::{self, LONG, at, granted, name, reader, refused, request};

static PAIR: OnceLock<(RedisServer, RedisServer)> = OnceLock::new();

fn pair() -> (RedisServer, RedisServer) {
    let primary = RedisServer::start();
    let replica = RedisServer::with_args(&["--replicaof", "127.0.0.1", &primary.port().to_string()]);
    // The state "online" precedes the stream of writes.
    primary.command(&["SET", "probe", "x"]);
    let follows = || {
        let streams = replica.command(&["INFO", "replication"]).contains("master_link_status:up");
        primary.command(&["SET", "probe", "y"]);
        streams && replica.command(&["GET", "probe"]).ends_with("y\r\n")
    };
    assert!(test_support::wait_for("the replica", follows));
    (primary, replica)
}

fn client_of(primary: &RedisServer) -> RedisBackend {
    RedisBackend::new(at(primary.addr()).timeout(Duration::from_millis(1000)).replicas(1)).unwrap()
}

struct Replicated;

#[async_trait::async_trait]
impl Subject for Replicated {
    async fn client(&self) -> Arc<dyn Backend> {
        Arc::new(client_of(&PAIR.get_or_init(pair).0))
    }

    fn may_ask_again(&self) -> bool {
        true
    }

    async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
        fixture::tamper(std::slice::from_ref(&PAIR.get_or_init(pair).0), what, name)
    }
}

lock_core::conformance! {
    #[tokio::test]
    Replicated,
    except = [
        (an_open_descriptor_keeps_the_lock_held, "the lock does not live in a descriptor"),
    ]
}

#[tokio::test]
// verifies: redis-topology
async fn a_lock_is_granted_only_if_the_replica_confirms() {
    let (primary, replica) = pair();
    let backend = client_of(&primary);
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    assert_eq!(replica.command(&["EXISTS", "onelock:{job}"]), ":1\r\n");
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed);
    replica.daemon().freeze();
    let error = backend.acquire(&request("other", LONG)).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && !error.is_ambiguous(), "{error}");
    assert_eq!(backend.inspect(&name("other")).await.unwrap(), None, "the attempt was rolled back");
    assert!(backend.renew(&lease).await.unwrap_err().is_retryable());
    refused(&backend, &request("job", LONG)).await;
    replica.daemon().thaw();
    until("the renewal", async || matches!(backend.renew(&lease).await, Ok(Renewal::Renewed))).await;
    granted(&backend, &request("other", LONG)).await;
}

#[tokio::test]
// verifies: P7, redis-topology
async fn a_raised_token_is_confirmed_by_the_replica() {
    let (primary, replica) = pair();
    let backend = client_of(&primary);
    for request in [request("job", LONG), reader("parts")] {
        let (lease, _) = granted(&backend, &request).await;
        let larger = FencingToken::new(lease.token.unwrap().get() + 60_000_000).unwrap();
        replica.daemon().freeze();
        let error = backend.advance_token(&lease, larger).await.unwrap_err();
        assert!(error.is_ambiguous() && error.is_retryable(), "{error}");
        let never = fixture::request(request.name.as_str(), LONG).with_mode(request.mode).lease(None);
        assert!(!backend.advance_token(&never, larger).await.unwrap(), "it holds nothing, whatever the replica has");
        replica.daemon().thaw();
        until("the replica", async || matches!(backend.advance_token(&lease, larger).await, Ok(true))).await;
        let kept = replica.command(&["GET", &format!("onelock:{{{}}}:t", request.name.as_str())]);
        assert!(kept.contains(&larger.get().to_string()), "{kept}");
    }
}

#[tokio::test]
// verifies: P3, redis-topology
async fn a_loss_is_told_though_no_replica_confirms() {
    let (primary, replica) = pair();
    let backend = client_of(&primary);
    for request_of in [|name: &str| request(name, LONG), reader] {
        let (lost, _) = granted(&backend, &request_of("job")).await;
        let (held, _) = granted(&backend, &request_of("other")).await;
        replica.daemon().freeze();
        let operator = RedisBackend::new(at(primary.addr()).timeout(Duration::from_secs(20))).unwrap();
        let broken = operator.break_lock(&lost.name, &lost.id.to_string(), "alice").await;
        assert_eq!(broken.unwrap(), Break::Broken);
        let renewals = backend.renew_many(&[lost, held.clone()]).await;
        let [Ok(Renewal::Lost(reason)), Err(error)] = &renewals[..] else { panic!("{renewals:?}") };
        assert_eq!(*reason, LossReason::BrokenBy("alice".into()));
        assert!(error.is_retryable(), "{error}");
        replica.daemon().thaw();
        until("the replica", async || matches!(backend.renew(&held).await, Ok(Renewal::Renewed))).await;
        fixture::released(&backend, &held).await;
    }
}

#[tokio::test]
async fn a_user_without_wait_rights_is_told_and_leaves_no_lock() {
    let (primary, _replica) = pair();
    let reply = primary.command(&["ACL", "SETUSER", "hasty", "on", ">s3cret", "~*", "&*", "+@all", "-wait"]);
    assert_eq!(reply, "+OK\r\n");
    // Loads the scripts.
    granted(&client_of(&primary), &request("before", LONG)).await;
    let backend = RedisBackend::new(at(primary.addr()).login("hasty", "s3cret").replicas(1)).unwrap();
    let error = backend.acquire(&request("job", LONG)).await.unwrap_err();
    assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::PermissionDenied, false), "{error}");
    assert_eq!(primary.command(&["EXISTS", "onelock:{job}"]), ":0\r\n", "the attempt was rolled back");
}

#[tokio::test]
async fn a_primary_demoted_during_confirmation_is_ambiguous() {
    let (primary, replica) = pair();
    let backend = client_of(&primary);
    granted(&backend, &request("before", LONG)).await;
    replica.daemon().freeze();
    let waiting = tokio::spawn(async move { backend.acquire(&request("job", LONG)).await });
    until("the wait", async || primary.command(&["INFO", "clients"]).contains("blocked_clients:1")).await;
    primary.command(&["REPLICAOF", "127.0.0.1", "1"]);
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Unavailable, true), "{error}");
    assert!(error.is_ambiguous(), "a demoted primary cannot roll back: {error:?}");
}
