//! The memory store with properties of other stores.

use std::{fmt::Debug, time::Duration};

use async_trait::async_trait;
use lock_core::{
    Error,
    backend::{AcquireOutcome, AcquireRequest, Backend, Capabilities, Lease, Release, Renewal, StoreTimings},
    memory::MemoryBackend,
};

/// What differs from the memory store. Each method gets what that store says or is told.
pub(crate) trait Change: Debug + Send + Sync + 'static {
    fn capabilities(&self, capabilities: Capabilities) -> Capabilities {
        capabilities
    }

    fn timings(&self, timings: StoreTimings) -> StoreTimings {
        timings
    }

    fn acquire(&self, request: AcquireRequest) -> AcquireRequest {
        request
    }

    fn outcome(&self, outcome: AcquireOutcome) -> AcquireOutcome {
        outcome
    }

    fn renew(&self, lease: Lease) -> Lease {
        lease
    }
}

/// A memory store of its own, with a change.
#[derive(Debug)]
pub(crate) struct Changed<C> {
    store: MemoryBackend,
    change: C,
}

impl<C: Change> Changed<C> {
    pub(crate) fn new(change: C) -> Self {
        Self { store: MemoryBackend::new(), change }
    }
}

#[async_trait]
impl<C: Change> Backend for Changed<C> {
    fn describe(&self) -> String {
        self.store.describe()
    }

    fn capabilities(&self) -> Capabilities {
        self.change.capabilities(self.store.capabilities())
    }

    fn timings(&self) -> StoreTimings {
        self.change.timings(self.store.timings())
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        let outcome = self.store.acquire(&self.change.acquire(request.clone())).await?;
        Ok(self.change.outcome(outcome))
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        self.store.renew(&self.change.renew(lease.clone())).await
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        self.store.release(lease, hold_for).await
    }
}
