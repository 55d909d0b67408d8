//! The conformance kit can see: a backend with a mistake in it fails every case that is about it, and every case fails for some mistake.

use std::{
    collections::{BTreeMap, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use lock_core::{
    Capabilities, Error, ErrorKind, FencingToken, Holder, Lease, LeaseId, LockName, LossReason,
    backend::{Attempt, Backend, Break, Claim, Grant, Release, Renewal, Watch},
    capabilities::Pace,
    doctor::Finding,
    memory::MemoryBackend,
    testing::{self, Subject, Vandalism},
};

/// What is wrong with a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mistake {
    None,
    GrantsWhatIsHeld,
    TakesItsOwnLockForForeign,
    TakesRetriesForNew,
    RemembersIdsForEver,
    ReleasesWithoutComparison,
    ReleasesNothing,
    ReleaseOfTheUnknownFails,
    ForgetsTheMinimumHold,
    RenewsWhatIsLost,
    LosesWhatIsHeld,
    LosesWithoutReason,
    RenewsForNothing,
    MixesUpABatch,
    TokensStandStill,
    RaisesNoToken,
    EndsEarly,
    NeverEnds,
    HidesTheHolder,
    TellsOfNoCrash,
    TellsOfACrashAlways,
    FoldsNames,
    WakesNobody,
    InspectsNothing,
    ListsNothing,
    BreaksAnything,
    ForgetsAnything,
    ForgetsACrash,
    TakesABreakForARelease,
    LeavesARetryItsOldEnd,
    GetsStuck,
    FindsItselfUnfit,
    ReleasesNowInWordsOnly,
}

use Mistake as M;

const MISTAKES: &[Mistake] = &[
    M::GrantsWhatIsHeld,
    M::TakesItsOwnLockForForeign,
    M::TakesRetriesForNew,
    M::RemembersIdsForEver,
    M::ReleasesWithoutComparison,
    M::ReleasesNothing,
    M::ReleaseOfTheUnknownFails,
    M::ForgetsTheMinimumHold,
    M::RenewsWhatIsLost,
    M::LosesWhatIsHeld,
    M::LosesWithoutReason,
    M::RenewsForNothing,
    M::MixesUpABatch,
    M::TokensStandStill,
    M::RaisesNoToken,
    M::EndsEarly,
    M::NeverEnds,
    M::HidesTheHolder,
    M::TellsOfNoCrash,
    M::TellsOfACrashAlways,
    M::FoldsNames,
    M::WakesNobody,
    M::InspectsNothing,
    M::ListsNothing,
    M::BreaksAnything,
    M::ForgetsAnything,
    M::ForgetsACrash,
    M::TakesABreakForARelease,
    M::LeavesARetryItsOldEnd,
    M::GetsStuck,
    M::FindsItselfUnfit,
    M::ReleasesNowInWordsOnly,
];

/// The memory backend, with a mistake.
#[derive(Debug, Clone)]
struct Mistaken {
    store: MemoryBackend,
    mistake: Mistake,
    /// What each id was granted.
    remembered: Arc<Mutex<HashMap<LeaseId, Grant>>>,
    attempts: Arc<AtomicU32>,
}

impl Mistaken {
    fn new(mistake: Mistake) -> Self {
        Self { store: MemoryBackend::new(), mistake, remembered: Arc::default(), attempts: Arc::default() }
    }

    fn has(&self, mistake: Mistake) -> bool {
        self.mistake == mistake
    }

    fn name(&self, name: &LockName) -> LockName {
        if self.has(M::FoldsNames) { LockName::new(name.as_str().to_lowercase()).unwrap() } else { name.clone() }
    }

    fn ttl(&self, ttl: Option<Duration>) -> Option<Duration> {
        match self.mistake {
            M::EndsEarly => ttl.map(|ttl| ttl / 4),
            M::NeverEnds => ttl.map(|_| Duration::from_secs(1_000_000)),
            _ => ttl,
        }
    }

    fn lease(&self, lease: &Lease) -> Lease {
        Lease { name: self.name(&lease.name), ttl: self.ttl(lease.ttl), ..lease.clone() }
    }
}

#[async_trait]
impl Backend for Mistaken {
    fn describe(&self) -> String {
        self.store.describe()
    }

    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    fn pace(&self) -> Pace {
        self.store.pace()
    }

    async fn acquire(&self, claim: &Claim) -> Result<Attempt, Error> {
        let claim = Claim { name: self.name(&claim.name), ttl: self.ttl(claim.ttl), ..claim.clone() };
        if self.has(M::GrantsWhatIsHeld) {
            self.store.lose(claim.name.as_str());
        }
        if self.has(M::RemembersIdsForEver)
            && let Some(grant) = self.remembered.lock().unwrap().get(&claim.id)
        {
            return Ok(Attempt::Granted(Grant { already_ours: true, ..grant.clone() }));
        }
        if self.has(M::GetsStuck) && self.attempts.fetch_add(1, Relaxed) > 30 {
            return Ok(Attempt::Held(Holder::default()));
        }
        let before = self.store.inspect(&claim.name).await?.and_then(|holder| holder.expires_in);
        let attempt = self.store.acquire(&claim).await?;
        if let Attempt::Granted(grant) = &attempt {
            self.remembered.lock().unwrap().insert(claim.id, grant.clone());
        }
        Ok(match attempt {
            Attempt::Granted(grant) if grant.already_ours && self.has(M::LeavesARetryItsOldEnd) => {
                let _ = self.store.renew(&Lease { ttl: before, ..claim.lease(grant.token) }).await?;
                Attempt::Granted(grant)
            }
            Attempt::Granted(grant) if grant.already_ours && self.has(M::TakesItsOwnLockForForeign) => {
                Attempt::Held(Holder::default())
            }
            Attempt::Granted(grant) => Attempt::Granted(Grant {
                token: if self.has(M::TokensStandStill) { FencingToken::new(7) } else { grant.token },
                crashed: match self.mistake {
                    M::TellsOfNoCrash => None,
                    M::TellsOfACrashAlways => Some(Holder::default()),
                    _ => grant.crashed,
                },
                already_ours: grant.already_ours && !self.has(M::TakesRetriesForNew),
            }),
            Attempt::Held(_) if self.has(M::HidesTheHolder) => Attempt::Held(Holder::default()),
            held @ Attempt::Held(_) => held,
        })
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        if self.has(M::RenewsForNothing) {
            return Ok(Renewal::Renewed);
        }
        if self.has(M::LosesWhatIsHeld) {
            return Ok(Renewal::Lost(LossReason::RecordGone));
        }
        Ok(match self.store.renew(&self.lease(lease)).await? {
            Renewal::Lost(_) if self.has(M::RenewsWhatIsLost) => Renewal::Renewed,
            Renewal::Lost(_) if self.has(M::LosesWithoutReason) => Renewal::Lost(LossReason::RecordGone),
            renewal => renewal,
        })
    }

    async fn renew_many(&self, leases: &[Lease]) -> Vec<Result<Renewal, Error>> {
        let mut answers = Vec::new();
        for lease in leases {
            answers.push(self.renew(lease).await);
        }
        if self.has(M::MixesUpABatch) {
            answers.reverse();
        }
        answers
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        let lease = self.lease(lease);
        let hold_for = if self.has(M::ForgetsTheMinimumHold) { Duration::ZERO } else { hold_for };
        if self.has(M::ReleasesNothing) {
            return Ok(Release::Released);
        }
        let released = self.store.release(&lease, hold_for).await?;
        match released {
            Release::NotHeld(_) if self.has(M::ReleasesWithoutComparison) => {
                self.store.lose(lease.name.as_str());
                Ok(Release::Released)
            }
            Release::NotHeld(_) if self.has(M::ReleaseOfTheUnknownFails) => {
                Err(Error::new(ErrorKind::Other, "this id does not hold the lock"))
            }
            Release::NotHeld(None) if self.has(M::TakesABreakForARelease) => Ok(Release::Released),
            released => Ok(released),
        }
    }

    async fn raise(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        if self.has(M::RaisesNoToken) { Ok(true) } else { self.store.raise(&self.lease(lease), token).await }
    }

    fn release_now(&self, lease: &Lease, hold_for: Duration) -> bool {
        match self.mistake {
            M::ReleasesNowInWordsOnly => true,
            M::None => self.store.release_now(lease, hold_for),
            // As a store across a network, so that the core has to.
            _ => false,
        }
    }

    async fn watch(&self, name: &LockName) -> Result<Option<Box<dyn Watch>>, Error> {
        if self.has(M::WakesNobody) {
            return Ok(Some(Box::new(Deaf)));
        }
        self.store.watch(name).await
    }

    async fn inspect(&self, name: &LockName) -> Result<Option<Holder>, Error> {
        if self.has(M::InspectsNothing) { Ok(None) } else { self.store.inspect(&self.name(name)).await }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(LockName, Holder)>, Error> {
        if self.has(M::ListsNothing) { Ok(Vec::new()) } else { self.store.list(prefix).await }
    }

    async fn break_lock(&self, name: &LockName, version: &str, by: &str) -> Result<Break, Error> {
        let name = self.name(name);
        if self.has(M::BreaksAnything) {
            self.store.lose(name.as_str());
            return Ok(Break::Broken);
        }
        self.store.break_lock(&name, version, by).await
    }

    async fn forget(&self, name: &LockName) -> Result<bool, Error> {
        if self.has(M::ForgetsAnything) {
            self.store.lose(name.as_str());
        }
        if self.has(M::ForgetsACrash) && self.store.inspect(name).await?.is_none() {
            self.store.lose(name.as_str());
        }
        self.store.forget(&self.name(name)).await
    }

    async fn examine(&self) -> Vec<Finding> {
        if self.has(M::FindsItselfUnfit) {
            return vec![Finding::unfit("everything", "is wrong")];
        }
        self.store.examine().await
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
impl Subject for Mistaken {
    async fn client(&self) -> Arc<dyn Backend> {
        Arc::new(self.clone())
    }

    async fn vandalise(&self, what: Vandalism, name: &LockName) -> bool {
        match what {
            Vandalism::DeleteRecord => self.store.lose(name.as_str()),
            Vandalism::ReplaceRecord => {
                self.store.lose(name.as_str());
                let ttl = Some(Duration::from_secs(600));
                let id = LeaseId::random();
                let foreign = Claim { name: name.clone(), id, owner: "somebody".into(), ttl, data: None };
                assert!(matches!(self.store.acquire(&foreign).await, Ok(Attempt::Granted(_))));
            }
            _ => return self.store.forget(name).await.unwrap(),
        }
        true
    }
}

macro_rules! names {
    ($($module:ident :: $case:ident $needs:tt;)*) => { &[$(stringify!($case)),*] };
}

const CASES: &[&str] = lock_core::conformance_cases! { [names] };

/// Whether the case fails for a backend with that mistake; also when it would wait for ever.
fn fails(case: &'static str, mistake: Mistake) -> bool {
    let exceptions = [("a_descriptor_keeps_the_lock_held", "a lock in memory does not live in a descriptor")];
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let subject = Mistaken::new(mistake);
            let day = Duration::from_secs(24 * 3600);
            tokio::time::timeout(day, testing::run(case, &subject, &exceptions)).await.expect("ended");
        });
    };
    catch_unwind(AssertUnwindSafe(run)).is_err()
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "there is no case a_descriptor_keeps_the_lock_hold")]
async fn an_exception_for_a_case_that_there_is_not_is_a_failure() {
    let subject = Mistaken::new(M::None);
    testing::run(CASES[0], &subject, &[("a_descriptor_keeps_the_lock_hold", "misspelt")]).await;
}

