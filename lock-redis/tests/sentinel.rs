//! A primary and a replica behind real sentinels.

mod common;

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use common::{claim, granted, locker, until};
use integration::sentinel::SentinelSetup;
use lock_core::{
    LossReason,
    backend::{Backend, Renewal},
    testing::Subject,
};
use lock_redis::{Address, RedisBackend, RedisConfig, Topology};

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
}

lock_core::conformance! {
    #[tokio::test]
    Sentinel,
    except = [(a_descriptor_keeps_the_lock_held, "the lock does not live in a descriptor")]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_tells_every_holder_that_lost_its_lock_and_no_token_goes_back() {
    let mut setup = SentinelSetup::start();
    let ttl = Duration::from_secs(8);
    let locker = locker(client_of(&setup), ttl);
    let mut guards = Vec::new();
    for n in 0..50 {
        if n == 25 {
            // What comes now does not reach the replica: it follows a port where nobody is.
            let held = |port| integration::redis::command(port, &["DBSIZE"]).unwrap();
            until("the replica", async || held(setup.servers[0].port()) == held(setup.servers[1].port())).await;
            assert_eq!(setup.servers[1].command(&["REPLICAOF", "127.0.0.1", "1"]), "+OK\r\n");
        }
        guards.push(locker.lock(format!("held-{n}")).acquire().await.unwrap());
    }
    setup.servers[0].kill();
    setup.wait_for_primary(setup.servers[1].port());

    let (kept, lost) = guards.split_at(25);
    for guard in lost {
        let told = tokio::time::timeout(ttl, guard.lost()).await.expect("a lock that is gone is lost within its ttl");
        assert!(matches!(told.reason, LossReason::RecordGone), "{told}");
        let end = guard.expires_at().expect("it had a ttl");
        assert!(SystemTime::now() <= end + Duration::from_millis(50), "told after the end of its validity");
    }
    for guard in kept {
        guard.ensure(ttl / 2).await.expect("the replica had this lock");
    }
    let after = client_of(&setup);
    for guard in lost {
        let (lease, _) = granted(&after, &claim(guard.name().as_str(), ttl)).await;
        assert!(lease.token > guard.token(), "the token of {} went back", guard.name());
    }
    for guard in kept {
        common::refused(&after, &claim(guard.name().as_str(), ttl)).await;
    }
}

#[tokio::test]
async fn a_primary_that_was_demoted_is_left_for_its_successor() {
    let setup = SentinelSetup::start();
    let backend = client_of(&setup);
    let (lease, _) = granted(&backend, &claim("job", Duration::from_secs(600))).await;
    integration::redis::command(setup.ports()[0], &["SENTINEL", "FAILOVER", SentinelSetup::SERVICE]).unwrap();
    setup.wait_for_primary(setup.servers[1].port());
    until("the renewal on the new primary", async || matches!(backend.renew(&lease).await, Ok(Renewal::Renewed))).await;
    let ttl = setup.servers[1].command(&["PTTL", "dlock:{job}"]);
    assert!(!ttl.starts_with(":-"), "{ttl}");
}

#[tokio::test]
async fn sentinels_that_are_not_there_or_know_no_such_service_are_an_error_and_not_ambiguous() {
    let topology = Topology::Sentinel {
        sentinels: vec![Address::tcp("127.0.0.1", integration::free_port())],
        service: "nothing".into(),
    };
    let backend = RedisBackend::new(RedisConfig::new(topology)).unwrap();
    let error = backend.acquire(&claim("job", Duration::from_secs(1))).await.unwrap_err();
    assert!(error.is_retryable() && !error.is_ambiguous(), "{error:?}");
}
