//! The conformance kit: what the [`Backend`] contract promises, one named test per promise and backend.
//!
//! A backend runs it with a dozen lines in a file under `tests/`:
//!
//! ```
//! use std::sync::Arc;
//! use lock_core::{backend::Backend, memory::MemoryBackend, testing::Subject};
//!
//! struct Memory(MemoryBackend);
//!
//! #[async_trait::async_trait]
//! impl Subject for Memory {
//!     async fn client(&self) -> Arc<dyn Backend> {
//!         Arc::new(self.0.clone())
//!     }
//! }
//!
//! lock_core::conformance! {
//!     #[tokio::test(start_paused = true)]
//!     Memory(MemoryBackend::new()),
//!     except = [(a_descriptor_keeps_the_lock_held, "the lock does not live in a descriptor")]
//! }
//! # fn main() {}
//! ```
//!
//! Beside what the contract says of single operations there are cases of the core over the backend: requests and replies that get lost, come twice or
//! hang, throttling, processes that stand still, clocks that are set, futures and guards that are dropped anywhere, records that a third
//! party deletes or replaces ([`Subject::vandalise`]), and a storm of faults by chance, whose seed is printed and can be given back in
//! `ONELOCK_KIT_SEED`.
//!
//! A case under `except` does not run; it passes only while the backend indeed lacks what the case needs.

mod acquire;
mod clock;
mod clocks;
mod drops;
mod leader;
mod operators;
mod release;
mod renew;
mod requests;
mod rig;
mod storm;
mod vandals;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    backend::{Attempt, Backend, Claim, Grant, Release},
    capabilities::Capability,
    error::Error,
    holder::Holder,
    lease::{Lease, LeaseId},
    name::LockName,
};

pub use clock::TestClock;

/// A store under test.
#[async_trait]
pub trait Subject: Send + Sync {
    /// A new client of the store, as another process would have it. All clients of one subject see the same locks.
    async fn client(&self) -> Arc<dyn Backend>;

    /// The ttl that the cases use: short, but long against one request. Default 500 ms.
    fn ttl(&self) -> Duration {
        Duration::from_millis(500)
    }

    /// Lets time pass for the store. Default: sleeps.
    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Ends a client as if its process had been killed, and waits until the store may know. Default: drops it and lets a
    /// ttl pass; where a lock has no ttl it must be free when the process is gone.
    async fn crash(&self, client: Arc<dyn Backend>) {
        drop(client);
        self.pass(self.ttl() + self.ttl() / 10).await;
    }

    /// Whether several servers vote, so that of many contenders at once there may be none with a majority. Default `false`.
    fn votes(&self) -> bool {
        false
    }

    /// Does to the store's record of `name` what a third party may do, past the backend. `false`, the default, when it cannot: the cases that need
    /// it are then to be excepted, with the reason.
    async fn vandalise(&self, what: Vandalism, name: &LockName) -> bool {
        let _ = (what, name);
        false
    }
}

/// What a third party may do to a store behind the back of its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Vandalism {
    /// Delete the record that says who holds the lock.
    DeleteRecord,
    /// Put the lock of another client there, that is held for long.
    ReplaceRecord,
    /// Delete what the store keeps of a free name's tokens.
    DeleteToken,
}

/// What a case needs of a backend to make sense.
#[derive(Debug, Clone, Copy)]
enum Need {
    /// A declared capability.
    Has(Capability),
    /// [`Backend::descriptor`] gives one.
    Descriptor,
    /// [`Subject::vandalise`] can do this.
    Vandal(Vandalism),
}

