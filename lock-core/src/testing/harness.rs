//! What the cases are made of: clients and names of their own, and the core over a client across a
//! network with faults, on a clock that a case can
//! change.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Subject, Tampering, TestClock, faults::Faulty};
use crate::{
    Guard, LockRequest, Locker, LockerBuilder, Renew, TryAcquire,
    backend::{AcquireOutcome, AcquireRequest, Admin, Backend, Capability, Grant, Release},
    types::{Error, Holder, Lease, LeaseId, LockName},
};

/// What a case needs of a backend to make sense.
#[derive(Debug, Clone, Copy)]
pub(super) enum Need {
    /// A declared capability.
    Has(Capability),
    /// [`ProcessBound::descriptor`](crate::backend::ProcessBound::descriptor) gives one.
    Descriptor,
    /// [`Subject::tamper`] can do this.
    Tamper(Tampering),
}

/// What every case works with.
pub(super) struct Bench<'a> {
    pub(super) subject: &'a dyn Subject,
    pub(super) case: &'a str,
    pub(super) exception: Option<&'a str>,
}

impl Bench<'_> {
    /// Whether the case applies; panics where that and the list of exceptions disagree.
    pub(super) async fn applies(&self, needs: &[Need]) -> bool {
        let mut missing = None;
        for need in needs {
            if !self.meets(*need).await {
                missing = Some(need);
            }
        }
        match (missing, self.exception) {
            (None, None) => true,
            (Some(_), Some(reason)) => {
                println!("{} does not apply: {reason}", self.case);
                false
            }
            (Some(need), None) => {
                panic!("{} needs {need:?}, which this backend lacks: except it, with the reason", self.case)
            }
            (None, Some(reason)) => {
                panic!("{} is excepted (\"{reason}\"), but this backend has what it needs", self.case)
            }
        }
    }

    async fn meets(&self, need: Need) -> bool {
        let client = self.client().await;
        match need {
            Need::Has(capability) => client.capabilities().has(capability),
            #[cfg(unix)]
            Need::Descriptor => {
                let claim = self.claim(&self.name("probe"));
                let (lease, _) = granted(&*client, &claim).await;
                let there = client.process_bound().is_some_and(|bound| bound.descriptor(&lease).is_some());
                release(&*client, &lease).await;
                there
            }
            #[cfg(not(unix))]
            Need::Descriptor => false,
            Need::Tamper(what) => {
                let name = self.name("probe");
                let (lease, _) = granted(&*client, &self.claim(&name)).await;
                if what == Tampering::DeleteToken {
                    release(&*client, &lease).await;
                }
                let can = self.subject.tamper(what, &name).await;
                let _ = client.release(&lease, Duration::ZERO).await;
                can
            }
        }
    }

    pub(super) async fn client(&self) -> Arc<dyn Backend> {
        self.subject.client().await
    }

    /// A name that no other test and no other run uses.
    pub(super) fn name(&self, what: &str) -> LockName {
        LockName::new(format!("conformance/{}/{what}/{}", self.case, LeaseId::random())).expect("short and not empty")
    }

    /// For a lock that shall not end while the case looks at something else, on a loaded machine
    /// too.
    pub(super) fn claim(&self, name: &LockName) -> AcquireRequest {
        AcquireRequest::new(name.clone(), LeaseId::random(), "conformance").with_ttl(Duration::from_secs(60))
    }

    /// For a lock that shall end by itself.
    pub(super) fn short_claim(&self, name: &LockName) -> AcquireRequest {
        self.claim(name).with_ttl(self.ttl_of(1.0))
    }

    /// A part of the subject's ttl, which a backend without ttls ignores.
    pub(super) fn ttl_of(&self, part: f64) -> Duration {
        self.subject.ttl().mul_f64(part)
    }

    /// Passes time in small steps until `claim` is granted; fails when it takes absurdly long.
    pub(super) async fn granted_in_the_end(&self, client: &dyn Backend, claim: &AcquireRequest) -> (Lease, Grant) {
        for _ in 0..2_000 {
            match acquire(client, claim).await {
                AcquireOutcome::Granted(grant) => return (claim.lease(grant.token), grant),
                AcquireOutcome::Contended(_) => self.subject.pass(self.subject.ttl() / 20).await,
            }
        }
        panic!("{:?} was not granted within 100 ttls", claim.name);
    }
}

/// The operators' half of a backend, in a case that needs it.
pub(super) fn admin(client: &Arc<dyn Backend>) -> &dyn Admin {
    client.require_admin().expect("declared by its capabilities")
}

pub(super) async fn acquire(client: &dyn Backend, claim: &AcquireRequest) -> AcquireOutcome {
    client.acquire(claim).await.expect("the store answers")
}

pub(super) async fn granted(client: &dyn Backend, claim: &AcquireRequest) -> (Lease, Grant) {
    match acquire(client, claim).await {
        AcquireOutcome::Granted(grant) => (claim.lease(grant.token), grant),
        AcquireOutcome::Contended(holder) => {
            panic!("{:?} should have been granted, but is held by {holder}", claim.name)
        }
    }
}

pub(super) async fn refused(client: &dyn Backend, claim: &AcquireRequest) -> Holder {
    match acquire(client, claim).await {
        AcquireOutcome::Contended(holder) => holder,
        AcquireOutcome::Granted(_) => panic!("{:?} was granted, but somebody else holds it", claim.name),
    }
}

pub(super) async fn release(client: &dyn Backend, lease: &Lease) {
    let answer = client.release(lease, Duration::ZERO).await.expect("the store answers");
    assert_eq!(answer, Release::Released, "{:?} was held and should have been released", lease.name);
}

/// The answer to a release of what somebody else holds by now.
#[track_caller]
pub(super) fn assert_not_held(answer: Result<Release, Error>) {
    let answer = answer.expect("a value, not an error");
    assert!(matches!(answer, Release::NotHeld(_)), "released what somebody else holds");
}

pub(super) struct Fixture {
    pub(super) network: Faulty,
    pub(super) clock: Arc<TestClock>,
    pub(super) locker: Locker,
    /// How long the store keeps a lock without a renewal.
    lease: Duration,
}

/// Of locks that shall not end while a case looks at something else, on a loaded machine too.
const LONG: Duration = Duration::from_secs(60);

impl Fixture {
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
        let lease = client.timings().lease.unwrap_or(LONG);
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
            TryAcquire::Contended(holder) => panic!("{name:?} should have been granted, but is held by {holder}"),
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

/// A lock with a short ttl: on a loaded machine the store may take longer to grant it than it
/// lasts, and is asked again.
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
        match acquire(client, &claim).await {
            AcquireOutcome::Granted(grant) => {
                return release(client, &claim.lease(grant.token)).await;
            }
            AcquireOutcome::Contended(holder) => {
                assert!(started.elapsed() < LONG / 2, "{name} was left behind: held by {holder}");
                // Until the background has done its work; bounded above.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// A lock that was abandoned is released in the background: soon, and long before the default ttl
/// of 30 s.
pub(super) async fn granted_soon(bench: &Bench<'_>, client: &Arc<dyn Backend>, name: &LockName) {
    let started = Instant::now();
    let claim = bench.claim(name);
    loop {
        match acquire(&**client, &claim).await {
            AcquireOutcome::Granted(_) => return,
            AcquireOutcome::Contended(holder) => {
                assert!(started.elapsed() < Duration::from_secs(20), "{name} was left behind: held by {holder}");
                // Until the background has done its work; bounded above.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }
}
