//! The memory backend, with bugs.

use std::{
    collections::HashMap,
    num::NonZeroU16,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use lock_core::{
    Error, ErrorKind, FencingToken, Holder, LockName, LossReason, Mode,
    backend::{
        AcquireOutcome, AcquireRequest, Admin, Backend, Break, Capabilities, Finding, Grant, Lease, LeaseId, Listing,
        OddEntry, ProcessBound, Relay, Relayed, Release, Renewal, StoreTimings, Watch,
    },
    memory::MemoryBackend,
    testing::{Subject, Tampering},
};

use super::bugs::{Bug, Bug as B};

/// The memory backend, with a bug.
#[derive(Debug, Clone)]
pub(super) struct Buggy {
    store: MemoryBackend,
    bug: Bug,
    /// The grant of each lease id.
    remembered: Arc<Mutex<HashMap<LeaseId, Grant>>>,
    /// The ids that the store has of requests that were queued anew.
    queued_as: Arc<Mutex<HashMap<LeaseId, LeaseId>>>,
    attempts: Arc<AtomicU32>,
    odd: Arc<Mutex<Vec<LockName>>>,
}

impl Buggy {
    pub(super) fn new(bug: Bug) -> Self {
        Self {
            store: MemoryBackend::new(),
            bug,
            remembered: Arc::default(),
            queued_as: Arc::default(),
            attempts: Arc::default(),
            odd: Arc::default(),
        }
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == bug
    }

    fn name(&self, name: &LockName) -> LockName {
        if self.has(B::FoldsNames) { LockName::new(name.as_str().to_lowercase()).unwrap() } else { name.clone() }
    }

    fn remembers(&self, id: LeaseId) -> bool {
        self.remembered.lock().unwrap().contains_key(&id)
    }

    fn id(&self, id: LeaseId) -> LeaseId {
        self.queued_as.lock().unwrap().get(&id).copied().unwrap_or(id)
    }

    fn ttl(&self, ttl: Duration) -> Duration {
        match self.bug {
            B::EndsEarly => ttl / 4,
            B::NeverEnds => Duration::from_secs(1_000_000),
            _ => ttl,
        }
    }

    fn request(&self, request: &AcquireRequest) -> AcquireRequest {
        let (name, id, ttl) = (self.name(&request.name), self.id(request.id), self.ttl(request.ttl));
        let request = request.clone().with_name(name).with_id(id).with_ttl(ttl);
        match (self.bug, request.mode) {
            (B::GrantsEveryModeAlone, _) => request.with_mode(Mode::Exclusive),
            (B::GrantsEveryModeShared, _) => request.with_mode(Mode::Shared),
            (B::CountsNoPermits, Mode::Permit { .. }) => request.with_mode(Mode::Permit { of: NonZeroU16::MAX }),
            (B::ForgetsWaiters, _) => request.with_waits(false),
            (B::MarksForWritersOnly, Mode::Shared | Mode::Permit { .. }) => request.with_waits(false),
            (B::TakesATryForAWait, _) => request.with_waits(true),
            (B::ReservesNoTokens, _) => request.with_reserved_tokens(0),
            (B::GrantsOutOfTurn, _) => request.with_fair(false),
            _ => request,
        }
    }

    fn lease(&self, lease: &Lease) -> Lease {
        lease.clone().with_name(self.name(&lease.name)).with_id(self.id(lease.id)).with_ttl(self.ttl(lease.ttl))
    }

    /// Sends a request to the store, and remembers the grant.
    async fn send(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        let mut attempt = self.store.acquire(request).await?;
        let is_refused = matches!(attempt, AcquireOutcome::Contended(_));
        if self.has(B::GrantsLateRequests) && is_refused && self.remembers(request.id) {
            attempt = self.store.acquire(&request.clone().with_id(LeaseId::random())).await?;
        }
        let is_remembered = request.reserved_tokens > 0 || !self.has(B::ReleasesNothingHandedOver);
        if let AcquireOutcome::Granted(grant) = &attempt
            && is_remembered
        {
            self.remembered.lock().unwrap().insert(request.id, grant.clone());
        }
        Ok(attempt)
    }
}

#[async_trait]
impl Backend for Buggy {
    fn describe(&self) -> String {
        self.store.describe()
    }

    fn capabilities(&self) -> Capabilities {
        let declared = !self.has(B::DeclaresNoMode);
        self.store.capabilities().with_shared(declared).with_permits(declared)
    }

    fn timings(&self) -> StoreTimings {
        self.store.timings()
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        let asked = request.id;
        let mut request = self.request(request);
        if self.has(B::GrantsWhatIsHeld) {
            self.store.lose(request.name.as_str());
        }
        if self.has(B::RemembersIdsForEver)
            && let Some(grant) = self.remembered.lock().unwrap().get(&request.id)
        {
            return Ok(AcquireOutcome::Granted(grant.clone().with_already_ours(true)));
        }
        if self.has(B::GetsStuck) && self.attempts.fetch_add(1, Relaxed) > 30 {
            return Ok(AcquireOutcome::Contended(Holder::default()));
        }
        if self.has(B::LetsNewcomersIn) && !request.fair && self.store.inspect(&request.name).await?.is_none() {
            self.store.lose(request.name.as_str());
        }
        if self.has(B::QueuesEveryAttemptAnew) && !self.remembers(request.id) {
            let _ = self.store.release(&request.lease(None), Duration::ZERO).await?;
            request.id = LeaseId::random();
            self.queued_as.lock().unwrap().insert(asked, request.id);
        }
        let before = self.store.inspect(&request.name).await?.and_then(|holder| holder.expires_in);
        let attempt = self.send(&request).await?;
        Ok(match attempt {
            AcquireOutcome::Granted(grant) if grant.already_ours && self.has(B::LeavesARetryItsOldEnd) => {
                let _ = self
                    .store
                    .renew(&request.lease(grant.token).with_ttl(before.expect("a lock that is held expires")))
                    .await?;
                AcquireOutcome::Granted(grant)
            }
            AcquireOutcome::Granted(grant) if grant.already_ours && self.has(B::TakesItsOwnLockForForeign) => {
                AcquireOutcome::Contended(Holder::default())
            }
            AcquireOutcome::Granted(grant) => AcquireOutcome::Granted(
                Grant::default()
                    .with_token(match (self.bug, grant.token) {
                        (B::TokensStandStill, _) => FencingToken::new(7),
                        (B::ReservesForEveryAttempt, Some(token)) if grant.already_ours => {
                            FencingToken::new(token.get() + u64::from(request.reserved_tokens))
                        }
                        (_, token) => token,
                    })
                    .with_crashed(match self.bug {
                        B::TellsOfNoCrash => None,
                        B::TellsOfACrashAlways => Some(Holder::default()),
                        _ => grant.crashed,
                    })
                    .with_previous_token(match self.bug {
                        B::TakesItsOwnTokenForPrevious if grant.already_ours => grant.token,
                        _ => grant.previous_token,
                    })
                    .with_already_ours(grant.already_ours && !self.has(B::TakesRetriesForNew)),
            ),
            AcquireOutcome::Contended(_) if self.has(B::HidesTheHolder) => AcquireOutcome::Contended(Holder::default()),
            AcquireOutcome::Contended(holder)
                if self.has(B::HidesOtherHolders) || self.has(B::HidesOtherPermits) && holder.mode != Mode::Shared =>
            {
                AcquireOutcome::Contended(holder.with_others(Vec::new()))
            }
            AcquireOutcome::Contended(mut holder) if self.has(B::NamesTheLastToExpire) => {
                let others = std::mem::take(&mut holder.others);
                let mut all: Vec<_> = std::iter::once(holder).chain(others).collect();
                let last = all.pop().expect("there is one");
                AcquireOutcome::Contended(last.with_others(all))
            }
            held @ AcquireOutcome::Contended(_) => held,
        })
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        if self.has(B::RenewsForNothing) {
            return Ok(Renewal::Renewed);
        }
        if self.has(B::LosesWhatIsHeld) {
            return Ok(Renewal::Lost(LossReason::RecordGone));
        }
        Ok(match self.store.renew(&self.lease(lease)).await? {
            Renewal::Lost(_) if self.has(B::RenewsWhatIsLost) => Renewal::Renewed,
            Renewal::Lost(_) if self.has(B::LosesWithoutReason) => Renewal::Lost(LossReason::RecordGone),
            renewal => renewal,
        })
    }

    async fn renew_many(&self, leases: &[Lease]) -> Vec<Result<Renewal, Error>> {
        let mut answers: Vec<Result<Renewal, Error>> = Vec::new();
        for (at, lease) in leases.iter().enumerate() {
            let first = leases[..at].iter().position(|earlier| earlier.name == lease.name);
            answers.push(match first.filter(|_| self.has(B::RenewsOnePartOfEachName)) {
                Some(first) => answers[first].clone(),
                None => self.renew(lease).await,
            });
        }
        if self.has(B::MixesUpABatch) {
            answers.reverse();
        }
        answers
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        let lease = self.lease(lease);
        let hold_for = if self.has(B::ForgetsTheMinimumHold) { Duration::ZERO } else { hold_for };
        if self.has(B::ReleasesNothing) || self.has(B::ReleasesNothingHandedOver) && self.remembers(lease.id) {
            return Ok(Release::Released);
        }
        if self.has(B::KeepsWaiters) && !self.remembers(lease.id) {
            return Ok(Release::NotHeld(None));
        }
        let released = self.store.release(&lease, hold_for).await?;
        match released {
            Release::NotHeld(_) if self.has(B::ReleasesWithoutComparison) => {
                self.store.lose(lease.name.as_str());
                Ok(Release::Released)
            }
            Release::NotHeld(_) if self.has(B::ReleaseOfTheUnknownFails) => {
                Err(Error::new(ErrorKind::Other, "this id does not hold the lock"))
            }
            Release::NotHeld(None) if self.has(B::TakesABreakForARelease) => Ok(Release::Released),
            released => Ok(released),
        }
    }

    async fn advance_token(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        let of_a_part = lease.mode.may_be_joined() && self.has(B::RaisesNoTokenOfAPart);
        if self.has(B::RaisesNoToken) || of_a_part {
            Ok(true)
        } else {
            self.store.advance_token(&self.lease(lease), token).await
        }
    }

    async fn watch(&self, name: &LockName) -> Result<Option<Box<dyn Watch>>, Error> {
        let holder = self.store.inspect(name).await?;
        let of_a_part = holder.is_some_and(|holder| holder.mode.may_be_joined());
        if self.has(B::WakesNobody) || of_a_part && self.has(B::WakesNoneBehindAPart) {
            return Ok(Some(Box::new(Deaf)));
        }
        self.store.watch(name).await
    }

    async fn diagnose(&self) -> Vec<Finding> {
        if self.has(B::FindsItselfUnfit) {
            return vec![Finding::unfit("everything", "is wrong")];
        }
        self.store.diagnose().await
    }

    fn admin(&self) -> Option<&dyn Admin> {
        (!self.has(B::HidesItsOperators)).then_some(self as _)
    }

    fn process_bound(&self) -> Option<&dyn ProcessBound> {
        Some(self)
    }

    fn relay(&self) -> Option<&dyn Relay> {
        Some(self)
    }
}

#[async_trait]
impl Relay for Buggy {
    async fn relay(&self, lease: &Lease, request: &AcquireRequest) -> Result<Relayed, Error> {
        let released = self.release(lease, Duration::ZERO).await?;
        let frees = released == Release::Released || self.has(B::RelaysWithoutRelease);
        if self.has(B::RelaysWithoutRelease) {
            self.store.lose(lease.name.as_str());
        }
        let acquired = if frees { Some(self.acquire(request).await) } else { None };
        Ok(Relayed { released, acquired })
    }
}

#[async_trait]
impl Admin for Buggy {
    async fn inspect(&self, name: &LockName) -> Result<Option<Holder>, Error> {
        if self.has(B::InspectsNothing) { Ok(None) } else { self.store.inspect(&self.name(name)).await }
    }

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        let mut listing = self.store.list(prefix).await?;
        for name in self.odd.lock().unwrap().iter().filter(|name| name.as_str().starts_with(prefix)) {
            match self.bug {
                B::HidesOddEntries => {}
                B::ListsNothingBesideAnOddEntry => return Err(Error::new(ErrorKind::Corrupt, "an odd entry")),
                _ => listing.note_odd(OddEntry::new(name.to_string(), "put there by the test")),
            }
        }
        if self.has(B::ListsNothing) {
            listing.locks.clear();
        }
        Ok(listing)
    }

    async fn break_lock(&self, name: &LockName, version: &str, by: &str) -> Result<Break, Error> {
        let name = self.name(name);
        if self.has(B::BreaksAnything) {
            self.store.lose(name.as_str());
            return Ok(Break::Broken);
        }
        self.store.break_lock(&name, version, by).await
    }

    async fn purge(&self, name: &LockName) -> Result<bool, Error> {
        if self.has(B::ForgetsAnything) {
            self.store.lose(name.as_str());
        }
        if self.has(B::ForgetsACrash) && self.store.inspect(name).await?.is_none() {
            self.store.lose(name.as_str());
        }
        self.store.purge(&self.name(name)).await
    }
}