/// The list of all cases: the one place that knows them. Calls `callback! { args… module::case [need]; … }`.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_cases {
    ([$($callback:tt)+] $($args:tt)*) => {
        $($callback)+ ! { $($args)*
            acquire::a_free_lock_is_granted [];
            acquire::a_held_lock_is_refused_to_others [];
            acquire::two_clients_exclude_each_other [];
            acquire::of_many_contenders_one_wins [];
            acquire::a_refusal_says_who_holds_the_lock [Need::Has(Capability::Holder)];
            acquire::acquiring_again_with_the_same_id_succeeds [];
            acquire::tokens_rise_across_release [Need::Has(Capability::Fencing)];
            acquire::tokens_rise_across_expiry [Need::Has(Capability::Fencing)];
            acquire::tokens_rise_across_break [Need::Has(Capability::Fencing), Need::Has(Capability::Break)];
            acquire::a_raised_token_is_exceeded_by_the_next [Need::Has(Capability::Fencing)];
            acquire::an_expired_lock_is_granted_in_one_attempt [Need::Has(Capability::Ttl)];
            acquire::a_lock_is_held_for_the_holders_ttl [Need::Has(Capability::Ttl)];
            acquire::the_winner_is_told_of_a_crashed_holder [Need::Has(Capability::Holder)];
            acquire::a_released_holder_is_not_reported_as_crashed [];
            acquire::odd_names_are_distinct_locks [];
            acquire::a_cancelled_acquire_leaves_no_lock [];
            renew::renewal_extends_the_lease [Need::Has(Capability::Ttl)];
            renew::renewal_is_idempotent [];
            renew::renewing_a_released_lease_reports_its_loss [];
            renew::renewing_an_expired_lease_does_not_rob_the_successor [Need::Has(Capability::Ttl)];
            renew::a_broken_lease_is_lost_at_the_next_renewal [Need::Has(Capability::Break)];
            renew::renewing_many_reports_each [];
            release::a_released_lock_is_free [];
            release::min_hold_keeps_the_lock_after_release [];
            release::release_never_touches_a_successor [];
            release::releasing_twice_is_a_value [];
            release::releasing_what_was_never_held_is_a_value [];
            release::releasing_a_broken_lease_is_a_value [Need::Has(Capability::Break)];
            release::releasing_now_frees_the_lock_or_says_that_it_cannot [];
            release::a_lease_that_the_core_ended_frees_its_lock [];
            release::a_descriptor_keeps_the_lock_held [Need::Descriptor];
            operators::a_watch_sees_the_release [Need::Has(Capability::WakeUp)];
            operators::a_wake_up_that_is_not_used_is_passed_on [Need::Has(Capability::WakeUp)];
            operators::inspect_sees_the_holder [Need::Has(Capability::Inspect)];
            operators::list_shows_held_locks_by_prefix [Need::Has(Capability::List)];
            operators::break_compares_the_version [Need::Has(Capability::Break)];
            operators::forgetting_spares_the_holder [];
            operators::an_examination_changes_no_lock_and_finds_a_working_store_fit [];
            requests::a_lost_reply_is_resolved_by_asking_again [];
            requests::a_lost_request_is_sent_again [];
            requests::a_request_that_arrives_twice_changes_nothing [];
            requests::an_acquisition_that_arrives_after_its_release_is_nobodys_and_ends [];
            requests::throttling_is_an_error_and_leaves_nothing [];
            requests::a_hung_renewal_ends_the_guard_before_the_next_holds [Need::Has(Capability::Ttl)];
            requests::renewals_that_are_throttled_for_too_long_end_the_guard [Need::Has(Capability::Ttl)];
            requests::of_many_contenders_one_takes_over_from_the_dead [];
            clocks::a_suspended_holder_knows_at_once_and_spares_its_successor [Need::Has(Capability::Ttl)];
            clocks::a_thawed_holder_knows_at_once_and_spares_its_successor [Need::Has(Capability::Ttl)];
            clocks::a_clock_that_is_set_back_prolongs_no_lease [Need::Has(Capability::Ttl)];
            clocks::a_contender_whose_clock_is_years_off_is_refused_all_the_same [];
            clocks::a_guard_ends_at_its_longest_hold_and_frees_the_lock [];
            drops::a_cancelled_wait_leaves_no_lock [];
            drops::a_cancelled_release_frees_the_lock [];
            drops::a_cancelled_renewal_harms_nothing [];
            drops::a_dropped_guard_frees_its_lock_with_and_without_a_runtime [];
            drops::a_guard_may_be_dropped_by_a_runtime_that_ends [];
            vandals::a_deleted_record_is_a_loss_at_the_next_renewal [Need::Vandal(Vandalism::DeleteRecord)];
            vandals::a_replaced_record_is_somebody_elses_lock [Need::Vandal(Vandalism::ReplaceRecord)];
            vandals::tokens_rise_although_their_record_was_deleted [Need::Vandal(Vandalism::DeleteToken), Need::Has(Capability::Fencing)];
            storm::a_storm_of_faults_breaks_no_promise [];
            leader::of_many_candidates_one_leads [];
            leader::a_leader_that_is_cut_off_stops_before_the_next_starts [Need::Has(Capability::Ttl)];
            leader::a_leader_that_resigns_makes_way_at_once [];
            leader::a_campaign_survives_errors_of_the_store [];
            leader::a_candidate_that_goes_away_leaves_no_leader [];
        }
    };
}

