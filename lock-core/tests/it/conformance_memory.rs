//! The conformance suite on the in-memory backend, plain and behind a simulated network.

use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{
    LockName,
    backend::{AcquireOutcome, AcquireRequest, Admin, Backend, LeaseId},
    faults::Faulty,
    memory::MemoryBackend,
    testing::{Subject, Tampering},
};

async fn tamper(store: &MemoryBackend, what: Tampering, name: &LockName) -> bool {
    match what {
        Tampering::DeleteRecord => store.lose(name.as_str()),
        Tampering::ReplaceRecord => {
            store.lose(name.as_str());
            let ttl = std::time::Duration::from_secs(600);
            let foreign = AcquireRequest::new(name.clone(), LeaseId::random(), "a foreign client").with_ttl(ttl);
            assert!(matches!(store.acquire(&foreign).await, Ok(AcquireOutcome::Granted(_))));
        }
        Tampering::DeleteToken => return store.purge(name).await.unwrap(),
        _ => return false,
    }
    true
}

struct Memory(MemoryBackend);

#[async_trait]
impl Subject for Memory {
    async fn client(&self) -> Arc<dyn Backend> {
        Arc::new(self.0.clone())
    }

    async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
        tamper(&self.0, what, name).await
    }
}

mod memory {
    use super::*;

    lock_core::conformance! {
        #[tokio::test(start_paused = true)]
        Memory(MemoryBackend::new()),
        except = [
            (an_open_descriptor_keeps_the_lock_held, "a lock in memory does not live in a descriptor"),
            (an_odd_entry_is_listed_and_hides_no_lock, "only its clients reach the memory of a process"),
        ]
    }
}

struct Remote(MemoryBackend);

#[async_trait]
impl Subject for Remote {
    async fn client(&self) -> Arc<dyn Backend> {
        Arc::new(Faulty::new(self.0.clone()))
    }

    async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
        tamper(&self.0, what, name).await
    }
}

mod faulty {
    use super::*;

    lock_core::conformance! {
        #[tokio::test(start_paused = true)]
        Remote(MemoryBackend::new()),
        except = [
            (an_open_descriptor_keeps_the_lock_held, "a lock in memory does not live in a descriptor"),
            (an_odd_entry_is_listed_and_hides_no_lock, "only its clients reach the memory of a process"),
        ]
    }
}
