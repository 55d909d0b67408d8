//! What a quorum concludes when its servers disagree, or too few of them answer.

use std::time::Duration;

use lock_core::{
    Error, ErrorKind, FencingToken, LossReason,
    backend::{AcquireOutcome, Admin, Backend, Renewal},
};
use lock_redis::{Address, RedisBackend, RedisConfig, Topology};
use test_support::redis::RedisServer;

use crate::fixture::{LONG, client, granted, name, released, renewed, request};

const LOCK: &str = "onelock:{job}";
const TOKEN: &str = "onelock:{job}:t";

fn start() -> (Vec<RedisServer>, RedisBackend) {
    let servers: Vec<_> = (0..3).map(|_| RedisServer::start()).collect();
    let addresses = servers.iter().map(|server| Address::tcp("127.0.0.1", server.port())).collect();
    let config = RedisConfig::new(Topology::Quorum(addresses)).timeout(Duration::from_secs(10));
    (servers, RedisBackend::new(config).unwrap())
}

#[tokio::test]
// verifies: P7
async fn the_largest_token_of_the_servers_is_granted_and_kept() {
    let (mut servers, backend) = start();
    servers[0].command(&["SET", TOKEN, "8000000000000000 R0123456789abcdef0123456789abcdef 1000000000000000 "]);
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    assert_eq!(lease.token, FencingToken::new(8_000_000_000_000_001));
    released(&backend, &lease).await;
    servers[0].kill();
    let (next, _) = granted(&backend, &request("job", LONG)).await;
    assert!(next.token > lease.token, "the other servers know the token");
}

#[tokio::test]
// verifies: P7
async fn a_token_that_a_majority_may_lack_is_an_error() {
    let (mut servers, backend) = start();
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    let larger = FencingToken::new(lease.token.unwrap().get() + 60_000_000).unwrap();
    assert!(backend.advance_token(&lease, larger).await.unwrap());
    servers[1].command(&["DEL", LOCK]);
    assert!(backend.advance_token(&lease, larger).await.unwrap(), "two of three");
    servers[2].kill();
    let error = backend.advance_token(&lease, larger).await.unwrap_err();
    assert!(error.is_ambiguous() && error.is_retryable(), "{error:?}");
}

#[tokio::test]
// verifies: silent-server
async fn an_answer_of_a_minority_answers_nothing() {
    let (mut servers, backend) = start();
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    let unsure = |error: Error| assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    servers[0].kill();
    unsure(backend.purge(&name("free")).await.unwrap_err());
    servers[1].kill();
    unsure(backend.inspect(&lease.name).await.unwrap_err());
    unsure(backend.list("").await.unwrap_err());
    unsure(backend.watch(&lease.name).await.map(|_| ()).unwrap_err());
    unsure(backend.release(&request("job", LONG).lease(None), Duration::ZERO).await.unwrap_err());
    let never = request("job", LONG).id.to_string();
    unsure(backend.break_lock(&lease.name, &never, "alice").await.unwrap_err());
}

#[tokio::test]
// verifies: P3
async fn the_server_that_knows_most_gives_the_reason_of_a_loss() {
    let (servers, backend) = start();
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    servers[0].command(&["FLUSHALL"]);
    // The token tells that this id has not released.
    servers[1].command(&["DEL", LOCK]);
    servers[2].command(&["FLUSHALL"]);
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Lost(LossReason::Expired));
    let (other, _) = granted(&client(servers[0].addr()), &request("job", LONG)).await;
    let renewal = backend.renew(&lease).await.unwrap();
    let Renewal::Lost(LossReason::TakenBy(holder)) = renewal else { panic!("{renewal:?}") };
    assert_eq!(holder.version, Some(other.id.to_string()));
}

#[tokio::test]
async fn a_lock_is_found_again_only_by_a_majority() {
    let (servers, backend) = start();
    let request = request("job", LONG);
    for (forgetful, already_ours) in [(0, false), (0, true), (1, true), (2, false), (3, false)] {
        for server in &servers[..forgetful] {
            server.command(&["DEL", LOCK]);
        }
        let AcquireOutcome::Granted(grant) = backend.acquire(&request).await.unwrap() else { panic!("it is ours") };
        assert_eq!(grant.already_ours, already_ours, "{forgetful} servers lost the lock");
        renewed(&backend, &request.lease(grant.token)).await;
    }
}
