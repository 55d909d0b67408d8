//! A primary and a replica behind real sentinels.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use lock_core::{
    ErrorKind, LockName, Locker, LossReason, Renew, TryAcquire,
    backend::{AcquireOutcome, Backend, LeaseId, Renewal},
    testing::{Subject, Tampering},
};
use lock_redis::{Address, RedisBackend, RedisConfig, Topology};
use test_support::{redis::RedisServer, requests::again, sentinel::SentinelSetup, until};

use crate::fixture::{
    self, LONG, granted, outlives_its_validity, reader, refused, released, renewed, request, waiting_writer,
};

static SETUP: OnceLock<SentinelSetup> = OnceLock::new();

fn client_of(setup: &SentinelSetup) -> RedisBackend {
    let sentinels = setup.ports().into_iter().map(|port| Address::tcp("127.0.0.1", port)).collect();
    let topology = Topology::Sentinel { sentinels, service: SentinelSetup::SERVICE.into() };
    RedisBackend::new(RedisConfig::new(topology).timeout(Duration::from_millis(500))).unwrap()
}

struct Sentinel;

#[async_trait::async_trait]
impl Subject for Sentinel {
    async fn client(&self) -> Arc<dyn Backend> {
        Arc::new(client_of(SETUP.get_or_init(SentinelSetup::start)))
    }

    fn may_ask_again(&self) -> bool {
        true
    }

    async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
        fixture::tamper(&SETUP.get_or_init(SentinelSetup::start).servers, what, name)
    }
}

lock_core::conformance! {
    #[tokio::test]
    Sentinel,
    except = [
        (an_open_descriptor_keeps_the_lock_held, "the lock does not live in a descriptor"),
    ]
}

