//! The command on real NFSv4.1, in a virtual machine.

use std::time::Duration;

use test_support::nfs::Guest;

/// Runs a script on the guest's server, with the command on its PATH, and prints the
/// measurements.
fn run(script: &str) {
    let out = Guest::new(script).limit(Duration::from_secs(600)).with(env!("CARGO_BIN_EXE_onelock")).run();
    out.lines().filter(|line| line.starts_with("FIGURE")).for_each(|line| println!("{line}"));
}

#[test]
fn a_cut_off_job_ends_before_another_client_starts_its_own() {
    run(include_str!("nfs/cut.sh"));
}

#[test]
fn a_database_has_one_server_and_keeps_confirmed_rows() {
    run(include_str!("nfs/postgres.sh"));
}

#[test]
fn the_doctor_judges_mounts_and_two_clients() {
    run(include_str!("nfs/doctor.sh"));
}
