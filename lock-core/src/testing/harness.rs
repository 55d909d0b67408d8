//! Building blocks of the cases: clients, unique names, and a locker.
//!
//! The locker runs over a network with faults, on a clock that the case controls.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    clock::TestClock,
    faults::Faulty,
    subject::{Subject, Tampering},
};
use crate::{
    Guard, LockRequest, Locker, LockerBuilder, Renew, TryAcquire,
    backend::{AcquireOutcome, AcquireRequest, Admin, Backend, Capability, Grant, Release},
    types::{Error, Holder, Lease, LeaseId, LockName, Mode},
};

/// As many tokens as a store whose clock is a day ahead would be ahead of the others.
pub(super) const A_DAY: u64 = 86_400_000_000;

/// A precondition of a case.
#[derive(Debug, Clone, Copy)]
pub(super) enum Need {
    /// A declared capability.
    Has(Capability),
    /// A mode in which several clients hold a lock.
    Joinable,
    /// [`ProcessBound::descriptors`](crate::backend::ProcessBound::descriptors) gives some.
    Descriptor,
    /// Every name that [`LockName`] allows.
    AnyName,
    /// [`Subject::tamper`] supports this kind of tampering.
    Tamper(Tampering),
}

/// The context of a running case.
pub(super) struct Bench<'a> {
    pub(super) subject: &'a dyn Subject,
    pub(super) case: &'a str,
    pub(super) exception: Option<&'a str>,
    /// The reason for which all cases of the module are excepted that the backend cannot meet.
    pub(super) module_exception: Option<&'a str>,
}

