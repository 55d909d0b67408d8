//! The conformance suite on a migration from files to Redis.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use lock_core::testing::{Subject, Tampering};
use onelock::{
    LockName,
    backend::{Admin, Backend, LeaseId},
    files::FileBackend,
    migrate::MigrationBackend,
    redis::{Address, RedisBackend, RedisConfig},
};
use test_support::redis::RedisServer;

static SERVER: OnceLock<RedisServer> = OnceLock::new();

/// The lease of the locks in Redis.
///
/// It equals the lease of an NFS server, which the suite assumes where no ttl can be chosen.
const LEASE: Duration = Duration::from_secs(90);

/// Shortens all leases. ARGV: the pattern of their keys, and the number of milliseconds.
///
/// A key with the parts of several holders keeps 5 s: those that live would have renewed it.
const AGE: &str = "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
    local least = redis.call('TYPE', key).ok == 'string' and 0 or 5000
    local left = redis.call('PTTL', key)
    if left > least then
        redis.call('PEXPIRE', key, math.max(least, left - tonumber(ARGV[2])))
    end
end";

struct FilesAndRedis {
    dir: tempfile::TempDir,
    /// The prefix of the subject's keys, so that time passes for this subject alone.
    prefix: String,
}

impl FilesAndRedis {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), prefix: format!("{}:", LeaseId::random()) }
    }

    fn server() -> &'static RedisServer {
        SERVER.get_or_init(RedisServer::start)
    }

    fn files(&self) -> FileBackend {
        FileBackend::open(self.dir.path()).unwrap()
    }

    fn redis(&self) -> RedisBackend {
        let address = Address::tcp("127.0.0.1", Self::server().port());
        RedisBackend::new(RedisConfig::standalone(address).key_prefix(&self.prefix)).unwrap()
    }
}

#[async_trait::async_trait]
impl Subject for FilesAndRedis {
    async fn client(&self) -> Arc<dyn Backend> {
        Arc::new(MigrationBackend::new(Arc::new(self.files()), Arc::new(self.redis())).lease(LEASE))
    }

    fn may_ask_again(&self) -> bool {
        true
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// Redis time passes faster, by the ratio of the lease to the suite's ttl.
    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
        let pattern = format!("{}{{*}}", self.prefix);
        let older = (LEASE.as_secs_f64() / self.ttl().as_secs_f64() * time.as_secs_f64() * 1_000.0).ceil();
        Self::server().command(&["EVAL", AGE, "0", &pattern, &older.to_string()]);
    }

    async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
        match what {
            Tampering::DeleteRecord => {
                let deleted = Self::server().command(&["DEL", &format!("{}{{{name}}}", self.prefix)]);
                assert_eq!(deleted, ":1\r\n");
                true
            }
            Tampering::DeleteToken => {
                self.files().purge(name).await.unwrap() && self.redis().purge(name).await.unwrap()
            }
            Tampering::AddOddEntry => {
                std::os::unix::fs::symlink("/nowhere", self.files().lock_path(name)).unwrap();
                true
            }
            _ => false,
        }
    }
}

conformance_with_files! {
    FilesAndRedis::new(),
    except = [
        (a_replaced_record_belongs_to_another_client, "a client that replaces the key in Redis has no lock file; \
            lock-migrate runs this case on two memory stores"),
    ]
}
