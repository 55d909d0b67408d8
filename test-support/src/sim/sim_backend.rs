//! The backend over the model of a store, which talks through the simulated network.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use lock_core::{
    Error, LockName,
    backend::{AcquireOutcome, AcquireRequest, Backend, Capabilities, Lease, Release, Renewal, StoreTimings},
    clock::{Clock, ClockReading},
};

use super::{
    messages::{Reply, Request},
    store::Kind,
    wire::Wire,
};

/// The client's side of the model store's protocol.
#[derive(Debug)]
pub(super) struct SimBackend {
    kind: Kind,
    capabilities: Capabilities,
    wire: Wire,
    /// Each record's version, its holder's ttl, and since when it has been so by the client's
    /// clock.
    observed: Mutex<HashMap<LockName, (u64, Duration, ClockReading)>>,
}

impl SimBackend {
    pub(super) fn new(kind: Kind, capabilities: Capabilities, wire: Wire) -> Self {
        Self { kind, capabilities, wire, observed: Mutex::default() }
    }

    /// The version of the record that has stood still for its holder's whole ttl.
    fn dead(&self, name: &LockName) -> Option<u64> {
        let observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        let (version, ttl, since) = observed.get(name)?;
        (elapsed(*since, self.wire.clock.now()) > *ttl).then_some(*version)
    }

    /// Notes what a refusal shows. Time counts from after the reply: before, the record may have
    /// been another.
    fn observe(&self, name: &LockName, holder: &mut lock_core::Holder) {
        let version = holder.version.as_ref().and_then(|version| version.parse().ok()).expect("the model gives one");
        let ttl = holder.expires_in.expect("the model gives it");
        let now = self.wire.clock.now();
        let mut observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        let known = observed.entry(name.clone()).or_insert((version, ttl, now));
        if known.0 != version {
            *known = (version, ttl, now);
        }
        holder.expires_in = Some((ttl + Duration::from_millis(1)).saturating_sub(elapsed(known.2, now)));
    }
}

/// Not [`ClockReading::since`]: a client that waits for another lease to end must not be hurried by
/// a wall clock that is set forward.
fn elapsed(from: ClockReading, to: ClockReading) -> Duration {
    to.boot.saturating_sub(from.boot)
}

#[async_trait]
impl Backend for SimBackend {
    fn describe(&self) -> String {
        "simulated:".into()
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn timings(&self) -> StoreTimings {
        StoreTimings::default()
    }

    async fn acquire(&self, claim: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        if !self.capabilities.has_mode(claim.mode) {
            claim.require_exclusive()?;
        }
        let dead = match self.kind {
            Kind::Clocked => None,
            Kind::Observed => self.dead(&claim.name),
        };
        match self.wire.ask(Request::Acquire { claim: claim.clone(), dead }).await {
            Reply::Attempt(AcquireOutcome::Contended(mut holder)) => {
                if self.kind == Kind::Observed {
                    self.observe(&claim.name, &mut holder);
                }
                Ok(AcquireOutcome::Contended(holder))
            }
            Reply::Attempt(granted) => Ok(granted),
            other => unreachable!("the store answers what it was asked: {other:?}"),
        }
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        match self.wire.ask(Request::Renew(lease.clone())).await {
            Reply::Renewal(answer) => Ok(answer),
            other => unreachable!("the store answers what it was asked: {other:?}"),
        }
    }

    async fn release(&self, lease: &Lease, _hold_for: Duration) -> Result<Release, Error> {
        match self.wire.ask(Request::Release(lease.clone())).await {
            Reply::Release(answer) => Ok(answer),
            other => unreachable!("the store answers what it was asked: {other:?}"),
        }
    }
}
