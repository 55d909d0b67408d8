//! The chain of files and Redis, as a fleet has it that moves from one to the other: the conformance kit.
#![cfg(all(feature = "efs", feature = "redis"))]

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use dlock::{
    backend::Backend,
    chain::ChainBackend,
    efs::FileBackend,
    redis::{Address, RedisBackend, RedisConfig},
};
use integration::redis::RedisServer;
use lock_core::testing::Subject;

static SERVER: OnceLock<RedisServer> = OnceLock::new();

/// The lease of the Redis half, which ends the lock of a process that has died.
const LEASE: Duration = Duration::from_secs(5);

struct FilesAndRedis(tempfile::TempDir);

#[async_trait::async_trait]
impl Subject for FilesAndRedis {
    async fn client(&self) -> Arc<dyn Backend> {
        let port = SERVER.get_or_init(RedisServer::start).port();
        let redis = RedisBackend::new(RedisConfig::standalone(Address::tcp("127.0.0.1", port))).unwrap();
        let files = FileBackend::open(self.0.path().join("locks")).unwrap();
        Arc::new(ChainBackend::new(Arc::new(files), Arc::new(redis)).lease(LEASE))
    }

    fn ttl(&self) -> Duration {
        LEASE
    }
}

lock_core::conformance! {
    #[tokio::test]
    FilesAndRedis(tempfile::tempdir().unwrap()),
    except = [
        (an_expired_lock_is_granted_in_one_attempt, "no ttl can be chosen"),
        (a_lock_is_held_for_the_holders_ttl, "no ttl can be chosen"),
        (renewal_extends_the_lease, "no ttl can be chosen"),
        (renewing_an_expired_lease_does_not_rob_the_successor, "no ttl can be chosen"),
        (a_leader_that_is_cut_off_stops_before_the_next_starts, "no ttl can be chosen"),
        (tokens_rise_across_break, "a lock file cannot be taken from its holder"),
        (a_broken_lease_is_lost_at_the_next_renewal, "a lock file cannot be taken from its holder"),
        (break_compares_the_version, "a lock file cannot be taken from its holder"),
    ]
}
