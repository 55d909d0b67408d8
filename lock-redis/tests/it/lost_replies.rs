//! Requests and replies that are lost, late, doubled or cut off, on each kind of deployment. The
//! right owner keeps the lock, and no orphan is left.

use test_support::{lost_messages::exclusive, on_each_network};

use crate::fixture::Fixture;

on_each_network!(Fixture [standalone tls sentinel cluster quorum] exclusive [
    an_acquire_whose_reply_was_lost_is_found_to_be_ours
    an_acquire_whose_request_was_lost_is_granted_when_repeated
    an_acquire_that_arrives_after_its_own_release_leaves_no_lock
    an_acquire_arriving_after_a_second_release_leaves_no_lock
    a_late_release_keeps_a_late_acquire_refused
    an_acquire_arriving_after_another_holder_leaves_no_lock
    a_duplicate_acquire_after_its_release_leaves_no_lock
    a_cancelled_unanswered_acquire_leaves_no_lock
    an_acquire_arriving_after_a_break_leaves_no_lock
    a_renewal_whose_reply_was_lost_has_renewed
    a_release_with_a_lost_reply_spares_the_successor
    a_release_whose_request_was_lost_is_repeated
    a_release_sent_before_a_retried_acquire_spares_the_lock
    delayed_requests_take_effect
    cut_connections_leave_the_right_owner
    one_of_many_contenders_wins_while_the_network_cuts
]);