/// With asynchronous replication a failover may lose locks, so that one lock briefly has two
/// holders.
/// The old holder is told, its validity ends when promised, and the new holder's token is larger.
#[tokio::test(flavor = "multi_thread")]
// verifies: redis-topology
async fn a_failover_is_reported_to_losers_and_tokens_rise() {
    let mut setup = SentinelSetup::start();
    let ttl = Duration::from_secs(30);
    let builder = Locker::builder(Arc::new(client_of(&setup))).ttl(ttl).renew(Renew::Every(Duration::from_secs(2)));
    let locker = builder.build().unwrap();
    let mut guards = Vec::new();
    for n in 0..50 {
        if n == 25 {
            // Later writes do not reach the replica, because it replicates from an unused port.
            let held = |port| test_support::redis::command(port, &["DBSIZE"]).unwrap();
            until("the replica", async || held(setup.servers[0].port()) == held(setup.servers[1].port())).await;
            assert_eq!(setup.servers[1].command(&["REPLICAOF", "127.0.0.1", "1"]), "+OK\r\n");
        }
        guards.push(Arc::new(locker.lock(format!("held-{n}")).acquire().await.unwrap()));
    }
    let watched = guards.clone();
    // Checks continuously, because the violation could be brief.
    let watching = tokio::spawn(async move {
        loop {
            assert!(!watched.iter().any(|guard| outlives_its_validity(guard)), "valid after the end of its validity");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    setup.servers[0].kill();
    setup.wait_for_primary(setup.servers[1].port());

    // Another client acquires some of the lost locks at once, and leaves the others free.
    let (kept, lost) = guards.split_at(25);
    let after = client_of(&setup);
    for guard in &lost[..10] {
        let (lease, _) = granted(&after, &request(guard.name().as_str(), ttl)).await;
        assert!(lease.token > guard.token(), "the token of {} went back", guard.name());
    }
    for guard in lost {
        let told = tokio::time::timeout(2 * ttl, guard.lost()).await.expect("the holder of a lost lock is told");
        assert!(matches!(told.reason, LossReason::TakenBy(_) | LossReason::RecordGone), "{told}");
        assert!(guard.check().is_err());
    }
    for guard in kept {
        guard.renew_if_below(ttl / 2).await.expect("the replica had this lock");
        refused(&after, &request(guard.name().as_str(), ttl)).await;
    }
    for guard in &lost[10..] {
        let (lease, _) = granted(&after, &request(guard.name().as_str(), ttl)).await;
        assert!(lease.token > guard.token(), "the token of {} went back", guard.name());
    }
    assert!(!watching.is_finished(), "the watch still runs");
    watching.abort();
}

/// Parts, marks and places reach the replica like any other key.
#[tokio::test]
// verifies: redis-topology, P12
async fn parts_marks_and_places_outlive_a_failover() {
    let mut setup = SentinelSetup::start();
    let backend = client_of(&setup);
    let (first, _) = granted(&backend, &reader("parts")).await;
    let (second, _) = granted(&backend, &reader("parts")).await;
    let (writer, waiter) = (waiting_writer("parts"), waiting_writer("queue").with_fair(true));
    refused(&backend, &writer).await;
    let (held, _) = granted(&backend, &request("queue", LONG)).await;
    refused(&backend, &waiter).await;
    wait_for_the_replica(&setup).await;
    setup.servers[0].kill();
    setup.wait_for_primary(setup.servers[1].port());

    assert_eq!(again(async || backend.renew(&first).await).await, Renewal::Renewed);
    renewed(&backend, &second).await;
    refused(&backend, &reader("parts")).await;
    for lease in [&first, &second] {
        released(&backend, lease).await;
    }
    refused(&backend, &reader("parts")).await;
    let (writing, _) = granted(&backend, &writer).await;
    assert!(writing.token > second.token);
    released(&backend, &held).await;
    refused(&backend, &request("queue", LONG)).await;
    let (next, _) = granted(&backend, &waiter).await;
    assert!(next.token > held.token);
}

#[tokio::test]
// verifies: redis-topology, P12
async fn a_waiter_takes_a_new_place_after_a_failover_has_forgotten_it() {
    let mut setup = SentinelSetup::start();
    let backend = client_of(&setup);
    let (held, _) = granted(&backend, &request("queue", LONG)).await;
    wait_for_the_replica(&setup).await;
    // It replicates from an unused port.
    assert_eq!(setup.servers[1].command(&["REPLICAOF", "127.0.0.1", "1"]), "+OK\r\n");
    let waiter = waiting_writer("queue").with_fair(true);
    refused(&backend, &waiter).await;
    setup.servers[0].kill();
    setup.wait_for_primary(setup.servers[1].port());

    assert_eq!(again(async || backend.renew(&held).await).await, Renewal::Renewed);
    assert_eq!(setup.servers[1].command(&["EXISTS", "onelock:{queue}:q"]), ":0\r\n", "the place is forgotten");
    refused(&backend, &waiter).await;
    released(&backend, &held).await;
    refused(&backend, &request("queue", LONG)).await;
    granted(&backend, &waiter).await;
}

/// Waits until the replica has all that was written to the primary.
async fn wait_for_the_replica(setup: &SentinelSetup) {
    let offset = |server: &RedisServer| {
        let answer = server.command(&["INFO", "replication"]);
        let offset = answer.lines().find_map(|line| line.strip_prefix("master_repl_offset:"));
        offset.expect("each server has an offset").to_owned()
    };
    until("the replica", async || offset(&setup.servers[0]) == offset(&setup.servers[1])).await;
}

#[tokio::test]
async fn sentinels_may_have_a_separate_login() {
    let setup = SentinelSetup::with_password("s3cret");
    let sentinels: Vec<_> = setup.ports().into_iter().map(|port| Address::tcp("127.0.0.1", port)).collect();
    let config = || {
        RedisConfig::new(Topology::Sentinel { sentinels: sentinels.clone(), service: SentinelSetup::SERVICE.into() })
    };
    let ttl = Duration::from_secs(60);
    for user in [None, Some("default".into())] {
        let backend = RedisBackend::new(config().sentinel_login(user, "s3cret")).unwrap();
        granted(&backend, &request(&format!("job-{}", LeaseId::random()), ttl)).await;
    }
    for wrong in [config(), config().sentinel_login(None, "guess")] {
        let error = RedisBackend::new(wrong).unwrap().acquire(&request("job", ttl)).await.unwrap_err();
        assert!(!error.is_ambiguous() && !format!("{error} {error:?}").contains("s3cret"), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    }
}

#[tokio::test]
async fn a_frozen_or_missing_sentinel_is_skipped() {
    let mut setup = SentinelSetup::start();
    setup.sentinels[0].daemon().freeze();
    let config = client_of(&setup);
    drop(setup.sentinels.remove(1));
    let ttl = Duration::from_secs(60);
    until("the last sentinel", async || {
        matches!(config.acquire(&request("job", ttl)).await, Ok(AcquireOutcome::Granted(_)))
    })
    .await;
}

#[tokio::test]
async fn a_silent_first_sentinel_is_skipped_by_short_attempts() {
    let setup = SentinelSetup::start();
    setup.sentinels[0].daemon().freeze();
    // An attempt may take a fraction of the ttl, and ends before redis-rs skips a sentinel.
    let locker = fixture::locker(client_of(&setup), Duration::from_secs(1));
    until("a lock", async || matches!(locker.try_acquire("job").await, Ok(TryAcquire::Acquired(_)))).await;
}

#[tokio::test]
// verifies: redis-topology
async fn a_demoted_primary_is_left_for_its_successor() {
    let setup = SentinelSetup::start();
    let backend = client_of(&setup);
    let (lease, _) = granted(&backend, &request("job", Duration::from_secs(600))).await;
    setup.sentinels[0].command(&["SENTINEL", "FAILOVER", SentinelSetup::SERVICE]);
    setup.wait_for_primary(setup.servers[1].port());
    until("the renewal on the new primary", async || matches!(backend.renew(&lease).await, Ok(Renewal::Renewed))).await;
    let ttl = setup.servers[1].command(&["PTTL", "onelock:{job}"]);
    assert!(!ttl.starts_with(":-"), "{ttl}");
}

#[tokio::test]
async fn unreachable_sentinels_are_an_unambiguous_error() {
    let topology = Topology::Sentinel {
        sentinels: vec![Address::tcp("127.0.0.1", test_support::free_port())],
        service: "nothing".into(),
    };
    let backend = RedisBackend::new(RedisConfig::new(topology)).unwrap();
    let error = backend.acquire(&request("job", Duration::from_secs(1))).await.unwrap_err();
    assert!(error.is_retryable() && !error.is_ambiguous(), "{error:?}");
}