impl Bench<'_> {
    /// Returns whether the case applies; panics if the list of exceptions contradicts that.
    pub(super) async fn applies(&self, needs: &[Need]) -> bool {
        let mut missing = None;
        for need in needs {
            if !self.meets(*need).await {
                missing = Some(need);
            }
        }
        match (missing, self.exception.or(self.module_exception.filter(|_| missing.is_some()))) {
            (None, None) => true,
            (Some(_), Some(reason)) => {
                println!("{} does not apply: {reason}", self.case);
                false
            }
            (Some(need), None) => {
                panic!(
                    "{} needs {need:?}, which this backend lacks; add the case to `except`, with the reason",
                    self.case
                )
            }
            (None, Some(reason)) => {
                panic!(
                    "{} is excepted (\"{reason}\"), but this backend meets its needs; remove the exception",
                    self.case
                )
            }
        }
    }

    async fn meets(&self, need: Need) -> bool {
        let client = self.client().await;
        match need {
            Need::Has(capability) => client.capabilities().has(capability),
            Need::Joinable => client.capabilities().shared || client.capabilities().permits,
            #[cfg(unix)]
            Need::Descriptor => {
                let request = self.request(&self.name("probe"));
                let (lease, _) = granted(&*client, &request).await;
                let lent = client.process_bound().map(|bound| bound.descriptors(&lease).expect("a descriptor is left"));
                let there = lent.is_some_and(|lent| !lent.is_empty());
                release(&*client, &lease).await;
                there
            }
            #[cfg(not(unix))]
            Need::Descriptor => false,
            Need::AnyName => self.subject.longest_name() >= LockName::MAX_BYTES,
            Need::Tamper(Tampering::AddOddEntry) => {
                self.subject.tamper(Tampering::AddOddEntry, &self.name("probe")).await
            }
            Need::Tamper(what) => {
                let name = self.name("probe");
                let (lease, _) = granted(&*client, &self.request(&name)).await;
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

    /// Returns a name that no other test or run uses.
    pub(super) fn name(&self, what: &str) -> LockName {
        let id = LeaseId::random();
        let name = format!("conformance/{}/{what}/{id}", self.case);
        let fits = name.len() <= self.subject.longest_name();
        LockName::new(if fits { name } else { format!("{what}/{id}") }).expect("short and not empty")
    }

    /// Requests a lease that outlasts the case, even on a loaded machine.
    pub(super) fn request(&self, name: &LockName) -> AcquireRequest {
        AcquireRequest::new(name.clone(), LeaseId::random(), "conformance").with_ttl(Duration::from_secs(60))
    }

    /// Requests a lease short enough to expire during the case.
    pub(super) fn short_request(&self, name: &LockName) -> AcquireRequest {
        self.request(name).with_ttl(self.ttl_of(1.0))
    }

    /// A part of the subject's ttl, which a backend without ttls ignores.
    pub(super) fn ttl_of(&self, part: f64) -> Duration {
        self.subject.ttl().mul_f64(part)
    }

    /// Advances time in small steps until `request` is granted; panics after 100 ttls.
    pub(super) async fn granted_in_the_end(&self, client: &dyn Backend, request: &AcquireRequest) -> (Lease, Grant) {
        for _ in 0..2_000 {
            match acquire(client, request).await {
                AcquireOutcome::Granted(grant) => return (request.lease(grant.token), grant),
                AcquireOutcome::Contended(_) => self.subject.pass(self.subject.ttl() / 20).await,
            }
        }
        panic!("{:?} was not granted within 100 ttls", request.name);
    }
}

/// The operators' half of a backend, in a case that needs it.
pub(super) fn admin(client: &Arc<dyn Backend>) -> &dyn Admin {
    client.require_admin().expect("declared by its capabilities")
}

pub(super) async fn acquire(client: &dyn Backend, request: &AcquireRequest) -> AcquireOutcome {
    client.acquire(request).await.expect("the store answers")
}

pub(super) async fn granted(client: &dyn Backend, request: &AcquireRequest) -> (Lease, Grant) {
    match acquire(client, request).await {
        AcquireOutcome::Granted(grant) => (request.lease(grant.token), grant),
        AcquireOutcome::Contended(holder) => {
            panic!("{:?} should have been granted, but is held by {holder}", request.name)
        }
    }
}

pub(super) async fn refused(client: &dyn Backend, request: &AcquireRequest) -> Holder {
    match acquire(client, request).await {
        AcquireOutcome::Contended(holder) => holder,
        AcquireOutcome::Granted(_) => panic!("{:?} was granted although another client holds it", request.name),
    }
}

pub(super) async fn release(client: &dyn Backend, lease: &Lease) {
    let answer = client.release(lease, Duration::ZERO).await.expect("the store answers");
    assert_eq!(answer, Release::Released, "{:?} was held and should have been released", lease.name);
}

/// Asserts that the release found the lock held by another client, or free.
#[track_caller]
pub(super) fn assert_not_held(answer: Result<Release, Error>) {
    let answer = answer.expect("a value, not an error");
    assert!(matches!(answer, Release::NotHeld(_)), "the release freed a lock that another client holds");
}

pub(super) struct Fixture {
    pub(super) network: Faulty,
    pub(super) clock: Arc<TestClock>,
    pub(super) locker: Locker,
    /// The store keeps an unrenewed lock for this long.
    lease: Duration,
}

/// The ttl of locks that must outlast a case, even on a loaded machine.
const LONG: Duration = Duration::from_secs(60);

impl Fixture {
    /// Builds a locker with a long ttl, if the store has ttls, and with manual renewal.
    pub(super) async fn new(bench: &Bench<'_>) -> Self {
        Self::build(bench, LONG, |builder| builder.renew(Renew::Manual)).await
    }

    /// Builds a locker with this ttl, if the store has ttls.
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
        self.acquired_in(name, Mode::Exclusive).await
    }

    pub(super) async fn acquired_in(&self, name: &LockName, mode: Mode) -> Guard {
        let request = self.locker.lock(name.as_str()).mode(mode);
        match request.try_acquire().await.expect("the store answers in the end") {
            TryAcquire::Acquired(guard) => guard,
            TryAcquire::Contended(holder) => panic!("{name:?} should have been granted, but is held by {holder}"),
        }
    }

    /// Advances the holder's clock until a renewal is due.
    pub(super) fn age(&self) {
        self.clock.suspend(self.lease / 3);
    }

    /// Returns a remaining time that [`age`](Self::age) falls below and a renewal restores.
    pub(super) fn rest(&self) -> Duration {
        self.lease * 2 / 3
    }
}

/// Acquires a lock with a short ttl.
///
/// On a loaded machine a grant may arrive after its lease has expired; the request is then retried.
pub(super) async fn acquired_in_the_end(mut request: impl FnMut() -> LockRequest) -> Guard {
    let started = Instant::now();
    loop {
        match request().try_acquire().await {
            Ok(TryAcquire::Acquired(guard)) => return guard,
            Err(error) if !error.is_retryable() => panic!("{error}"),
            answer => assert!(started.elapsed() < LONG, "not granted after {:?}: {answer:?}", started.elapsed()),
        }
        // Polls until the store can grant it; the loop is bounded above.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until an abandoned lock is free, which must be long before a [`LONG`] ttl ends.
pub(super) async fn free_soon(bench: &Bench<'_>, client: &dyn Backend, name: &LockName) {
    let started = Instant::now();
    let request = bench.request(name);
    loop {
        match acquire(client, &request).await {
            AcquireOutcome::Granted(grant) => {
                return release(client, &request.lease(grant.token)).await;
            }
            AcquireOutcome::Contended(holder) => {
                assert!(started.elapsed() < LONG / 2, "{name} was left behind: held by {holder}");
                // Polls until the background release is done; the loop is bounded above.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// Waits until the background has released an abandoned lock, long before the default ttl of 30 s.
pub(super) async fn granted_soon(client: &Arc<dyn Backend>, request: &AcquireRequest) {
    let started = Instant::now();
    let name = &request.name;
    loop {
        match acquire(&**client, request).await {
            AcquireOutcome::Granted(_) => return,
            AcquireOutcome::Contended(holder) => {
                assert!(started.elapsed() < Duration::from_secs(20), "{name} was left behind: held by {holder}");
                // Polls until the background release is done; the loop is bounded above.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }
}
