//! Real NFSv4.1: a kernel server and two kernel clients, in a guest.

use std::{path::PathBuf, process::Command, time::Duration};

use test_support::{nfs::Guest, python::python};

fn guest(scenarios: &str) -> Guest {
    Guest::new(format!("#!/bin/bash\nexec nfs_scenarios {scenarios}\n"))
        .limit(Duration::from_secs(900))
        .with(env!("CARGO_BIN_EXE_nfs_scenarios"))
        .with(env!("CARGO_BIN_EXE_nfs_peer"))
        .with(filelock())
}

/// Python's `filelock`, as a directory that any Python can import it from.
fn filelock() -> PathBuf {
    let find = "import filelock, os; print(os.path.dirname(filelock.__file__))";
    let found = Command::new(python()).args(["-c", find]).output().expect("the test's Python runs");
    String::from_utf8(found.stdout).expect("a path of the build is UTF-8").trim().into()
}

/// Runs scenarios in one guest, and prints what they measured.
fn run(scenarios: &str) {
    for line in guest(scenarios).run().lines().filter(|line| line.starts_with("FIGURE")) {
        println!("{line}");
    }
}

#[test]
fn two_clients_exclude_each_other_and_a_killed_holder_frees_the_lock() {
    run("exclusion killed");
}

#[test]
// verifies: file-system
fn twenty_clients_that_are_cut_off_lose_their_locks_before_another_gets_them() {
    run("cut");
}

#[test]
// verifies: file-system
fn a_server_that_restarts_or_forgets_us_and_a_removed_or_replaced_file_are_survived_or_told() {
    run("restart expired removed");
}

#[test]
fn foreign_programs_on_the_other_client_exclude_us_and_unsafe_mounts_are_refused() {
    run("foreign hung mounts");
}

#[test]
fn a_quota_and_many_locks_are_told_with_the_limits_of_efs() {
    run("quota many");
}

#[test]
fn waiters_get_a_released_lock_soon_and_spare_the_server() {
    run("waiting");
}

#[test]
fn sweeps_in_a_loop_under_contending_processes_let_no_two_in_and_no_token_fall() {
    run("sweeping");
}