#[test]
// verifies: P11, kit-sees
fn every_case_passes_without_a_mistake_and_fails_for_some_mistake() {
    // Failures are what is wanted here.
    std::panic::set_hook(Box::new(|_| {}));
    let failing: Vec<_> = CASES.iter().copied().filter(|case| fails(case, M::None)).collect();
    let mut found: BTreeMap<&str, Vec<Mistake>> = BTreeMap::new();
    for case in CASES.iter().copied().filter(|case| *case != "a_descriptor_keeps_the_lock_held") {
        found.insert(case, MISTAKES.iter().copied().filter(|mistake| fails(case, *mistake)).collect());
    }
    let _ = std::panic::take_hook();
    assert_eq!(failing, [""; 0], "failed without a mistake");
    let mut missed = MISTAKES.to_vec();
    for (case, mistakes) in &found {
        println!("{case}: {mistakes:?}");
        missed.retain(|mistake| !mistakes.contains(mistake));
    }
    assert_eq!(missed, [], "no case finds these");
    let blind: Vec<_> = found.iter().filter(|(_, mistakes)| mistakes.is_empty()).map(|(case, _)| *case).collect();
    assert_eq!(blind, [""; 0], "these cases find nothing");
}

/// The bullets of the trait's documentation, each in one line.
fn bullets() -> Vec<String> {
    let mut bullets: Vec<String> = Vec::new();
    for line in include_str!("../../src/backend/mod.rs").lines() {
        let Some(text) = line.trim().strip_prefix("/// ") else { continue };
        match (text.strip_prefix("- "), bullets.last_mut()) {
            (Some(first), _) => bullets.push(first.to_owned()),
            (None, Some(bullet)) if text.starts_with("  ") => *bullet += text,
            _ => {}
        }
    }
    bullets
}

#[test]
fn every_bullet_of_the_contract_names_its_cases() {
    let bullets = bullets();
    assert!(bullets.len() > 20, "{bullets:#?}");
    for bullet in bullets {
        let named: Vec<_> = bullet.split('`').skip(1).step_by(2).filter(|word| word.matches('_').count() > 1).collect();
        assert!(!named.is_empty(), "no case checks this: {bullet}");
        let gone: Vec<_> = named.iter().filter(|name| !CASES.contains(*name)).collect();
        assert!(gone.is_empty(), "there is no case {gone:?}: {bullet}");
    }
}