impl ProcessBound for Buggy {
    fn release_now(&self, lease: &Lease, hold_for: Duration) -> bool {
        match self.bug {
            B::ReleasesNowInWordsOnly => true,
            B::None => self.store.release_now(lease, hold_for),
            // As a store across a network, so that the core has to.
            _ => false,
        }
    }

    fn on_lost(&self, _: &Lease) {}

    fn descriptors(&self, _: &Lease) -> std::io::Result<Vec<std::os::fd::OwnedFd>> {
        Ok(Vec::new())
    }
}

#[derive(Debug)]
struct Deaf;

#[async_trait]
impl Watch for Deaf {
    async fn changed(&mut self) {
        std::future::pending::<()>().await;
    }
}

#[async_trait]
impl Subject for Buggy {
    async fn client(&self) -> Arc<dyn Backend> {
        Arc::new(self.clone())
    }

    async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
        match what {
            Tampering::DeleteRecord => self.store.lose(name.as_str()),
            Tampering::ReplaceRecord => {
                self.store.lose(name.as_str());
                let ttl = Duration::from_secs(600);
                let id = LeaseId::random();
                let foreign = AcquireRequest::new(name.clone(), id, "a foreign client").with_ttl(ttl);
                assert!(matches!(self.store.acquire(&foreign).await, Ok(AcquireOutcome::Granted(_))));
            }
            Tampering::AddOddEntry => self.odd.lock().unwrap().push(name.clone()),
            _ => return self.store.purge(name).await.unwrap(),
        }
        true
    }
}
