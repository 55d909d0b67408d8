//! Requests and replies about shared locks and permits that are lost, late or repeated, on each
//! kind of connection, while another client holds the lock.

use test_support::{lost_messages::parts, on_each_network};

use crate::fixture::Fixture;

on_each_network!(Fixture [plain named tls pooled] parts [
    a_part_whose_reply_was_lost_is_found_to_be_ours
    a_part_that_arrives_after_its_release_is_refused
    a_duplicate_after_a_release_adds_no_part
    a_duplicate_after_a_break_adds_no_part
    a_release_with_a_lost_reply_ends_one_part
    a_renewal_with_a_lost_reply_has_renewed
    a_mark_that_arrives_late_is_not_set
]);
