//! Runs tests of this binary on a real NFSv4.1 mount too, in a guest.

use std::time::Duration;

use test_support::nfs::Guest;

const AS_ROOT: &str = "";
const AS_USER: &str = "setpriv --reuid 1000 --regid 1000 --clear-groups env ONELOCK_TEST_CHILD=/efs";

/// Runs `tests` on a client of the guest, whose temporary directories are on the mount.
fn on_a_mount(runner: &str, tests: &[&str]) {
    let exe = std::env::current_exe().unwrap();
    let (name, words) = (exe.file_name().unwrap().display(), tests.join(" "));
    let run = format!("exec on_a {runner} env TMPDIR=/efs {name} --exact {words} --test-threads=1 --nocapture");
    let said = Guest::new(format!("#!/bin/bash\n{run}\n")).limit(Duration::from_secs(900)).with(&exe).run();
    let passed = format!("test result: ok. {} passed", tests.len());
    assert!(said.contains(&passed), "without {passed:?}:\n{said}");
}

#[test]
// verifies: forked
fn forks_leave_the_locks_of_their_parent() {
    on_a_mount(
        AS_ROOT,
        &[
            "forks::a_child_that_drops_or_releases_leaves_the_lock",
            "forks::a_locker_opened_before_a_fork_works_in_both",
            "forks::a_living_child_does_not_keep_a_killed_parents_lock",
            "forks::a_part_belongs_to_the_parent_whatever_its_child_does",
            "forks::a_child_keeps_no_part_and_no_mark_of_a_killed_parent",
            "forks::a_first_process_and_its_first_process_are_two",
            "hand_over::a_child_leaves_a_lock_that_was_handed_over",
        ],
    );
}

#[test]
// verifies: obstacles
fn obstacles_at_any_name_are_named_and_untouched() {
    on_a_mount(
        AS_ROOT,
        &["hostile::obstacles_at_any_name_are_named_and_untouched", "hostile::odd_entries_never_hide_other_locks"],
    );
}

/// The server lets root of a client open files of all users, so a user is tried too.
#[test]
// verifies: obstacles
fn obstacles_stop_no_user_without_privileges() {
    on_a_mount(AS_USER, &["hostile::child_without_privileges"]);
}

#[test]
// verifies: file-system, foreign-client, P12
fn locks_with_several_holders_are_kept() {
    on_a_mount(
        AS_ROOT,
        &[
            "modes::flock_1_joins_readers_and_excludes_writers",
            "modes::a_killed_reader_frees_its_part_and_is_reported",
            "modes::a_stopped_reader_keeps_its_part_only",
            "modes::a_process_stopped_in_the_gate_hangs_no_other",
            "modes::a_removed_file_of_parts_is_a_loss",
            "modes::a_stranger_in_place_of_the_parts_is_untouched",
            "modes::too_many_permits_and_too_much_data_are_errors",
            "modes::the_next_token_exceeds_an_advanced_part",
            "modes::a_grant_after_a_part_shows_its_token_or_none",
            "modes::a_sweep_remembers_the_tokens_of_parts",
            "modes::lent_descriptors_keep_the_part_and_its_lock",
            "modes::a_minimum_hold_outlasts_all_other_parts",
        ],
    );
}

#[test]
// verifies: P9, P12
fn places_end_with_their_process_and_keep_their_order() {
    on_a_mount(
        AS_ROOT,
        &[
            "fair::a_killed_fair_waiter_is_skipped_at_once",
            "fair::a_stopped_fair_waiter_keeps_its_place",
            "fair::fair_processes_are_served_in_their_order",
            "fair::a_forked_child_neither_ends_nor_keeps_a_place",
            "fair::files::a_removed_queue_is_made_anew",
        ],
    );
}
