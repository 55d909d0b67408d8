//! The cases of the conformance suite, one module for each operation or subject.

mod acquire;
mod chaos;
mod clocks;
mod drops;
mod fair;
mod hand_over;
mod leader;
mod modes;
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
            acquire::acquiring_a_free_lock_grants_it [];
            acquire::a_held_lock_refuses_other_lease_ids [];
            acquire::two_clients_never_hold_the_same_lock [];
            acquire::exactly_one_of_many_contenders_acquires [];
            acquire::a_refusal_reports_the_current_holder [Need::Has(Capability::Holder)];
            acquire::acquiring_again_with_the_same_id_succeeds [];
            acquire::fencing_tokens_increase_across_every_release [Need::Has(Capability::Fencing)];
            acquire::fencing_tokens_increase_across_lease_expiry [Need::Has(Capability::Fencing)];
            acquire::fencing_tokens_increase_across_a_forced_break
                [Need::Has(Capability::Fencing), Need::Has(Capability::Break)];
            acquire::the_next_token_exceeds_an_advanced_token [Need::Has(Capability::Fencing)];
            acquire::an_expired_lock_is_granted_in_one_attempt [Need::Has(Capability::Ttl)];
            acquire::the_holders_ttl_decides_when_a_lock_expires [Need::Has(Capability::Ttl)];
            acquire::the_next_grant_reports_a_crashed_holder [Need::Has(Capability::Holder)];
            acquire::a_released_lock_reports_no_crashed_holder [];
            acquire::unusual_names_are_kept_as_distinct_locks [Need::AnyName];
            acquire::a_cancelled_acquire_leaves_no_lock_behind [];
            renew::renewing_keeps_the_lease_past_its_ttl [Need::Has(Capability::Ttl)];
            renew::renewing_a_lease_repeatedly_is_idempotent [];
            renew::renewing_a_released_lease_reports_its_loss [];
            renew::renewing_an_expired_lease_leaves_its_successor_alone [Need::Has(Capability::Ttl)];
            renew::the_next_renewal_reports_a_broken_lease [Need::Has(Capability::Break)];
            renew::renewing_many_leases_reports_each_one_separately [];
            release::a_released_lock_can_be_acquired_again [];
            release::min_hold_keeps_the_lock_after_release [];
            release::a_late_release_leaves_the_successor_alone [];
            release::releasing_twice_is_never_an_error [];
            release::releasing_a_lease_never_granted_is_no_error [];
            release::releasing_a_broken_lease_reports_not_held [Need::Has(Capability::Break)];
            release::a_relay_passes_the_lock_to_the_next_request [];
            release::a_late_relay_leaves_the_successor_alone [];
            release::release_now_frees_the_lock_or_returns_false [];
            release::a_lease_reported_lost_frees_its_lock [];
            release::an_open_descriptor_keeps_the_lock_held [Need::Descriptor];
            modes::an_undeclared_mode_is_refused_and_leaves_no_lock [];
            modes::readers_hold_a_shared_lock_together [Need::Has(Capability::Shared)];
            modes::a_writer_and_readers_exclude_each_other [Need::Has(Capability::Shared)];
            modes::later_readers_do_not_overtake_a_waiting_writer [Need::Has(Capability::Shared)];
            modes::a_waiter_of_another_mode_is_not_overtaken
                [Need::Has(Capability::Shared), Need::Has(Capability::Permits)];
            modes::a_writer_that_does_not_wait_keeps_no_reader_out [Need::Has(Capability::Shared)];
            modes::a_writer_that_gives_up_lets_readers_in [Need::Has(Capability::Shared)];
            modes::a_crashed_waiting_writer_lets_readers_in [Need::Has(Capability::Shared)];
            modes::a_cancelled_wait_of_a_writer_lets_readers_in [Need::Has(Capability::Shared)];
            modes::of_many_contenders_as_many_hold_as_permits [Need::Has(Capability::Permits)];
            modes::disagreeing_numbers_of_permits_are_an_error [Need::Has(Capability::Permits)];
            modes::different_modes_of_one_name_exclude_each_other
                [Need::Has(Capability::Shared), Need::Has(Capability::Permits)];
            modes::a_crash_frees_only_the_part_of_its_holder [Need::Joinable];
            modes::tokens_increase_over_holders_of_all_modes [Need::Joinable, Need::Has(Capability::Fencing)];
            modes::the_next_token_exceeds_an_advanced_part [Need::Joinable, Need::Has(Capability::Fencing)];
            modes::renewing_many_parts_reports_each_one_separately [Need::Joinable];
            modes::a_refusal_counts_and_names_several_holders
                [Need::Has(Capability::Shared), Need::Has(Capability::Holder)];
            modes::a_retry_recognizes_its_own_part [Need::Joinable];
            modes::late_requests_leave_other_holders_alone [Need::Joinable];
            modes::a_late_acquire_joins_no_other_holder [Need::Joinable];
            modes::min_hold_keeps_the_part_of_its_holder [Need::Joinable];
            modes::a_break_ends_the_part_of_one_holder [Need::Joinable, Need::Has(Capability::Break)];
            modes::a_cancelled_acquire_of_any_mode_leaves_no_part [Need::Joinable];
            modes::a_cancelled_wait_of_any_mode_leaves_no_part [Need::Joinable];
            modes::a_cancelled_renewal_of_any_mode_keeps_its_part [Need::Joinable];
            modes::a_cancelled_release_of_any_mode_frees_its_part [Need::Joinable];
            modes::random_faults_in_all_modes_keep_the_guarantees [Need::Joinable];
            operators::a_watch_completes_after_the_release [Need::Has(Capability::WakeUp)];
            operators::an_unused_wake_up_reaches_another_watcher [Need::Has(Capability::WakeUp)];
            operators::inspect_reports_the_holder_until_release [Need::Has(Capability::Inspect)];
            operators::list_returns_held_locks_under_a_prefix [Need::Has(Capability::List)];
            operators::breaking_requires_the_current_lock_version [Need::Has(Capability::Break)];
            operators::purge_keeps_held_and_crashed_locks [];
            operators::operators_calls_are_there_where_declared [];
            operators::diagnose_finds_the_store_fit_and_changes_nothing [];
            requests::a_lost_reply_is_resolved_by_a_retry [];
            requests::a_lost_request_is_sent_again [];
            requests::a_duplicate_request_has_no_further_effect [];
            requests::a_late_acquire_leaves_no_lasting_lock [];
            requests::a_throttled_acquire_fails_and_leaves_no_lock [];
            requests::a_hung_renewal_loses_the_guard_before_takeover [Need::Has(Capability::Ttl)];
            requests::throttled_renewals_lose_the_guard_before_takeover [Need::Has(Capability::Ttl)];
            requests::exactly_one_contender_replaces_a_crashed_holder [];
            clocks::a_suspended_holder_reports_its_loss_immediately [Need::Has(Capability::Ttl)];
            clocks::a_thawed_holder_reports_its_loss_immediately [Need::Has(Capability::Ttl)];
            clocks::setting_the_clock_back_extends_no_lease [Need::Has(Capability::Ttl)];
            clocks::a_contender_with_a_skewed_clock_is_refused [];
            clocks::a_guard_past_max_hold_frees_the_lock [];
            drops::a_cancelled_wait_leaves_no_lock_behind [];
            drops::a_cancelled_release_still_frees_the_lock [];
            drops::a_cancelled_renewal_keeps_the_guard_valid [];
            drops::dropped_guards_free_their_locks_on_any_thread [];
            drops::dropping_at_runtime_shutdown_frees_the_lock [];
            tamper::the_next_renewal_reports_a_deleted_record [Need::Tamper(Tampering::DeleteRecord)];
            tamper::a_replaced_record_belongs_to_another_client [Need::Tamper(Tampering::ReplaceRecord)];
            tamper::fencing_tokens_increase_after_their_record_is_deleted
                [Need::Tamper(Tampering::DeleteToken), Need::Has(Capability::Fencing)];
            tamper::an_odd_entry_is_listed_and_hides_no_lock
                [Need::Tamper(Tampering::AddOddEntry), Need::Has(Capability::List)];
            hand_over::reserved_tokens_lie_between_earlier_and_later_grants [Need::Has(Capability::HandOver)];
            hand_over::a_retry_finds_its_reserved_tokens [Need::Has(Capability::HandOver)];
            hand_over::a_lock_that_is_handed_over_stays_held [Need::Has(Capability::HandOver)];
            hand_over::a_waiter_of_another_mode_releases_what_is_handed_over
                [Need::Has(Capability::HandOver), Need::Has(Capability::Shared)];
            hand_over::random_faults_with_hand_overs_keep_the_guarantees [Need::Has(Capability::HandOver)];
            fair::fair_requests_are_granted_in_their_order [Need::Has(Capability::Fair)];
            fair::a_newcomer_does_not_overtake_a_fair_waiter [Need::Has(Capability::Fair)];
            fair::a_repeated_fair_request_keeps_its_place [Need::Has(Capability::Fair)];
            fair::a_fair_request_that_does_not_wait_has_no_place [Need::Has(Capability::Fair)];
            fair::a_fair_waiter_that_gives_up_is_skipped [Need::Has(Capability::Fair)];
            fair::a_cancelled_fair_wait_is_skipped [Need::Has(Capability::Fair)];
            fair::a_cancelled_fair_wait_of_any_mode_leaves_no_place [Need::Has(Capability::Fair)];
            fair::a_dead_fair_waiter_is_skipped_after_its_ttl [Need::Has(Capability::Fair), Need::Has(Capability::Ttl)];
            fair::a_late_fair_request_keeps_the_lock_for_a_ttl_at_most
                [Need::Has(Capability::Fair), Need::Has(Capability::Ttl)];
            fair::fair_waiters_keep_their_order_after_a_crash [Need::Has(Capability::Fair)];
            fair::readers_wait_behind_a_fair_writer [Need::Has(Capability::Fair), Need::Has(Capability::Shared)];
            fair::a_queue_and_a_waiting_writer_do_not_block_each_other
                [Need::Has(Capability::Fair), Need::Has(Capability::Shared)];
            fair::permits_are_granted_in_their_order [Need::Has(Capability::Fair), Need::Has(Capability::Permits)];
            fair::fair_waiters_of_many_lockers_are_served_in_order [Need::Has(Capability::Fair)];
            fair::random_faults_with_fair_waiters_keep_the_guarantees [Need::Has(Capability::Fair)];
            chaos::random_faults_never_violate_lock_guarantees [];
            leader::exactly_one_of_many_candidates_leads [];
            leader::an_isolated_leader_stops_before_the_next_starts [Need::Has(Capability::Ttl)];
            leader::a_resigning_leader_is_replaced_immediately [];
            leader::a_campaign_survives_retryable_store_errors [];
            leader::a_dropped_candidate_leaves_no_leader_behind [];
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

macro_rules! modules {
    ($($module:ident :: $case:ident $needs:tt;)*) => { &[$((stringify!($case), stringify!($module))),*] };
}

/// The cases with their modules.
const MODULES: &[(&str, &str)] = conformance_cases! { [modules] };

/// Returns whether `exception` names the module of `case`.
pub(super) fn is_module_of(exception: &str, case: &str) -> bool {
    MODULES.contains(&(case, exception))
}

/// Returns whether `exception` names a case or a module.
pub(super) fn is_known(exception: &str) -> bool {
    MODULES.iter().any(|(case, module)| exception == *case || exception == *module)
}

/// Runs the case that `bench` is set up for, where it applies.
pub(super) async fn run(bench: &Bench<'_>) {
    conformance_cases! { [dispatch] (bench) }
}
