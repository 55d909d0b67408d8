//! Tests on real NFSv4.1: a kernel server and its kernel clients, in a guest.

use std::{path::PathBuf, process::Command, time::Duration};

use test_support::{nfs::Guest, python::python};

fn guest(scenarios: &str) -> Guest {
    Guest::new(format!("#!/bin/bash\nexec nfs_scenarios {scenarios}\n"))
        .limit(Duration::from_secs(900))
        .with(env!("CARGO_BIN_EXE_nfs_scenarios"))
        .with(env!("CARGO_BIN_EXE_nfs_peer"))
        .with(package("filelock"))
}

/// Returns the directory of a package of Python, from which any Python can import it.
fn package(name: &str) -> PathBuf {
    let find = format!("import {name}, os; print(os.path.dirname({name}.__file__))");
    let found = Command::new(python()).args(["-c", &find]).output().expect("the test's Python runs");
    String::from_utf8(found.stdout).expect("a path of the build is UTF-8").trim().into()
}

/// Runs scenarios in one guest, and prints their measurements.
fn run(scenarios: &str) {
    for line in guest(scenarios).run().lines().filter(|line| line.starts_with("FIGURE")) {
        println!("{line}");
    }
}

/// Counts the requests of uncontended locks: the names and the numbers.
pub(crate) fn requests() -> Vec<(String, f64)> {
    let count = |line: &str| {
        let (name, number) = line.strip_prefix("COST ")?.rsplit_once(' ')?;
        Some((name.to_owned(), number.parse().expect("a number")))
    };
    guest("costs").run().lines().filter_map(count).collect()
}

#[test]
fn two_clients_exclude_and_a_killed_holder_frees_the_lock() {
    run("exclusion killed unmarked");
}

#[test]
// verifies: file-system
fn cut_off_clients_lose_their_locks_before_the_next_holder() {
    run("cut");
}

#[test]
// verifies: file-system
fn restarts_are_survived_and_lost_locks_are_reported() {
    run("restart expired removed");
}

#[test]
// verifies: stale-cache
fn a_removed_lock_file_is_noticed_whatever_the_cache_says() {
    run("cached");
}

#[test]
fn foreign_programs_exclude_and_unsafe_mounts_are_refused() {
    run("foreign hung mounts");
}

#[test]
fn a_quota_and_many_locks_are_reported_with_limits_of_efs() {
    run("quota many");
}

#[test]
fn waiters_acquire_soon_after_a_release_with_few_requests() {
    run("waiting");
}

#[test]
// verifies: contention
fn two_clients_share_a_lock_that_their_tasks_hand_over() {
    run("handing-over");
}

#[test]
fn sweeps_break_neither_exclusion_nor_the_token_order() {
    run("sweeping");
}

#[test]
// verifies: P9, P12
fn readers_and_permits_are_shared_by_two_clients() {
    run("readers together permits");
}

#[test]
// verifies: file-system, P12
fn a_lost_part_ends_before_the_next_holder_begins() {
    run("readers-cut readers-power readers-restart readers-expired");
}

#[test]
// verifies: P12, contention
fn fair_requests_of_two_clients_are_granted_in_their_order() {
    run("fair fair-ended");
}

#[test]
// verifies: P9, P12, file-system
fn a_fair_waiter_is_skipped_when_its_host_is_cut_off() {
    run("fair-cut");
}

#[test]
// verifies: P12, file-system
fn places_are_reclaimed_and_lost_places_are_noticed() {
    run("fair-restart fair-expired");
}

#[test]
// verifies: foreign-client, P12
fn flock_and_fasteners_share_and_exclude() {
    guest("readers-foreign").with(package("fasteners")).run();
}
