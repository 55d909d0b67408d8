//! The conformance kit on the in-memory backend, plain and as a store across a network.

use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{backend::Backend, faults::Faulty, memory::MemoryBackend, testing::Subject};

struct Memory(MemoryBackend);

#[async_trait]
impl Subject for Memory {
    async fn client(&self) -> Arc<dyn Backend> {
        Arc::new(self.0.clone())
    }
}

mod memory {
    use super::*;

    lock_core::conformance! {
        #[tokio::test(start_paused = true)]
        Memory(MemoryBackend::new()),
        except = [(a_descriptor_keeps_the_lock_held, "a lock in memory does not live in a descriptor")]
    }
}

struct Remote(MemoryBackend);

#[async_trait]
impl Subject for Remote {
    async fn client(&self) -> Arc<dyn Backend> {
        Arc::new(Faulty::new(self.0.clone()))
    }
}

mod faulty {
    use super::*;

    lock_core::conformance! {
        #[tokio::test(start_paused = true)]
        Remote(MemoryBackend::new()),
        except = [(a_descriptor_keeps_the_lock_held, "a lock in memory does not live in a descriptor")]
    }
}