/// Makes one test per case of the kit; see [`testing`](crate::testing).
#[macro_export]
macro_rules! conformance {
    ($(#[$attribute:meta])+ $subject:expr $(, except = [$(($except:ident, $reason:literal)),* $(,)?])? $(,)?) => {
        const CONFORMANCE_EXCEPTIONS: &[(&str, &str)] = &[$($((stringify!($except), $reason)),*)?];
        $crate::conformance_cases! { [$crate::conformance_tests] [$(#[$attribute])+] [$subject] }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_tests {
    ($attributes:tt $subject:tt $($module:ident :: $case:ident $needs:tt;)*) => {
        $($crate::conformance_test! { $attributes $subject $case })*
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_test {
    ([$(#[$attribute:meta])+] [$subject:expr] $case:ident) => {
        $(#[$attribute])+
        async fn $case() {
            let subject = $subject;
            $crate::testing::run(stringify!($case), &subject, CONFORMANCE_EXCEPTIONS).await;
        }
    };
}

macro_rules! dispatch {
    (($bench:ident) $($module:ident :: $case:ident [$($need:expr),*];)*) => {
        match $bench.case {
            $(stringify!($case) => {
                if $bench.applies(&[$($need),*]).await {
                    $module::$case(&$bench).await;
                }
            })*
            unknown => panic!("there is no case {unknown}"),
        }
    };
}

macro_rules! names {
    ($($module:ident :: $case:ident $needs:tt;)*) => { &[$(stringify!($case)),*] };
}

const CASES: &[&str] = conformance_cases! { [names] };

/// Runs the case of that name, or checks that it is rightly excepted.
#[doc(hidden)]
pub async fn run(case: &str, subject: &dyn Subject, exceptions: &[(&str, &str)]) {
    for (name, _) in exceptions {
        assert!(CASES.contains(name), "there is no case {name} that could be excepted");
    }
    let exception = exceptions.iter().find(|(name, _)| *name == case).map(|(_, reason)| *reason);
    let bench = Bench { subject, case, exception };
    conformance_cases! { [dispatch] (bench) }
}

/// What every case works with.
struct Bench<'a> {
    subject: &'a dyn Subject,
    case: &'a str,
    exception: Option<&'a str>,
}

impl Bench<'_> {
    /// Whether the case applies; panics where that and the list of exceptions disagree.
    async fn applies(&self, needs: &[Need]) -> bool {
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
                let there = client.descriptor(&lease).is_some();
                release(&*client, &lease).await;
                there
            }
            #[cfg(not(unix))]
            Need::Descriptor => false,
            Need::Vandal(what) => {
                let name = self.name("probe");
                let (lease, _) = granted(&*client, &self.claim(&name)).await;
                if what == Vandalism::DeleteToken {
                    release(&*client, &lease).await;
                }
                let can = self.subject.vandalise(what, &name).await;
                let _ = client.release(&lease, Duration::ZERO).await;
                can
            }
        }
    }

    async fn client(&self) -> Arc<dyn Backend> {
        self.subject.client().await
    }

    /// A name that no other test and no other run uses.
    fn name(&self, what: &str) -> LockName {
        LockName::new(format!("conformance/{}/{what}/{}", self.case, LeaseId::random())).expect("short and not empty")
    }

    /// For a lock that shall not end while the case looks at something else, on a loaded machine too.
    fn claim(&self, name: &LockName) -> Claim {
        Claim {
            name: name.clone(),
            id: LeaseId::random(),
            owner: "conformance".into(),
            ttl: Some(Duration::from_secs(60)),
            data: None,
        }
    }

    /// For a lock that shall end by itself.
    fn short_claim(&self, name: &LockName) -> Claim {
        Claim { ttl: self.ttl_of(1.0), ..self.claim(name) }
    }

    /// A part of the subject's ttl; asked for only where the backend has ttls (see [`claim_for`]).
    fn ttl_of(&self, part: f64) -> Option<Duration> {
        Some(self.subject.ttl().mul_f64(part))
    }

    /// Passes time in small steps until `claim` is granted; fails when it takes absurdly long.
    async fn granted_in_the_end(&self, client: &dyn Backend, claim: &Claim) -> (Lease, Grant) {
        for _ in 0..2_000 {
            match acquire(client, claim).await {
                Attempt::Granted(grant) => return (claim_for(client, claim).lease(grant.token), grant),
                Attempt::Held(_) => self.subject.pass(self.subject.ttl() / 20).await,
            }
        }
        panic!("{:?} was not granted within 100 ttls", claim.name);
    }
}

/// `claim` without a ttl where the store has none.
fn claim_for(client: &dyn Backend, claim: &Claim) -> Claim {
    let ttl = claim.ttl.filter(|_| client.capabilities().ttl);
    Claim { ttl, ..claim.clone() }
}

async fn acquire(client: &dyn Backend, claim: &Claim) -> Attempt {
    client.acquire(&claim_for(client, claim)).await.expect("the store answers")
}

async fn granted(client: &dyn Backend, claim: &Claim) -> (Lease, Grant) {
    match acquire(client, claim).await {
        Attempt::Granted(grant) => (claim_for(client, claim).lease(grant.token), grant),
        Attempt::Held(holder) => panic!("{:?} should have been granted, but is held by {holder}", claim.name),
    }
}

async fn refused(client: &dyn Backend, claim: &Claim) -> Holder {
    match acquire(client, claim).await {
        Attempt::Held(holder) => holder,
        Attempt::Granted(_) => panic!("{:?} was granted, but somebody else holds it", claim.name),
    }
}

async fn release(client: &dyn Backend, lease: &Lease) {
    let answer = client.release(lease, Duration::ZERO).await.expect("the store answers");
    assert_eq!(answer, Release::Released, "{:?} was held and should have been released", lease.name);
}

/// The answer to a release of what somebody else holds by now.
#[track_caller]
fn assert_not_held(answer: Result<Release, Error>) {
    let answer = answer.expect("a value, not an error");
    assert!(matches!(answer, Release::NotHeld(_)), "released what somebody else holds");
}
