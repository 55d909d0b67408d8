//! The promises, and the names of the tests that check them.

use lock_core::history::Rule;

/// One row of the table.
#[derive(Debug)]
pub struct Promise {
    /// As in the design.
    pub id: &'static str,
    /// What is promised.
    pub text: &'static str,
    /// Tests: most are cases of the conformance kit, which run on every backend.
    pub cases: &'static [&'static str],
    /// What is done to processes, clocks, network and store meanwhile.
    pub faults: &'static str,
    /// The rules of the history checker that would see it broken, in the simulation and in `onelock torture`.
    pub rules: &'static [Rule],
}

/// All promises.
pub const PROMISES: &[Promise] = &[
    Promise {
        id: "P1",
        text: "At most one guard at a time believes that it holds a lock",
        cases: &[
            "two_clients_exclude_each_other",
            "of_many_contenders_one_wins",
            "of_many_contenders_one_takes_over_from_the_dead",
            "of_many_candidates_one_leads",
            "a_leader_that_is_cut_off_stops_before_the_next_starts",
            "a_contender_whose_clock_is_years_off_is_refused_all_the_same",
            "a_storm_of_faults_breaks_no_promise",
            "odd_names_are_distinct_locks",
            "no_promise_is_broken_in_any_storm",
            "dynamo_excludes_while_the_skew_is_within_half_the_bound",
            "the_nfs_probe_excludes_when_the_belief_counts_from_its_start",
        ],
        faults: "processes killed, frozen, suspended, cut off; clocks set and of other rates; messages lost, repeated, late, out of order",
        rules: &[Rule::Exclusion],
    },
    Promise {
        id: "P2",
        text: "A guard never outlives its lease",
        cases: &[
            "a_hung_renewal_ends_the_guard_before_the_next_holds",
            "renewals_that_are_throttled_for_too_long_end_the_guard",
            "a_suspended_holder_knows_at_once_and_spares_its_successor",
            "a_thawed_holder_knows_at_once_and_spares_its_successor",
            "a_clock_that_is_set_back_prolongs_no_lease",
            "a_lock_is_held_for_the_holders_ttl",
            "a_validity_that_counts_from_the_reply_is_found",
        ],
        faults: "renewals that hang or are throttled, processes that stand still, virtual machines that are paused, clocks that are set",
        rules: &[Rule::Exclusion],
    },
    Promise {
        id: "P3",
        text: "Loss is a signal with a reason, before anybody else has the lock",
        cases: &[
            "a_hung_renewal_ends_the_guard_before_the_next_holds",
            "a_broken_lease_is_lost_at_the_next_renewal",
            "renewing_a_released_lease_reports_its_loss",
            "a_deleted_record_is_a_loss_at_the_next_renewal",
            "a_replaced_record_is_somebody_elses_lock",
            "a_guard_ends_at_its_longest_hold_and_frees_the_lock",
        ],
        faults: "locks broken by an operator, records deleted and replaced by a third party, a store that is away",
        rules: &[Rule::Exclusion, Rule::KeptToTheEnd],
    },
    Promise {
        id: "P4",
        text: "Acquired, held and could-not-tell are never confused",
        cases: &[
            "a_refusal_says_who_holds_the_lock",
            "throttling_is_an_error_and_leaves_nothing",
            "a_free_lock_is_granted",
            "a_held_lock_is_refused_to_others",
        ],
        faults: "throttling, requests refused before and after they took effect",
        rules: &[Rule::Exclusion, Rule::Obtainable],
    },
    Promise {
        id: "P5",
        text: "A retry knows its own lock, and no abandoned attempt leaves one behind",
        cases: &[
            "acquiring_again_with_the_same_id_succeeds",
            "renewal_is_idempotent",
            "releasing_twice_is_a_value",
            "a_lost_reply_is_resolved_by_asking_again",
            "a_lost_request_is_sent_again",
            "a_request_that_arrives_twice_changes_nothing",
            "an_acquisition_that_arrives_after_its_release_is_nobodys_and_ends",
            "a_cancelled_acquire_leaves_no_lock",
            "a_cancelled_wait_leaves_no_lock",
            "a_cancelled_release_frees_the_lock",
            "a_cancelled_renewal_harms_nothing",
            "a_retry_that_takes_its_own_lock_for_foreign_is_found",
        ],
        faults: "requests and replies lost, requests repeated, futures dropped at every await point",
        rules: &[Rule::OwnLockIsKnown, Rule::Obtainable],
    },
    Promise {
        id: "P6",
        text: "A release never touches a successor",
        cases: &[
            "release_never_touches_a_successor",
            "releasing_what_was_never_held_is_a_value",
            "releasing_a_broken_lease_is_a_value",
            "renewing_an_expired_lease_does_not_rob_the_successor",
            "break_compares_the_version",
            "forgetting_spares_the_holder",
            "a_release_without_comparison_is_found",
            "a_takeover_without_the_version_is_found",
        ],
        faults: "holders that come back after their lease, releases and renewals that arrive late",
        rules: &[Rule::Exclusion],
    },
    Promise {
        id: "P7",
        text: "Every acquisition has a token larger than all before it",
        cases: &[
            "tokens_rise_across_release",
            "tokens_rise_across_expiry",
            "tokens_rise_across_break",
            "tokens_rise_although_their_record_was_deleted",
            "a_token_in_the_deleted_record_is_found",
        ],
        faults: "releases, expiries, breaks, tokens deleted by a third party, writers that do not look before they write",
        rules: &[Rule::TokensRise, Rule::NoOldWrite],
    },
    Promise {
        id: "P8",
        text: "The store's clock decides, not the clients'",
        cases: &[
            "a_contender_whose_clock_is_years_off_is_refused_all_the_same",
            "a_clock_that_is_set_back_prolongs_no_lease",
            "a_lock_is_held_for_the_holders_ttl",
        ],
        faults: "clocks that are years off, set, and run at other rates",
        rules: &[Rule::Exclusion],
    },
    Promise {
        id: "P9",
        text: "A crash of the holder frees the lock, for a cold process too, and the winner is told",
        cases: &[
            "an_expired_lock_is_granted_in_one_attempt",
            "of_many_contenders_one_takes_over_from_the_dead",
            "the_winner_is_told_of_a_crashed_holder",
            "a_released_holder_is_not_reported_as_crashed",
            "dynamo_takes_over_from_a_dead_holder",
        ],
        faults: "processes killed at any moment",
        rules: &[Rule::Obtainable],
    },
    Promise {
        id: "P10",
        text: "A drop frees the lock as well as it can, and a forgotten guard is not renewed for ever",
        cases: &[
            "a_dropped_guard_frees_its_lock_with_and_without_a_runtime",
            "a_guard_may_be_dropped_by_a_runtime_that_ends",
            "releasing_now_frees_the_lock_or_says_that_it_cannot",
            "a_guard_ends_at_its_longest_hold_and_frees_the_lock",
            "a_lease_that_the_core_ended_frees_its_lock",
        ],
        faults: "drops with, without and by the end of a runtime",
        rules: &[Rule::Obtainable],
    },
    Promise {
        id: "P11",
        text: "A backend says what it can do, and a missing capability is an error at start-up",
        cases: &[
            "what_the_store_lacks_is_an_error_when_it_is_required",
            "the_table_of_capabilities_is_true",
            "an_examination_changes_no_lock_and_finds_a_working_store_fit",
            "every_case_passes_without_a_mistake_and_fails_for_some_mistake",
        ],
        faults: "a case that a backend is excepted from fails as soon as the backend has what the case needs",
        rules: &[],
    },
];
