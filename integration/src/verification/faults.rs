//! What goes wrong with locks in the field, and the names of the tests in which it does.

/// One kind of failure.
#[derive(Debug)]
pub struct Fault {
    /// What goes wrong.
    pub text: &'static str,
    /// Tests in which it does: cases of the conformance kit, and tests of stores with their real servers.
    pub cases: &'static [&'static str],
}

/// All that we know of, from the incidents of other lock libraries.
pub const FAULTS: &[Fault] = &[
    Fault {
        text: "The reply to an acquisition, a renewal or a release is lost",
        cases: &[
            "a_lost_reply_is_resolved_by_asking_again",
            "an_acquire_whose_reply_was_lost_is_found_to_be_ours",
            "a_renewal_whose_reply_was_lost_has_renewed",
            "a_release_whose_reply_was_lost_has_released_and_spares_the_successor",
            "a_lost_reply_to_an_acquire_is_found_to_be_ours",
            "a_lost_reply_to_a_takeover_is_found_to_be_ours",
            "a_lost_reply_to_a_renewal_is_no_loss",
            "a_lost_reply_to_a_release_is_a_release",
        ],
    },
    Fault {
        text: "A request is lost",
        cases: &[
            "a_lost_request_is_sent_again",
            "an_acquire_whose_request_was_lost_is_granted_when_repeated",
            "a_release_whose_request_was_lost_is_repeated",
            "a_lost_request_to_acquire_is_sent_again",
        ],
    },
    Fault {
        text: "A request arrives twice, or long after its time",
        cases: &[
            "a_request_that_arrives_twice_changes_nothing",
            "an_acquisition_that_arrives_after_its_release_is_nobodys_and_ends",
            "an_acquire_that_arrives_after_its_own_release_leaves_no_lock",
            "requests_that_are_late_do_what_they_say",
            "a_renewal_that_hung_on_its_way_does_not_cut_a_later_one_short",
        ],
    },
    Fault {
        text: "A renewal hangs past the lease",
        cases: &[
            "a_hung_renewal_ends_the_guard_before_the_next_holds",
            "a_frozen_server_ends_the_guard_and_the_next_holder_has_a_larger_token",
            "a_hung_connection_is_a_loss_in_time",
        ],
    },
    Fault {
        text: "A process or its machine stands still past the lease, and goes on",
        cases: &[
            "a_suspended_holder_knows_at_once_and_spares_its_successor",
            "a_thawed_holder_knows_at_once_and_spares_its_successor",
            "no_promise_is_broken_in_any_storm",
        ],
    },
    Fault {
        text: "Clocks are set forward or back, or differ between contenders",
        cases: &[
            "a_clock_that_is_set_back_prolongs_no_lease",
            "a_contender_whose_clock_is_years_off_is_refused_all_the_same",
            "a_process_whose_clock_is_an_hour_ahead_does_not_steal_and_says_what_is_wrong",
            "a_holder_whose_clock_is_an_hour_off_is_not_robbed_and_blocks_nobody",
            "a_token_rises_although_the_clock_has_gone_back",
        ],
    },
    Fault {
        text: "The caller drops an acquisition, a wait, a renewal or a release at any await point",
        cases: &[
            "a_cancelled_acquire_leaves_no_lock",
            "a_cancelled_wait_leaves_no_lock",
            "a_cancelled_renewal_harms_nothing",
            "a_cancelled_release_frees_the_lock",
            "a_candidate_that_goes_away_leaves_no_leader",
        ],
    },
    Fault {
        text: "A guard is dropped inside a runtime, outside of any, or by one that ends",
        cases: &[
            "a_dropped_guard_frees_its_lock_with_and_without_a_runtime",
            "a_guard_may_be_dropped_by_a_runtime_that_ends",
        ],
    },
    Fault {
        text: "The store throttles for longer than the lease lasts",
        cases: &[
            "throttling_is_an_error_and_leaves_nothing",
            "renewals_that_are_throttled_for_too_long_end_the_guard",
            "throttling_beyond_the_deadline_is_a_loss_in_time",
            "throttling_shorter_than_the_deadline_is_ridden_out",
        ],
    },
    Fault {
        text: "A third party deletes the record, or the store loses its data",
        cases: &[
            "a_deleted_record_is_a_loss_at_the_next_renewal",
            "a_server_that_comes_back_empty_tells_the_holder_and_tokens_still_rise",
            "a_majority_that_forgot_the_lock_ends_it_and_tokens_rise_over_any_majority",
            "a_lock_file_that_is_removed_or_replaced_is_a_lost_lock_and_never_a_successors",
        ],
    },
    Fault {
        text: "A foreign client holds the lock, or replaces the record",
        cases: &[
            "a_replaced_record_is_somebody_elses_lock",
            "a_foreign_client_that_took_our_lock_over_is_not_mistaken_for_us",
            "redis_py_and_we_exclude_each_other",
            "python_redis_lock_and_we_exclude_each_other",
            "a_key_of_another_type_is_a_foreign_lock_and_is_never_touched",
            "filelock_is_refused_while_we_hold_and_has_it_after_our_release",
        ],
    },
    Fault {
        text: "Contenders are set to other leases than the holder",
        cases: &["a_lock_is_held_for_the_holders_ttl", "of_many_contenders_one_takes_over_from_the_dead"],
    },
    Fault { text: "Names are odd, long, or differ by little", cases: &["odd_names_are_distinct_locks"] },
    Fault {
        text: "Redis fails over before it replicated, forgets its scripts, moves slots, turns read-only",
        cases: &[
            "a_failover_tells_every_holder_that_lost_its_lock_and_no_token_goes_back",
            "a_primary_that_was_demoted_is_left_for_its_successor",
            "a_granted_lock_is_on_the_replica_and_without_it_nothing_is_granted_or_left",
            "scripts_that_the_server_has_forgotten_are_sent_again",
            "a_full_and_a_read_only_server_say_so",
            "a_lock_is_renewed_and_released_while_its_slot_moves",
            "a_lock_whose_slot_has_moved_is_followed",
        ],
    },
    Fault {
        text: "A lock file is removed or replaced, its directory goes, a limit is reached, an NFS client loses its lock",
        cases: &[
            "a_file_that_was_replaced_between_open_and_lock_is_opened_anew",
            "a_directory_that_went_away_is_named_and_comes_back",
            "too_many_open_files_is_a_limit_that_may_pass",
            "twenty_clients_that_are_cut_off_lose_their_locks_before_another_gets_them",
            "a_server_that_restarts_or_forgets_us_and_a_removed_or_replaced_file_are_survived_or_told",
        ],
    },
    Fault {
        text: "Programs are started that inherit descriptors",
        cases: &[
            "a_program_that_the_holder_starts_does_not_keep_the_lock",
            "a_release_frees_the_lock_while_other_threads_start_programs",
        ],
    },
    Fault {
        text: "One process asks for one lock twice",
        cases: &[
            "a_held_lock_is_refused_to_others",
            "two_clients_exclude_each_other",
            "waiters_of_one_process_queue_in_order_with_two_requests_each",
        ],
    },
    Fault {
        text: "Many contend at one moment for a free lock, or for one whose holder has died",
        cases: &[
            "of_many_contenders_one_wins",
            "of_many_contenders_one_takes_over_from_the_dead",
            "one_of_many_contenders_wins_while_the_network_cuts",
        ],
    },
    Fault {
        text: "A release comes before the least time to hold, a holder reaches the longest",
        cases: &["min_hold_keeps_the_lock_after_release", "a_guard_ends_at_its_longest_hold_and_frees_the_lock"],
    },
    Fault { text: "The record of the tokens is deleted", cases: &["tokens_rise_although_their_record_was_deleted"] },
    Fault {
        text: "A holder releases or renews after it lost the lock",
        cases: &[
            "release_never_touches_a_successor",
            "renewing_an_expired_lease_does_not_rob_the_successor",
            "a_lease_that_the_core_ended_frees_its_lock",
        ],
    },
];
