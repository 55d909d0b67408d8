//! The core over a client of the store under test, across a network with faults, on a clock that a case can change.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Bench, TestClock, release};
use crate::{
    Guard, LockRequest, Locker, LockerBuilder, Renew, TryAcquire,
    backend::{Attempt, Backend},
    faults::Faulty,
    name::LockName,
};

pub(super) struct Rig {
    pub(super) network: Faulty,
    pub(super) clock: Arc<TestClock>,
    pub(super) locker: Locker,
    /// How long the store keeps a lock without a renewal.
    lease: Duration,
}

/// Of locks that shall not end while a case looks at something else, on a loaded machine too.
const LONG: Duration = Duration::from_secs(60);

impl Rig {
    /// With a long ttl, where there is one, and no renewals but those that the case asks for.
    pub(super) async fn new(bench: &Bench<'_>) -> Self {
        Self::build(bench, LONG, |builder| builder.renew(Renew::Manual)).await
    }

    /// With this ttl, where there is one.
    pub(super) async fn with_ttl(bench: &Bench<'_>, ttl: Duration) -> Self {
        Self::build(bench, ttl, |builder| builder).await
    }

    async fn build(bench: &Bench<'_>, ttl: Duration, choose: impl FnOnce(LockerBuilder) -> LockerBuilder) -> Self {
        let (client, clock) = (bench.client().await, Arc::new(TestClock::new()));
        let ttl = Some(ttl).filter(|_| client.capabilities().ttl);
        let lease = client.pace().lease.unwrap_or(LONG);
        let network = Faulty::around(client);
        let builder = choose(Locker::builder(Arc::new(network.clone())).clock(Arc::clone(&clock) as _));
        let builder = match ttl {
            Some(ttl) => builder.ttl(ttl),
            None => builder,
        };
        Self { network, clock, locker: builder.build().expect("the ttl fits"), lease }
    }

    pub(super) async fn acquired(&self, name: &LockName) -> Guard {
        match self.locker.try_acquire(name.as_str()).await.expect("the store answers in the end") {
            TryAcquire::Acquired(guard) => guard,
            TryAcquire::Held(holder) => panic!("{name:?} should have been granted, but is held by {holder}"),
        }
    }

    /// Lets the holder's clock go on, so that a renewal is due.
    pub(super) fn age(&self) {
        self.clock.suspend(self.lease / 3);
    }

    /// What [`age`](Self::age) leaves less of, and a renewal restores.
    pub(super) fn rest(&self) -> Duration {
        self.lease * 2 / 3
    }
}

/// A lock with a short ttl: on a loaded machine the store may take longer to grant it than it lasts, and is asked again.
pub(super) async fn acquired_in_the_end(request: impl Fn() -> LockRequest) -> Guard {
    let started = Instant::now();
    loop {
        match request().try_acquire().await {
            Ok(TryAcquire::Acquired(guard)) => return guard,
            Err(error) if !error.is_retryable() => panic!("{error}"),
            answer => assert!(started.elapsed() < LONG, "not granted after {:?}: {answer:?}", started.elapsed()),
        }
        // Until the store has time for it; bounded above.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A lock that was given up is free soon: long before a [`LONG`] ttl has passed.
pub(super) async fn free_soon(bench: &Bench<'_>, client: &dyn Backend, name: &LockName) {
    let started = Instant::now();
    let claim = bench.claim(name);
    loop {
        match super::acquire(client, &claim).await {
            Attempt::Granted(grant) => {
                return release(client, &super::claim_for(client, &claim).lease(grant.token)).await;
            }
            Attempt::Held(holder) => {
                assert!(started.elapsed() < LONG / 2, "{name} was left behind: held by {holder}");
                // Until the background has done its work; bounded above.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
