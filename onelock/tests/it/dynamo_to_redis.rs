//! The conformance suite on a migration from DynamoDB to Redis.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use lock_core::testing::{Subject, Tampering};
use onelock::{
    LockName,
    backend::{Admin, Backend, LeaseId},
    migrate::MigrationBackend,
    redis::{Address, RedisBackend, RedisConfig},
};
use test_support::redis::RedisServer;

use crate::table::{SKEW, Table};

static SERVER: OnceLock<RedisServer> = OnceLock::new();

struct DynamoAndRedis {
    table: Table,
    prefix: String,
}

impl DynamoAndRedis {
    fn new() -> Self {
        Self { table: Table::new(), prefix: format!("{}:", LeaseId::random()) }
    }

    fn redis(&self) -> RedisBackend {
        let address = Address::tcp("127.0.0.1", SERVER.get_or_init(RedisServer::start).port());
        RedisBackend::new(RedisConfig::standalone(address).key_prefix(&self.prefix)).unwrap()
    }
}

#[async_trait::async_trait]
impl Subject for DynamoAndRedis {
    async fn client(&self) -> Arc<dyn Backend> {
        Arc::new(MigrationBackend::new(Arc::new(self.table.client()), Arc::new(self.redis())))
    }

    fn may_ask_again(&self) -> bool {
        true
    }

    /// A shorter ttl leaves an attempt in two stores less time than the emulator needs on a busy
    /// machine.
    fn ttl(&self) -> Duration {
        Duration::from_secs(2)
    }

    /// In DynamoDB a dead holder's lock becomes free one skew bound after its ttl.
    async fn crash(&self, client: Arc<dyn Backend>) {
        drop(client);
        self.pass(self.ttl() + SKEW + Duration::from_millis(20)).await;
    }

    async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
        match what {
            Tampering::DeleteRecord => self.table.delete(name),
            Tampering::ReplaceRecord => self.table.replace(name),
            Tampering::AddOddEntry => self.table.put_item_that_is_no_lock(name),
            Tampering::DeleteToken => {
                self.table.delete(name);
                return self.redis().purge(name).await.unwrap();
            }
            _ => return false,
        }
        true
    }
}

lock_core::conformance! {
    #[tokio::test]
    DynamoAndRedis::new(),
    except = [
        (hand_over, "a grant has one token"),
        (fair, "waiters have no places in a queue"),
        (an_open_descriptor_keeps_the_lock_held, "neither store keeps locks in descriptors"),
        (a_watch_completes_after_the_release, "DynamoDB cannot wake waiters"),
        (an_unused_wake_up_reaches_another_watcher, "DynamoDB cannot wake waiters"),
    ]
}
