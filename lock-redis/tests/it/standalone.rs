//! The conformance cases on a single server.

use std::sync::{Arc, OnceLock};

use lock_core::{
    LockName,
    backend::Backend,
    testing::{Subject, Tampering},
};
use lock_redis::{Address, RedisBackend, RedisConfig};
use test_support::redis::RedisServer;

use crate::fixture;

static SERVER: OnceLock<RedisServer> = OnceLock::new();

struct Standalone;

#[async_trait::async_trait]
impl Subject for Standalone {
    async fn client(&self) -> Arc<dyn Backend> {
        let port = SERVER.get_or_init(RedisServer::start).port();
        Arc::new(RedisBackend::new(RedisConfig::standalone(Address::tcp("127.0.0.1", port))).unwrap())
    }

    fn may_ask_again(&self) -> bool {
        true
    }

    async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
        fixture::tamper(std::slice::from_ref(SERVER.get_or_init(RedisServer::start)), what, name)
    }
}

lock_core::conformance! {
    #[tokio::test]
    Standalone,
    except = [
        (an_open_descriptor_keeps_the_lock_held, "the lock does not live in a descriptor"),
    ]
}
