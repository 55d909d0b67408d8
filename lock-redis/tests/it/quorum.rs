//! Independent servers of which a majority decides.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use lock_core::{
    ErrorKind, FencingToken, LockName, LossReason,
    backend::{AcquireOutcome, Admin, Backend, Break, Release, Renewal},
    testing::{Subject, Tampering},
};
use lock_redis::{Address, RedisBackend, RedisConfig, Topology};
use test_support::{Direction, lost_messages::Network as _, redis::RedisServer, until};

use crate::fixture::{self, Fixture, LONG, client, granted, left, name, refused, request};

static SERVERS: OnceLock<Vec<RedisServer>> = OnceLock::new();

fn start(number: usize) -> Vec<RedisServer> {
    (0..number).map(|_| RedisServer::start()).collect()
}

fn client_of(servers: &[RedisServer]) -> RedisBackend {
    // The cost of a frozen server if the ttl is long.
    patient_client_of(servers, Duration::from_secs(1))
}

fn patient_client_of(servers: &[RedisServer], timeout: Duration) -> RedisBackend {
    let addresses = servers.iter().map(|server| Address::tcp("127.0.0.1", server.port())).collect();
    RedisBackend::new(RedisConfig::new(Topology::Quorum(addresses)).timeout(timeout)).unwrap()
}

struct Majority;

#[async_trait::async_trait]
impl Subject for Majority {
    async fn client(&self) -> Arc<dyn Backend> {
        Arc::new(patient_client_of(SERVERS.get_or_init(|| start(3)), Duration::from_secs(10)))
    }

    fn ttl(&self) -> Duration {
        // A server has a tenth of the ttl to answer, even if many tests share two processors.
        Duration::from_secs(4)
    }

    fn votes(&self) -> bool {
        true
    }

    fn may_ask_again(&self) -> bool {
        true
    }

    async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
        fixture::tamper(SERVERS.get_or_init(|| start(3)), what, name)
    }
}

lock_core::conformance! {
    #[tokio::test]
    Majority,
    except = [
        (modes, "each server of a majority grants n permits, which are more than n in all"),
        (fair, "the servers may see the requests of several clients in different orders"),
        (an_open_descriptor_keeps_the_lock_held, "the lock does not live in a descriptor"),
    ]
}

#[tokio::test]
async fn a_minority_may_be_dead_or_frozen() {
    let mut servers = start(5);
    let backend = client_of(&servers);
    let (lease, _) = granted(&backend, &request("before", LONG)).await;
    servers[4].kill();
    servers[3].daemon().freeze();
    let start = Instant::now();
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed);
    let (next, _) = granted(&backend, &request("after", LONG)).await;
    assert_eq!(backend.release(&next, Duration::ZERO).await.unwrap(), Release::Released);
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "a frozen server costs its timeout, not more: {:?}",
        start.elapsed()
    );
    servers[2].kill();
    let error = backend.renew(&lease).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.is_ambiguous(), "{error}");
    let error = backend.acquire(&request("again", LONG)).await.unwrap_err();
    assert!(error.is_ambiguous(), "{error}");
    servers[3].daemon().thaw();
    until("the third server", async || matches!(backend.renew(&lease).await, Ok(Renewal::Renewed))).await;
}

#[tokio::test]
// verifies: lost-record
async fn a_majority_without_the_lock_ends_it_and_tokens_rise() {
    let mut servers = start(3);
    let backend = client_of(&servers);
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    for server in &mut servers[..2] {
        server.kill();
        server.restart();
    }
    until("the loss", async || matches!(backend.renew(&lease).await, Ok(Renewal::Lost(_)))).await;
    let mut last = lease.token;
    for down in [0, 1, 2, 0, 1, 2] {
        servers[down].daemon().freeze();
        // A frozen server runs its requests later, so its part of an old lock may stay until that
        // ttl ends.
        let mut held = None;
        until("a majority", async || {
            let request = request("other", Duration::from_secs(1));
            match backend.acquire(&request).await {
                Ok(AcquireOutcome::Granted(grant)) => held = Some(request.lease(grant.token)),
                Ok(AcquireOutcome::Contended(_)) | Err(_) => {}
            }
            held.is_some()
        })
        .await;
        let lease = held.unwrap();
        assert!(lease.token > last, "{:?} after {last:?}", lease.token);
        last = lease.token;
        // The two remaining servers have a tenth of the ttl to answer.
        until("the release", async || backend.release(&lease, Duration::ZERO).await.is_ok()).await;
        servers[down].daemon().thaw();
        until("all servers", async || client(servers[down].addr()).inspect(&lease.name).await.is_ok()).await;
    }
}

#[tokio::test]
async fn servers_keep_a_lock_longer_than_its_promised_ttl() {
    let servers = start(3);
    let backend = client_of(&servers);
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    let longer = || {
        servers.iter().all(|server| {
            let left = left(server, "onelock:{job}").try_into().unwrap();
            // The two requests between take less than half of the difference.
            Duration::from_millis(left) > LONG + LONG / 200
        })
    };
    assert!(longer(), "their clocks may be faster by 1 %");
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed);
    assert!(longer());
}

