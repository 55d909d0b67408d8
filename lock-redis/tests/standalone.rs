//! The conformance cases on a single server.

use std::sync::{Arc, OnceLock};

use integration::redis::RedisServer;
use lock_core::{backend::Backend, testing::Subject};
use lock_redis::{Address, RedisBackend, RedisConfig};

static SERVER: OnceLock<RedisServer> = OnceLock::new();

struct Standalone;

#[async_trait::async_trait]
impl Subject for Standalone {
    async fn client(&self) -> Arc<dyn Backend> {
        let port = SERVER.get_or_init(RedisServer::start).port();
        Arc::new(RedisBackend::new(RedisConfig::standalone(Address::tcp("127.0.0.1", port))).unwrap())
    }
}

lock_core::conformance! {
    #[tokio::test]
    Standalone,
    except = [(a_descriptor_keeps_the_lock_held, "the lock does not live in a descriptor")]
}
