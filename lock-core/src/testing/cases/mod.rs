//! The cases of the conformance kit, by what they are about.

mod acquire;
mod chaos;
mod clocks;
mod drops;
mod leader;
mod operators;
mod release;
mod renew;
mod requests;
mod tamper;

use super::{
    Tampering,
    harness::{Bench, Need},
};
use crate::backend::Capability;

/// The list of all cases: the one place that knows them. Calls `callback! { args… module::case
/// [need]; … }`.
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
            operators::operators_calls_are_there_where_declared [];
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
            tamper::a_deleted_record_is_a_loss_at_the_next_renewal [Need::Tamper(Tampering::DeleteRecord)];
            tamper::a_replaced_record_is_somebody_elses_lock [Need::Tamper(Tampering::ReplaceRecord)];
            tamper::tokens_rise_although_their_record_was_deleted [Need::Tamper(Tampering::DeleteToken), Need::Has(Capability::Fencing)];
            chaos::a_storm_of_faults_breaks_no_promise [];
            leader::of_many_candidates_one_leads [];
            leader::a_leader_that_is_cut_off_stops_before_the_next_starts [Need::Has(Capability::Ttl)];
            leader::a_leader_that_resigns_makes_way_at_once [];
            leader::a_campaign_survives_errors_of_the_store [];
            leader::a_candidate_that_goes_away_leaves_no_leader [];
        }
    };
}

macro_rules! dispatch {
    (($bench:ident) $($module:ident :: $case:ident [$($need:expr),*];)*) => {
        match $bench.case {
            $(stringify!($case) => {
                if $bench.applies(&[$($need),*]).await {
                    $module::$case($bench).await;
                }
            })*
            unknown => panic!("there is no case {unknown}"),
        }
    };
}

macro_rules! names {
    ($($module:ident :: $case:ident $needs:tt;)*) => { &[$(stringify!($case)),*] };
}

pub(super) const NAMES: &[&str] = conformance_cases! { [names] };

/// Runs the case that `bench` is set up for, where it applies.
pub(super) async fn run(bench: &Bench<'_>) {
    conformance_cases! { [dispatch] (bench) }
}