#[tokio::test]
async fn an_attempt_without_majority_leaves_nothing_behind() {
    let servers = start(3);
    let backend = client_of(&servers);
    // Another client holds the lock on two of the three servers.
    for server in &servers[..2] {
        granted(&client(server.addr()), &request("job", LONG)).await;
    }
    refused(&backend, &request("job", LONG)).await;
    assert_eq!(servers[2].command(&["EXISTS", "onelock:{job}"]), ":0\r\n");
}

#[tokio::test]
async fn a_minority_that_forgot_the_lock_does_not_end_it() {
    let servers = start(3);
    let backend = client_of(&servers);
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    // One renews, one does not hold it, and one may have renewed.
    servers[0].command(&["FLUSHALL"]);
    servers[2].daemon().freeze();
    let error = backend.renew(&lease).await.unwrap_err();
    assert!(error.is_retryable() && error.is_ambiguous(), "{error:?}");
    servers[1].command(&["FLUSHALL"]);
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Lost(LossReason::RecordGone));
}

#[tokio::test]
async fn a_release_known_to_a_minority_is_ambiguous() {
    let servers = start(3);
    let backend = client_of(&servers);
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    servers[0].command(&["FLUSHALL"]);
    servers[2].daemon().freeze();
    let error = backend.release(&lease, Duration::ZERO).await.unwrap_err();
    assert!(error.is_retryable() && error.is_ambiguous(), "{error:?}");
    servers[2].daemon().thaw();
    until("the last server", async || backend.release(&lease, Duration::ZERO).await.is_ok()).await;
    assert_eq!(backend.inspect(&lease.name).await.unwrap(), None);
}

#[tokio::test]
async fn a_lock_on_a_minority_is_not_held() {
    let servers = start(3);
    let backend = client_of(&servers);
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    assert_eq!(backend.list("").await.unwrap().locks.len(), 1);
    for server in &servers[..2] {
        server.command(&["FLUSHALL"]);
    }
    assert_eq!(backend.inspect(&name("job")).await.unwrap(), None);
    assert_eq!(backend.list("").await.unwrap().locks, []);
    let larger = FencingToken::new(lease.token.unwrap().get() + 1).unwrap();
    assert!(!backend.advance_token(&lease, larger).await.unwrap(), "a token that only a minority knows");
}

#[tokio::test]
async fn all_servers_are_asked_at_once() {
    let fixture = Fixture::quorum().await;
    // The timeout is long, so a server that waited for another's reply would not be asked.
    let backend = RedisBackend::new(fixture.config.clone().timeout(LONG)).unwrap();
    assert_eq!(backend.inspect(&name("job")).await.unwrap(), None);
    fixture.hold(Direction::Requests);
    let sent = || fixture.proxies.iter().map(|proxy| proxy.bytes(Direction::Requests));
    let before: Vec<_> = sent().collect();
    let asking = tokio::spawn(async move { granted(&backend, &request("job", LONG)).await });
    until("all to be asked", async || sent().zip(&before).all(|(now, before)| now > *before)).await;
    fixture.heal();
    asking.await.unwrap();
}

#[tokio::test]
// verifies: silent-server
async fn a_silent_server_is_awaited_for_a_fraction_of_the_ttl() {
    let servers = start(3);
    let backend = patient_client_of(&servers, LONG);
    assert_eq!(backend.inspect(&name("job")).await.unwrap(), None);
    servers[2].daemon().freeze();
    let in_time = until("a lock", async || {
        matches!(backend.acquire(&request("job", Duration::from_secs(4))).await, Ok(AcquireOutcome::Granted(_)))
    });
    tokio::time::timeout(LONG / 2, in_time)
        .await
        .expect("the client does not wait for the silent server until the timeout");
}

#[tokio::test]
async fn one_refusal_does_not_count_while_a_majority_is_silent() {
    let mut servers = start(3);
    granted(&client(servers[0].addr()), &request("job", LONG)).await;
    servers[1].kill();
    servers[2].kill();
    let error = client_of(&servers).acquire(&request("job", LONG)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn the_most_specific_loss_reason_is_reported() {
    let servers = start(3);
    let backend = client_of(&servers);
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    for server in &servers[..2] {
        server.command(&["FLUSHALL"]);
    }
    let last = client(servers[2].addr());
    assert_eq!(last.break_lock(&lease.name, &lease.id.to_string(), "alice").await.unwrap(), Break::Broken);
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Lost(LossReason::BrokenBy("alice".into())));
}

#[tokio::test]
// verifies: silent-server
async fn a_server_that_missed_a_release_reports_no_crash() {
    let servers = start(3);
    let backend = client_of(&servers);
    for (missed, crashed) in [(1, false), (2, true), (3, true)] {
        let (lease, _) = granted(&backend, &request("job", LONG)).await;
        for (i, server) in servers.iter().enumerate() {
            if i < missed {
                // As if the ttl had ended.
                server.command(&["DEL", "onelock:{job}"]);
            } else {
                assert_eq!(client(server.addr()).release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
            }
        }
        let (next, grant) = granted(&backend, &request("job", LONG)).await;
        assert_eq!(grant.crashed.is_some(), crashed, "{missed} servers missed the release");
        assert_eq!(backend.release(&next, Duration::ZERO).await.unwrap(), Release::Released);
    }
}
