//! The conformance suite on a migration from PostgreSQL to Redis.

use std::sync::{Arc, OnceLock};

use lock_core::testing::{Subject, Tampering};
use onelock::{
    LockName,
    backend::{Admin, Backend, LeaseId},
    migrate::MigrationBackend,
    redis::{Address, RedisBackend, RedisConfig},
};
use test_support::redis::RedisServer;

use crate::rows::Rows;

static SERVER: OnceLock<RedisServer> = OnceLock::new();

struct PostgresAndRedis {
    rows: Rows,
    prefix: String,
}

impl PostgresAndRedis {
    fn new() -> Self {
        Self { rows: Rows::new(), prefix: format!("{}:", LeaseId::random()) }
    }

    fn redis(&self) -> RedisBackend {
        let address = Address::tcp("127.0.0.1", SERVER.get_or_init(RedisServer::start).port());
        RedisBackend::new(RedisConfig::standalone(address).key_prefix(&self.prefix)).unwrap()
    }
}

#[async_trait::async_trait]
impl Subject for PostgresAndRedis {
    async fn client(&self) -> Arc<dyn Backend> {
        Arc::new(MigrationBackend::new(self.rows.client().await, Arc::new(self.redis())))
    }

    fn may_ask_again(&self) -> bool {
        true
    }

    async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
        match what {
            Tampering::DeleteRecord => self.rows.delete(name),
            Tampering::ReplaceRecord => self.rows.replace(name),
            Tampering::AddOddEntry => self.rows.put_row_that_is_no_lock(name),
            Tampering::DeleteToken => {
                self.rows.delete(name);
                return self.redis().purge(name).await.unwrap();
            }
            _ => return false,
        }
        true
    }
}

lock_core::conformance! {
    #[tokio::test]
    PostgresAndRedis::new(),
    except = [
        (hand_over, "a grant has one token"),
        (fair, "waiters have no places in a queue"),
        (an_open_descriptor_keeps_the_lock_held, "neither store keeps locks in descriptors"),
    ]
}
