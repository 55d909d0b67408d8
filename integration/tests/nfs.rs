//! Real NFSv4.1: a kernel server and two kernel clients, in a guest.

use std::{path::PathBuf, process::Command, time::Duration};

use integration::{nfs::Guest, python::python};

fn guest(scenarios: &str) -> Guest {
    let cuts = std::env::var("DLOCK_NFS_CUTS").unwrap_or_default();
    let script = match cuts.as_str() {
        "" => format!("#!/bin/bash\nexec nfs_scenarios {scenarios}\n"),
        n => format!("#!/bin/bash\nexport DLOCK_NFS_CUTS={n}\nexec nfs_scenarios {scenarios}\n"),
    };
    Guest::new(script)
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
fn a_client_that_is_cut_off_loses_its_locks_before_the_other_gets_them() {
    run("cut");
}

#[test]
fn a_server_restart_and_a_removed_file_are_survived_or_told() {
    run("restart removed");
}

#[test]
fn foreign_programs_on_the_other_client_exclude_us_and_unsafe_mounts_are_refused() {
    run("foreign hung mounts");
}

#[test]
fn waiters_get_a_released_lock_soon_and_spare_the_server() {
    run("waiting");
}

#[test]
fn sweeps_in_a_loop_under_contending_processes_let_no_two_in_and_no_token_fall() {
    run("sweeping");
}
